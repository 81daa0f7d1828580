package main

import (
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/musterhq/muster/node/config"
)

// fileVariable names the configuration where -c does not.
const fileVariable = "MUSTER_CONFIG"

// addConfigFlags adds -c and a flag for every key of the configuration. Those that
// are in shown, or else those that an agent is most likely started with, are told
// by --help; the others would bury it.
func addConfigFlags(cmd *cobra.Command, file *string, shown ...string) {
	if shown == nil {
		shown = agentFlags
	}
	flags := cmd.Flags()
	flags.StringVarP(file, "config", "c", "", "YAML file of the configuration (default $"+fileVariable+", or none)")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml") // it fails only for a flag that does not exist
	keys := pflag.NewFlagSet("", pflag.ContinueOnError)
	if err := config.AddFlags(keys); err != nil {
		return // Load fails with the same error
	}
	keys.VisitAll(func(f *pflag.Flag) {
		f.Hidden = !slices.Contains(shown, f.Name)
		flags.AddFlag(f)
	})
	cmd.Long += `

Every key of the configuration is also a variable and a flag: node.zone is
MUSTER_NODE_ZONE and --node-zone. A flag beats the environment, which beats the
file. The keys are listed in docs/configuration.md and by muster config show.`
}

var agentFlags = []string{
	"cluster", "node-id", "node-zone", "node-bind", "node-advertise", "node-data-dir",
	"bootstrap-mode", "bootstrap-expect", "http-addr", "log-level", "log-format",
}

// loadConfig loads the configuration from file and the flags of cmd.
func loadConfig(cmd *cobra.Command, file string) (*config.Config, error) {
	return loadConfigFor(cmd, file, config.ForNode)
}

func loadConfigFor(cmd *cobra.Command, file string, purpose config.Purpose) (*config.Config, error) {
	if file == "" {
		file = os.Getenv(fileVariable)
	}
	c, err := config.Load(config.Options{Path: file, Flags: cmd.Flags(), Purpose: purpose})
	if err != nil {
		return nil, usageError(err)
	}
	return c, nil
}

func newConfigCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check and show the configuration",
	}
	cmd.AddCommand(newConfigCheckCommand(), newConfigShowCommand())
	return cmd
}

func newConfigCheckCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say ok, or all that is wrong with the configuration",
		Long: `Check the configuration as an agent would: every key and value, the files that it
names, and the sections of the providers, which are not contacted. Print ok, or one
line for each thing that is wrong, with its place, and status 2.

Where no cluster is named and there is a section registrar or services, it is checked
as a registrar would.`,
		Example: `  muster config check -c muster.yaml
  MUSTER_CLUSTER=orders MUSTER_PROVIDER_STATIC_PEERS=10.0.0.5:7946 muster config check`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadConfigFor(cmd, file, config.ForAny)
			if err != nil {
				return err
			}
			if err := checkRules(c); err != nil {
				return err
			}
			if c.Docker != (config.Docker{}) {
				engine, err := openEngine(c)
				if err != nil {
					return usageError(err)
				}
				defer engine.Close()
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "ok")
			return err
		},
	}
	addConfigFlags(cmd, &file, "cluster")
	return cmd
}

func newConfigShowCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Print the configuration in effect, and where each value comes from",
		Long: `Print the configuration in effect as YAML: defaults filled in, secrets redacted, and
behind each value where it comes from.`,
		Example: `  muster config show -c muster.yaml
  MUSTER_LOG_LEVEL=debug muster config show -c muster.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadConfigFor(cmd, file, config.ForAny)
			if err != nil {
				return err
			}
			return c.WriteYAML(cmd.OutOrStdout())
		},
	}
	addConfigFlags(cmd, &file, "cluster")
	return cmd
}

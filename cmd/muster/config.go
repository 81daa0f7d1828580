package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/musterhq/muster/agent"
	"github.com/musterhq/muster/config"
	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/providers/static"
	"github.com/musterhq/muster/registrar/advertise"
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
MUSTER_NODE_ZONE and --node-zone. A flag overrides the environment, which overrides the
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
		Long: `Check the configuration as an agent would: every key and value, the files that it names,
the interface in node.advertise, and the sections of the providers. The providers are not
contacted. Print ok, or one line for each error, with its place, and end with status 2.

If no cluster is named and there is a section registrar or services, check it as a
registrar would.`,
		Example: `  muster config check -c muster.yaml
  MUSTER_CLUSTER=orders MUSTER_PROVIDER_STATIC_PEERS=10.0.0.5:7946 muster config check`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadConfigFor(cmd, file, config.ForAny)
			if err != nil {
				return err
			}
			if err := agent.CheckRegistrar(c); err != nil {
				return err
			}
			if err := checkInterface(cmd.Context(), c); err != nil {
				return usageError(err)
			}
			if c.Docker != (config.Docker{}) {
				engine, err := agent.OpenEngine(c)
				if err != nil {
					return usageError(err)
				}
				defer engine.Close()
			}
			for _, note := range slices.Concat(notes(c), readerNotes(c), jobNotes(c)) {
				fmt.Fprintln(cmd.ErrOrStderr(), "muster: note: "+note)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "ok")
			return err
		},
	}
	addConfigFlags(cmd, &file, "cluster")
	return cmd
}

// jobNotes say which programs of jobs are not on this host, which may not be the one of the agent.
func jobNotes(c *config.Config) (notes []string) {
	for _, err := range c.MissingPrograms() {
		notes = append(notes, err.Error())
	}
	return notes
}

// checkInterface reports an interface that this host does not have and node.advertise names.
// One that has no address yet may get one.
func checkInterface(ctx context.Context, c *config.Config) error {
	name, ok := strings.CutPrefix(strings.TrimSpace(c.Node.Advertise), "interface:")
	if !ok || c.Purpose() != config.ForNode {
		return nil
	}
	if _, err := net.InterfaceByName(name); err == nil {
		return nil
	}
	anywhere := netip.AddrPortFrom(netip.IPv6Unspecified(), 1) // the port is not looked at
	_, err := advertise.Resolve(ctx, c.Node.Advertise, anywhere, advertise.Options{})
	return c.Locate(err)
}

// notes are what a configuration comes to that nothing is wrong with, and few want.
func notes(c *config.Config) []string {
	s, only := c.Provider["static"].(*static.Config)
	only = only && len(c.Provider) == 1 || only && slices.Contains(strings.Split(c.Mastership.Authority, ","), "static")
	if c.Cluster == "" || !only || len(s.Peers) > 0 || s.File != "" || !c.Mastership.Eligible {
		return nil
	}
	return []string{"provider.static: no voters are listed, and addresses found in DNS do not vote, so that no node is ever master; list the voters in peers or in file, or set mastership.eligible to false"}
}

// readerNotes say which readers of the providers' records would not find what the configuration
// names.
func readerNotes(c *config.Config) (notes []string) {
	union, err := c.OpenRegistrar(discovery.Options{}) // which contacts nobody
	if err != nil {
		return nil // the check has told
	}
	defer union.Close()
	instances := map[string]discovery.Instance{}
	if c.Purpose() == config.ForNode {
		instances["cluster"] = discovery.Instance{Service: c.Cluster, NodeID: c.Node.ID, InstanceID: strings.Repeat("0", 32), Addr: "192.0.2.1:1"}
	} else {
		for n, s := range c.Services {
			instances[fmt.Sprintf("services[%d]", n)] = s.Instance(c.Registrar.Hostname, cmp.Or(c.Registrar.IP, "192.0.2.1"))
		}
	}
	for _, registry := range union.Registries() {
		for _, key := range slices.Sorted(maps.Keys(instances)) {
			if err := registry.Review(instances[key]); err != nil {
				notes = append(notes, fmt.Sprintf("%s: provider %s: %v", key, registry.Name(), err))
			}
		}
	}
	return notes
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

package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/agent"
	"github.com/musterhq/muster/config"
	"github.com/musterhq/muster/node/httpapi"
	"github.com/musterhq/muster/registrar/host"
)

// newHealthCommand makes the health check of a container: it asks what the very
// configuration of the container runs, whose token and certificate it knows.
func newHealthCommand(of service, purpose config.Purpose) *cobra.Command {
	var file string
	var ready bool
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Ask the " + of.name + " that this configuration runs: the health check of its container",
		Long: `Ask the ` + of.name + ` that runs with this configuration: use the file, the environment and
the flags of ` + of.command + `. Print ok if it answers, ready or not: this is the health
check of its container. With --ready, fail unless it is ready, as /readyz does: for a probe
of Kubernetes, since the API listens on loopback only.`,
		Example: `  ` + of.command + ` health
  ` + of.command + ` health --ready
  ` + of.command + ` health -c muster.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfigFor(cmd, file, purpose)
			if err != nil {
				return err
			}
			path, answer := httpapi.PathStatus, any(new(httpapi.Status))
			if purpose == config.ForRegistrar {
				cfg.HTTP, path, answer = agent.RegistrarHTTP(cfg), host.PathRegistrar, new(host.Report)
			}
			a, err := ownAgent(of, cfg.HTTP)
			if err != nil {
				return usageError(err)
			}
			if source := cfg.Source("http.addr"); source != (config.Source{}) {
				a.source = source.String()
			}
			text, err := a.ask(cmd.Context(), path, answer)
			if err != nil {
				return err
			}
			var state struct {
				Ready         bool   `json:"ready"`
				WaitingFor    string `json:"waiting_for"`
				WaitingReason string `json:"waiting_reason"`
			}
			if err := json.Unmarshal(text, &state); err != nil {
				return err
			}
			if ready && !state.Ready {
				return fmt.Errorf("the %s at %s is not ready: %s%s", of.name, a.origin(), state.WaitingFor, codeOf(state.WaitingReason))
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "ok")
			return err
		},
	}
	cmd.Flags().BoolVar(&ready, "ready", false, "fail unless it is ready")
	addConfigFlags(cmd, &file, "http-addr")
	return cmd
}

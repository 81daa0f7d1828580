package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/agent"
	"github.com/musterhq/muster/config"
)

// agentGCPercent trades a little processor time for memory: a node has a few megabytes of its own,
// and collects them every few seconds while nothing happens.
const agentGCPercent = 50

func newAgentCommand() *cobra.Command {
	var file, historyFile string
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run a node of a cluster, with its HTTP API",
		Long: `Run a node: register it with the providers, join the members that they know, and
take part in mastership. Status, members, master, events and metrics are served
over HTTP.

On SIGTERM or an interrupt the agent leaves in good order: it gives mastership up,
removes its registration, and tells the members that it leaves. A second signal ends it
at once. On SIGHUP it reads its configuration again, as muster reload has it do.

With --history it appends what becomes of its mastership, and what it sees of the
cluster, to a file, as lines of JSON. muster history compares those of all nodes.`,
		Example: `  muster agent -c muster.yaml
  MUSTER_NODE_ZONE=eu-1 muster agent -c muster.yaml --log-level debug
  muster agent -c muster.yaml --history /var/log/muster/history.jsonl`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd, file)
			if err != nil {
				return err
			}
			history, err := openHistory(historyFile)
			if err != nil {
				return err
			}
			o := agent.Options{Load: func() (*config.Config, error) { return loadConfig(cmd, file) }, Logs: cmd.ErrOrStderr()}
			o.Doctor = func(ctx context.Context) (any, error) { return examine(ctx, cmd, file, config.ForNode) }
			defer reloadOnHangup(&o)()
			saveMemory(agentGCPercent)
			if history == nil {
				return agent.Run(cmd.Context(), cfg, o)
			}
			o.History = history
			return errors.Join(agent.Run(cmd.Context(), cfg, o), history.Close())
		},
	}
	addConfigFlags(cmd, &file)
	cmd.Flags().StringVar(&historyFile, "history", "", "file to add the history of this node to, as JSON lines (default none)")
	_ = cmd.MarkFlagFilename("history", "jsonl")
	cmd.AddCommand(newHealthCommand(agentService, config.ForNode))
	return cmd
}

// openHistory opens the file that the history is added to, nil for no name.
func openHistory(name string) (*os.File, error) {
	if name == "" {
		return nil, nil
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, usageError(fmt.Errorf("--history: %q: cannot be written: %w; name a file in a directory that exists", name, errors.Unwrap(err)))
	}
	return f, nil
}

// reloadOnHangup has SIGHUP read the configuration again, until stop is called.
func reloadOnHangup(o *agent.Options) (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	o.Reload = signals
	return func() { signal.Stop(signals) }
}

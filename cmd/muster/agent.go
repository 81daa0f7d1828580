package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/config"
	"github.com/musterhq/muster/node/httpapi"
)

// apiStopTimeout bounds the wait for answers that are under way when the agent
// stops.
const apiStopTimeout = time.Second

// apiReadTimeout bounds how long a client may take to say what it wants.
const apiReadTimeout = 5 * time.Second

// apiIdleTimeout is how long a connection is kept that asks for nothing.
const apiIdleTimeout = 2 * time.Minute

func newAgentCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run a node of a cluster, with its HTTP API",
		Long: `Run a node: register it with the providers, join the members that they know, and
take part in mastership. Status, members, master, events and metrics are served
over HTTP.

On SIGTERM or an interrupt the agent leaves in good order: it gives mastership up,
takes its registration away, and says goodbye to the members. A second signal ends
it at once.`,
		Example: `  muster agent -c muster.yaml
  MUSTER_NODE_ZONE=eu-1 muster agent -c muster.yaml --log-level debug`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd, file)
			if err != nil {
				return err
			}
			return runAgent(cmd.Context(), cfg, cmd.ErrOrStderr())
		},
	}
	addConfigFlags(cmd, &file)
	return cmd
}

// runAgent runs a node and its API until ctx or the node ends.
func runAgent(ctx context.Context, cfg *config.Config, logs io.Writer) (err error) {
	log := cfg.Logger(logs)
	nodeConfig, closeRegistries, err := cfg.NodeConfig(log)
	if err != nil {
		return usageError(err)
	}
	defer func() { err = errors.Join(err, closeRegistries()) }()
	found, closeDetectors, err := detectors(cfg)
	if err != nil {
		return usageError(err)
	}
	defer func() { err = errors.Join(err, closeDetectors()) }()
	nodeConfig.Detectors = append(found, nodeConfig.Detectors...)

	// The API's port comes first: whoever cannot be asked shall not be a member.
	listener, err := net.Listen("tcp", cfg.HTTP.Addr)
	if err != nil {
		return fmt.Errorf("http.addr: %q: %w; name an address of this host and a free port", cfg.HTTP.Addr, err)
	}
	defer listener.Close()
	n, err := node.Start(ctx, nodeConfig)
	if err != nil {
		return err
	}
	api := &http.Server{
		Handler:           httpapi.New(n),
		ReadHeaderTimeout: apiReadTimeout,
		IdleTimeout:       apiIdleTimeout,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- api.Serve(listener) }()
	log.Info("agent ready to be asked", "http", listener.Addr().String())

	var failed error
	select {
	case <-ctx.Done():
		log.Info("agent leaves; a second signal ends it at once")
	case <-n.Done():
		failed = n.Err()
	case failed = <-served:
	}
	// The API answers while the node leaves, so that it can be watched. Its streams of
	// events end with the node.
	left := n.Leave(context.WithoutCancel(ctx))
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), apiStopTimeout)
	defer cancel()
	if api.Shutdown(stopping) != nil {
		_ = api.Close()
	}
	log.Info("agent stopped")
	return errors.Join(failed, left)
}

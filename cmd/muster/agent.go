package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/config"
	"github.com/musterhq/muster/node/httpapi"
)

// apiStopTimeout bounds the wait for answers that are under way when the agent
// stops.
const apiStopTimeout = time.Second

func newAgentCommand() *cobra.Command {
	var file, historyFile string
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run a node of a cluster, with its HTTP API",
		Long: `Run a node: register it with the providers, join the members that they know, and
take part in mastership. Status, members, master, events and metrics are served
over HTTP.

On SIGTERM or an interrupt the agent leaves in good order: it gives mastership up,
takes its registration away, and says goodbye to the members. A second signal ends
it at once.

With --history it also keeps a record of its mastership and of what it saw of the
cluster, as lines of JSON stamped with the boot clock, to be laid beside those of
other nodes when something has gone wrong. Lines are added to what is there.`,
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
			if history == nil {
				return runAgent(cmd.Context(), cfg, nil, cmd.ErrOrStderr())
			}
			return errors.Join(runAgent(cmd.Context(), cfg, history, cmd.ErrOrStderr()), history.Close())
		},
	}
	addConfigFlags(cmd, &file)
	cmd.Flags().StringVar(&historyFile, "history", "", "file to add the history of this node to, as JSON lines (default none)")
	_ = cmd.MarkFlagFilename("history", "jsonl")
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

// runAgent runs a node and its API until ctx or the node ends. A nil history is kept
// nowhere.
func runAgent(ctx context.Context, cfg *config.Config, history, logs io.Writer) (err error) {
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
	nodeConfig.History = history

	// The API's port comes first: whoever cannot be asked shall not be a member.
	listener, options, err := listenAPI(cfg.HTTP)
	if err != nil {
		return err
	}
	defer listener.Close()
	n, err := node.Start(ctx, nodeConfig)
	if err != nil {
		return err
	}
	defer watchTLS(options, log)()
	api := httpapi.NewServer(httpapi.NewWith(n, options), log)
	served := make(chan error, 1)
	go func() { served <- api.Serve(listener) }()
	log.Info("agent ready to be asked", "http", listenedAddr(cfg.HTTP.Addr, listener), "tls", options.TLS != nil, "token", options.Token != nil)

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

// watchTLS tells of what becomes of the API's certificate, until stop is called.
func watchTLS(options httpapi.Options, log *slog.Logger) (stop func()) {
	if options.TLS == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var watcher sync.WaitGroup
	watcher.Go(func() { options.TLS.Watch(ctx, log.With("use", "http")) })
	return func() {
		cancel()
		watcher.Wait()
	}
}

// listenedAddr is an address as it was configured, with the port that was bound to. What
// a listener says of 0.0.0.0 is [::], which an operator does not find in the configuration.
func listenedAddr(configured string, l net.Listener) string {
	host, _, err := net.SplitHostPort(configured)
	_, port, errBound := net.SplitHostPort(l.Addr().String())
	if err != nil || errBound != nil {
		return l.Addr().String()
	}
	return net.JoinHostPort(host, port)
}

// listenAPI opens the API's port, as h has it.
func listenAPI(h config.HTTP) (net.Listener, httpapi.Options, error) {
	options := httpapi.Options{ClientCertificates: h.TLS.CAFile != ""}
	if h.Token != "" || h.TokenFile != "" {
		options.Token = httpapi.TokenOf(h.Token, h.TokenFile)
	}
	if h.TLS.Enabled() {
		files := h.TLS.Files()
		live, err := files.Live(files.ServerConfig)
		if err != nil {
			return nil, options, usageError(fmt.Errorf("http.%w", err))
		}
		options.TLS = live
	}
	listener, err := net.Listen("tcp", h.Addr)
	if err != nil {
		return nil, options, fmt.Errorf("http.addr: %q: %w; name an address of this host and a free port", h.Addr, err)
	}
	// The configuration was checked by its text. Here it is by where it has led, for a
	// host whose localhost is something else.
	a, ok := listener.Addr().(*net.TCPAddr)
	local := ok && a.IP.IsLoopback()
	if !local && (options.TLS == nil || options.Token == nil) {
		listener.Close()
		return nil, options, usageError(fmt.Errorf("http.addr: %q: leads to %s, beyond this host; configure http.tls and http.token_file, or write 127.0.0.1",
			h.Addr, listener.Addr()))
	}
	options.LocalNames = local && options.Token == nil
	listener = httpapi.Bounded(listener)
	if options.TLS != nil {
		listener = tls.NewListener(listener, &tls.Config{
			GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return options.TLS.Config(), nil },
		})
	}
	return listener, options, nil
}

package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/node/config"
	"github.com/musterhq/muster/node/httpapi"
	"github.com/musterhq/muster/registrar"
	"github.com/musterhq/muster/registrar/docker"
	"github.com/musterhq/muster/registrar/host"
)

// registrarGCPercent trades processor time, of which a registrar needs next to none, for
// memory, which it takes from those that it shares a host with.
const registrarGCPercent = 25

func newRegistrarCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "registrar",
		Short: "Register the containers and services of this host",
		Long: `Keep the containers of this host registered, and the services of the configuration
that are no containers, with every provider that is configured and takes registrations.
What is registered, where and why is served over HTTP, at /v1/registrar.

What is registered of a container is said by its labels and its environment, with the
SERVICE_* grammar of gliderlabs/registrator. muster registrar explain shows it.

On SIGTERM or an interrupt the registrar takes away what it has registered, or leaves it
to the next start where registrar.on_exit is keep. A second signal ends it at once.`,
		Example: `  muster registrar -c muster.yaml
  MUSTER_PROVIDER_ETCD_ENDPOINTS=http://127.0.0.1:2379 muster registrar --registrar-cleanup
  docker inspect web | muster registrar explain --inspect -`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfigFor(cmd, file, config.ForRegistrar)
			if err != nil {
				return err
			}
			if _, set := os.LookupEnv("GOGC"); !set {
				debug.SetGCPercent(registrarGCPercent)
			}
			return runRegistrar(cmd.Context(), cfg, cmd.ErrOrStderr())
		},
	}
	addConfigFlags(cmd, &file, registrarFlags...)
	cmd.AddCommand(newRegistrarDoctorCommand(), newExplainCommand(), newRegistrarStatusCommand())
	return cmd
}

var registrarFlags = []string{
	"docker-host", "detect-host-ip", "http-addr", "log-level", "log-format",
	"registrar-hostname", "registrar-containers", "registrar-ip", "registrar-internal", "registrar-explicit", "registrar-require-label",
	"registrar-ip-from-label", "registrar-tags", "registrar-merge-tags", "registrar-ttl", "registrar-resync", "registrar-cleanup",
	"registrar-deregister", "registrar-on-exit",
}

// registrarRules are those of the section registrar.
func registrarRules(cfg *config.Config) docker.Rules {
	c := cfg.Registrar
	return docker.Rules{
		Hostname: c.Hostname, IP: c.IP, HostIP: cfg.Detect.HostIP,
		Internal: c.Internal, Explicit: c.Explicit, RequireLabel: c.RequireLabel, IPFromLabel: c.IPFromLabel,
		Tags: slices.Clone(c.Tags), MergeTags: c.MergeTags, TTL: int(c.TTL / time.Second),
	}
}

// checkRules reports what is wrong with the section registrar that package config does
// not know of.
func checkRules(cfg *config.Config) error {
	rules := registrarRules(cfg)
	if rules.Hostname == "" {
		rules.Hostname = "unknown" // that of a node's configuration, to which it means nothing
	}
	if err := cfg.Locate(rules.Validate()); err != nil {
		return usageError(err)
	}
	return nil
}

// startRegistrar opens the providers and the engine and starts a registrar over them.
// The function that is returned closes them, once it has stopped.
func startRegistrar(cfg *config.Config, log *slog.Logger) (_ *host.Registrar, _ func() error, err error) {
	var closers []func() error
	closeAll := func() error {
		var errs []error
		for _, f := range slices.Backward(closers) {
			errs = append(errs, f())
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll())
		}
	}()
	c := host.Config{
		Rules: registrarRules(cfg), Deregister: docker.Deregister(cfg.Registrar.Deregister), Resync: cfg.Registrar.Resync,
		Services: cfg.Services, TTL: cfg.Registrar.TTL, Cleanup: cfg.Registrar.Cleanup, KeepOnStop: cfg.Registrar.OnExit == "keep",
		Logger: log,
	}
	if cfg.Cluster != "" {
		c.Spared = []string{cfg.Cluster} // where a node of this host may stand
	}
	if err := checkRules(cfg); err != nil {
		return nil, nil, err
	}
	if cfg.Registrar.Containers {
		engine, err := openEngine(cfg)
		if err != nil {
			return nil, nil, usageError(err)
		}
		closers = append(closers, engine.Close)
		c.Engine = engine
	}
	union, err := cfg.OpenRegistrar(discovery.Options{Logger: log})
	if err != nil {
		return nil, nil, usageError(err)
	}
	closers = append(closers, union.Close)
	c.Registries = union.Registries()
	r, err := host.Start(c)
	if err != nil {
		return nil, nil, usageError(err)
	}
	return r, closeAll, nil
}

// registrarHTTP is how a registrar serves its API: beside an agent of this host, unless
// it was told.
func registrarHTTP(cfg *config.Config) config.HTTP {
	h := cfg.HTTP
	if cfg.Source("http.addr") == (config.Source{}) {
		h.Addr = host.DefaultAddr
	}
	return h
}

// runRegistrar runs a registrar and its API until ctx ends.
func runRegistrar(ctx context.Context, cfg *config.Config, logs io.Writer) (err error) {
	log := cfg.Logger(logs)
	h := registrarHTTP(cfg)
	listener, options, err := listenAPI(h)
	if err != nil {
		return err
	}
	defer listener.Close()
	r, closeAll, err := startRegistrar(cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	defer watchTLS(options, log)()
	api := httpapi.NewServer(options.Protect(r.Handler()), log)
	served := make(chan error, 1)
	go func() { served <- api.Serve(listener) }()
	log.Info("registrar ready to be asked", "http", listenedAddr(h.Addr, listener))

	var failed error
	select {
	case <-ctx.Done():
		log.Info("registrar stops; a second signal ends it at once")
	case failed = <-served:
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), registrar.StopTimeout)
	defer cancel()
	stopped := r.Stop(stopping)
	answering, cancel := context.WithTimeout(context.WithoutCancel(ctx), apiStopTimeout)
	defer cancel()
	if api.Shutdown(answering) != nil {
		_ = api.Close()
	}
	log.Info("registrar stopped")
	return errors.Join(failed, stopped)
}

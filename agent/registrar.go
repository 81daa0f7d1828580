package agent

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/agent/page"
	"github.com/musterhq/muster/config"
	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/node/httpapi"
	"github.com/musterhq/muster/registrar"
	"github.com/musterhq/muster/registrar/docker/grammar"
	"github.com/musterhq/muster/registrar/host"
)

// RegistrarRules are those of the section registrar.
func RegistrarRules(cfg *config.Config) grammar.Rules {
	c := cfg.Registrar
	return grammar.Rules{
		Hostname: c.Hostname, IP: c.IP, HostIP: cfg.Detect.HostIP,
		Internal: c.Internal, Explicit: c.Explicit, RequireLabel: c.RequireLabel, IPFromLabel: c.IPFromLabel,
		Tags: slices.Clone(c.Tags), MergeTags: c.MergeTags, TTL: int(c.TTL / time.Second),
	}
}

// CheckRegistrar reports what is wrong with the section registrar and the services that package
// config does not know of. It makes no call. The error wraps ErrConfig.
func CheckRegistrar(cfg *config.Config) error {
	rules := RegistrarRules(cfg)
	if rules.Hostname == "" {
		rules.Hostname = "unknown" // that of a node's configuration, to which it means nothing
	}
	if err := cfg.Locate(rules.Validate()); err != nil {
		return invalid(err)
	}
	if len(cfg.Services) < 2 {
		return nil
	}
	union, err := cfg.OpenRegistrar(discovery.Options{}) // which contacts nobody
	if err != nil {
		return invalid(err)
	}
	defer union.Close()
	if err := cfg.Locate(host.CheckRecords(union.Registries(), cfg.Services, rules)); err != nil {
		return invalid(err)
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
		Rules: RegistrarRules(cfg), Deregister: host.Deregister(cfg.Registrar.Deregister), Resync: cfg.Registrar.Resync,
		Services: cfg.Services, TTL: cfg.Registrar.TTL, Cleanup: cfg.Registrar.Cleanup, KeepOnStop: cfg.Registrar.OnExit == "keep",
		Logger: log,
	}
	if cfg.Cluster != "" {
		c.Spared = []string{cfg.Cluster} // where a node of this host may stand
	}
	if err := CheckRegistrar(cfg); err != nil {
		return nil, nil, err
	}
	if cfg.Registrar.Containers {
		engine, err := OpenEngine(cfg)
		if err != nil {
			return nil, nil, invalid(err)
		}
		closers = append(closers, engine.Close)
		c.Engine = engine
	}
	union, err := cfg.OpenRegistrar(discovery.Options{Logger: log})
	if err != nil {
		return nil, nil, invalid(err)
	}
	closers = append(closers, union.Close)
	c.Registries = union.Registries()
	r, err := host.Start(c)
	if err != nil {
		return nil, nil, invalid(cfg.Locate(err))
	}
	return r, closeAll, nil
}

// RegistrarHTTP is how a registrar serves its API: beside an agent of this host, unless the
// configuration says where.
func RegistrarHTTP(cfg *config.Config) config.HTTP {
	h := cfg.HTTP
	if cfg.Source("http.addr") == (config.Source{}) {
		h.Addr = host.DefaultAddr
	}
	return h
}

// RunRegistrar runs the registrar of a configuration and its API until ctx ends, and then
// stops it in good order. It blocks. Its errors are as those of Run. The caller has loaded cfg
// for a registrar.
func RunRegistrar(ctx context.Context, cfg *config.Config, o Options) (err error) {
	log := cfg.Logger(o.logs())
	reloader := newReloader(cfg, log, o.Load)
	defer reloader.follow(o.Reload)()
	h := RegistrarHTTP(cfg)
	listener, options, err := listen(cfg, h)
	if err != nil {
		return err
	}
	defer listener.Close()
	if options.Token != nil {
		options.Token = reloader.currentToken
	}
	r, closeAll, err := startRegistrar(cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeWithin(closeAll)) }()
	defer watchTLS(options, log)()
	shown := page.Registrar(r, options.Protect(r.Handler()), options)
	defer shown.Close()
	api := httpapi.NewServer(shown, log)
	served := make(chan error, 1)
	go func() { served <- api.Serve(listener) }()
	log.Info("registrar ready to be asked", "http", listenedAddr(h.Addr, listener))

	var failed error
	select {
	case <-ctx.Done():
		log.Info("registrar stops; a second signal ends it at once")
	case keys := <-reloader.restart:
		failed = restartError(keys)
		log.Info("registrar stops, to be started again", "keys", strings.Join(keys, ","))
	case failed = <-served:
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), registrar.StopTimeout)
	defer cancel()
	stopped := r.Stop(stopping)
	answering, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if api.Shutdown(answering) != nil {
		_ = api.Close()
	}
	log.Info("registrar stopped")
	return errors.Join(failed, stopped)
}

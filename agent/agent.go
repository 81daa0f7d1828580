// Package agent runs a node, or the registrar of a host, from a configuration: with its HTTP
// API and its page, the guard of both, the logger, and a configuration that is read again. It is
// what the commands muster agent and muster registrar run, and what a program that wants to be
// configured like them embeds.
//
// The API is served beyond loopback only with TLS and a token.
package agent

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"time"

	"github.com/musterhq/muster/agent/page"
	"github.com/musterhq/muster/config"
	"github.com/musterhq/muster/internal/within"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/history"
	"github.com/musterhq/muster/node/httpapi"
)

// Options are what is not in a configuration. The zero value is useful.
type Options struct {
	// Load reads the configuration again, as POST /v1/reload and Reload ask. What can be put
	// in force at once is; where another key has changed, the agent leaves in good order and
	// returns ErrRestart. Nil: it is not read again.
	Load func() (*config.Config, error)

	// Reload has the configuration read again each time that it has a value. Pass what
	// signal.Notify sends SIGHUP to. Nil, or once it is closed: it is read again only as the API
	// asks.
	Reload <-chan os.Signal

	// History takes the history of the node, as node.Config.History. A registrar has none. The API
	// serves the last of it, whether or not this is set.
	History io.Writer

	// Doctor looks at what the node needs on its host, and returns what it has found, as
	// doctor.Finding of package agent/doctor: other members ask for it, if there is mutual TLS
	// between the nodes. Nil: they learn nothing.
	Doctor func(context.Context) (findings any, err error)

	// Logs takes the log. Nil: os.Stderr.
	Logs io.Writer
}

func (o Options) logs() io.Writer {
	if o.Logs == nil {
		return os.Stderr
	}
	return o.Logs
}

// ErrConfig means that the configuration is wrong, or leads to what cannot be used. Another
// start with it would fail alike.
var ErrConfig = errors.New("wrong configuration")

// invalid makes err an ErrConfig, with its own text.
func invalid(err error) error { return configError{err} }

type configError struct{ error }

func (e configError) Unwrap() error        { return e.error }
func (e configError) Is(target error) bool { return target == ErrConfig }

// stopTimeout bounds the wait for answers that are under way when the agent stops, and for
// what does not end.
const stopTimeout = time.Second

// Run runs the node of a configuration and its API until ctx ends, the API is asked to have it
// leave, or the node ends by itself; in each case the node leaves in good order first. It
// blocks. Its error is that of the node or of leaving, wraps ErrConfig where what is
// wrong with the configuration shows before the node is started, and ErrRestart where it has
// changed. The caller has loaded cfg for a node.
func Run(ctx context.Context, cfg *config.Config, o Options) (err error) {
	log := cfg.Logger(o.logs())
	reloader := newReloader(cfg, cfg.NodeLogger(log), o.Load)
	defer reloader.follow(o.Reload)()
	nodeConfig, closeRegistries, err := NodeConfig(cfg, log)
	if err != nil {
		return invalid(err)
	}
	defer func() { err = errors.Join(err, closeWithin(closeRegistries)) }()
	log = cfg.NodeLogger(log)
	if err := checkJobs(cfg); err != nil {
		return invalid(err)
	}
	found, closeDetectors, err := Detectors(cfg)
	if err != nil {
		return invalid(err)
	}
	defer func() { err = errors.Join(err, closeWithin(closeDetectors)) }()
	nodeConfig.Detectors = append(found, nodeConfig.Detectors...)
	recent := new(history.Recent)
	nodeConfig.History = recent
	if o.History != nil {
		nodeConfig.History = io.MultiWriter(recent, o.History)
	}

	// The API's port comes first: an agent that cannot be asked shall not be a member.
	listener, options, err := listen(cfg, cfg.HTTP)
	if err != nil {
		return err
	}
	defer listener.Close()
	if options.Token != nil {
		options.Token = reloader.currentToken
	}
	proxies, err := listenProxies(cfg, log)
	if err != nil {
		return err
	}
	defer proxies.close()
	options.Proxies = proxies.status
	asked, finished := make(chan struct{}, 1), make(chan struct{})
	var left error // set before finished is closed
	options.History = recent
	options.Operator = &httpapi.Operator{Reload: reloader.reload, Leave: func(ctx context.Context) error {
		select {
		case asked <- struct{}{}:
		default:
		}
		select {
		case <-finished:
			return left
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}}
	n, err := node.Start(ctx, nodeConfig)
	if err != nil {
		return cfg.Locate(err)
	}
	called, err := openCalls(n, cfg, o.Doctor, log)
	if err != nil {
		return errors.Join(err, n.Leave(context.WithoutCancel(ctx)))
	}
	defer called.close()
	options.Operator.Call, options.Operator.Connect = called.call, called.connect
	defer watchTLS(options, log)()
	defer proxies.serve(n)()
	defer runSteps(n, options.Operator)()
	defer runJobs(n, cfg, options.Operator, log)()
	recorded, stopFollowing := followSteps(n, log)
	defer stopFollowing()
	options.Steps = recorded.status
	shown := page.Node(n, httpapi.NewWith(n, options), options)
	defer shown.Close()
	api := httpapi.NewServer(shown, log)
	served := make(chan error, 1)
	go func() { served <- api.Serve(listener) }()
	log.Info("agent ready to be asked", "http", listenedAddr(cfg.HTTP.Addr, listener), "tls", options.TLS != nil, "token", options.Token != nil)

	var failed error
	select {
	case <-ctx.Done():
		log.Info("agent leaves; a second signal ends it at once")
	case <-asked:
		log.Info("agent leaves, as it was asked to by its API")
	case keys := <-reloader.restart:
		failed = restartError(keys)
		log.Info("agent leaves, to be started again", "keys", strings.Join(keys, ","))
	case <-n.Done():
		failed = cfg.Locate(n.Err())
	case failed = <-served:
	}
	// The API answers while the node leaves, so that it can be watched. Its streams of
	// events end with the node.
	left = n.Leave(context.WithoutCancel(ctx))
	close(finished)
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if api.Shutdown(stopping) != nil {
		_ = api.Close()
	}
	log.Info("agent stopped")
	return errors.Join(failed, left)
}

// closeWithin closes what a driver or an engine may hang in, which keeps no process alive.
func closeWithin(f func() error) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	return within.Do(ctx, func(context.Context) error { return f() })
}

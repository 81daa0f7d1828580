// Package proxy forwards TCP connections to the application of the cluster's master: a local port
// that follows the master.
//
// A connection belongs to one mastership. It is reset, at both ends, when this node learns that the
// master has changed or has given mastership up, when the validity that this node knows of has
// passed, and when the master's application moves to another address. Before each write to the
// master all that is looked at again, and what is then still in a buffer of this host is dropped:
// nothing is sent to a node that is not master as far as this node knows. What this node cannot
// know yet it cannot act on: the application rejects what comes with a term below the highest that
// it has seen.
//
// A new connection waits for a master, and until the master's application accepts it, for the dial
// timeout. An end of one direction is passed on and leaves the other open.
//
//	p, err := proxy.Listen(proxy.Config{Addr: "127.0.0.1:5432", App: "pg"})
//	if err != nil {
//		return err
//	}
//	return p.Serve(ctx, proxy.MasterOf(n, "pg"))
package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/musterhq/muster/internal/alarm"
	"github.com/musterhq/muster/internal/backoff"
	"github.com/musterhq/muster/internal/watch"
)

// The defaults of a Config.
const (
	DefaultMaxConnections = 1024
	DefaultDialTimeout    = 3 * time.Second
)

// Config is what a proxy does. Addr and App are mandatory.
type Config struct {
	// Addr is the HOST:PORT to listen on. Port 0 takes a free one.
	Addr string
	// App is the name of the master's application address, for messages.
	App string
	// MaxConnections bounds the connections of clients, those that wait for a master among them.
	// Further ones are reset. 0: DefaultMaxConnections.
	MaxConnections int
	// DialTimeout bounds how long a client waits for a master whose application accepts. 0:
	// DefaultDialTimeout.
	DialTimeout time.Duration
	// Logger takes the log. Nil: none.
	Logger *slog.Logger
}

// Master is the master as a node knows it.
type Master struct {
	NodeID, InstanceID, ClusterID string
	Term                          uint64
	// Addr is the HOST:PORT of its application. Empty: it has none of that name.
	Addr string
	// Until is until when it counts if nothing more is learned, on the boot clock.
	Until time.Duration
}

// same reports whether o is the same mastership, with the application at the same address.
func (m Master) same(o Master) bool {
	m.Until, o.Until = 0, 0
	return m == o
}

// Source says who is master. Its methods are safe for concurrent use.
type Source interface {
	// Master returns the master now, and false if none is known. It does not block, and is called
	// before each write.
	Master() (Master, bool)
	// Changes yields after each change of what Master returns, apart from Until, until ctx ends.
	Changes(ctx context.Context) iter.Seq[struct{}]
}

// The alarms of a proxy. The subject is the address of the port.
var (
	noAddress = alarm.Kind{Name: "proxy_no_address", Raised: "master has no address for the proxy", Cleared: "master has an address for the proxy"}
	noAnswer  = alarm.Kind{Name: "proxy_dial_failed", Raised: "master cannot be dialed by the proxy", Cleared: "master dialed by the proxy",
		Patience: 10 * time.Second, Quiet: time.Minute}
	tooMany = alarm.Kind{Name: "proxy_full", Raised: "proxy rejects connections", Cleared: "proxy rejects no connections", Quiet: time.Minute}
)

// Proxy is a port that follows the master. Its methods are safe for concurrent use.
type Proxy struct {
	cfg      Config
	listener *net.TCPListener
	log      *slog.Logger
	alarms   *alarm.Set
	slots    chan struct{} // has an element for each connection
	route    watch.Value[*route]
	counters counters

	// unchecked leaves out the look before each write. The tests show that it is needed.
	unchecked bool
}

// Listen opens the port of a proxy. Connections wait until Serve is called. The caller calls Close,
// or Serve.
func Listen(c Config) (*Proxy, error) {
	if c.App == "" {
		return nil, errors.New("proxy: no application: name the one to forward to")
	}
	if c.MaxConnections < 0 || c.DialTimeout < 0 {
		return nil, fmt.Errorf("proxy: negative bound: %d connections, dial timeout %v", c.MaxConnections, c.DialTimeout)
	}
	c.MaxConnections = cmp.Or(c.MaxConnections, DefaultMaxConnections)
	c.DialTimeout = cmp.Or(c.DialTimeout, DefaultDialTimeout)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	l, err := net.Listen("tcp", c.Addr)
	if err != nil {
		return nil, err
	}
	log := c.Logger.With("app", c.App)
	return &Proxy{
		cfg: c, listener: l.(*net.TCPListener), log: log, alarms: alarm.New(log), slots: make(chan struct{}, c.MaxConnections),
	}, nil
}

// Addr returns the address that it listens on.
func (p *Proxy) Addr() net.Addr { return p.listener.Addr() }

// Close ends the listener, and so Serve, with all connections.
func (p *Proxy) Close() error { return p.listener.Close() }

// Serve forwards connections until ctx ends or Close is called, and then closes all. It blocks, and
// is called once. Nothing is forwarded to others, the ports of proxies of this process: that
// would lead back here.
func (p *Proxy) Serve(ctx context.Context, source Source, others ...*Proxy) {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer p.alarms.Close()
	defer all.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { p.Close() })()
	all.Go(func() { p.follow(ctx, source) })
	own := append([]*Proxy{p}, others...)
	retry := backoff.Backoff{Min: 5 * time.Millisecond, Max: time.Second}
	for {
		c, err := p.listener.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// The process may have no file descriptor left.
			p.log.Debug("connection not accepted", "error", err)
			_ = retry.Wait(ctx)
			continue
		}
		retry.Reset()
		p.counters.accepted.Add(1)
		select {
		case p.slots <- struct{}{}:
			all.Go(func() {
				defer func() { <-p.slots }()
				p.serve(ctx, c, own)
			})
		default:
			p.counters.full.Add(1)
			p.alarms.Raise(tooMany, p.Addr().String(), "max_connections", p.cfg.MaxConnections)
			reset(c)
		}
	}
}

// serve forwards one connection of a client.
func (p *Proxy) serve(ctx context.Context, client *net.TCPConn, own []*Proxy) {
	defer client.Close()
	r, master, err := p.connect(ctx, own)
	if err != nil {
		p.log.Debug("connection not forwarded", "client", client.RemoteAddr().String(), "error", err)
		reset(client)
		return
	}
	p.counters.forwarded.Add(1)
	p.relay(r, client, master)
}

// reset closes a connection so that the other end sees that it was broken off, and drops what has
// not been sent.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	c.Close()
}

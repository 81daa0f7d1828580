package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"syscall"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/alarm"
	"github.com/musterhq/muster/internal/hint"
)

// Network is a Link, or what stands in for one.
type Network interface {
	driver.Network

	// DialInstance is Dial for one instance of a node. See Link.DialInstance.
	DialInstance(ctx context.Context, protocol, addr, instanceID string) (net.Conn, error)
}

var _ Network = (*Link)(nil)

// Link is one open port. Its methods are safe for concurrent use.
type Link struct {
	cfg      Config
	ln       net.Listener
	addr     netip.AddrPort
	tls      *tlsEnds // nil without TLS
	counters counters
	rejected rejections // who has dialled

	alarms *alarm.Set

	// ctx ends with Close; dials and waits hang on it.
	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup
	done chan struct{} // closed when Close has finished

	mu        sync.Mutex
	closing   bool // Close has begun
	closed    bool // nothing new is let in
	listeners map[string]*listener
	accepted  map[string]uint64
	conns     map[*conn]struct{}
	pending   []*handshake // the oldest first
	transport *Transport
}

// Listen opens the port. Everything but errors of the configuration and of the
// port comes later: who connects before Listen(protocol) or Transport was called
// is told that there is no listener, and tries again.
func Listen(cfg Config) (*Link, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	lc := net.ListenConfig{KeepAliveConfig: keepAlive}
	ln, err := lc.Listen(context.Background(), "tcp", cfg.Bind)
	if err != nil {
		return nil, bindError(cfg.Bind, err)
	}
	return serve(cfg, ln), nil
}

// serve starts a link on ln, which it owns from here on.
func serve(cfg Config, ln net.Listener) *Link {
	ctx, stop := context.WithCancel(context.Background())
	addr := ln.Addr().(*net.TCPAddr).AddrPort()
	l := &Link{
		cfg:       cfg,
		ln:        ln,
		addr:      netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()),
		ctx:       ctx,
		stop:      stop,
		done:      make(chan struct{}),
		listeners: make(map[string]*listener),
		accepted:  make(map[string]uint64),
		conns:     make(map[*conn]struct{}),
	}
	l.alarms = alarm.New(cfg.Logger)
	l.rejected = rejections{log: cfg.Logger, alarms: l.alarms}
	switch {
	case cfg.CurrentTLS != nil:
		l.tls = newTLSEnds(cfg.CurrentTLS)
	case cfg.TLS != nil:
		l.tls = newTLSEnds(func() *tls.Config { return cfg.TLS })
	}
	l.wg.Add(1)
	go l.acceptLoop()
	return l
}

// bindError names the address, and has a hint.
func bindError(bind string, err error) error {
	problem, how := "cannot be listened on", "name an address of this host and a free port"
	var errno syscall.Errno
	isErrno := errors.As(err, &errno)
	const wsaeaddrinuse, wsaeaddrnotavail = 10048, 10049 // what Windows calls them
	windows := runtime.GOOS == "windows" && isErrno
	switch {
	case errors.Is(err, syscall.EADDRINUSE) || windows && errno == wsaeaddrinuse:
		problem, how = "the port is in use", "stop the program that has it or bind to another port, 0 for any that is free"
	case errors.Is(err, syscall.EADDRNOTAVAIL) || windows && errno == wsaeaddrnotavail:
		problem, how = "this host has no such address", "bind to one that it has, or to 0.0.0.0 for all"
	case errors.Is(err, syscall.EACCES):
		problem, how = "the system does not allow it", "bind to a port above 1023"
	}
	return hint.With(fmt.Errorf("link: bind %q: %s: %w", bind, problem, err), how)
}

// Addr returns the bound address. Its host may be unspecified, and such an
// address is not one that others can dial.
func (l *Link) Addr() netip.AddrPort { return l.addr }

// Close closes the port, the transport, every listener and every connection that
// the link has made or accepted, and waits until all its goroutines have ended.
// It is idempotent. The error is always nil.
func (l *Link) Close() error {
	l.mu.Lock()
	if l.closing {
		l.mu.Unlock()
		<-l.done
		return nil
	}
	l.closing = true
	transport := l.transport
	l.mu.Unlock()
	if transport != nil {
		transport.Shutdown() // sends what is queued, for which it may have to dial
	}

	l.mu.Lock()
	l.closed = true
	transport = l.transport // one that was made meanwhile
	listeners := make([]*listener, 0, len(l.listeners))
	for _, ln := range l.listeners {
		listeners = append(listeners, ln)
	}
	pending := l.pending
	l.pending = nil
	l.mu.Unlock()

	l.stop()
	l.ln.Close()
	if transport != nil {
		transport.Shutdown()
	}
	for _, ln := range listeners {
		ln.Close()
	}
	for _, h := range pending {
		h.raw.Close()
	}
	l.mu.Lock()
	conns := make([]*conn, 0, len(l.conns))
	for c := range l.conns {
		conns = append(conns, c)
	}
	l.mu.Unlock()
	for _, c := range conns {
		c.abort()
	}
	l.wg.Wait()
	l.alarms.Close()
	close(l.done)
	return nil
}

// Disconnect closes every connection to and from an instance that is known to have departed. It
// does not wait for the other end, and does not keep that from connecting again: what is known of
// a departure may be wrong, and an instance that did depart does not come back.
//
// Those of the transport stay: two that leave at the same time still have to tell each other so.
// They end with the other process, or like all that are idle or give no sign of life.
func (l *Link) Disconnect(instanceID string) {
	l.mu.Lock()
	var gone []*conn
	for c := range l.conns {
		own := c.peer.Protocol == protocolPackets || c.peer.Protocol == protocolStreams
		if c.peer.InstanceID == instanceID && !own {
			gone = append(gone, c)
		}
	}
	l.mu.Unlock()
	for _, c := range gone {
		c.abort()
	}
}

// hello is what this node says of itself on a connection for protocol.
func (l *Link) hello(protocol string) hello {
	h := hello{version: wireVersion, cluster: l.cfg.Cluster, peer: Peer{
		NodeID: l.cfg.NodeID, InstanceID: l.cfg.InstanceID, Protocol: protocol, Features: l.cfg.Features,
	}}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.transport != nil {
		h.peer.Addr = l.transport.advertise
	}
	return h
}

// conn is a connection after its handshake. It keeps the link's account of what
// is open.
type conn struct {
	net.Conn
	link    *Link
	peer    Peer
	inbound bool
}

// Peer returns the node at the other end.
func (c *conn) Peer() Peer { return c.peer }

// track takes c into the account, and returns nil after Close.
func (l *Link) track(nc net.Conn, peer Peer, inbound bool) *conn {
	c := &conn{nc, l, peer, inbound}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.conns[c] = struct{}{}
	return c
}

func (c *conn) untrack() {
	c.link.mu.Lock()
	delete(c.link.conns, c)
	c.link.mu.Unlock()
}

// Close closes the connection in good order. With TLS it may wait up to 5 s for
// the room to say goodbye.
func (c *conn) Close() error {
	c.untrack()
	return c.Conn.Close()
}

// CloseWrite tells the other end that nothing more will come.
func (c *conn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return errors.ErrUnsupported
}

// abort closes the connection without waiting for anything.
func (c *conn) abort() {
	c.untrack()
	if t, ok := c.Conn.(*tls.Conn); ok {
		t.NetConn().Close()
		return
	}
	c.Conn.Close()
}

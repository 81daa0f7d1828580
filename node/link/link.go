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
)

var _ driver.Network = (*Link)(nil)

// Link is one open port. Its methods are safe for concurrent use.
type Link struct {
	cfg      Config
	ln       net.Listener
	addr     netip.AddrPort
	tls      *tlsEnds // nil without TLS
	counters counters
	rejected rejections // who has dialled
	refused  refusals   // who was dialled

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
		rejected:  rejections{log: cfg.Logger},
		refused:   refusals{log: cfg.Logger},
		ctx:       ctx,
		stop:      stop,
		done:      make(chan struct{}),
		listeners: make(map[string]*listener),
		accepted:  make(map[string]uint64),
		conns:     make(map[*conn]struct{}),
	}
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

// bindError names the address and the mend.
func bindError(bind string, err error) error {
	mend := "name an address of this host and a free port"
	var errno syscall.Errno
	isErrno := errors.As(err, &errno)
	const wsaeaddrinuse, wsaeaddrnotavail = 10048, 10049 // what Windows calls them
	windows := runtime.GOOS == "windows" && isErrno
	switch {
	case errors.Is(err, syscall.EADDRINUSE) || windows && errno == wsaeaddrinuse:
		mend = "the port is in use; stop the program that has it or bind to another port, 0 for any that is free"
	case errors.Is(err, syscall.EADDRNOTAVAIL) || windows && errno == wsaeaddrnotavail:
		mend = "this host has no such address; bind to one that it has, or to 0.0.0.0 for all"
	case errors.Is(err, syscall.EACCES):
		mend = "the system does not allow it; bind to a port above 1023"
	}
	return fmt.Errorf("link: bind %q: %s: %w", bind, mend, err)
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
	close(l.done)
	return nil
}

// conn is a connection after its handshake. It keeps the link's account of what
// is open.
type conn struct {
	net.Conn
	link    *Link
	inbound bool
}

// track takes c into the account, and returns nil after Close.
func (l *Link) track(nc net.Conn, inbound bool) *conn {
	c := &conn{nc, l, inbound}
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

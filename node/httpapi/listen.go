package httpapi

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// The bounds of a server of the API. An answer takes milliseconds, and a request is a
// line with a few headers, except for that of PathCall.
const (
	// readTimeout bounds how long a client may take to say what it wants, and
	// writeTimeout how long to take the answer. A stream of events has its own.
	readTimeout  = 5 * time.Second
	writeTimeout = 30 * time.Second
	// idleTimeout is how long a connection is kept that asks for nothing.
	idleTimeout = 2 * time.Minute
	// maxHeader bounds the bytes of a request without its body.
	maxHeader = 16 << 10
	// maxConns bounds the connections.
	maxConns = 512
)

// NewServer returns a server of an API that New or NewWith made, with the bounds that
// go with it. The caller serves it on a listener from Bounded.
func NewServer(api http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           api,
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ConnState:         noteState,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// Bounded returns a listener that has 512 connections open at most, so that a flood costs no more
// than these. What comes then takes the place of the one that has waited longest for a request, if
// NewServer serves them: connections that ask for nothing keep no probe of health out. It is closed
// at once if all are being answered.
func Bounded(ln net.Listener) net.Listener {
	return &bounded{Listener: ln, open: make(map[*placed]struct{})}
}

type bounded struct {
	net.Listener

	mu   sync.Mutex
	open map[*placed]struct{}
}

func (b *bounded) Accept() (net.Conn, error) {
	for {
		c, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		p := &placed{Conn: c, of: b, waits: time.Now()}
		switch out, ok := b.place(p); {
		case !ok:
			c.Close()
			continue
		case out != nil:
			out.Conn.Close() // whose reader learns of it
		}
		return p, nil
	}
}

// place gives p a place, and returns whose that was if there was no other one. It is false if there
// is none.
func (b *bounded) place(p *placed) (out *placed, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.open) >= maxConns {
		for o := range b.open {
			if !o.answered && (out == nil || o.waits.Before(out.waits)) {
				out = o
			}
		}
		if out == nil {
			return nil, false
		}
		delete(b.open, out)
	}
	b.open[p] = struct{}{}
	return out, true
}

// placed is a connection that has a place.
type placed struct {
	net.Conn
	of *bounded
	// Under the lock of the listener: whether a request has come whole and is being answered, and
	// otherwise since when one is waited for.
	answered bool
	waits    time.Time
}

// noteState is http.Server.ConnState. A connection is active once the head of a request was read.
func noteState(c net.Conn, s http.ConnState) {
	if secure, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = secure.NetConn()
	}
	p, ok := c.(*placed)
	if !ok {
		return
	}
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	p.answered = s == http.StateActive || s == http.StateHijacked
	if s == http.StateIdle {
		p.waits = time.Now()
	}
}

// CloseWrite lets the server take the last word to the client before it closes.
func (p *placed) CloseWrite() error {
	if w, ok := p.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return errors.ErrUnsupported
}

func (p *placed) Close() error {
	p.of.mu.Lock()
	delete(p.of.open, p)
	p.of.mu.Unlock()
	return p.Conn.Close()
}

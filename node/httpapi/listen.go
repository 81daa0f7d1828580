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
// line with a few headers.
const (
	// readTimeout bounds how long a client may take to say what it wants, and
	// writeTimeout how long to take the answer. A stream of events has its own.
	readTimeout  = 5 * time.Second
	writeTimeout = 30 * time.Second
	// idleTimeout is how long a connection is kept that asks for nothing.
	idleTimeout = 2 * time.Minute
	// maxHeader bounds the bytes of a request. It has no body.
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
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// Bounded returns a listener that closes at once what comes while 512 connections of
// it are open, so that a flood costs no more than these.
func Bounded(ln net.Listener) net.Listener {
	return &bounded{Listener: ln, places: make(chan struct{}, maxConns)}
}

type bounded struct {
	net.Listener
	places chan struct{}
}

func (b *bounded) Accept() (net.Conn, error) {
	for {
		c, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case b.places <- struct{}{}:
			return &placed{Conn: c, free: sync.OnceFunc(func() { <-b.places })}, nil
		default:
			c.Close()
		}
	}
}

// placed is a connection that has a place.
type placed struct {
	net.Conn
	free func()
}

// CloseWrite lets the server take the last word to the client before it closes.
func (p *placed) CloseWrite() error {
	if w, ok := p.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return errors.ErrUnsupported
}

func (p *placed) Close() error {
	defer p.free()
	return p.Conn.Close()
}

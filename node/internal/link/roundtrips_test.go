package link

import (
	"context"
	"net"
	"sync/atomic"
	"testing"

	"github.com/musterhq/muster/internal/testing/wait"
)

// turnConn counts how often the end that dials waits for the other: each read that comes
// after a write costs a round trip.
type turnConn struct {
	net.Conn
	wrote atomic.Bool
	turns *atomic.Int64
}

func (c *turnConn) Write(b []byte) (int, error) {
	c.wrote.Store(true)
	return c.Conn.Write(b)
}

func (c *turnConn) Read(b []byte) (int, error) {
	if c.wrote.Swap(false) {
		c.turns.Add(1)
	}
	return c.Conn.Read(b)
}

// dialTurns returns how many round trips f takes after that of TCP, of a link that dials.
func dialTurns(t *testing.T, w *world, f func(*Link)) int64 {
	t.Helper()
	var turns atomic.Int64
	f(w.link(t, func(c *Config) {
		c.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			nc, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
			if err != nil {
				return nil, err
			}
			return &turnConn{Conn: nc, turns: &turns}, nil
		}
	}))
	return turns.Load()
}

// Who is at the other end is known after one round trip, and with TLS after two: the
// handshake, and the hello that goes with its end.
func TestRoundTripsOfADial(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		want := int64(1)
		if w.ca != nil {
			want = 2
		}
		far := w.link(t)
		echo(t, far, "x")
		if got := dialTurns(t, w, func(l *Link) {
			c, err := l.Dial(wait.Context(t), "x", far.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
		}); got != want {
			t.Errorf("a dial takes %d round trips, want %d", got, want)
		}
	})
}

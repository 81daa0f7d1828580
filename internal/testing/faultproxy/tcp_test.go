package faultproxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/musterhq/muster/internal/testing/loopback"
	"github.com/musterhq/muster/internal/testing/wait"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// silence is how long nothing comes where nothing should.
const silence = 100 * time.Millisecond

// startEcho starts a server that answers what it is sent, and counts that.
func startEcho(t testing.TB) (addr string, got *Hits, stop func()) {
	t.Helper()
	l, err := loopback.Listen()
	if err != nil {
		t.Fatal(err)
	}
	got = new(Hits)
	var mu sync.Mutex
	var open []net.Conn
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, conn)
			mu.Unlock()
			serving.Go(func() {
				defer conn.Close()
				buf := make([]byte, 1<<20)
				for {
					n, err := conn.Read(buf)
					if err != nil {
						return
					}
					got.add()
					if _, err := conn.Write(buf[:n]); err != nil {
						return
					}
				}
			})
		}
	})
	stop = sync.OnceFunc(func() {
		l.Close()
		mu.Lock()
		for _, conn := range open {
			conn.Close()
		}
		mu.Unlock()
		serving.Wait()
	})
	t.Cleanup(stop)
	return l.Addr().String(), got, stop
}

// client is a connection that is closed with the test.
type client struct {
	t testing.TB
	net.Conn
}

func dial(t testing.TB, p *TCP) client {
	t.Helper()
	conn, err := net.DialTimeout("tcp", p.Addr(), wait.Patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return client{t, conn}
}

func (c client) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatal(err)
	}
}

// receive wants this answer next.
func (c client) receive(want string) {
	c.t.Helper()
	got := make([]byte, len(want))
	c.SetReadDeadline(time.Now().Add(wait.Patience))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		c.t.Fatalf("received %q, %v, want %q", got, err, want)
	}
}

func (c client) echo(text string) {
	c.t.Helper()
	c.send(text)
	c.receive(text)
}

// hearsNothing wants nothing to come for a while.
func (c client) hearsNothing() {
	c.t.Helper()
	c.SetReadDeadline(time.Now().Add(silence))
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatalf("received %d bytes, %v, want nothing and an open connection", n, err)
	}
}

// isReset wants the connection to be reset, after what is left of the answer.
func (c client) isReset() []byte {
	c.t.Helper()
	c.SetReadDeadline(time.Now().Add(wait.Patience))
	rest, err := io.ReadAll(c)
	if !errors.Is(err, syscall.ECONNRESET) {
		c.t.Fatalf("received %q, %v, want a reset", rest, err)
	}
	return rest
}

func waitHits(t testing.TB, h *Hits, n int) {
	t.Helper()
	if err := h.Wait(wait.Context(t), n); err != nil {
		t.Fatal(err)
	}
}

func TestCut(t *testing.T) {
	target, _, _ := startEcho(t)
	p := NewTCP(t, target)
	c := dial(t, p)
	c.echo("before")
	if n := p.Cut().Count(); n != 1 {
		t.Errorf("%d connections are reset, want 1", n)
	}
	c.isReset()
	if conn, err := net.Dial("tcp", p.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("Dial = %v, %v, want it refused", conn, err)
	}
	p.Cut() // a second time changes nothing
	p.Restore()
	dial(t, p).echo("after")
}

func TestSwallow(t *testing.T) {
	for _, v := range []struct {
		name   string
		way    Direction
		served int
	}{
		{"requests", Requests, 0},
		{"answers", Answers, 2},
		{"both", Both, 0},
	} {
		t.Run(v.name, func(t *testing.T) {
			target, got, stop := startEcho(t)
			p := NewTCP(t, target)
			old, idle := dial(t, p), dial(t, p)
			old.echo("a")
			idle.echo("b")
			hits := p.Swallow(v.way)
			fresh := dial(t, p)
			for _, c := range []client{old, fresh} {
				c.send("lost")
			}
			waitHits(t, hits, 2)
			waitHits(t, got, 2+v.served)
			old.hearsNothing()
			fresh.hearsNothing()
			if n := got.Count(); n != 2+v.served {
				t.Errorf("the server has got %d requests, want %d", n, 2+v.served)
			}
			p.Restore()
			old.isReset()
			fresh.isReset()
			idle.echo("nothing was lost here")

			// Not even the end of the server gets through a hole.
			if p.Swallow(v.way); v.way&Answers != 0 {
				stop()
				idle.hearsNothing()
				dial(t, p).hearsNothing()
			}
		})
	}
}

func TestServerIsGone(t *testing.T) {
	target, _, stop := startEcho(t)
	p := NewTCP(t, target)
	c := dial(t, p)
	c.echo("a")
	stop()
	if rest, err := io.ReadAll(c); len(rest) > 0 || err != nil {
		t.Errorf("received %q, %v, want the end of the connection", rest, err)
	}
	// The reset may come before Dial is done.
	switch conn, err := net.Dial("tcp", p.Addr()); {
	case err == nil:
		defer conn.Close()
		client{t, conn}.isReset()
	case !errors.Is(err, syscall.ECONNRESET):
		t.Error(err)
	}
}

// The end of one way does not end the other.
func TestHalfClosed(t *testing.T) {
	target, _, _ := startEcho(t)
	p := NewTCP(t, target)
	p.Delay(Answers, silence)
	c := dial(t, p)
	big := bytes.Repeat([]byte("x"), 1<<20)
	var sending sync.WaitGroup
	sending.Go(func() {
		if _, err := c.Write(big); err != nil {
			t.Error(err)
		}
		c.Conn.(*net.TCPConn).CloseWrite()
	})
	defer sending.Wait()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, big) {
		t.Errorf("received %d bytes, %v, want %d", len(got), err, len(big))
	}
}

func TestDelay(t *testing.T) {
	target, got, _ := startEcho(t)
	p := NewTCP(t, target)
	c := dial(t, p)
	const by = 200 * time.Millisecond
	for _, way := range []Direction{Requests, Answers} {
		hits := p.Delay(way, by)
		start := time.Now()
		c.echo("late")
		if took := time.Since(start); took < by {
			t.Errorf("an answer came after %v, delayed by %v", took, by)
		}
		if hits.Count() != 1 {
			t.Errorf("%d hits, want 1", hits.Count())
		}
		p.Restore()
	}
	// What comes while something is held back is not held back for longer.
	hits := p.Delay(Answers, time.Hour)
	before := got.Count()
	c.send("one")
	waitHits(t, got, before+1)
	c.send("two")
	waitHits(t, got, before+2)
	waitHits(t, hits, 1)
	c.hearsNothing()
	p.Delay(Answers, 0)
	c.receive("onetwo")
}

func TestThrottle(t *testing.T) {
	target, _, _ := startEcho(t)
	p := NewTCP(t, target)
	c := dial(t, p)
	hits := p.Throttle(Answers, 1000)
	text := string(bytes.Repeat([]byte("x"), 300))
	start := time.Now()
	c.echo(text)
	if took := time.Since(start); took < 300*time.Millisecond {
		t.Errorf("300 bytes took %v at 1000 per second", took)
	}
	if hits.Count() == 0 {
		t.Error("nothing was hit")
	}
	p.Throttle(Answers, 1)
	c.send(text)
	c.receive("x")
	p.Restore()
	c.receive(text[1:])
}

func TestResetAfter(t *testing.T) {
	target, _, _ := startEcho(t)
	p := NewTCP(t, target)
	old := dial(t, p)
	old.echo("long before")
	hits := p.ResetAfter(6)
	fresh := dial(t, p)
	for _, c := range []client{old, fresh} {
		c.echo("1234")
		c.send("5678")
		c.receive("56")
		if rest := c.isReset(); len(rest) > 0 {
			t.Errorf("received %q beyond that", rest)
		}
	}
	if hits.Count() != 2 {
		t.Errorf("%d hits, want 2", hits.Count())
	}
	p.ResetAfter(0)
	none := dial(t, p)
	none.send("a")
	if rest := none.isReset(); len(rest) > 0 {
		t.Errorf("received %q, want nothing", rest)
	}
}

func TestFlaky(t *testing.T) {
	target, _, _ := startEcho(t)
	p := NewTCP(t, target)
	strikes := func(seed uint64) (struck []int) {
		p.Flaky(0.3, seed)
		defer p.Restore()
		c := dial(t, p)
		for n := range 30 {
			c.send("a")
			c.SetReadDeadline(time.Now().Add(wait.Patience))
			if _, err := c.Read(make([]byte, 1)); errors.Is(err, syscall.ECONNRESET) {
				struck = append(struck, n)
				c = dial(t, p)
			} else if err != nil {
				t.Fatal(err)
			}
		}
		return struck
	}
	first, again, other := strikes(1), strikes(1), strikes(2)
	if !slices.Equal(first, again) || slices.Equal(first, other) || len(first) == 0 || len(first) == 30 {
		t.Errorf("seed 1 strikes at %v and then at %v, seed 2 at %v", first, again, other)
	}
}

func TestGarble(t *testing.T) {
	target, _, _ := startEcho(t)
	p := NewTCP(t, target)
	hits := p.Garble()
	c := dial(t, p)
	c.send("text")
	got := make([]byte, 4)
	if _, err := io.ReadFull(c, got); err != nil || bytes.Equal(got, []byte("text")) {
		t.Errorf("received %q, %v, want garbage of that length", got, err)
	}
	waitHits(t, hits, 1)
	p.Restore()
	c.isReset()
}

func TestHitsThatDoNotCome(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := new(Hits).Wait(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait = %v, want it to end with its context", err)
	}
}

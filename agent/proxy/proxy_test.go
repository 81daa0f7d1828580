package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"go.uber.org/goleak"

	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/internal/watch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeSource is a node whose knowledge a test makes.
type fakeSource struct {
	mu      sync.Mutex
	master  *Master
	changes watch.Value[struct{}]
}

func (s *fakeSource) Master() (Master, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.master == nil {
		return Master{}, false
	}
	return *s.master, true
}

func (s *fakeSource) Changes(ctx context.Context) iter.Seq[struct{}] { return s.changes.Watch(ctx) }

// set has the node know m, without a word to those who follow it.
func (s *fakeSource) set(m *Master) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.master = m
}

func (s *fakeSource) put(m *Master) {
	s.set(m)
	s.changes.Store(struct{}{})
}

// application is one that says who it is, answers each line with it, and keeps what it has read.
type application struct {
	name string
	net.Listener

	mu   sync.Mutex
	read bytes.Buffer
	// ends are why each of its connections ended, nil for an end in good order.
	ends []error
}

func newApplication(t *testing.T, name, network string) *application {
	t.Helper()
	addr := "127.0.0.1:0"
	if network == "tcp6" {
		addr = "[::1]:0"
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		if network == "tcp6" {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	a := &application{name: name, Listener: l}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { a.serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		serving.Wait()
	})
	return a
}

func (a *application) serve(c net.Conn) {
	defer c.Close()
	fmt.Fprintln(c, a.name)
	lines := bufio.NewReader(c)
	for {
		line, err := lines.ReadString('\n')
		a.mu.Lock()
		a.read.WriteString(line)
		if err != nil {
			if err == io.EOF {
				err = nil
			}
			a.ends = append(a.ends, err)
		}
		ending := len(line) == 0
		a.mu.Unlock()
		if ending {
			fmt.Fprintln(c, "bye")
			return
		}
		fmt.Fprintln(c, a.name)
	}
}

func (a *application) got() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.read.String()
}

func (a *application) lastEnd() (err error, ended bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.ends) == 0 {
		return nil, false
	}
	return a.ends[len(a.ends)-1], true
}

// master is a as the master of a term, for as long as no test takes.
func (a *application) master(term uint64) *Master {
	return &Master{NodeID: a.name, InstanceID: a.name, Term: term, Addr: a.Addr().String(), Until: time.Duration(clock.Now()) + time.Hour}
}

func serve(t *testing.T, c Config, s Source) *Proxy {
	t.Helper()
	if c.Addr == "" {
		c.Addr = "127.0.0.1:0"
	}
	c.App = "app"
	p, err := Listen(c)
	if err != nil {
		t.Fatal(err)
	}
	return run(t, p, s)
}

func run(t *testing.T, p *Proxy, s Source, others ...*Proxy) *Proxy {
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() { p.Serve(ctx, s, others...) })
	t.Cleanup(func() {
		cancel()
		serving.Wait()
		if n := p.Status().Connections; n != 0 {
			t.Errorf("%d connections are left", n)
		}
	})
	return p
}

// client is one of a proxy.
type client struct {
	*net.TCPConn
	lines *bufio.Reader
}

func dialProxy(t *testing.T, p *Proxy) *client {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr().String())
	if errors.Is(err, syscall.ECONNRESET) { // it was, before the dial had returned
		return &client{new(net.TCPConn), bufio.NewReader(iotest.ErrReader(err))}
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(wait.Patience))
	return &client{c.(*net.TCPConn), bufio.NewReader(c)}
}

// line returns the next line, or why there is none.
func (c *client) line() string {
	text, err := c.lines.ReadString('\n')
	switch {
	case errors.Is(err, syscall.ECONNRESET):
		return "reset"
	case err != nil:
		return err.Error()
	}
	return strings.TrimSuffix(text, "\n")
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func TestFollowsTheMaster(t *testing.T) {
	for _, network := range []string{"tcp4", "tcp6"} {
		t.Run(network, func(t *testing.T) {
			one, two := newApplication(t, "one", network), newApplication(t, "two", network)
			s := new(fakeSource)
			s.put(one.master(1))
			c := Config{}
			if network == "tcp6" {
				c.Addr = "[::1]:0"
			}
			p := serve(t, c, s)
			first := dialProxy(t, p)
			want(t, "the first", first.line(), "one")
			fmt.Fprintln(first, "hello")
			want(t, "its answer", first.line(), "one")

			s.put(two.master(2))
			want(t, "the first, after the change", first.line(), "reset")
			wait.For(t, "the end at the old master", func() bool { _, ended := one.lastEnd(); return ended })
			if err, _ := one.lastEnd(); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the old master reads %v", err)
			}
			want(t, "a new one", dialProxy(t, p).line(), "two")
			want(t, "what the first has read", one.got(), "hello\n")

			// The same node in a new term, and the same one at another address.
			open := dialProxy(t, p)
			want(t, "one more", open.line(), "two")
			s.put(two.master(3))
			want(t, "after a new term", open.line(), "reset")
			if got := p.Status(); got.Forwarded != 3 || got.Refused != (Refused{}) || got.Sent != 6 || got.Received < 12 {
				t.Errorf("%+v", got)
			}
		})
	}
}

// Each direction ends by itself.
func TestHalfClose(t *testing.T) {
	a := newApplication(t, "one", "tcp")
	s := new(fakeSource)
	s.put(a.master(1))
	p := serve(t, Config{}, s)
	c := dialProxy(t, p)
	want(t, "greeting", c.line(), "one")
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	want(t, "after the end of ours", c.line(), "bye")
	want(t, "then", c.line(), "EOF")
	wait.For(t, "the connection is gone", func() bool { return p.Status().Connections == 0 })
}

// A validity that passes ends connections, although nobody says that anything has changed; and
// one that is extended goes on.
func TestValidity(t *testing.T) {
	a := newApplication(t, "one", "tcp")
	s := new(fakeSource)
	m := a.master(1)
	m.Until = time.Duration(clock.Now()) + 300*time.Millisecond
	s.put(m)
	p := serve(t, Config{DialTimeout: 50 * time.Millisecond}, s)
	c := dialProxy(t, p)
	want(t, "greeting", c.line(), "one")
	want(t, "at the end", c.line(), "reset")
	if now := time.Duration(clock.Now()); now < m.Until {
		t.Errorf("%v too early", m.Until-now)
	}
	want(t, "a new one", dialProxy(t, p).line(), "reset")
	if got := p.Status(); got.Refused.NoMaster != 1 || got.Master != nil {
		t.Errorf("%+v", got)
	}
	s.put(a.master(1))
	want(t, "when it was extended", dialProxy(t, p).line(), "one")
}

// A client waits for the next master, and for its application.
func TestWaits(t *testing.T) {
	s := new(fakeSource)
	p := serve(t, Config{DialTimeout: wait.Patience}, s)
	c := dialProxy(t, p)
	wait.For(t, "it waits", func() bool { return p.Status().Connections == 1 })
	a := newApplication(t, "one", "tcp")
	addr := a.Addr().String()
	dead := a.master(1)
	a.Close()
	s.put(dead)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Skip(err) // somebody else has the port
	}
	defer l.Close()
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		if c, err := l.Accept(); err == nil {
			fmt.Fprintln(c, "at last")
			c.Close()
		}
	}()
	want(t, "in the end", c.line(), "at last")
	<-accepted
}

func TestRefuses(t *testing.T) {
	a := newApplication(t, "one", "tcp")
	s := new(fakeSource)
	p := serve(t, Config{MaxConnections: 1, DialTimeout: 50 * time.Millisecond}, s)
	count := func(what string, of func(Refused) uint64) {
		t.Helper()
		want(t, what, dialProxy(t, p).line(), "reset")
		if got := p.Status(); of(got.Refused) != 1 {
			t.Errorf("%s: %+v", what, got)
		}
		wait.For(t, "no connection is left", func() bool { return p.Status().Connections == 0 })
	}
	count("no master", func(r Refused) uint64 { return r.NoMaster })
	nowhere := a.master(1)
	nowhere.Addr = ""
	s.put(nowhere)
	count("no address", func(r Refused) uint64 { return r.NoAddress })
	loop := a.master(2)
	loop.Addr = p.Addr().String()
	s.put(loop)
	wait.For(t, "the loop", func() bool { return p.Status().Master != nil && p.Status().Master.Term == 2 })
	want(t, "a loop", dialProxy(t, p).line(), "reset")
	if p.Status().Refused.Failed == 0 || p.Status().Sent != 0 {
		t.Errorf("a loop: %+v", p.Status())
	}
	wait.For(t, "no connection is left", func() bool { return p.Status().Connections == 0 })
	s.put(a.master(3))
	wait.For(t, "a master", func() bool { return p.Status().Master != nil && p.Status().Master.Term == 3 })
	before := p.Status().Refused.Full // of the loop
	open := dialProxy(t, p)
	want(t, "one that fits", open.line(), "one")
	want(t, "one too many", dialProxy(t, p).line(), "reset")
	if got := p.Status(); got.Refused.Full != before+1 {
		t.Errorf("%+v", got)
	}
	fmt.Fprintln(open, "x")
	want(t, "the one that fits", open.line(), "one")
}

// A port on all addresses of the host is found in what was dialed, and two ports know each other.
func TestLoops(t *testing.T) {
	all, err := Listen(Config{Addr: ":0", App: "a"})
	if err != nil {
		t.Fatal(err)
	}
	other, err := Listen(Config{Addr: "127.0.0.1:0", App: "b"})
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(all.Addr().String())
	for name, s := range map[*Proxy]string{all: other.Addr().String(), other: net.JoinHostPort("127.0.0.1", port)} {
		source := new(fakeSource)
		source.put(&Master{NodeID: "n", Addr: s, Until: time.Duration(clock.Now()) + time.Hour})
		name.cfg.DialTimeout = 50 * time.Millisecond
		run(t, name, source, all, other)
	}
	want(t, "a loop", dialProxy(t, other).line(), "reset")
	for _, p := range []*Proxy{all, other} {
		if p.Status().Forwarded != 0 {
			t.Errorf("%+v", p.Status())
		}
	}
}

// Over random histories no byte reaches a node that was not master when it was written, also where
// nobody reports that the master has changed. Without the look before each write some do.
func TestNothingToAnotherThanTheMaster(t *testing.T) {
	stray := func(unchecked bool) (stray int) {
		apps := []*application{newApplication(t, "one", "tcp"), newApplication(t, "two", "tcp"), newApplication(t, "three", "tcp")}
		s := new(fakeSource)
		p, err := Listen(Config{Addr: "127.0.0.1:0", App: "app"})
		if err != nil {
			t.Fatal(err)
		}
		p.unchecked = unchecked
		run(t, p, s)
		for term := uint64(1); term <= 60; term++ {
			a := apps[rand.IntN(len(apps))]
			s.put(a.master(term))
			wait.For(t, "the route", func() bool { m := p.Status().Master; return m != nil && m.Term == term })
			c := dialProxy(t, p)
			want(t, "greeting", c.line(), a.name)
			fmt.Fprintf(c, "in %d\n", term)
			want(t, "answer", c.line(), a.name)
			switch rand.IntN(3) { // quietly: only the look before the write can know
			case 0:
				s.set(nil)
			case 1:
				s.set(apps[rand.IntN(len(apps))].master(term + 1000))
			case 2:
				expired := a.master(term)
				expired.Until = time.Duration(clock.Now())
				s.set(expired)
			}
			fmt.Fprintf(c, "after %d\n", term)
			if c.line() != "reset" {
				stray++
			}
			c.Close()
			wait.For(t, "the connection is gone", func() bool { return p.Status().Connections == 0 })
		}
		var read string
		for _, a := range apps {
			read += a.got()
		}
		if in := strings.Count(read, "in "); in != 60 {
			t.Errorf("%d of 60 lines arrived", in)
		}
		if after := strings.Count(read, "after "); !unchecked && after != 0 {
			t.Errorf("%d lines reached one that was not master", after)
		}
		return stray
	}
	if n := stray(false); n != 0 {
		t.Errorf("%d lines reached one that was not master", n)
	}
	if n := stray(true); n == 0 {
		t.Error("the look before each write makes no difference")
	}
}

// What waits in a buffer of this host when the master changes is dropped: the old one sees the
// connection broken off, and not all that was written.
func TestDropsWhatWaits(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := new(fakeSource)
	s.put(&Master{NodeID: "one", Term: 1, Addr: l.Addr().String(), Until: time.Duration(clock.Now()) + time.Hour})
	p := serve(t, Config{}, s)
	c := dialProxy(t, p)
	master, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	written := make(chan int)
	go func() { // until the old master, which does not read, has the proxy wait
		n, _ := c.Write(make([]byte, 64<<20))
		written <- n
	}()
	last := uint64(0)
	wait.For(t, "the proxy waits", func() bool {
		sent := p.Status().Sent
		waits := sent > 0 && sent == last
		last = sent
		return waits
	})
	s.put(nil)
	<-written
	wait.For(t, "the connection is gone", func() bool { return p.Status().Connections == 0 })
	n, err := io.Copy(io.Discard, master)
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the old master reads %d bytes, and then %v", n, err)
	}
}

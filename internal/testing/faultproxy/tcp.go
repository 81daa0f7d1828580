package faultproxy

import (
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testing/loopback"
)

// Direction is one of the directions through a proxy, or Both.
type Direction uint8

// The directions through a proxy.
const (
	Requests Direction = 1 << iota // what the client sends
	Answers                        // what the server sends
	Both     = Requests | Answers
)

// TCP is a proxy before a server that can break what passes. It passes bytes on and does not look
// at them. Its methods are safe for concurrent use. Faults add up; one of a kind
// replaces the one before.
type TCP struct {
	t      testing.TB
	target string
	addr   *net.TCPAddr
	done   sync.WaitGroup

	mu       sync.Mutex
	changed  chan struct{}    // closed and replaced at each change of what follows
	listener *net.TCPListener // nil while cut
	faults   faults
	passing  map[*proxyConn]bool
	ended    bool
}

// faults are those in force, nil if there is none. They are replaced, never
// changed.
type faults struct {
	swallow  [2]*Hits // by direction
	delay    [2]*delay
	throttle [2]*throttle
	reset    *reset
	flaky    *flaky
	garble   *Hits
}

type delay struct {
	*Hits
	by time.Duration
}

type throttle struct {
	*Hits
	rate int // bytes per second
}

type reset struct {
	*Hits
	after int // bytes of answers, of each connection
}

type flaky struct {
	*Hits
	mu       sync.Mutex
	random   *rand.Rand
	fraction float64
}

func (f *flaky) strikes() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.random.Float64() < f.fraction
}

// NewTCP starts a proxy to the HOST:PORT target on a port of its own. The target need
// not be there yet.
func NewTCP(t testing.TB, target string) *TCP {
	t.Helper()
	return NewTCPOn(t, "127.0.0.1", target)
}

// NewTCPOn starts a proxy on a port of its own of another address.
func NewTCPOn(t testing.TB, ip, target string) *TCP {
	t.Helper()
	l, err := loopback.ListenOn(net.ParseIP(ip))
	if err != nil {
		t.Fatalf("start a proxy: %v", err)
	}
	p := &TCP{
		t: t, target: target, addr: l.Addr().(*net.TCPAddr), listener: l,
		changed: make(chan struct{}), passing: make(map[*proxyConn]bool),
	}
	p.done.Go(func() { p.accept(l) })
	t.Cleanup(func() {
		p.change(func() {
			p.ended = true
			p.cut(nil)
		})
		p.done.Wait()
	})
	return p
}

// Addr is the HOST:PORT to dial.
func (p *TCP) Addr() string { return p.addr.String() }

// Cut resets all connections, which are its hits, and refuses new ones.
func (p *TCP) Cut() *Hits {
	hits := new(Hits)
	p.change(func() { p.cut(hits) })
	return hits
}

func (p *TCP) cut(hits *Hits) {
	if p.listener != nil {
		p.listener.Close()
		p.listener = nil
	}
	for c := range p.passing {
		c.reset()
		if hits != nil {
			hits.add()
		}
	}
}

// Swallow makes a black hole of one direction, or of both: what comes is taken and never
// arrives, not even the end of a connection. Connections stay open, and new ones are
// accepted. With Answers alone requests are carried out, and nobody learns of it.
func (p *TCP) Swallow(d Direction) *Hits {
	hits := new(Hits)
	p.each(d, func(dir direction) { p.faults.swallow[dir] = hits })
	return hits
}

// Delay holds back whatever comes in one direction. 0 ends it, and lets go what is held.
func (p *TCP) Delay(d Direction, by time.Duration) *Hits {
	hits := new(Hits)
	p.each(d, func(dir direction) { p.faults.delay[dir] = &delay{hits, by} })
	return hits
}

// Throttle lets so many bytes per second, 1 at least, in one direction of each
// connection.
func (p *TCP) Throttle(d Direction, rate int) *Hits {
	hits := new(Hits)
	p.each(d, func(dir direction) { p.faults.throttle[dir] = &throttle{hits, rate} })
	return hits
}

// ResetAfter resets each connection in the middle of an answer: when n more bytes of
// answers have passed. With 0 it is reset in place of its next answer.
func (p *TCP) ResetAfter(n int) *Hits {
	hits := new(Hits)
	p.change(func() { p.faults.reset = &reset{hits, n} })
	return hits
}

// Flaky resets a fraction of the connections in place of an answer: the choice is made
// for each answer by itself, as far as answers can be distinguished by the time at which they
// come.
func (p *TCP) Flaky(fraction float64, seed uint64) *Hits {
	f := &flaky{Hits: new(Hits), random: rand.New(rand.NewPCG(seed, seed)), fraction: fraction}
	p.change(func() { p.faults.flaky = f })
	return f.Hits
}

// Garble puts as much garbage in place of whatever the server answers.
func (p *TCP) Garble() *Hits {
	hits := new(Hits)
	p.change(func() { p.faults.garble = hits })
	return hits
}

// Restore ends all faults. Connections on which something is missing or wrong are
// reset.
func (p *TCP) Restore() {
	p.t.Helper()
	var err error
	p.change(func() {
		p.faults = faults{}
		for c := range p.passing {
			if c.corrupt {
				c.reset()
			}
		}
		if p.listener != nil || p.ended {
			return
		}
		if p.listener, err = net.ListenTCP("tcp", p.addr); err == nil {
			l := p.listener
			p.done.Go(func() { p.accept(l) })
		}
	})
	if err != nil {
		p.t.Errorf("restore the proxy: %v", err)
	}
}

func (p *TCP) each(d Direction, do func(direction)) {
	p.change(func() {
		for _, dir := range []direction{requests, answers} {
			if d&(1<<dir) != 0 {
				do(dir)
			}
		}
	})
}

func (p *TCP) change(how func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	how()
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *TCP) now() (faults, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.faults, p.changed
}

func (p *TCP) accept(l *net.TCPListener) {
	for {
		client, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			p.t.Errorf("proxy to %s: %v", p.target, err)
			return
		}
		c := &proxyConn{proxy: p, over: make(chan struct{})}
		c.ends[requests] = client
		if p.add(c) {
			p.done.Go(c.pass)
		}
	}
}

// add takes a connection in, or resets it if the proxy was cut meanwhile.
func (p *TCP) add(c *proxyConn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener == nil {
		c.reset()
		return false
	}
	p.passing[c] = true
	return true
}

func (p *TCP) remove(c *proxyConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.close()
	delete(p.passing, c)
}

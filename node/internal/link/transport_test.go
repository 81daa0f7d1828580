package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/musterhq/muster/internal/testing/wait"
)

func TestPacketsTravelBothWays(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		a, b := w.station(t), w.station(t)
		before := time.Now()
		for _, pair := range [][2]*station{{a, b}, {b, a}} {
			from, to := pair[0], pair[1]
			for i := range 100 {
				from.send(t, to.name(), fmt.Sprint(i))
			}
			for i := range 100 {
				p := to.receive(t)
				if string(p.Buf) != fmt.Sprint(i) || p.From.String() != from.name() {
					t.Fatalf("packet %d: %q from %s; want it in order, from %s", i, p.Buf, p.From, from.name())
				}
				if p.Timestamp.Before(before) || p.Timestamp.After(time.Now()) {
					t.Fatalf("timestamp %v is not that of the receipt", p.Timestamp)
				}
			}
		}
		for _, s := range []*station{a, b} {
			// The counter of the sender is raised after the write.
			wait.For(t, "all is counted", func() bool { return s.Stats().PacketsSent == 100 })
			got := s.Stats()
			if got.PacketsReceived != 100 || got.PacketsDropped != 0 || got.BytesSent == 0 || got.BytesReceived == 0 {
				t.Errorf("%+v, want 100 packets each way and none dropped", got)
			}
			if got.GossipInbound != 1 || got.GossipOutbound != 1 || got.Accepted[protocolPackets] != 1 {
				t.Errorf("%+v, want one kept connection each way", got)
			}
		}
	})
}

func TestWriteToKeepsNothingOfTheCallers(t *testing.T) {
	w := &world{}
	a, b := w.station(t), w.station(t)
	buf := []byte("before")
	sent, err := a.tr.WriteToAddress(buf, memberlist.Address{Addr: b.name(), Name: b.cfg.InstanceID})
	if err != nil || time.Since(sent) > wait.Patience {
		t.Fatalf("WriteToAddress = %v, %v", sent, err)
	}
	copy(buf, "AFTER!")
	if p := b.receive(t); string(p.Buf) != "before" {
		t.Errorf("received %q; the packet changed after WriteTo", p.Buf)
	}
}

func TestPacketSizes(t *testing.T) {
	w := &world{}
	a, b := w.station(t), w.station(t)
	for _, size := range []int{0, maxFrame + 1} {
		if _, err := a.tr.WriteTo(make([]byte, size), b.name()); err == nil {
			t.Errorf("a packet of %d bytes was taken", size)
		}
	}
	largest := bytes.Repeat([]byte("x"), maxFrame)
	a.send(t, b.name(), string(largest))
	if p := b.receive(t); !bytes.Equal(p.Buf, largest) {
		t.Errorf("received %d bytes, want %d", len(p.Buf), maxFrame)
	}
}

func TestAdvertisedAddress(t *testing.T) {
	l := (&world{}).link(t)
	for _, bad := range []string{"0.0.0.0:7946", "[::]:7946", "10.0.0.5:0", "224.0.0.1:7946"} {
		if _, err := l.Transport(mustAddrPort(bad)); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("Transport(%s): %v, want an error that names it", bad, err)
		}
	}
	tr, err := l.Transport(mustAddrPort("[::ffff:10.0.0.5]:8000"))
	if err != nil {
		t.Fatal(err)
	}
	ip, port, err := tr.FinalAdvertiseAddr("192.0.2.1", 1)
	if err != nil || len(ip) != net.IPv4len || ip.String() != "10.0.0.5" || port != 8000 {
		t.Errorf("FinalAdvertiseAddr = %v, %d, %v; want 10.0.0.5 in four bytes, 8000", ip, port, err)
	}
	if _, err := l.Transport(l.Addr()); err == nil {
		t.Error("two transports at once")
	}
	tr.Shutdown()
	tr.Shutdown()
	if _, err := tr.WriteTo([]byte("x"), "127.0.0.1:1"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("WriteTo after Shutdown: %v, want net.ErrClosed", err)
	}
	if _, err := tr.DialTimeout("127.0.0.1:1", time.Second); err == nil {
		t.Error("DialTimeout after Shutdown succeeded")
	}
	if _, err := l.Transport(l.Addr()); err != nil {
		t.Errorf("a new transport after Shutdown: %v", err)
	}
}

func TestStreams(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		a, b := w.station(t), w.station(t)
		c, err := a.tr.DialTimeout(b.name(), wait.Patience)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		d := <-b.tr.StreamCh()
		defer d.Close()
		go func() { io.Copy(d, d) }()
		roundTrip(t, c)
	})
}

// A last word before Shutdown is heard: memberlist's says that it leaves.
func TestShutdownSendsWhatIsQueued(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		b := w.station(t)
		a := w.station(t)
		for i := range 50 {
			a.send(t, b.name(), fmt.Sprint(i))
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			a.Close()
		}()
		for i := range 50 {
			if p := b.receive(t); string(p.Buf) != fmt.Sprint(i) {
				t.Fatalf("packet %d: %q", i, p.Buf)
			}
		}
		<-ended
	})
}

// gate makes dials wait.
type gate struct {
	open chan struct{}
	at   atomic.Int32
}

func (g *gate) dial(ctx context.Context, addr string) (net.Conn, error) {
	g.at.Add(1)
	select {
	case <-g.open:
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func TestABlackHoleNeverBlocksAndDropsTheOldest(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		g := &gate{open: make(chan struct{})}
		a := w.station(t, func(c *Config) { c.QueuePackets, c.Dial = 4, g.dial })
		b := w.station(t)
		a.send(t, b.name(), "first")
		wait.For(t, "the dial hangs", func() bool { return g.at.Load() == 1 })
		const sent = 10_000
		began := time.Now()
		for i := range sent {
			a.send(t, b.name(), fmt.Sprint(i))
		}
		if took := time.Since(began); took > wait.Patience/3 {
			t.Errorf("%d packets into a black hole took %v", sent, took)
		}
		if s := a.Stats(); s.QueuedPackets != 4 || s.QueueDrops != sent-4 || s.PacketsDropped != sent-4 {
			t.Errorf("%+v, want 4 queued and %d dropped", s, sent-4)
		}
		close(g.open)
		for _, want := range []string{"first", "9996", "9997", "9998", "9999"} {
			if p := b.receive(t); string(p.Buf) != want {
				t.Errorf("received %q, want %q", p.Buf, want)
			}
		}
	})
}

func TestQueueBytesAreBounded(t *testing.T) {
	g := &gate{open: make(chan struct{})}
	a := (&world{}).station(t, func(c *Config) { c.QueueBytes, c.Dial = 100_000, g.dial })
	a.send(t, "127.0.0.1:1", "first")
	wait.For(t, "the dial hangs", func() bool { return g.at.Load() == 1 })
	for range 100 {
		a.send(t, "127.0.0.1:1", strings.Repeat("x", 40_000))
	}
	if s := a.Stats(); s.QueuedPackets != 2 || s.QueueDrops != 98 {
		t.Errorf("%d queued, %d dropped; want 2 of 40 kB and 98", s.QueuedPackets, s.QueueDrops)
	}
	// Shutdown does not wait for the dial.
	a.Close()
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		idle := func(c *Config) { c.IdleTimeout = 50 * time.Millisecond }
		a, b := w.station(t, idle), w.station(t)
		routines := runtime.NumGoroutine()
		for i := range 3 {
			a.send(t, b.name(), fmt.Sprint(i))
			if p := b.receive(t); string(p.Buf) != fmt.Sprint(i) {
				t.Fatalf("received %q, want %d", p.Buf, i)
			}
			wait.For(t, "both ends are closed and forgotten", func() bool {
				x, y := a.Stats(), b.Stats()
				return x.Outbound == 0 && x.GossipOutbound == 0 && y.Inbound == 0 && y.GossipInbound == 0 && runtime.NumGoroutine() <= routines
			})
		}
		if s := a.Stats(); s.PacketsDropped != 0 || s.Dials != 3 {
			t.Errorf("%+v, want 3 dials and nothing dropped", s)
		}
	})
}

func TestASilentSenderIsClosedByTheReader(t *testing.T) {
	w := &world{}
	b := w.station(t, func(c *Config) { c.IdleTimeout = 30 * time.Millisecond })
	a := w.station(t)
	a.send(t, b.name(), "x")
	b.receive(t)
	wait.For(t, "the reader has given up", func() bool { return b.Stats().Inbound == 0 })
	wait.For(t, "the sender has noticed", func() bool { return a.Stats().GossipOutbound == 0 })
	a.send(t, b.name(), "y")
	if p := b.receive(t); string(p.Buf) != "y" {
		t.Errorf("received %q", p.Buf)
	}
}

func TestMorePeersThanConnections(t *testing.T) {
	const peers = 140
	w := &world{}
	hub := w.station(t)
	hub.tr.mu.Lock()
	limit := hub.cfg.MaxPeers
	hub.tr.mu.Unlock()
	if limit != 64 {
		t.Fatalf("MaxPeers = %d by default, want 64", limit)
	}
	var others []*station
	for range peers {
		others = append(others, w.station(t))
	}
	for round := range 2 {
		for i, o := range others {
			hub.send(t, o.name(), fmt.Sprintf("out %d %d", round, i))
		}
		for i, o := range others {
			if p := o.receive(t); string(p.Buf) != fmt.Sprintf("out %d %d", round, i) {
				t.Fatalf("peer %d received %q", i, p.Buf)
			}
		}
		wait.For(t, "the connections beyond the limit are closed", func() bool { return hub.Stats().GossipOutbound <= limit })
	}
	if s := hub.Stats(); s.PacketsDropped != 0 {
		t.Errorf("%d packets dropped, want none", s.PacketsDropped)
	}

	for _, o := range others {
		o.send(t, hub.name(), o.name())
	}
	heard := make(map[string]bool)
	for range others {
		heard[string(hub.receive(t).Buf)] = true
	}
	if len(heard) != peers {
		t.Errorf("%d peers were reported, want %d", len(heard), peers)
	}
	// The readers rest now: the next one to come makes them fewer.
	hub.tr.mu.Lock()
	for r := range hub.tr.readers {
		r.heard.Store(time.Now().Add(-2 * readerRest).UnixNano())
	}
	hub.tr.mu.Unlock()
	late := w.station(t)
	late.send(t, hub.name(), "late")
	if p := hub.receive(t); string(p.Buf) != "late" {
		t.Fatalf("received %q", p.Buf)
	}
	wait.For(t, "inbound connections beyond the limit are closed", func() bool { return hub.Stats().GossipInbound <= 2*limit })
}

func TestSmallLimitStillReachesEveryone(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		a := w.station(t, func(c *Config) { c.MaxPeers = 2 })
		var others []*station
		for range 8 {
			others = append(others, w.station(t))
		}
		for round := range 5 {
			for _, o := range others {
				a.send(t, o.name(), fmt.Sprint(round))
				if p := o.receive(t); string(p.Buf) != fmt.Sprint(round) {
					t.Fatalf("received %q, want %d", p.Buf, round)
				}
			}
		}
		wait.For(t, "at most two are kept", func() bool { return a.Stats().GossipOutbound <= 2 })
	})
}

func TestTooManyBusyPeersDropPackets(t *testing.T) {
	g := &gate{open: make(chan struct{})}
	a := (&world{}).station(t, func(c *Config) { c.MaxPeers, c.Dial = 2, g.dial })
	for i := range 20 {
		a.send(t, fmt.Sprintf("127.0.0.1:%d", i+1), "x")
	}
	if s := a.Stats(); s.QueueDrops != 20-2*busyFactor {
		t.Errorf("%d dropped, want %d", s.QueueDrops, 20-2*busyFactor)
	}
}

func TestPeerRestartsOnTheSamePort(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		a, b := w.station(t), w.station(t)
		bind := b.name()
		a.send(t, bind, "one")
		b.receive(t)
		for i := range 3 {
			b.Close()
			// Nothing is sent: the end of the connection is noticed all the same.
			wait.For(t, "the sender notices", func() bool { return a.Stats().GossipOutbound == 0 })
			b = w.station(t, func(c *Config) { c.Bind = bind })
			a.send(t, bind, fmt.Sprint(i))
			if p := b.receive(t); string(p.Buf) != fmt.Sprint(i) {
				t.Fatalf("received %q, want %d", p.Buf, i)
			}
		}
		if s := a.Stats(); s.PacketsDropped != 0 || s.DialFailures != 0 {
			t.Errorf("%+v, want no packet lost over restarts", s)
		}
	})
}

func TestAPeerThatComesLateIsReachedSoon(t *testing.T) {
	w := &world{}
	a, b := w.station(t), w.station(t)
	bind := b.name()
	b.Close()
	for a.Stats().DialFailures < 3 {
		a.send(t, bind, "in vain")
		time.Sleep(time.Millisecond)
	}
	b = w.station(t, func(c *Config) { c.Bind = bind })
	began := time.Now()
	a.sendUntilReceived(t, b, "now")
	t.Logf("after %v", time.Since(began))
}

// tunnel forwards connections to an address until its connections are frozen:
// these then stay open and carry nothing, as behind a firewall that forgot them.
type tunnel struct {
	net.Listener
	wg     sync.WaitGroup
	mu     sync.Mutex
	frozen chan struct{}
	conns  []net.Conn
	closed bool
}

func newTunnel(t testing.TB, to string) *tunnel {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tunnel{Listener: ln, frozen: make(chan struct{})}
	p.wg.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			p.mu.Lock()
			frozen := p.frozen
			p.conns = append(p.conns, in, out)
			if p.closed {
				in.Close()
				out.Close()
			}
			p.mu.Unlock()
			for _, d := range [][2]net.Conn{{in, out}, {out, in}} {
				p.wg.Go(func() { forward(d[0], d[1], frozen) })
			}
		}
	})
	t.Cleanup(func() {
		ln.Close()
		p.mu.Lock()
		p.closed = true
		for _, c := range p.conns {
			c.Close()
		}
		p.mu.Unlock()
		p.wg.Wait()
	})
	return p
}

func forward(from, to net.Conn, frozen chan struct{}) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		select {
		case <-frozen:
			return // neither reads nor closes
		default:
		}
		if err != nil {
			to.Close()
			from.Close()
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// freeze stops what is open; what is dialled afterwards flows.
func (p *tunnel) freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.frozen)
	p.frozen = make(chan struct{})
}

func TestAConnectionThatCarriesNothingIsReplaced(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		for _, size := range []int{10, 60_000} { // what fits into the socket's buffers, and what does not
			b := w.station(t)
			tun := newTunnel(t, b.name())
			a := w.station(t, func(c *Config) {
				c.StallTimeout = 200 * time.Millisecond
				c.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, "tcp", tun.Addr().String())
				}
			})
			a.sendUntilReceived(t, b, "before")
			tun.freeze()
			b.drain()
			received := b.Stats().PacketsReceived
			slowest := time.Duration(0)
			wait.For(t, "packets flow again", func() bool {
				began := time.Now()
				a.send(t, b.name(), strings.Repeat("x", size))
				slowest = max(slowest, time.Since(began))
				return b.Stats().PacketsReceived > received+3
			})
			if slowest > wait.Patience/3 {
				t.Errorf("a WriteTo took %v while the connection was frozen", slowest)
			}
			// Either end may take its time to close, but it must close.
			a.Close()
		}
	})
}

func TestConcurrentUseAndShutdown(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		for range 5 {
			stations := []*station{w.station(t), w.station(t), w.station(t)}
			for _, s := range stations {
				s.drain()
			}
			var wg sync.WaitGroup
			for _, from := range stations {
				for _, to := range stations {
					wg.Go(func() {
						for range 200 {
							if _, err := from.tr.WriteTo([]byte("x"), to.name()); err != nil {
								return
							}
							from.Stats()
						}
					})
				}
				wg.Go(func() {
					c, err := from.tr.DialTimeout(stations[0].name(), time.Second)
					if err == nil {
						c.Close()
					}
				})
			}
			for _, s := range stations {
				wg.Go(func() { s.Close() })
				wg.Go(func() { s.tr.Shutdown() })
			}
			wg.Wait()
		}
	})
}

// A node is told when another one has ended a gossip connection, and not when it ends one
// itself.
func TestHungUp(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		reported := make(chan string, 100)
		a, b := w.station(t, func(c *Config) { c.HungUp = func(id string) { reported <- id } }), w.station(t)
		a.sendUntilReceived(t, b, "one")

		b.Close()
		select {
		case id := <-reported:
			if id != b.cfg.InstanceID {
				t.Errorf("reported %s, want %s", id, b.cfg.InstanceID)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("not told")
		}
		c := w.station(t)
		a.sendUntilReceived(t, c, "two")
		a.tr.Shutdown()
		for len(reported) > 0 {
			if id := <-reported; id == c.cfg.InstanceID {
				t.Error("reported a connection that it has ended itself")
			}
		}
	})
}

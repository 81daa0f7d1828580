package link

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

var _ memberlist.NodeAwareTransport = (*Transport)(nil)

// flushTimeout bounds how long Shutdown tries to send what is queued: the last
// packets of a memberlist are those that say that it leaves.
const flushTimeout = 500 * time.Millisecond

// busyFactor times Config.MaxPeers is how many gossip connections there may be in
// one direction while none is at rest. Beyond it packets are dropped and
// connections refused.
const busyFactor = 4

// Transport carries the packets and streams of one memberlist over a link. The Name of a
// memberlist.Address is the instance that is meant, as DialInstance takes it; without one,
// any that answers will do. Its methods are safe for concurrent use.
type Transport struct {
	link      *Link
	advertise netip.AddrPort

	packets  *listener
	streams  *listener
	packetCh chan *memberlist.Packet
	streamCh chan net.Conn
	ctx      context.Context
	stop     context.CancelFunc
	wg       sync.WaitGroup
	once     sync.Once
	finished chan struct{}
	buffers  sync.Pool // of *[]byte, to put frames together

	// mu may be held when Link.mu is taken, and not the other way round.
	mu      sync.Mutex
	closed  bool
	flushed chan struct{} // made by Shutdown; closed when no sender has anything to send
	senders map[destination]*sender
	readers map[*reader]struct{}
}

// Transport returns a transport for memberlist.Config.Transport, which tells
// others to answer at advertise: the IP address and port by which they reach this
// node. There is one at a time; its Shutdown, which memberlist calls, makes room
// for the next and leaves the link open.
func (l *Link) Transport(advertise netip.AddrPort) (*Transport, error) {
	advertise = netip.AddrPortFrom(advertise.Addr().Unmap(), advertise.Port())
	if err := validateAdvertise(advertise); err != nil {
		return nil, err
	}
	packets, err := l.listen(protocolPackets)
	if err != nil {
		return nil, err
	}
	streams, err := l.listen(protocolStreams)
	if err != nil {
		packets.Close()
		return nil, err
	}
	t := &Transport{
		link:      l,
		advertise: advertise,
		packets:   packets,
		streams:   streams,
		packetCh:  make(chan *memberlist.Packet),
		streamCh:  make(chan net.Conn),
		finished:  make(chan struct{}),
		senders:   make(map[destination]*sender),
		readers:   make(map[*reader]struct{}),
	}
	t.ctx, t.stop = context.WithCancel(l.ctx)
	t.wg.Add(2)
	go t.acceptPackets()
	go t.acceptStreams()

	l.mu.Lock()
	closed := l.closed
	l.transport = t
	l.mu.Unlock()
	if closed {
		t.Shutdown()
		return nil, fmt.Errorf("link: transport: %w", net.ErrClosed)
	}
	return t, nil
}

// FinalAdvertiseAddr returns the address that the transport was made with,
// whatever memberlist's configuration says.
func (t *Transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.advertise.Addr().AsSlice(), int(t.advertise.Port()), nil
}

// WriteTo is WriteToAddress without a name.
func (t *Transport) WriteTo(b []byte, addr string) (time.Time, error) {
	return t.WriteToAddress(b, memberlist.Address{Addr: addr})
}

// WriteToAddress queues a copy of b for a, and dials in the background where
// there is no connection. It never blocks, and returns an error only for a packet
// of no bytes or more than 64 KiB, and after Shutdown. The time is that of the
// call.
func (t *Transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	if len(b) == 0 || len(b) > maxFrame {
		return time.Time{}, fmt.Errorf("link: packet of %d bytes for %s; want from 1 to %d", len(b), a.Addr, maxFrame)
	}
	frame := appendFrame(make([]byte, 0, frameHeader+len(b)), b)
	now := time.Now()
	if !t.enqueue(destination{a.Addr, a.Name}, frame, now) {
		return time.Time{}, fmt.Errorf("link: packet for %s: %w", a.Addr, net.ErrClosed)
	}
	return now, nil
}

// Connected reports whether there is a connection that takes packets for a.
func (t *Transport) Connected(a memberlist.Address) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.senders[destination{a.Addr, a.Name}]
	return s != nil && s.conn != nil && !s.failing
}

// PacketCh returns the received packets. From is the address that their sender
// advertises. The channel is never closed.
func (t *Transport) PacketCh() <-chan *memberlist.Packet { return t.packetCh }

// DialTimeout is DialAddressTimeout without a name.
func (t *Transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout opens a stream to a.Addr. A timeout of 0 stands for
// Config.DialTimeout.
func (t *Transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	ctx := t.ctx
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	c, err := t.link.dial(ctx, protocolStreams, a.Addr, a.Name)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// StreamCh returns the streams that others opened. The channel is never closed.
func (t *Transport) StreamCh() <-chan net.Conn { return t.streamCh }

// Shutdown sends what is queued for the peers that can be reached, for half a
// second at most, ends the transport and waits for its goroutines. Streams that
// were handed out stay open. It is idempotent, and always returns nil.
func (t *Transport) Shutdown() error {
	t.once.Do(func() {
		t.packets.Close()
		t.streams.Close()
		t.flush()
		t.mu.Lock()
		t.stop()
		for r := range t.readers {
			r.conn.abort()
		}
		for _, s := range t.senders {
			if s.busy && s.conn != nil {
				s.conn.abort()
			}
		}
		t.mu.Unlock()
		t.wg.Wait()
		t.link.mu.Lock()
		if t.link.transport == t {
			t.link.transport = nil
		}
		t.link.mu.Unlock()
		close(t.finished)
	})
	<-t.finished
	return nil
}

// flush refuses new packets and waits for those that are queued.
func (t *Transport) flush() {
	t.mu.Lock()
	t.closed = true
	flushed := make(chan struct{})
	t.flushed = flushed
	t.checkFlushed()
	t.mu.Unlock()
	timer := time.NewTimer(flushTimeout)
	defer timer.Stop()
	select {
	case <-flushed:
	case <-timer.C:
	}
}

// checkFlushed tells flush when nothing is left that could be sent. It needs t.mu.
func (t *Transport) checkFlushed() {
	if t.flushed == nil {
		return
	}
	for _, s := range t.senders {
		if !s.failing && (s.busy || len(s.queue) > 0) {
			return
		}
	}
	close(t.flushed)
	t.flushed = nil
}

func (t *Transport) acceptStreams() {
	defer t.wg.Done()
	for {
		c, err := t.streams.Accept()
		if err != nil {
			return
		}
		select {
		case t.streamCh <- c:
		case <-t.ctx.Done():
			c.Close()
			return
		}
	}
}

func (t *Transport) addTo(s *Stats) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.GossipInbound = len(t.readers)
	for _, to := range t.senders {
		if to.conn != nil {
			s.GossipOutbound++
		}
		s.QueuedPackets += len(to.queue)
	}
}

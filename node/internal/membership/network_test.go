package membership

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/musterhq/muster/node/internal/link"
)

// memoryNetwork is a network in memory, for tests in virtual time. It can lose packets
// and be cut into parts that do not learn of each other.
type memoryNetwork struct {
	mu    sync.Mutex
	hosts map[netip.AddrPort]*host
	part  map[netip.AddrPort]int // which part of the network an address is in
	loss  float64
	dials map[netip.AddrPort]int // streams that were asked for, by destination
	other map[netip.AddrPort]netip.AddrPort
}

func newMemoryNetwork() *memoryNetwork {
	return &memoryNetwork{
		hosts: make(map[netip.AddrPort]*host),
		part:  make(map[netip.AddrPort]int),
		dials: make(map[netip.AddrPort]int),
		other: make(map[netip.AddrPort]netip.AddrPort),
	}
}

// cut puts addresses into a part of their own; all begin in part 0.
func (f *memoryNetwork) cut(part int, addrs ...netip.AddrPort) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range addrs {
		f.part[a] = part
	}
}

// alias makes one address lead to the host at another.
func (f *memoryNetwork) alias(from, to netip.AddrPort) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.other[from] = to
}

// lose drops a share of all packets.
func (f *memoryNetwork) lose(share float64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.loss = share
}

func (f *memoryNetwork) heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.part)
}

func (f *memoryNetwork) dialled(addr netip.AddrPort) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dials[addr]
}

// host makes a host at addr, in place of one that was there before.
func (f *memoryNetwork) host(addr netip.AddrPort) *host {
	f.mu.Lock()
	defer f.mu.Unlock()
	if old := f.hosts[addr]; old != nil {
		old.crash()
	}
	h := &host{
		memoryNetwork: f, addr: addr,
		packets: make(chan *memberlist.Packet, 1024), streams: make(chan net.Conn),
		listeners: make(map[string]*listener), down: make(chan struct{}),
	}
	f.hosts[addr] = h
	return h
}

// reach returns the host at addr, or the error that who dials it from h gets.
func (f *memoryNetwork) reach(h *host, addr string, packet bool) (*host, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !packet {
		f.dials[to]++
	}
	if real, ok := f.other[to]; ok {
		to = real
	}
	other := f.hosts[to]
	switch {
	case f.part[h.addr] != f.part[to]:
		return nil, errVanished
	case packet && f.loss > 0 && rand.Float64() < f.loss:
		return nil, errVanished
	case other == nil || other.isDown() || h.isDown():
		return nil, errRefusedDial
	}
	return other, nil
}

var (
	errVanished    = errors.New("memoryNetwork: i/o timeout")
	errRefusedDial = errors.New("memoryNetwork: connection refused")
)

// identify says who the host is, and identity returns it.
func (h *host) identify(self link.Peer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.self = self
}

func (h *host) identity() link.Peer {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.self
}

// isMeant returns an error unless the host is the instance that is dialed, or any will do.
func (h *host) isMeant(instanceID string) error {
	if !strings.HasPrefix(h.identity().InstanceID, instanceID) {
		return fmt.Errorf("memoryNetwork: %w", link.ErrLeft)
	}
	return nil
}

// host is one node's port: memberlist's transport and the network of the rest.
type host struct {
	memoryNetwork *memoryNetwork
	addr          netip.AddrPort
	packets       chan *memberlist.Packet
	streams       chan net.Conn

	mu        sync.Mutex
	self      link.Peer
	listeners map[string]*listener
	conns     []net.Conn
	kept      []memberlist.Address // the connections for packets, the one used last at the end
	connected int                  // how many packets wanted a new one
	once      sync.Once
	down      chan struct{}
}

func (h *host) isDown() bool {
	select {
	case <-h.down:
		return true
	default:
		return false
	}
}

// crash ends all traffic from and to the host at once.
func (h *host) crash() {
	h.once.Do(func() {
		close(h.down)
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, c := range h.conns {
			_ = c.Close()
		}
	})
}

func (h *host) FinalAdvertiseAddr(ip string, port int) (net.IP, int, error) {
	return net.ParseIP(ip), port, nil
}

func (h *host) WriteTo(b []byte, addr string) (time.Time, error) {
	return h.WriteToAddress(b, memberlist.Address{Addr: addr})
}

// keepConns is how many connections for packets a host keeps.
const keepConns = 16

// Connected implements connecter.
func (h *host) Connected(a memberlist.Address) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Contains(h.kept, a)
}

// connect notes that a connection is used.
func (h *host) connect(a memberlist.Address) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if at := slices.Index(h.kept, a); at >= 0 {
		h.kept = slices.Delete(h.kept, at, at+1)
	} else if h.connected++; len(h.kept) == keepConns {
		h.kept = slices.Delete(h.kept, 0, 1)
	}
	h.kept = append(h.kept, a)
}

// connects returns how many connections for packets were made.
func (h *host) connects() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.connected
}

func (h *host) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	now := time.Now()
	h.connect(a)
	other, err := h.memoryNetwork.reach(h, a.Addr, true)
	if errors.Is(err, errVanished) || err == nil && other.isMeant(a.Name) != nil {
		return now, nil
	}
	if err != nil {
		return now, err
	}
	packet := &memberlist.Packet{Buf: append([]byte(nil), b...), From: net.TCPAddrFromAddrPort(h.addr), Timestamp: now}
	select {
	case other.packets <- packet:
	default:
	}
	return now, nil
}

func (h *host) PacketCh() <-chan *memberlist.Packet { return h.packets }
func (h *host) StreamCh() <-chan net.Conn           { return h.streams }

func (h *host) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return h.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

func (h *host) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return h.dial(ctx, a.Addr, func(other *host) (chan<- net.Conn, error) { return other.streams, other.isMeant(a.Name) })
}

func (h *host) Shutdown() error { h.crash(); return nil }

func (h *host) dial(ctx context.Context, addr string, to func(*host) (chan<- net.Conn, error)) (net.Conn, error) {
	other, err := h.memoryNetwork.reach(h, addr, false)
	if errors.Is(err, errVanished) {
		select {
		case <-ctx.Done():
		case <-h.down:
		}
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	ch, err := to(other)
	if err != nil {
		return nil, err
	}
	mine, theirs := net.Pipe()
	for _, end := range []struct {
		h *host
		c net.Conn
	}{{h, mine}, {other, theirs}} {
		end.h.mu.Lock()
		end.h.conns = append(end.h.conns, end.c)
		end.h.mu.Unlock()
	}
	select {
	case ch <- &pipe{theirs, h.addr, h.identity()}:
		return &pipe{mine, other.addr, other.identity()}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-other.down:
		return nil, errRefusedDial
	}
}

func (h *host) Listen(protocol string) (net.Listener, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.listeners[protocol] != nil {
		return nil, fmt.Errorf("memoryNetwork: protocol %q is listened to", protocol)
	}
	l := &listener{host: h, conns: make(chan net.Conn), closed: make(chan struct{})}
	h.listeners[protocol] = l
	return l, nil
}

func (h *host) Dial(ctx context.Context, protocol, addr string) (net.Conn, error) {
	return h.DialInstance(ctx, protocol, addr, "")
}

func (h *host) DialInstance(ctx context.Context, protocol, addr, instanceID string) (net.Conn, error) {
	return h.dial(ctx, addr, func(other *host) (chan<- net.Conn, error) {
		if err := other.isMeant(instanceID); err != nil {
			return nil, err
		}
		other.mu.Lock()
		defer other.mu.Unlock()
		l := other.listeners[protocol]
		if l == nil {
			return nil, errRefusedDial
		}
		return l.conns, nil
	})
}

type listener struct {
	host   *host
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-l.host.down:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.host.addr) }

type pipe struct {
	net.Conn
	remote netip.AddrPort
	peer   link.Peer
}

func (p *pipe) Peer() link.Peer { return p.peer }

func (p *pipe) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(p.remote) }

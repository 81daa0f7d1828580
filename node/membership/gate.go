package membership

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

// gate stands between memberlist and the transport.
type gate struct {
	memberlist.NodeAwareTransport
	// refused reports whether nothing is to be said to a member, by its memberlist
	// name.
	refused func(name string) bool
	// failedWrites counts the packets that the transport would not take.
	failedWrites atomic.Uint64

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
}

func newGate(t memberlist.Transport, refused func(string) bool) *gate {
	aware, ok := t.(memberlist.NodeAwareTransport)
	if !ok {
		aware = unaware{t}
	}
	return &gate{NodeAwareTransport: aware, refused: refused, conns: make(map[net.Conn]struct{})}
}

// WriteToAddress sends a packet, unless the member is refused: that is how a
// member that was let in before the two clusters knew their ids is got rid of,
// since memberlist has no way to expel one. Each holds the other for dead soon.
//
// It never fails. memberlist takes a failed write, unless it looks like that of a
// TCP socket, for its own problem and gives up the probe: a member that cannot be
// written to would never be found dead. As a lost packet it is.
func (g *gate) WriteToAddress(b []byte, addr memberlist.Address) (time.Time, error) {
	now := time.Now()
	if addr.Name != "" && g.refused(addr.Name) {
		return now, nil
	}
	if at, err := g.NodeAwareTransport.WriteToAddress(b, addr); err == nil {
		return at, nil
	}
	g.failedWrites.Add(1)
	return now, nil
}

// WriteTo is WriteToAddress for an address without a name.
func (g *gate) WriteTo(b []byte, addr string) (time.Time, error) {
	return g.WriteToAddress(b, memberlist.Address{Addr: addr})
}

var (
	errRefused  = errors.New("member is refused")
	errShutDown = errors.New("membership has ended")
)

// DialAddressTimeout dials a member. The connection has a deadline from the first
// byte, which memberlist sets only after it has written the label; and it is
// closed by Shutdown, so that nobody waits for a peer that does not answer.
func (g *gate) DialAddressTimeout(addr memberlist.Address, timeout time.Duration) (net.Conn, error) {
	if addr.Name != "" && g.refused(addr.Name) {
		return nil, errRefused
	}
	conn, err := g.NodeAwareTransport.DialAddressTimeout(addr, timeout)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		_ = conn.Close()
		return nil, errShutDown
	}
	_ = conn.SetDeadline(time.Now().Add(timeout))
	g.conns[conn] = struct{}{}
	return &gateConn{Conn: conn, gate: g}, nil
}

// DialTimeout is DialAddressTimeout for an address without a name.
func (g *gate) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return g.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// Shutdown closes what was dialled, and the transport.
func (g *gate) Shutdown() error {
	g.mu.Lock()
	g.closed = true
	for conn := range g.conns {
		_ = conn.Close()
	}
	clear(g.conns)
	g.mu.Unlock()
	return g.NodeAwareTransport.Shutdown()
}

type gateConn struct {
	net.Conn
	gate *gate
}

func (c *gateConn) Close() error {
	c.gate.mu.Lock()
	delete(c.gate.conns, c.Conn)
	c.gate.mu.Unlock()
	return c.Conn.Close()
}

// unaware makes a transport that knows no names take addresses with one.
type unaware struct{ memberlist.Transport }

func (t unaware) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, a.Addr)
}

func (t unaware) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(a.Addr, timeout)
}

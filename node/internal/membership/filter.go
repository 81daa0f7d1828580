package membership

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

// filterTransport is the transport that memberlist uses: it keeps what is for members that
// are refused from the transport below.
type filterTransport struct {
	memberlist.NodeAwareTransport
	// refused reports whether nothing is to be said to a member, by its memberlist
	// name.
	refused func(name string) bool
	// others returns the members that news may go to.
	others func() []Member
	// failedWrites counts the packets that the transport would not take.
	failedWrites atomic.Uint64

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
}

func newFilterTransport(t memberlist.Transport, refused func(string) bool) *filterTransport {
	aware, ok := t.(memberlist.NodeAwareTransport)
	if !ok {
		aware = unaware{t}
	}
	return &filterTransport{NodeAwareTransport: aware, refused: refused, conns: make(map[net.Conn]struct{})}
}

// instanceAt names, for the transport below, the instance that a member's name stands for: nothing
// that is meant for it reaches another process at its address.
func instanceAt(addr memberlist.Address) memberlist.Address {
	_, short, _ := splitName(addr.Name)
	return memberlist.Address{Addr: addr.Addr, Name: short}
}

// WriteToAddress sends a packet, unless the member is refused: that is how a
// member that was let in before the two clusters knew their ids is got rid of,
// since memberlist has no way to expel one. Each considers the other failed soon.
//
// It never fails. memberlist treats a failed write, unless it looks like that of a
// TCP socket, as its own problem and gives up the probe: a member that cannot be
// written to would never be found dead. As a lost packet it is.
func (f *filterTransport) WriteToAddress(b []byte, addr memberlist.Address) (time.Time, error) {
	now := time.Now()
	addr = f.route(b, addr)
	if addr.Name != "" && f.refused(addr.Name) {
		return now, nil
	}
	if at, err := f.NodeAwareTransport.WriteToAddress(b, instanceAt(addr)); err == nil {
		return at, nil
	}
	f.failedWrites.Add(1)
	return now, nil
}

// WriteTo is WriteToAddress for an address without a name.
func (f *filterTransport) WriteTo(b []byte, addr string) (time.Time, error) {
	return f.WriteToAddress(b, memberlist.Address{Addr: addr})
}

var (
	errRefused  = errors.New("member is refused")
	errShutDown = errors.New("membership has ended")
)

// DialAddressTimeout dials a member. The connection has a deadline from the first
// byte, which memberlist sets only after it has written the label; and it is
// closed by Shutdown, so that no caller waits for a peer that does not answer.
func (f *filterTransport) DialAddressTimeout(addr memberlist.Address, timeout time.Duration) (net.Conn, error) {
	if addr.Name != "" && f.refused(addr.Name) {
		return nil, errRefused
	}
	conn, err := f.NodeAwareTransport.DialAddressTimeout(instanceAt(addr), timeout)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		_ = conn.Close()
		return nil, errShutDown
	}
	_ = conn.SetDeadline(time.Now().Add(timeout))
	f.conns[conn] = struct{}{}
	return &filterConn{Conn: conn, filter: f}, nil
}

// DialTimeout is DialAddressTimeout for an address without a name.
func (f *filterTransport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return f.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// Shutdown closes what was dialled, and the transport.
func (f *filterTransport) Shutdown() error {
	f.mu.Lock()
	f.closed = true
	for conn := range f.conns {
		_ = conn.Close()
	}
	clear(f.conns)
	f.mu.Unlock()
	return f.NodeAwareTransport.Shutdown()
}

type filterConn struct {
	net.Conn
	filter *filterTransport
}

func (c *filterConn) Close() error {
	c.filter.mu.Lock()
	delete(c.filter.conns, c.Conn)
	c.filter.mu.Unlock()
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

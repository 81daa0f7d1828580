package link

import (
	"fmt"
	"net"
	"sync"
)

// Listen returns the listener of one protocol, whose name has from 1 to
// MaxProtocol bytes of a-z, 0-9, '.', '_' and '-'. Until it is closed the name is
// taken. Its connections support deadlines; the caller closes them.
func (l *Link) Listen(protocol string) (net.Listener, error) {
	if err := validateProtocol(protocol); err != nil {
		return nil, err
	}
	if protocol == protocolPackets || protocol == protocolStreams {
		return nil, fmt.Errorf("link: protocol %q belongs to the link itself; choose another name", protocol)
	}
	return l.listen(protocol)
}

func (l *Link) listen(protocol string) (*listener, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("link: listen for %q: %w", protocol, net.ErrClosed)
	}
	if l.listeners[protocol] != nil {
		return nil, fmt.Errorf("link: listen for %q: there is a listener already; close it first", protocol)
	}
	ln := &listener{
		link:     l,
		protocol: protocol,
		queue:    make(chan *conn, l.cfg.Backlog),
		slots:    make(chan struct{}, l.cfg.Backlog),
		done:     make(chan struct{}),
	}
	l.listeners[protocol] = ln
	return ln, nil
}

// listener is the accept queue of one protocol.
type listener struct {
	link     *Link
	protocol string
	queue    chan *conn
	// slots has an element for each slot of the queue that is taken or promised:
	// a connection is told that it is accepted only when it has one.
	slots chan struct{}
	done  chan struct{}

	mu     sync.Mutex
	closed bool
}

// reserve takes a slot of the queue, or reports that there is none.
func (ln *listener) reserve() bool {
	select {
	case ln.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

func (ln *listener) unreserve() { <-ln.slots }

// push fills a reserved slot.
func (ln *listener) push(c *conn) {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	if ln.closed {
		c.abort()
		return
	}
	ln.queue <- c
}

// Accept waits for the next connection. After Close it returns an error that
// wraps net.ErrClosed.
func (ln *listener) Accept() (net.Conn, error) {
	select {
	case c := <-ln.queue:
		ln.unreserve()
		return c, nil
	case <-ln.done:
		return nil, &net.OpError{Op: "accept", Net: "link/" + ln.protocol, Addr: ln.Addr(), Err: net.ErrClosed}
	}
}

// Close ends the listener and closes what was not accepted. Accepted connections
// stay open. It is idempotent.
func (ln *listener) Close() error {
	ln.link.mu.Lock()
	if ln.link.listeners[ln.protocol] == ln {
		delete(ln.link.listeners, ln.protocol)
	}
	ln.link.mu.Unlock()

	ln.mu.Lock()
	defer ln.mu.Unlock()
	if ln.closed {
		return nil
	}
	ln.closed = true
	close(ln.done)
	for {
		select {
		case c := <-ln.queue:
			c.abort()
		default:
			return nil
		}
	}
}

// Addr returns the TCP address of the link.
func (ln *listener) Addr() net.Addr { return ln.link.ln.Addr() }

// Package raftstream carries Raft, and what else voters say to each other by their ids, over the
// one port of a node.
//
// A server of the Raft configuration has the same string for its id and its address: the voter's
// entry in the list, and for a voter that came back without its disk or was added later also a "#"
// and something random. What follows the "#" never reaches the network's dialer. It goes into the
// hello that begins each connection, so that nothing that was meant for a voter that lost its disk
// reaches the one that replaced it, or the voters of another founding.
package raftstream

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/musterhq/muster/discovery/driver"
)

// AddrOf returns the entry in the list of server id.
func AddrOf(id string) string {
	addr, _, _ := strings.Cut(id, "#")
	return addr
}

// Protocol is the name of the protocol of Raft.
const Protocol = "raft"

const (
	helloVersion  = 1
	helloTimeout  = 5 * time.Second
	maxHelloBytes = 2 << 10
)

// helloLine is the first line on each connection. The network has made sure of the cluster.
type helloLine struct {
	Version int `json:"version"`
	// Founding is that of the sender's log. Logs of two foundings never mix.
	Founding string `json:"founding,omitempty"`
	// To is the id of the voter that is meant.
	To string `json:"to"`
}

// Stream is a raft.StreamLayer over one protocol of the node's port. Close ends every connection
// that it made or accepted, and joins its goroutines.
type Stream struct {
	network  driver.Network
	protocol string
	founding string
	id       string

	listener net.Listener
	accepted chan net.Conn
	done     chan struct{}
	ctx      context.Context
	cancel   context.CancelFunc
	wg       sync.WaitGroup

	mu     sync.Mutex
	closed bool
	conns  map[*streamConn]struct{}
}

// Listen returns the stream of the voter id over protocol. It accepts connections that begin with
// this founding and this id, and closes others. It does not block. The
// caller closes the result.
func Listen(network driver.Network, protocol, founding, id string) (*Stream, error) {
	l, err := network.Listen(protocol)
	if err != nil {
		return nil, err
	}
	s := &Stream{
		network: network, protocol: protocol, founding: founding, id: id,
		listener: l,
		accepted: make(chan net.Conn),
		done:     make(chan struct{}),
		conns:    make(map[*streamConn]struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.wg.Go(s.acceptLoop)
	return s, nil
}

func (s *Stream) acceptLoop() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			select {
			case <-s.done:
				return
			default:
			}
			if errors.Is(err, net.ErrClosed) {
				return
			}
			select { // such as a process out of file descriptors
			case <-s.done:
				return
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		tracked, err := s.track(conn)
		if err != nil {
			continue
		}
		// On a goroutine of its own, so that a silent connection does not delay others.
		s.wg.Go(func() { s.welcome(tracked) })
	}
}

// welcome reads the hello of conn, and passes conn to Accept if it is meant for this voter.
func (s *Stream) welcome(conn *streamConn) {
	_ = conn.SetDeadline(time.Now().Add(helloTimeout))
	r := bufio.NewReader(conn.Conn)
	h, err := readHello(r)
	if err != nil || h.Version != helloVersion || h.Founding != s.founding || h.To != s.id {
		_ = conn.Close()
		return
	}
	_ = conn.SetDeadline(time.Time{})
	conn.r = r
	select {
	case s.accepted <- conn:
	case <-s.done:
		_ = conn.Close()
	}
}

func readHello(r *bufio.Reader) (helloLine, error) {
	var h helloLine
	var line []byte
	for {
		b, err := r.ReadByte()
		if err != nil {
			return h, err
		}
		if b == '\n' {
			return h, json.Unmarshal(line, &h)
		}
		if line = append(line, b); len(line) > maxHelloBytes {
			return h, fmt.Errorf("%w: hello too long", driver.ErrInvalid)
		}
	}
}

// Dial connects to the voter address, which is its id.
func (s *Stream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(s.ctx, timeout)
	defer cancel()
	conn, err := s.network.Dial(ctx, s.protocol, AddrOf(string(address)))
	if err != nil {
		return nil, err
	}
	tracked, err := s.track(conn)
	if err != nil {
		return nil, err
	}
	line, err := json.Marshal(helloLine{Version: helloVersion, Founding: s.founding, To: string(address)})
	if err == nil {
		_ = conn.SetDeadline(time.Now().Add(timeout))
		_, err = conn.Write(append(line, '\n'))
		_ = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		_ = tracked.Close()
		return nil, err
	}
	return tracked, nil
}

// Accept returns the next connection that is meant for this voter.
func (s *Stream) Accept() (net.Conn, error) {
	select {
	case conn := <-s.accepted:
		return conn, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

// Addr is the id of this voter, by which Raft knows itself.
func (s *Stream) Addr() net.Addr { return idAddr(s.id) }

// Close ends the listener and every connection.
func (s *Stream) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	conns := s.conns
	s.conns = nil
	s.mu.Unlock()

	close(s.done)
	s.cancel()
	err := s.listener.Close()
	for conn := range conns {
		_ = conn.Close()
	}
	s.wg.Wait()
	return err
}

func (s *Stream) track(conn net.Conn) (*streamConn, error) {
	c := &streamConn{Conn: conn, r: conn, stream: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	s.conns[c] = struct{}{}
	return c, nil
}

type streamConn struct {
	net.Conn
	r      io.Reader
	stream *Stream
}

func (c *streamConn) Read(p []byte) (int, error) { return c.r.Read(p) }

func (c *streamConn) Close() error {
	c.stream.mu.Lock()
	delete(c.stream.conns, c)
	c.stream.mu.Unlock()
	return c.Conn.Close()
}

type idAddr string

func (a idAddr) Network() string { return Protocol }
func (a idAddr) String() string  { return string(a) }

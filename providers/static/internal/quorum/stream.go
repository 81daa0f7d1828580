package quorum

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

// A server of the Raft configuration has the same string for its id and its
// address: the voter's entry in the list, and for a voter that came back without
// its disk or was added later also a "#" and something random. What follows the
// "#" never reaches the network's dialer. It goes into the hello that opens each
// connection of Raft or for promises, so that nothing meant for the voter that was lost reaches the one
// that took its place.

// addrOf returns the entry in the list of the server id.
func addrOf(id string) string {
	addr, _, _ := strings.Cut(id, "#")
	return addr
}

const (
	raftProtocol  = "raft"
	helloVersion  = 1
	helloTimeout  = 5 * time.Second
	maxHelloBytes = 2 << 10
)

// hello is the first line on each connection.
type hello struct {
	Version int    `json:"version"`
	Cluster string `json:"cluster"`
	From    string `json:"from"`
	To      string `json:"to"`
}

// stream is a raft.StreamLayer over the node's one port, and serves promises as well.
// Close ends every connection it made or took, and joins its goroutines.
type stream struct {
	network  driver.Network
	protocol string
	cluster  string
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

func listen(network driver.Network, protocol, cluster, id string) (*stream, error) {
	l, err := network.Listen(protocol)
	if err != nil {
		return nil, err
	}
	s := &stream{
		network: network, protocol: protocol, cluster: cluster, id: id,
		listener: l,
		accepted: make(chan net.Conn),
		done:     make(chan struct{}),
		conns:    make(map[*streamConn]struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.wg.Go(s.acceptLoop)
	return s, nil
}

func (s *stream) acceptLoop() {
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
		// Not on this goroutine: a connection that says nothing must not keep
		// others waiting.
		s.wg.Go(func() { s.welcome(tracked) })
	}
}

// welcome reads the hello of an incoming connection and hands it out if it is meant
// for this voter.
func (s *stream) welcome(conn *streamConn) {
	_ = conn.SetDeadline(time.Now().Add(helloTimeout))
	r := bufio.NewReader(conn.Conn)
	h, err := readHello(r)
	if err != nil || h.Version != helloVersion || h.Cluster != s.cluster || h.To != s.id {
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

func readHello(r *bufio.Reader) (hello, error) {
	var h hello
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
func (s *stream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(s.ctx, timeout)
	defer cancel()
	conn, err := s.network.Dial(ctx, s.protocol, addrOf(string(address)))
	if err != nil {
		return nil, err
	}
	tracked, err := s.track(conn)
	if err != nil {
		return nil, err
	}
	line, err := json.Marshal(hello{Version: helloVersion, Cluster: s.cluster, From: s.id, To: string(address)})
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
func (s *stream) Accept() (net.Conn, error) {
	select {
	case conn := <-s.accepted:
		return conn, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

// Addr is the id of this voter, by which Raft knows itself.
func (s *stream) Addr() net.Addr { return idAddr(s.id) }

// Close ends the listener and every connection.
func (s *stream) Close() error {
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

func (s *stream) track(conn net.Conn) (*streamConn, error) {
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
	stream *stream
}

func (c *streamConn) Read(p []byte) (int, error) { return c.r.Read(p) }

func (c *streamConn) Close() error {
	c.stream.mu.Lock()
	delete(c.stream.conns, c)
	c.stream.mu.Unlock()
	return c.Conn.Close()
}

type idAddr string

func (a idAddr) Network() string { return raftProtocol }
func (a idAddr) String() string  { return string(a) }

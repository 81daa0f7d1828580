package votelease

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Protocol is the name, on the wire, of the protocol of vote leases. Leases are requested several
// times a second while there is a leader that holds them, which is most of what an idle cluster
// does. So they have connections of their own, which stay open while they are used: requests one
// way and replies the other, each a line of JSON.
const Protocol = "promises"

const (
	maxLine = 4 << 10
	// idleTimeout is how long a connection without requests stays open, as that of a voter that
	// leads no more.
	idleTimeout = time.Minute
)

// client requests leases from the other voters, and answers their requests.
type client struct {
	stream raft.StreamLayer
	// timeout bounds a dial, and the wait for a reply.
	timeout time.Duration
	answer  func(Request) Reply

	wg     sync.WaitGroup
	mu     sync.Mutex
	closed bool
	conns  map[string]*clientConn // by the id of the voter
}

func newClient(s raft.StreamLayer, timeout time.Duration, answer func(Request) Reply) *client {
	p := &client{stream: s, timeout: timeout, answer: answer, conns: make(map[string]*clientConn)}
	p.wg.Go(func() {
		for {
			conn, err := s.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.serve(conn) })
		}
	})
	return p
}

// serve answers the requests on conn, in order.
func (p *client) serve(conn net.Conn) {
	defer conn.Close()
	for lines := scanner(conn); lines.Scan(); {
		var req Request
		if json.Unmarshal(lines.Bytes(), &req) != nil {
			return
		}
		reply := p.answer(req)
		reply.Round = req.Round
		_ = conn.SetWriteDeadline(time.Now().Add(p.timeout))
		if writeLine(conn, reply) != nil {
			return
		}
	}
}

// ask sends req to voter id. It does not block. Then is called once with the reply, or with the
// zero Reply if there will be none. It must not block.
func (p *client) ask(id string, req Request, then func(Reply)) {
	for range 2 { // an idle connection may end just now
		if l := p.conn(id); l == nil {
			break
		} else if l.send(req, then) {
			return
		}
	}
	then(Reply{})
}

// conn returns the connection to the voter id, a new one if there is none. It is nil
// after close.
func (p *client) conn(id string) *clientConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.conns[id]
	if l != nil && !l.isEnded() {
		return l
	}
	if p.closed {
		return nil
	}
	l = &clientConn{timeout: p.timeout, waiting: make(map[uint64]func(Reply))}
	p.conns[id] = l
	p.wg.Go(func() { p.run(id, l) })
	return l
}

// run dials for l and reads from it until it ends.
func (p *client) run(id string, l *clientConn) {
	conn, err := p.stream.Dial(raft.ServerAddress(id), p.timeout)
	if err == nil {
		l.open(conn)
		l.read(conn)
		_ = conn.Close()
	}
	p.mu.Lock()
	if p.conns[id] == l {
		delete(p.conns, id)
	}
	p.mu.Unlock()
	l.end()
}

// close ends all connections, and returns once each request has its reply.
func (p *client) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	_ = p.stream.Close()
	p.wg.Wait()
}

// clientConn is the connection to one voter.
type clientConn struct {
	timeout time.Duration

	mu      sync.Mutex
	conn    net.Conn  // nil while it is being dialled
	backlog []Request // what is to be sent then
	ended   bool
	waiting map[uint64]func(Reply) // by round
	until   time.Time              // the read deadline of conn
}

// send reports false if l has ended, and then does not call then.
func (l *clientConn) send(req Request, then func(Reply)) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return false
	}
	l.waiting[req.Round] = then
	if l.conn == nil {
		l.backlog = append(l.backlog, req)
		return true
	}
	l.write(req)
	return true
}

// write sends req. The read deadline runs from the first request that is not answered, so that a
// voter that does not answer in time loses its connection.
func (l *clientConn) write(req Request) {
	if len(l.waiting) == 1 {
		l.await(l.timeout)
	}
	_ = l.conn.SetWriteDeadline(time.Now().Add(l.timeout))
	if writeLine(l.conn, req) != nil {
		_ = l.conn.Close() // the reader notices, and ends l
	}
}

// await sets the read deadline.
func (l *clientConn) await(d time.Duration) {
	l.until = time.Now().Add(d)
	_ = l.conn.SetReadDeadline(l.until)
}

// open sends what has waited for the connection.
func (l *clientConn) open(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn = conn
	l.await(l.timeout)
	for _, req := range l.backlog {
		l.write(req)
	}
	l.backlog = nil
}

// read delivers the replies until the connection ends, or is silent for too long: for timeout while
// a reply is due, for idleTimeout while none is. A request may be sent at any time, also just when
// the read deadline has passed.
func (l *clientConn) read(conn net.Conn) {
	for more := true; more; {
		lines := scanner(conn)
		for lines.Scan() {
			if !l.deliver(lines.Bytes()) {
				return
			}
		}
		more = l.extended(lines.Err())
	}
}

// extended reports whether err is of a read deadline that a request has moved since. If not, l
// takes no more requests.
func (l *clientConn) extended(err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(l.until) {
		return true
	}
	l.ended = true
	return false
}

// deliver passes on the reply in b, and reports whether it is one.
func (l *clientConn) deliver(b []byte) bool {
	var reply Reply
	if json.Unmarshal(b, &reply) != nil {
		return false
	}
	l.mu.Lock()
	then := l.waiting[reply.Round]
	delete(l.waiting, reply.Round)
	if len(l.waiting) > 0 {
		l.await(l.timeout)
	} else {
		l.await(idleTimeout)
	}
	l.mu.Unlock()
	if then != nil {
		then(reply)
	}
	return true
}

func (l *clientConn) isEnded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ended
}

// end gives each request that waits the zero Reply.
func (l *clientConn) end() {
	l.mu.Lock()
	l.ended = true
	waiting := l.waiting
	l.waiting, l.backlog = nil, nil
	l.mu.Unlock()
	for _, then := range waiting {
		then(Reply{})
	}
}

func scanner(conn net.Conn) *bufio.Scanner {
	s := bufio.NewScanner(conn)
	s.Buffer(make([]byte, 0, 512), maxLine)
	return s
}

// writeLine writes v in one piece.
func writeLine(conn net.Conn, v any) error {
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(v); err != nil {
		return err
	}
	_, err := conn.Write(b.Bytes())
	return err
}

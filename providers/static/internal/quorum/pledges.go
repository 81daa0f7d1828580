package quorum

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

// Promises are asked for several times a second for as long as there is a master,
// and are most of what an idle cluster does. So they have connections of their own,
// on the protocol "promises", which are kept while they are used: after the hello of
// stream.go, requests one way and replies the other, each a line of JSON.

const (
	promiseProtocol = "promises"
	maxPromiseLine  = 4 << 10
	// idleLine is how long a connection is kept on which nothing is asked, as by one who
	// is no leader any more.
	idleLine = time.Minute
)

// pledges asks the other voters for promises and answers when they ask.
type pledges struct {
	stream *stream
	// timeout bounds a dial, and the wait for a reply.
	timeout time.Duration
	answer  func(promiseRequest) promiseReply

	wg     sync.WaitGroup
	mu     sync.Mutex
	closed bool
	lines  map[string]*line // by the id of the voter
}

func newPledges(s *stream, timeout time.Duration, answer func(promiseRequest) promiseReply) *pledges {
	p := &pledges{stream: s, timeout: timeout, answer: answer, lines: make(map[string]*line)}
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

// serve answers what is asked on conn, in order.
func (p *pledges) serve(conn net.Conn) {
	defer conn.Close()
	for lines := scanner(conn); lines.Scan(); {
		var req promiseRequest
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

// ask sends req to the voter id and never waits for its answer. Then is called once
// with the reply, or with the zero reply if there will be none; it must not block.
func (p *pledges) ask(id string, req promiseRequest, then func(promiseReply)) {
	for range 2 { // a line may end just now, for having been idle
		if l := p.line(id); l == nil {
			break
		} else if l.send(req, then) {
			return
		}
	}
	then(promiseReply{})
}

// line returns the connection to the voter id, a new one if there is none. It is nil
// after close.
func (p *pledges) line(id string) *line {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.lines[id]
	if l != nil && !l.isOver() {
		return l
	}
	if p.closed {
		return nil
	}
	l = &line{timeout: p.timeout, waiting: make(map[uint64]func(promiseReply))}
	p.lines[id] = l
	p.wg.Go(func() { p.keep(id, l) })
	return l
}

// keep keeps the connection of l for as long as it is used and well.
func (p *pledges) keep(id string, l *line) {
	conn, err := p.stream.Dial(raft.ServerAddress(id), p.timeout)
	if err == nil {
		l.open(conn)
		l.read(conn)
		_ = conn.Close()
	}
	p.mu.Lock()
	if p.lines[id] == l {
		delete(p.lines, id)
	}
	p.mu.Unlock()
	l.end()
}

// close ends all connections and waits until all who asked have been told.
func (p *pledges) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	_ = p.stream.Close()
	p.wg.Wait()
}

// line is the connection to one voter.
type line struct {
	timeout time.Duration

	mu      sync.Mutex
	conn    net.Conn         // nil while it is being dialled
	backlog []promiseRequest // what is to be sent then
	ended   bool
	waiting map[uint64]func(promiseReply) // by round
	until   time.Time                     // the read deadline of conn
}

// send reports false if the line has ended, and then does not call then.
func (l *line) send(req promiseRequest, then func(promiseReply)) bool {
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

// write sends req. Whoever does not answer in time has the line cut: the clock of
// the read runs from the first request that is not answered.
func (l *line) write(req promiseRequest) {
	if len(l.waiting) == 1 {
		l.await(l.timeout)
	}
	_ = l.conn.SetWriteDeadline(time.Now().Add(l.timeout))
	if writeLine(l.conn, req) != nil {
		_ = l.conn.Close() // the reader notices, and tells those who wait
	}
}

// await sets the read deadline.
func (l *line) await(d time.Duration) {
	l.until = time.Now().Add(d)
	_ = l.conn.SetReadDeadline(l.until)
}

// open sends what has waited for the connection.
func (l *line) open(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn = conn
	l.await(l.timeout)
	for _, req := range l.backlog {
		l.write(req)
	}
	l.backlog = nil
}

// read hands out the replies until the connection ends, which a silence ends too: soon
// where a reply is due, and late where nothing was asked. The next request may be sent
// at any time, also when the time to reply to the last one would just be over.
func (l *line) read(conn net.Conn) {
	for more := true; more; {
		lines := scanner(conn)
		for lines.Scan() {
			if !l.handOut(lines.Bytes()) {
				return
			}
		}
		more = l.goesOn(lines.Err())
	}
}

// goesOn reports whether the reader was woken by a deadline that a request has moved
// since. Otherwise the line takes no more requests.
func (l *line) goesOn(err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(l.until) {
		return true
	}
	l.ended = true
	return false
}

// handOut reports whether it was a reply.
func (l *line) handOut(b []byte) bool {
	var reply promiseReply
	if json.Unmarshal(b, &reply) != nil {
		return false
	}
	l.mu.Lock()
	then := l.waiting[reply.Round]
	delete(l.waiting, reply.Round)
	if len(l.waiting) > 0 {
		l.await(l.timeout)
	} else {
		l.await(idleLine)
	}
	l.mu.Unlock()
	if then != nil {
		then(reply)
	}
	return true
}

func (l *line) isOver() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ended
}

// end tells those who still wait that there will be no reply.
func (l *line) end() {
	l.mu.Lock()
	l.ended = true
	waiting := l.waiting
	l.waiting, l.backlog = nil, nil
	l.mu.Unlock()
	for _, then := range waiting {
		then(promiseReply{})
	}
}

func scanner(conn net.Conn) *bufio.Scanner {
	s := bufio.NewScanner(conn)
	s.Buffer(make([]byte, 0, 512), maxPromiseLine)
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

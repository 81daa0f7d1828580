package faultproxy

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// direction is one Direction, as an index.
type direction int

const requests, answers direction = 0, 1

func (dir direction) back() direction { return 1 - dir }

// proxyConn is one connection through a TCP proxy. Its mutable state is guarded by the
// lock of the proxy.
type proxyConn struct {
	proxy *TCP
	ends  [2]*net.TCPConn // where each direction begins: the client, and the server
	over  chan struct{}   // closed by reset

	isOver  bool
	corrupt bool    // something is missing or wrong: it cannot go on after Restore
	lost    [2]bool // so is all that follows in this direction

	// Of the goroutine that writes answers.
	reckoned *reset // what left is reckoned from
	left     int    // bytes of answers until the reset
}

// chunk is what one read has got.
type chunk struct {
	data []byte
	at   time.Time
}

// reset closes both ends such that both learn of a reset and not of an end. It wants
// the lock of the proxy.
func (c *proxyConn) reset() {
	for _, end := range c.ends {
		if end != nil {
			end.SetLinger(0)
		}
	}
	c.close()
}

// close wants the lock of the proxy.
func (c *proxyConn) close() {
	if c.isOver {
		return
	}
	c.isOver = true
	close(c.over)
	for _, end := range c.ends {
		if end != nil {
			end.Close()
		}
	}
}

// pass carries both directions until the connection ends.
func (c *proxyConn) pass() {
	defer c.proxy.remove(c)
	if !c.dial() {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { c.carry(requests) })
	both.Go(func() { c.carry(answers) })
	both.Wait()
}

// dial connects to the server. Where it cannot, the client learns of that by a reset,
// or of nothing if a direction is swallowed.
func (c *proxyConn) dial() bool {
	conn, err := net.Dial("tcp", c.proxy.target)
	if err != nil {
		c.broken(requests, answers)
		return false
	}
	c.proxy.mu.Lock()
	defer c.proxy.mu.Unlock()
	if c.isOver {
		conn.Close()
		return false
	}
	c.ends[answers] = conn.(*net.TCPConn)
	return true
}

// carry carries one direction until it ends. A goroutine of its own reads, so that what is
// held back counts from when it came.
func (c *proxyConn) carry(dir direction) {
	chunks := make(chan chunk, 64)
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(chunks)
		c.read(dir, chunks)
	})
	defer reading.Wait()
	for next := range chunks {
		if next.data == nil {
			c.finish(dir)
		} else {
			c.write(dir, next)
		}
	}
}

// read passes on what comes, and an empty chunk at the end of it.
func (c *proxyConn) read(dir direction, chunks chan<- chunk) {
	for {
		buf := make([]byte, 16<<10)
		n, err := c.ends[dir].Read(buf)
		if n > 0 && !c.send(chunks, chunk{buf[:n], time.Now()}) {
			return
		}
		switch {
		case errors.Is(err, io.EOF):
			c.send(chunks, chunk{at: time.Now()})
			return
		case err != nil:
			c.broken(dir)
			return
		}
	}
}

func (c *proxyConn) send(chunks chan<- chunk, next chunk) bool {
	select {
	case chunks <- next:
		return true
	case <-c.over:
		return false
	}
}

// finish passes on that no more will come.
func (c *proxyConn) finish(dir direction) {
	if c.swallowed(dir) {
		<-c.over
		return
	}
	c.ends[dir.back()].CloseWrite()
}

// broken says that the connection is, which is learned of at the end of each of these
// directions, unless one is swallowed: then nobody learns of it.
func (c *proxyConn) broken(dirs ...direction) {
	for _, dir := range dirs {
		if c.swallowed(dir) {
			<-c.over
			return
		}
	}
	c.proxy.mu.Lock()
	defer c.proxy.mu.Unlock()
	c.reset()
}

// swallowed reports whether nothing arrives in this direction any more.
func (c *proxyConn) swallowed(dir direction) bool {
	c.proxy.mu.Lock()
	defer c.proxy.mu.Unlock()
	if c.proxy.faults.swallow[dir] != nil {
		c.corrupt, c.lost[dir] = true, true
	}
	return c.lost[dir]
}

// write carries one chunk as the proxy is told to at the time.
func (c *proxyConn) write(dir direction, next chunk) {
	hit := make(map[*Hits]bool) // each once for a chunk
	count := func(h *Hits) {
		if !hit[h] {
			hit[h] = true
			h.add()
		}
	}
	for len(next.data) > 0 {
		f, changed := c.proxy.now()
		if c.swallowed(dir) {
			if f.swallow[dir] != nil {
				count(f.swallow[dir])
			}
			return
		}
		if d := f.delay[dir]; d != nil {
			if left := d.by - time.Since(next.at); left > 0 {
				count(d.Hits)
				c.pause(left, changed)
				if c.ended() {
					return
				}
				continue
			}
		}
		piece := next.data
		if t := f.throttle[dir]; t != nil {
			piece = piece[:min(len(piece), max(t.rate/20, 1))]
			count(t.Hits)
			if !c.pause(time.Duration(len(piece))*time.Second/time.Duration(t.rate), changed) {
				if c.ended() {
					return
				}
				continue
			}
		}
		if dir == answers && !c.answer(f, &piece, count) {
			return
		}
		if _, err := c.ends[dir.back()].Write(piece); err != nil {
			c.broken(dir.back())
			return
		}
		next.data = next.data[len(piece):]
	}
}

// answer applies what may happen to answers alone. It reports whether piece, of which
// it may make another of the same length, is to be passed on.
func (c *proxyConn) answer(f faults, piece *[]byte, count func(*Hits)) bool {
	if f.flaky != nil && f.flaky.strikes() {
		count(f.flaky.Hits)
		c.broken(answers)
		return false
	}
	if f.garble != nil {
		count(f.garble)
		c.proxy.mu.Lock()
		c.corrupt = true
		c.proxy.mu.Unlock()
		*piece = garbage(len(*piece))
	}
	if f.reset == nil {
		return true
	}
	if c.reckoned != f.reset {
		c.reckoned, c.left = f.reset, f.reset.after
	}
	if len(*piece) <= c.left {
		c.left -= len(*piece)
		return true
	}
	c.ends[requests].Write((*piece)[:c.left])
	count(f.reset.Hits)
	c.broken(answers)
	return false
}

// garbage is of no protocol: no byte of it is text, nor the beginning of a frame of
// HTTP/2 that can be long enough.
func garbage(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = 0x80 | byte(rand.Uint32())
	}
	return b
}

// pause reports whether the time has passed, and returns early where the connection
// is over or the faults have changed.
func (c *proxyConn) pause(d time.Duration, changed <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-changed:
	case <-c.over:
	}
	return false
}

func (c *proxyConn) ended() bool {
	select {
	case <-c.over:
		return true
	default:
		return false
	}
}

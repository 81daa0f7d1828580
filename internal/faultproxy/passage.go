package faultproxy

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// way is one Direction, as an index.
type way int

const requests, answers way = 0, 1

func (w way) back() way { return 1 - w }

// passage is one connection through a TCP proxy. Its mutable state is guarded by the
// lock of the proxy.
type passage struct {
	proxy *TCP
	ends  [2]*net.TCPConn // where each way begins: the client, and the server
	over  chan struct{}   // closed by reset

	isOver bool
	spoilt bool    // something is missing or wrong: it cannot go on after Restore
	lost   [2]bool // so is all that follows on this way

	// Of the goroutine that writes answers.
	reckoned *reset // what left is reckoned from
	left     int    // bytes of answers until the reset
}

// chunk is what one read has got.
type chunk struct {
	data []byte
	at   time.Time
}

// reset closes both ends such that both hear of a reset and not of an end. It wants
// the lock of the proxy.
func (c *passage) reset() {
	for _, end := range c.ends {
		if end != nil {
			end.SetLinger(0)
		}
	}
	c.close()
}

// close wants the lock of the proxy.
func (c *passage) close() {
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

// pass carries both ways until the connection is over.
func (c *passage) pass() {
	defer c.proxy.remove(c)
	if !c.dial() {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { c.carry(requests) })
	both.Go(func() { c.carry(answers) })
	both.Wait()
}

// dial connects to the server. Where it cannot, the client hears of that by a reset,
// or of nothing if a way is swallowed.
func (c *passage) dial() bool {
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

// carry carries one way until it ends. A goroutine of its own reads, so that what is
// held back counts from when it came.
func (c *passage) carry(w way) {
	chunks := make(chan chunk, 64)
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(chunks)
		c.read(w, chunks)
	})
	defer reading.Wait()
	for next := range chunks {
		if next.data == nil {
			c.finish(w)
		} else {
			c.write(w, next)
		}
	}
}

// read passes on what comes, and an empty chunk at the end of it.
func (c *passage) read(w way, chunks chan<- chunk) {
	for {
		buf := make([]byte, 16<<10)
		n, err := c.ends[w].Read(buf)
		if n > 0 && !c.send(chunks, chunk{buf[:n], time.Now()}) {
			return
		}
		switch {
		case errors.Is(err, io.EOF):
			c.send(chunks, chunk{at: time.Now()})
			return
		case err != nil:
			c.broken(w)
			return
		}
	}
}

func (c *passage) send(chunks chan<- chunk, next chunk) bool {
	select {
	case chunks <- next:
		return true
	case <-c.over:
		return false
	}
}

// finish passes on that no more will come.
func (c *passage) finish(w way) {
	if c.swallowed(w) {
		<-c.over
		return
	}
	c.ends[w.back()].CloseWrite()
}

// broken says that the connection is, which is heard of at the end of each of these
// ways, unless one is swallowed. Then nobody hears of it.
func (c *passage) broken(ways ...way) {
	for _, w := range ways {
		if c.swallowed(w) {
			<-c.over
			return
		}
	}
	c.proxy.mu.Lock()
	defer c.proxy.mu.Unlock()
	c.reset()
}

// swallowed reports whether nothing arrives by this way any more.
func (c *passage) swallowed(w way) bool {
	c.proxy.mu.Lock()
	defer c.proxy.mu.Unlock()
	if c.proxy.faults.swallow[w] != nil {
		c.spoilt, c.lost[w] = true, true
	}
	return c.lost[w]
}

// write carries one chunk as the proxy is told to at the time.
func (c *passage) write(w way, next chunk) {
	hit := make(map[*Hits]bool) // each once for a chunk
	count := func(h *Hits) {
		if !hit[h] {
			hit[h] = true
			h.add()
		}
	}
	for len(next.data) > 0 {
		f, changed := c.proxy.now()
		if c.swallowed(w) {
			if f.swallow[w] != nil {
				count(f.swallow[w])
			}
			return
		}
		if d := f.delay[w]; d != nil {
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
		if t := f.throttle[w]; t != nil {
			piece = piece[:min(len(piece), max(t.rate/20, 1))]
			count(t.Hits)
			if !c.pause(time.Duration(len(piece))*time.Second/time.Duration(t.rate), changed) {
				if c.ended() {
					return
				}
				continue
			}
		}
		if w == answers && !c.answer(f, &piece, count) {
			return
		}
		if _, err := c.ends[w.back()].Write(piece); err != nil {
			c.broken(w.back())
			return
		}
		next.data = next.data[len(piece):]
	}
}

// answer applies what may happen to answers alone. It reports whether piece, of which
// it may make another of the same length, is to be passed on.
func (c *passage) answer(f faults, piece *[]byte, count func(*Hits)) bool {
	if f.flaky != nil && f.flaky.strikes() {
		count(f.flaky.Hits)
		c.broken(answers)
		return false
	}
	if f.garble != nil {
		count(f.garble)
		c.proxy.mu.Lock()
		c.spoilt = true
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
func (c *passage) pause(d time.Duration, changed <-chan struct{}) bool {
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

func (c *passage) ended() bool {
	select {
	case <-c.over:
		return true
	default:
		return false
	}
}

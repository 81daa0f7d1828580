package link

import (
	"context"
	"net"
	"sync/atomic"
	"time"

	"github.com/musterhq/muster/internal/backoff"

	"github.com/musterhq/muster/internal/clock"
)

// pong is the sign of life that a frame of no bytes asks for.
var pong = [1]byte{1}

var ping = appendFrame(nil, nil)

// maxBatch bounds the bytes that are written at once.
const maxBatch = 64 << 10

// destination is where packets go: to an address, and to the one instance there, by the head of
// its id, or to any.
type destination struct{ addr, instanceID string }

// sender is the queue and the connection to one destination. Its goroutine, run, owns
// the connection; Transport.mu guards the rest.
type sender struct {
	t  *Transport
	to destination
	// notify has an element when the queue was empty and is not any more.
	notify chan struct{}
	// ctx ends when the peer is evicted or the transport shut down.
	ctx  context.Context
	stop context.CancelFunc

	queue   [][]byte
	bytes   int
	busy    bool // run has taken packets and not yet come back
	failing bool // the last try to send failed
	used    time.Time
	conn    *conn // nil if there is none
}

// enqueue queues frame for a destination, and reports whether the transport is open.
func (t *Transport) enqueue(to destination, frame []byte, now time.Time) bool {
	cfg := &t.link.cfg
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	s := t.senders[to]
	if s == nil {
		t.trim(cfg.MaxPeers - 1)
		if len(t.senders) >= busyFactor*cfg.MaxPeers {
			t.drop(1)
			t.link.counters.queueDrops.Add(1)
			return true
		}
		s = &sender{t: t, to: to, notify: make(chan struct{}, 1)}
		s.ctx, s.stop = context.WithCancel(t.ctx)
		t.senders[to] = s
		t.wg.Add(1)
		go s.run()
	}
	s.used = now
	s.queue = append(s.queue, frame)
	s.bytes += len(frame)
	for len(s.queue) > 1 && (len(s.queue) > cfg.QueuePackets || s.bytes > cfg.QueueBytes) {
		s.bytes -= len(s.queue[0])
		s.queue[0] = nil
		s.queue = s.queue[1:]
		t.drop(1)
		t.link.counters.queueDrops.Add(1)
	}
	select {
	case s.notify <- struct{}{}:
	default:
	}
	return true
}

func (t *Transport) drop(n int) { t.link.counters.packetsDropped.Add(uint64(n)) }

// trim evicts the peers at rest that were not used for longest until at most
// limit are left. It needs t.mu.
func (t *Transport) trim(limit int) {
	for len(t.senders) > limit {
		var victim *sender
		for _, s := range t.senders {
			if !s.busy && len(s.queue) == 0 && (victim == nil || s.used.Before(victim.used)) {
				victim = s
			}
		}
		if victim == nil {
			return
		}
		t.remove(victim)
	}
}

// remove forgets s, whose goroutine then ends. It needs t.mu.
func (t *Transport) remove(s *sender) {
	delete(t.senders, s.to)
	t.drop(len(s.queue))
	s.queue, s.bytes = nil, 0
	s.stop()
}

// run sends what is queued until the peer is removed.
func (s *sender) run() {
	defer s.t.wg.Done()
	defer s.stop()
	var out *gossipConn
	retry := backoff.Backoff{Min: 50 * time.Millisecond, Max: time.Second}
	lose := func() {
		if out == nil {
			return
		}
		if out.alive.Load() {
			retry.Reset()
		}
		s.keep(nil)
		out.close()
		out = nil
	}
	defer lose()
	for {
		frames := s.next(out)
		if s.ctx.Err() != nil {
			s.done(frames, nil)
			return
		}
		if out != nil && out.dead() {
			lose()
		}
		if frames == nil {
			continue
		}
		if out == nil {
			var err error
			if out, err = s.connect(); err != nil {
				s.fail(frames, err)
				retry.Wait(s.ctx)
				continue
			}
		}
		sent, err := out.write(frames)
		s.done(frames[sent:], err)
		if err != nil {
			// A peer that takes connections only to break them is dialled ever more
			// seldom; one that was fine until now at once.
			fine := out.alive.Load()
			lose()
			if !fine {
				retry.Wait(s.ctx)
			}
		}
	}
}

// next waits for packets and takes them. It returns nil when the peer is removed
// or when out should be closed.
func (s *sender) next(out *gossipConn) [][]byte {
	t := s.t
	var timer *time.Timer
	for {
		t.mu.Lock()
		if len(s.queue) > 0 && s.ctx.Err() == nil {
			frames := s.queue
			s.queue, s.bytes, s.busy = nil, 0, true
			t.mu.Unlock()
			return frames
		}
		s.busy = false
		t.trim(t.link.cfg.MaxPeers)
		wait := time.Until(s.used.Add(t.link.cfg.IdleTimeout))
		if wait <= 0 && s.ctx.Err() == nil {
			t.remove(s)
		}
		t.mu.Unlock()
		if s.ctx.Err() != nil {
			return nil
		}

		var ended <-chan struct{}
		if out != nil {
			ended = out.ended
			if left, asked := out.stalls(); asked {
				if left <= 0 {
					t.link.cfg.Logger.Debug("gossip connection gives no sign of life", "addr", s.to.addr)
					return nil
				}
				wait = min(wait, left)
			}
		}
		if timer == nil {
			timer = time.NewTimer(wait)
			defer timer.Stop()
		} else {
			timer.Reset(wait)
		}
		select {
		case <-s.notify:
		case <-timer.C:
		case <-ended:
			return nil
		case <-s.ctx.Done():
		}
	}
}

// done drops what was taken from the queue and not sent.
func (s *sender) done(rest [][]byte, err error) {
	s.t.mu.Lock()
	s.busy = false
	s.failing = err != nil
	s.t.checkFlushed()
	s.t.mu.Unlock()
	s.t.drop(len(rest))
	if err != nil {
		s.t.link.cfg.Logger.Debug("gossip connection broke", "addr", s.to.addr, "dropped", len(rest), "error", err)
	}
}

// fail drops the packets in hand and those that piled up behind them while there
// was no connection: they are too old to be of use once the peer is back.
func (s *sender) fail(frames [][]byte, err error) {
	t := s.t
	t.mu.Lock()
	n := len(frames) + len(s.queue)
	s.queue, s.bytes, s.busy, s.failing = nil, 0, false, true
	t.checkFlushed()
	t.mu.Unlock()
	t.drop(n)
	t.link.cfg.Logger.Debug("no gossip connection", "addr", s.to.addr, "dropped", n, "error", err)
}

func (s *sender) connect() (*gossipConn, error) {
	t := s.t
	ctx, cancel := context.WithTimeout(s.ctx, t.link.cfg.DialTimeout)
	defer cancel()
	c, err := t.link.dial(ctx, protocolPackets, s.to.addr, s.to.instanceID)
	if err != nil {
		return nil, err
	}
	if !s.keep(c) {
		c.abort()
		return nil, net.ErrClosed
	}
	return newGossipConn(t, c), nil
}

// keep notes the connection for Shutdown and Stats, and reports false if the peer
// is removed.
func (s *sender) keep(c *conn) bool {
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	s.conn = c
	return s.ctx.Err() == nil
}

// gossipConn is one connection of a sender. Only alive, asked, closing and ended are touched by
// the goroutine that listens to the way back.
type gossipConn struct {
	t    *Transport
	conn *conn
	// closing says that this side ends the connection.
	closing atomic.Bool
	// asked is when a sign of life was asked for that has not come, on the boot
	// clock, and 0 if none is awaited. lastAsked is when one was last.
	asked     atomic.Int64
	lastAsked time.Time
	// alive says that one ever came.
	alive atomic.Bool
	// ended is closed when the other end has hung up.
	ended chan struct{}
}

func newGossipConn(t *Transport, c *conn) *gossipConn {
	g := &gossipConn{t: t, conn: c, ended: make(chan struct{})}
	go g.listen()
	return g
}

// listen reads the signs of life, and notices the end of the other side.
func (g *gossipConn) listen() {
	defer close(g.ended)
	var b [16]byte
	for {
		n, err := g.conn.Read(b[:])
		if err != nil {
			if hungUp := g.t.link.cfg.HungUp; hungUp != nil && !g.closing.Load() && g.t.ctx.Err() == nil {
				hungUp(g.conn.peer.InstanceID)
			}
			return
		}
		for _, v := range b[:n] {
			if v != pong[0] {
				return
			}
		}
		g.asked.Store(0)
		g.alive.Store(true)
	}
}

// askEvery is how often a sign of life is asked for.
func (g *gossipConn) askEvery() time.Duration { return min(2*time.Second, g.t.link.cfg.StallTimeout) }

// stalls returns how long a sign of life may still take, if one is awaited.
func (g *gossipConn) stalls() (left time.Duration, awaited bool) {
	asked := g.asked.Load()
	if asked == 0 {
		return 0, false
	}
	return clock.Instant(asked).Add(g.t.link.cfg.StallTimeout).Sub(clock.Now()), true
}

// dead reports whether the connection is of no more use.
func (g *gossipConn) dead() bool {
	select {
	case <-g.ended:
		return true
	default:
	}
	left, awaited := g.stalls()
	return awaited && left <= 0
}

// write sends frames, several at once, and returns how many were sent.
func (g *gossipConn) write(frames [][]byte) (sent int, err error) {
	now := time.Now()
	pooled, _ := g.t.buffers.Get().(*[]byte)
	if pooled == nil {
		pooled = new([]byte)
	}
	buf := (*pooled)[:0]
	defer func() { *pooled = buf; g.t.buffers.Put(pooled) }()
	if now.Sub(g.lastAsked) >= g.askEvery() && g.asked.Load() == 0 {
		g.lastAsked = now
		g.asked.Store(int64(clock.Now()))
		buf = append(buf, ping...)
	}
	g.conn.SetWriteDeadline(now.Add(g.t.link.cfg.StallTimeout))
	for sent < len(frames) {
		n := sent
		for n < len(frames) && (n == sent || len(buf)+len(frames[n]) <= maxBatch) {
			buf = append(buf, frames[n]...)
			n++
		}
		if _, err := g.conn.Write(buf); err != nil {
			return sent, err
		}
		g.t.link.counters.packetsSent.Add(uint64(n - sent))
		g.t.link.counters.bytesSent.Add(uint64(len(buf)))
		buf = buf[:0]
		sent = n
	}
	return sent, nil
}

// closeTimeout bounds how long a peer is waited for to read to the end.
const closeTimeout = 250 * time.Millisecond

// close ends the connection and waits for its goroutine. Where the peer is in good
// health, it does so only when the peer has read to the end and hung up too.
func (g *gossipConn) close() {
	g.closing.Store(true)
	if !g.dead() && g.conn.CloseWrite() == nil {
		g.conn.SetReadDeadline(time.Now().Add(closeTimeout))
		<-g.ended
	}
	g.conn.abort()
	<-g.ended
}

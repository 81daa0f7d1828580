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

// peer is the queue and the connection to one address. Its goroutine, run, owns
// the connection; Transport.mu guards the rest.
type peer struct {
	t    *Transport
	addr string
	// wake has an element when the queue was empty and is not any more.
	wake chan struct{}
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

// enqueue queues frame for addr, and reports whether the transport is open.
func (t *Transport) enqueue(addr string, frame []byte, now time.Time) bool {
	cfg := &t.link.cfg
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	p := t.peers[addr]
	if p == nil {
		t.trim(cfg.MaxPeers - 1)
		if len(t.peers) >= busyFactor*cfg.MaxPeers {
			t.drop(1)
			t.link.counters.queueDrops.Add(1)
			return true
		}
		p = &peer{t: t, addr: addr, wake: make(chan struct{}, 1)}
		p.ctx, p.stop = context.WithCancel(t.ctx)
		t.peers[addr] = p
		t.wg.Add(1)
		go p.run()
	}
	p.used = now
	p.queue = append(p.queue, frame)
	p.bytes += len(frame)
	for len(p.queue) > 1 && (len(p.queue) > cfg.QueuePackets || p.bytes > cfg.QueueBytes) {
		p.bytes -= len(p.queue[0])
		p.queue[0] = nil
		p.queue = p.queue[1:]
		t.drop(1)
		t.link.counters.queueDrops.Add(1)
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return true
}

func (t *Transport) drop(n int) { t.link.counters.packetsDropped.Add(uint64(n)) }

// trim evicts the peers at rest that were not used for longest until at most
// limit are left. It needs t.mu.
func (t *Transport) trim(limit int) {
	for len(t.peers) > limit {
		var victim *peer
		for _, p := range t.peers {
			if !p.busy && len(p.queue) == 0 && (victim == nil || p.used.Before(victim.used)) {
				victim = p
			}
		}
		if victim == nil {
			return
		}
		t.remove(victim)
	}
}

// remove forgets p, whose goroutine then ends. It needs t.mu.
func (t *Transport) remove(p *peer) {
	delete(t.peers, p.addr)
	t.drop(len(p.queue))
	p.queue, p.bytes = nil, 0
	p.stop()
}

// run sends what is queued until the peer is removed.
func (p *peer) run() {
	defer p.t.wg.Done()
	defer p.stop()
	var out *outlet
	retry := backoff.Backoff{Min: 50 * time.Millisecond, Max: time.Second}
	lose := func() {
		if out == nil {
			return
		}
		if out.alive.Load() {
			retry.Reset()
		}
		p.keep(nil)
		out.close()
		out = nil
	}
	defer lose()
	for {
		frames := p.next(out)
		if p.ctx.Err() != nil {
			p.done(frames, nil)
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
			if out, err = p.connect(); err != nil {
				p.fail(frames, err)
				retry.Wait(p.ctx)
				continue
			}
		}
		sent, err := out.write(frames)
		p.done(frames[sent:], err)
		if err != nil {
			// A peer that takes connections only to break them is dialled ever more
			// seldom; one that was fine until now at once.
			fine := out.alive.Load()
			lose()
			if !fine {
				retry.Wait(p.ctx)
			}
		}
	}
}

// next waits for packets and takes them. It returns nil when the peer is removed
// or when out should be closed.
func (p *peer) next(out *outlet) [][]byte {
	t := p.t
	var timer *time.Timer
	for {
		t.mu.Lock()
		if len(p.queue) > 0 && p.ctx.Err() == nil {
			frames := p.queue
			p.queue, p.bytes, p.busy = nil, 0, true
			t.mu.Unlock()
			return frames
		}
		p.busy = false
		t.trim(t.link.cfg.MaxPeers)
		wait := time.Until(p.used.Add(t.link.cfg.IdleTimeout))
		if wait <= 0 && p.ctx.Err() == nil {
			t.remove(p)
		}
		t.mu.Unlock()
		if p.ctx.Err() != nil {
			return nil
		}

		var ended <-chan struct{}
		if out != nil {
			ended = out.ended
			if left, asked := out.stalls(); asked {
				if left <= 0 {
					t.link.cfg.Logger.Debug("gossip connection gives no sign of life", "addr", p.addr)
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
		case <-p.wake:
		case <-timer.C:
		case <-ended:
			return nil
		case <-p.ctx.Done():
		}
	}
}

// done drops what was taken from the queue and not sent.
func (p *peer) done(rest [][]byte, err error) {
	p.t.mu.Lock()
	p.busy = false
	p.failing = err != nil
	p.t.checkFlushed()
	p.t.mu.Unlock()
	p.t.drop(len(rest))
	if err != nil {
		p.t.link.cfg.Logger.Debug("gossip connection broke", "addr", p.addr, "dropped", len(rest), "error", err)
	}
}

// fail drops the packets in hand and those that piled up behind them while there
// was no connection: they are too old to be of use once the peer is back.
func (p *peer) fail(frames [][]byte, err error) {
	t := p.t
	t.mu.Lock()
	n := len(frames) + len(p.queue)
	p.queue, p.bytes, p.busy, p.failing = nil, 0, false, true
	t.checkFlushed()
	t.mu.Unlock()
	t.drop(n)
	t.link.cfg.Logger.Debug("no gossip connection", "addr", p.addr, "dropped", n, "error", err)
}

func (p *peer) connect() (*outlet, error) {
	t := p.t
	ctx, cancel := context.WithTimeout(p.ctx, t.link.cfg.DialTimeout)
	defer cancel()
	c, err := t.link.dial(ctx, protocolPackets, p.addr)
	if err != nil {
		return nil, err
	}
	if !p.keep(c) {
		c.abort()
		return nil, net.ErrClosed
	}
	return newOutlet(t, c), nil
}

// keep notes the connection for Shutdown and Stats, and reports false if the peer
// is removed.
func (p *peer) keep(c *conn) bool {
	p.t.mu.Lock()
	defer p.t.mu.Unlock()
	p.conn = c
	return p.ctx.Err() == nil
}

// outlet is one connection of a peer. Only alive, asked and ended are touched by
// the goroutine that listens to the way back.
type outlet struct {
	t    *Transport
	conn *conn
	// opened says that the opening frame has been written.
	opened bool
	// asked is when a sign of life was asked for that has not come, on the boot
	// clock, and 0 if none is awaited. lastAsked is when one was last.
	asked     atomic.Int64
	lastAsked time.Time
	// alive says that one ever came.
	alive atomic.Bool
	// ended is closed when the other end has hung up.
	ended chan struct{}
}

func newOutlet(t *Transport, c *conn) *outlet {
	o := &outlet{t: t, conn: c, ended: make(chan struct{})}
	go o.listen()
	return o
}

// listen reads the signs of life, and notices the end of the other side.
func (o *outlet) listen() {
	defer close(o.ended)
	var b [16]byte
	for {
		n, err := o.conn.Read(b[:])
		if err != nil {
			return
		}
		for _, v := range b[:n] {
			if v != pong[0] {
				return
			}
		}
		o.asked.Store(0)
		o.alive.Store(true)
	}
}

// askEvery is how often a sign of life is asked for.
func (o *outlet) askEvery() time.Duration { return min(2*time.Second, o.t.link.cfg.StallTimeout) }

// stalls returns how long a sign of life may still take, if one is awaited.
func (o *outlet) stalls() (left time.Duration, awaited bool) {
	asked := o.asked.Load()
	if asked == 0 {
		return 0, false
	}
	return clock.Instant(asked).Add(o.t.link.cfg.StallTimeout).Sub(clock.Now()), true
}

// dead reports whether the connection is of no more use.
func (o *outlet) dead() bool {
	select {
	case <-o.ended:
		return true
	default:
	}
	left, awaited := o.stalls()
	return awaited && left <= 0
}

// write sends frames, several at once, and returns how many were sent.
func (o *outlet) write(frames [][]byte) (sent int, err error) {
	now := time.Now()
	pooled, _ := o.t.buffers.Get().(*[]byte)
	if pooled == nil {
		pooled = new([]byte)
	}
	buf := (*pooled)[:0]
	defer func() { *pooled = buf; o.t.buffers.Put(pooled) }()
	if !o.opened {
		buf = append(buf, o.t.opening...)
	}
	if now.Sub(o.lastAsked) >= o.askEvery() && o.asked.Load() == 0 {
		o.lastAsked = now
		o.asked.Store(int64(clock.Now()))
		buf = append(buf, ping...)
	}
	o.conn.SetWriteDeadline(now.Add(o.t.link.cfg.StallTimeout))
	for sent < len(frames) {
		n := sent
		for n < len(frames) && (n == sent || len(buf)+len(frames[n]) <= maxBatch) {
			buf = append(buf, frames[n]...)
			n++
		}
		if _, err := o.conn.Write(buf); err != nil {
			return sent, err
		}
		o.opened = true
		o.t.link.counters.packetsSent.Add(uint64(n - sent))
		o.t.link.counters.bytesSent.Add(uint64(len(buf)))
		buf = buf[:0]
		sent = n
	}
	return sent, nil
}

// closeTimeout bounds how long a peer is waited for to read to the end.
const closeTimeout = 250 * time.Millisecond

// close ends the connection and waits for its goroutine. Where the peer is in good
// health, it does so only when the peer has read to the end and hung up too.
func (o *outlet) close() {
	if !o.dead() && o.conn.CloseWrite() == nil {
		o.conn.SetReadDeadline(time.Now().Add(closeTimeout))
		<-o.ended
	}
	o.conn.abort()
	<-o.ended
}

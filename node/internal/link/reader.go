package link

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

// A reader that was learned of within this time is not closed to make room.
const readerRest = time.Second

var errNoAddr = fmt.Errorf("%w: gossip of a node that has no address", errFrame)

// reader takes packets from one gossip connection that another node dialled.
type reader struct {
	conn *conn
	// heard is when it last received something, in Unix nanoseconds.
	heard atomic.Int64
}

func (t *Transport) acceptPackets() {
	defer t.wg.Done()
	for {
		nc, err := t.packets.Accept()
		if err != nil {
			return
		}
		r := &reader{conn: nc.(*conn)}
		r.heard.Store(time.Now().UnixNano())
		if !t.addReader(r) {
			t.link.rejected.add(ReasonBusy, nc.RemoteAddr(), nil)
			r.conn.abort()
			continue
		}
		go func() {
			defer t.wg.Done()
			defer t.removeReader(r)
			defer r.conn.Close()
			if err := t.read(r); errors.Is(err, errFrame) {
				t.link.rejected.add(ReasonFrame, r.conn.RemoteAddr(), err)
			}
		}()
	}
}

// addReader makes room for r, and adds to the wait group. A reader that loses its
// connection that way dials again when it has something to say.
func (t *Transport) addReader(r *reader) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	limit := 2 * t.link.cfg.MaxPeers
	rested := time.Now().Add(-readerRest).UnixNano()
	for len(t.readers) >= limit {
		var oldest *reader
		for other := range t.readers {
			if oldest == nil || other.heard.Load() < oldest.heard.Load() {
				oldest = other
			}
		}
		if oldest.heard.Load() > rested {
			break
		}
		delete(t.readers, oldest)
		oldest.conn.abort()
	}
	if len(t.readers) >= busyFactor*limit {
		return false
	}
	t.readers[r] = struct{}{}
	t.wg.Add(1)
	return true
}

func (t *Transport) removeReader(r *reader) {
	t.mu.Lock()
	delete(t.readers, r)
	t.mu.Unlock()
}

// read delivers packets until the connection ends. Its sender closes it when it
// is idle; one that is silent for twice as long is gone.
func (t *Transport) read(r *reader) error {
	in := bufio.NewReaderSize(r.conn, 4<<10)
	now := time.Now()
	if !r.conn.peer.Addr.IsValid() {
		return errNoAddr // to which an answer could go
	}
	from := net.TCPAddrFromAddrPort(r.conn.peer.Addr)
	silence := 2 * t.link.cfg.IdleTimeout
	var extended time.Time
	for {
		// To set a deadline costs as much as the rest; once a second will do.
		if now.Sub(extended) > min(time.Second, silence/4) {
			r.conn.SetReadDeadline(now.Add(silence))
			extended = now
		}
		b, err := readFrame(in, maxFrame)
		if err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
		now = time.Now()
		r.heard.Store(now.UnixNano())
		t.link.counters.bytesReceived.Add(uint64(frameHeader + len(b)))
		if len(b) == 0 {
			r.conn.SetWriteDeadline(now.Add(t.link.cfg.StallTimeout))
			if _, err := r.conn.Write(pong[:]); err != nil {
				return err
			}
			continue
		}
		t.link.counters.packetsReceived.Add(1)
		select {
		case t.packetCh <- &memberlist.Packet{Buf: b, From: from, Timestamp: now}:
		case <-t.ctx.Done():
			return nil
		}
	}
}

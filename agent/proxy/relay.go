package proxy

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// chunk is how much is read at one time.
const chunk = 16 << 10

// relay forwards both directions until both have ended, or the route or one of the ends has.
func (p *Proxy) relay(r *route, client, master *net.TCPConn) {
	defer master.Close()
	abort := func() {
		reset(master)
		reset(client)
	}
	defer context.AfterFunc(r.ctx, abort)()
	var both sync.WaitGroup
	both.Go(func() {
		if !p.pump(master, client, &p.counters.sent, r.valid) {
			abort()
		}
	})
	both.Go(func() {
		if !p.pump(client, master, &p.counters.received, nil) {
			abort()
		}
	})
	both.Wait()
}

// pump forwards one direction until its end, which it passes on, and reports whether it came so
// far. allowed is asked before each write; nil: nothing is asked.
func (p *Proxy) pump(to, from *net.TCPConn, bytes *atomic.Uint64, allowed func() bool) bool {
	b := make([]byte, chunk)
	for {
		n, err := from.Read(b)
		if n > 0 {
			if allowed != nil && !p.unchecked && !allowed() {
				return false
			}
			written, err := to.Write(b[:n])
			bytes.Add(uint64(written))
			if err != nil {
				return false
			}
		}
		if err != nil {
			return err == io.EOF && to.CloseWrite() == nil
		}
	}
}

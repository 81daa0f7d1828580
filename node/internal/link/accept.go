package link

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"
)

// A handshake that is older than this may be ended to make room for another.
const handshakeGrace = time.Second

// handshake is a connection that has not said yet what it wants.
type handshake struct {
	raw     net.Conn
	ip      netip.Addr
	since   time.Time
	evicted bool // guarded by Link.mu
}

func (l *Link) acceptLoop() {
	defer l.wg.Done()
	var pause time.Duration
	for {
		raw, err := l.ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// Most likely there are no file descriptors left. They come back.
			l.counters.acceptErrors.Add(1)
			l.alarms.Raise(acceptFails, "", "addr", l.addr, "error", err)
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			select {
			case <-time.After(pause):
			case <-l.ctx.Done():
				return
			}
			continue
		}
		if pause > 0 {
			l.alarms.Clear(acceptFails, "")
		}
		pause = 0
		if h := l.admit(raw); h != nil {
			go l.serve(h)
		}
	}
}

// admit takes raw among the unfinished handshakes, at the cost of an old one if
// need be, or closes it and returns nil. With a handshake it adds to the wait group.
func (l *Link) admit(raw net.Conn) *handshake {
	h := &handshake{raw: raw, since: time.Now()}
	if a, ok := raw.RemoteAddr().(*net.TCPAddr); ok {
		h.ip = a.AddrPort().Addr().Unmap().WithZone("")
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		raw.Close()
		return nil
	}
	var same int
	var victim *handshake
	for _, p := range l.pending {
		if p.ip == h.ip {
			if same++; same == 1 {
				victim = p
			}
		}
	}
	switch {
	case same >= max(1, l.cfg.MaxHandshakes/2):
	case len(l.pending) >= l.cfg.MaxHandshakes:
		victim = l.pending[0]
	default:
		victim = nil
	}
	turnedAway := raw
	if victim == nil || h.since.Sub(victim.since) >= handshakeGrace {
		l.pending = append(l.pending, h)
		l.wg.Add(1)
		turnedAway = nil
		if victim != nil {
			victim.evicted = true
			l.pending = slices.DeleteFunc(l.pending, func(p *handshake) bool { return p == victim })
			turnedAway = victim.raw
		}
	}
	l.mu.Unlock()
	if turnedAway != nil {
		l.rejected.add(ReasonBusy, turnedAway.RemoteAddr(), nil)
		turnedAway.Close()
		if turnedAway == raw {
			return nil
		}
	}
	return h
}

// finish takes h out of the unfinished handshakes, and reports whether it was
// still among them.
func (l *Link) finish(h *handshake) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.pending)
	l.pending = slices.DeleteFunc(l.pending, func(p *handshake) bool { return p == h })
	return len(l.pending) < n
}

// serve leads one connection through the handshake to its listener.
func (l *Link) serve(h *handshake) {
	defer l.wg.Done()
	h.raw.SetDeadline(time.Now().Add(l.cfg.HandshakeTimeout))
	nc, want, reason, err := l.greet(h.raw)
	if reason == "" {
		reason, err = l.dispatch(h, nc, want)
	}
	if reason == "" {
		return
	}
	ours := l.finish(h)
	h.raw.Close()
	// What was evicted is counted already, and what Close interrupts is no stranger.
	if ours {
		l.rejected.add(reason, h.raw.RemoteAddr(), err)
	}
}

// greet learns who the other end is and what it wants. With a reason the connection is to be
// closed, and what can be answered has been.
func (l *Link) greet(raw net.Conn) (net.Conn, hello, Reason, error) {
	nc := raw
	if l.tls != nil {
		secure, reason, err := l.secure(raw)
		if reason != "" {
			return nil, hello{}, reason, err
		}
		nc = secure
	}
	want, err := readHello(nc)
	if err != nil {
		if l.tls != nil {
			err = noEOF(err)
		} else if errors.Is(err, errTLSSent) {
			if _, err := raw.Write(plainHere); err == nil {
				linger(raw)
			}
		}
		return nil, hello{}, helloReason(err), err
	}
	if s := l.judge(nc, want); s != statusAccepted {
		l.refuse(nc, s, want.peer.Protocol)
		return nil, hello{}, s.reason(), nil
	}
	return nc, want, "", nil
}

// secure makes the handshake of TLS.
func (l *Link) secure(raw net.Conn) (net.Conn, Reason, error) {
	var verdict tlsVerdict
	nc := tls.Server(raw, l.tls.server(l.cfg.Cluster, &verdict))
	ctx, cancel := context.WithTimeout(l.ctx, l.cfg.HandshakeTimeout)
	defer cancel()
	if err := nc.HandshakeContext(ctx); err != nil {
		reason := verdict.reasonOf(err)
		switch reason {
		case ReasonPlain:
			l.refuse(raw, statusTLS, "")
		case ReasonVersion, ReasonCluster, ReasonCertificate, ReasonNoCertificate:
			linger(raw) // the alert is on its way
		}
		return nil, reason, err
	}
	return nc, "", nil
}

// judge says whether the end at nc that wants this may have it.
func (l *Link) judge(nc net.Conn, want hello) status {
	switch {
	case want.version != wireVersion:
		return statusVersion
	case want.cluster != l.cfg.Cluster:
		return statusCluster
	case l.cfg.VerifyNodeID && !certifies(nc, want.peer.NodeID):
		return statusNodeID
	case !meant(want.to, l.cfg.InstanceID):
		return statusInstance
	}
	return statusAccepted
}

// dispatch hands the connection to the listener that it wants.
func (l *Link) dispatch(h *handshake, nc net.Conn, want hello) (Reason, error) {
	l.mu.Lock()
	ln := l.listeners[want.peer.Protocol]
	l.mu.Unlock()
	if ln == nil {
		l.refuse(nc, statusProtocol, want.peer.Protocol)
		return ReasonProtocol, nil
	}
	if !ln.reserve() {
		l.refuse(nc, statusBusy, want.peer.Protocol)
		return ReasonBusy, nil
	}
	if _, err := nc.Write(l.answer(statusAccepted, want.peer.Protocol)); err != nil {
		ln.unreserve()
		return helloReason(err), err
	}
	if !l.finish(h) {
		ln.unreserve()
		return ReasonBusy, nil // evicted or closed, and not counted again
	}
	nc.SetDeadline(time.Time{})
	c := l.track(nc, want.peer, true)
	if c == nil {
		ln.unreserve()
		h.raw.Close()
		return "", nil
	}
	l.mu.Lock()
	l.accepted[want.peer.Protocol]++
	l.mu.Unlock()
	ln.push(c)
	return "", nil
}

// answer is s, with our hello where that belongs to it.
func (l *Link) answer(s status, protocol string) []byte {
	b := []byte{byte(s)}
	if s.introduces() {
		b = l.hello(protocol).append(b)
	}
	return b
}

// refuse answers s.
func (l *Link) refuse(nc net.Conn, s status, protocol string) {
	if _, err := nc.Write(l.answer(s, protocol)); err == nil {
		linger(nc)
	}
}

// linger waits a moment for the other end to hang up after the last word: closing
// a socket with bytes unread would take that word back.
func linger(nc net.Conn) {
	if w, ok := nc.(interface{ CloseWrite() error }); ok {
		w.CloseWrite()
	}
	nc.SetReadDeadline(time.Now().Add(250 * time.Millisecond))
	io.CopyN(io.Discard, nc, 4<<10)
}

// helloReason sorts the errors of reading a hello.
func helloReason(err error) Reason {
	switch {
	case errors.Is(err, errTLSSent):
		return ReasonTLS
	case errors.Is(err, errMagic), errors.Is(err, errHello):
		return ReasonGarbage
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return ReasonTimeout
	case errors.Is(err, io.ErrUnexpectedEOF):
		return ReasonAborted
	case errors.Is(err, io.EOF):
		return ReasonNoHello
	}
	return ReasonAborted
}

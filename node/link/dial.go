package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Dial connects to the listener of a protocol at another node's HOST:PORT, and
// returns when that node has accepted. It is bounded by ctx, and where that has
// no deadline by Config.DialTimeout. Where somebody answers who will not have us,
// or whom we will not have, the error is a *RefusedError. After Close it wraps
// net.ErrClosed. The caller closes the connection.
func (l *Link) Dial(ctx context.Context, protocol, addr string) (net.Conn, error) {
	if err := validateProtocol(protocol); err != nil {
		return nil, err
	}
	if protocol == protocolPackets || protocol == protocolStreams {
		return nil, fmt.Errorf("link: protocol %q belongs to the link itself", protocol)
	}
	c, err := l.dial(ctx, protocol, addr)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (l *Link) dial(ctx context.Context, protocol, addr string) (*conn, error) {
	l.counters.dials.Add(1)
	c, err := l.dialOnce(ctx, protocol, addr)
	if err != nil {
		l.counters.dialFailures.Add(1)
		if l.ctx.Err() != nil {
			err = net.ErrClosed
		}
		if refused := (*RefusedError)(nil); errors.As(err, &refused) {
			l.refused.add(refused)
			return nil, err
		}
		return nil, fmt.Errorf("link: dial %s for %q: %w", addr, protocol, err)
	}
	l.counters.dialSuccesses.Add(1)
	return c, nil
}

func (l *Link) dialOnce(ctx context.Context, protocol, addr string) (*conn, error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(l.cfg.DialTimeout)
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()

	raw, err := l.cfg.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	ok = false
	defer func() {
		if !ok {
			raw.Close()
		}
	}()
	raw.SetDeadline(deadline)
	// A deadline in the past ends what waits on the socket.
	interrupt := context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) })
	defer interrupt()

	refused := func(reason Reason, cause error) error {
		if err := context.Cause(ctx); errors.Is(err, context.Canceled) {
			return err
		}
		return &RefusedError{Addr: addr, Protocol: protocol, Reason: reason, Err: cause}
	}
	h := hello{wireVersion, protocol, l.cfg.Cluster}
	nc := raw
	if l.tls != nil {
		t := tls.Client(raw, l.tls.client(h, addr))
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, refused(dialReason(err), err)
		}
		nc = t
	} else if _, err := raw.Write(h.preface()); err != nil {
		return nil, refused(dialReason(err), err)
	}
	var answer [1]byte
	if _, err := io.ReadFull(nc, answer[:]); err != nil {
		return nil, refused(dialReason(err), err)
	}
	if s := status(answer[0]); s != statusAccepted {
		reason, cause := s.reason(), error(nil)
		if reason == ReasonGarbage {
			cause = fmt.Errorf("first byte %#02x", answer[0])
		}
		return nil, refused(reason, cause)
	}
	if !interrupt() {
		return nil, context.Cause(ctx)
	}
	nc.SetDeadline(time.Time{})
	c := l.track(nc, false)
	if c == nil {
		return nil, net.ErrClosed
	}
	ok = true
	return c, nil
}

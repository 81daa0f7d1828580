package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"
)

// Dial connects to the listener of a protocol at another node's HOST:PORT, whichever
// node that is, and returns when it has accepted. It is bounded by ctx, and where that has
// no deadline by Config.DialTimeout. If a node answers that rejects us,
// or that we reject, the error is a *RefusedError. After Close it wraps
// net.ErrClosed. The caller closes the connection.
func (l *Link) Dial(ctx context.Context, protocol, addr string) (net.Conn, error) {
	return l.dialNamed(ctx, protocol, addr, "")
}

// DialInstance is Dial for one instance of a node: if any other process answers at addr, the
// error is a *RefusedError that wraps ErrLeft. instanceID is that of a member, or its head if no
// more is known.
func (l *Link) DialInstance(ctx context.Context, protocol, addr, instanceID string) (net.Conn, error) {
	if !isID([]byte(instanceID)) {
		return nil, fmt.Errorf("link: instance id %.80q: want from 1 to %d letters, digits, '-' and '_'", instanceID, MaxInstanceID)
	}
	return l.dialNamed(ctx, protocol, addr, instanceID)
}

func (l *Link) dialNamed(ctx context.Context, protocol, addr, instanceID string) (net.Conn, error) {
	if err := validateProtocol(protocol); err != nil {
		return nil, err
	}
	if protocol == protocolPackets || protocol == protocolStreams {
		return nil, fmt.Errorf("link: protocol %q belongs to the link itself", protocol)
	}
	c, err := l.dial(ctx, protocol, addr, instanceID)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (l *Link) dial(ctx context.Context, protocol, addr, instanceID string) (*conn, error) {
	l.counters.dials.Add(1)
	c, err := l.dialOnce(ctx, protocol, addr, instanceID)
	if err != nil {
		l.counters.dialFailures.Add(1)
		if l.ctx.Err() != nil {
			err = net.ErrClosed
		}
		if refused := (*RefusedError)(nil); errors.As(err, &refused) {
			l.reportRefused(refused)
			return nil, err
		}
		return nil, fmt.Errorf("link: dial %s for %q: %w", addr, protocol, err)
	}
	l.counters.dialSuccesses.Add(1)
	l.alarms.Clear(dialRefused, addr)
	return c, nil
}

func (l *Link) dialOnce(ctx context.Context, protocol, addr, instanceID string) (*conn, error) {
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

	var there hello
	refused := func(reason Reason, cause error) error {
		if err := context.Cause(ctx); errors.Is(err, context.Canceled) {
			return err
		}
		return &RefusedError{Addr: addr, Protocol: protocol, InstanceID: instanceID, Reason: reason, Peer: there.peer, Err: cause}
	}
	nc := raw
	if l.tls != nil {
		t := tls.Client(raw, l.tls.client(l.cfg.Cluster, addr))
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, refused(dialReason(err), err)
		}
		nc = t
	}
	ours := l.hello(protocol)
	ours.to = instanceID
	// Where it cannot be written the other end may have said why.
	_, _ = nc.Write(ours.append(nil))
	s, there, err := readAnswer(nc)
	switch {
	case errors.Is(err, errMagic), errors.Is(err, errHello):
		return nil, refused(ReasonGarbage, err)
	case err != nil:
		return nil, refused(dialReason(err), err)
	case s.introduces() && there.version != wireVersion:
		return nil, refused(ReasonVersion, nil)
	case s != statusAccepted && s.reason() == ReasonGarbage:
		return nil, refused(ReasonGarbage, fmt.Errorf("first byte %#02x", byte(s)))
	case s != statusAccepted:
		return nil, refused(s.reason(), nil)
	case there.cluster != l.cfg.Cluster:
		return nil, refused(ReasonCluster, nil)
	case there.peer.Protocol != protocol:
		return nil, refused(ReasonGarbage, errHello)
	case l.cfg.VerifyNodeID && !certifies(nc, there.peer.NodeID):
		return nil, refused(ReasonNodeID, errOtherNode)
	case !meant(instanceID, there.peer.InstanceID):
		return nil, refused(ReasonInstance, nil)
	}
	if !interrupt() {
		return nil, context.Cause(ctx)
	}
	nc.SetDeadline(time.Time{})
	c := l.track(nc, there.peer, false)
	if c == nil {
		return nil, net.ErrClosed
	}
	ok = true
	return c, nil
}

package dialback

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/musterhq/muster/internal/hint"
	"github.com/musterhq/muster/node/internal/link"
)

const (
	// DialTimeout bounds how long a node reaches for a member.
	DialTimeout = 2 * time.Second
	// askTimeout bounds a question, in which the other end does that.
	askTimeout = DialTimeout + 2*time.Second
)

// Member is a node and where it is dialled.
type Member struct {
	NodeID     string
	InstanceID string
	Addr       string
}

// ErrAbsent says that no node answers where the peer is.
var ErrAbsent = errors.New("cannot be asked")

// Ask asks peer whether it can reach self. It returns nil if so, an
// *UnreachableError if not, and another error if there is no answer. That is ErrAbsent if the
// peer cannot be dialled, or another process answers there; a peer that refuses, does not know
// this protocol, or does not know self yet is there. It is bounded by ctx and by a few seconds.
func Ask(ctx context.Context, network link.Network, self, peer Member) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	c, err := network.DialInstance(ctx, Protocol, peer.Addr, peer.InstanceID)
	if err != nil {
		var refused *link.RefusedError // by a node that is there
		if errors.As(err, &refused) && !errors.Is(err, link.ErrLeft) {
			return fmt.Errorf("node %s cannot be asked: %w", peer.NodeID, Cause(err))
		}
		return fmt.Errorf("node %s %w: %w", peer.NodeID, ErrAbsent, Cause(err))
	}
	defer bind(ctx, c)()
	r, err := exchange(c, question{Version: version, Op: opReach, Instance: self.InstanceID})
	switch {
	case err != nil:
		return fmt.Errorf("node %s does not answer: %w", peer.NodeID, Cause(err))
	case r.Outcome == reached && r.Addr == self.Addr:
		return nil
	case r.Outcome == failed && r.Addr == self.Addr:
		return &UnreachableError{Addr: self.Addr, Peer: peer.NodeID, Reason: r.Reason, How: r.Hint}
	case r.Addr != "" && r.Addr != self.Addr:
		return fmt.Errorf("node %s knows another address, %s", peer.NodeID, r.Addr)
	}
	return fmt.Errorf("node %s declines: %s", peer.NodeID, r.Reason)
}

// UnreachableError says that a peer did not find the node at its address.
type UnreachableError struct {
	Addr   string // that is advertised
	Peer   string // the node that was asked
	Reason string
	How    string // to fix it, empty if the peer does not know
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("advertised %s, which node %s cannot reach: %s; %s", e.Addr, e.Peer, e.Reason, e.Hint())
}

// Hint is that of the peer. One without, of the network, is fixed at the address.
func (e *UnreachableError) Hint() string {
	return cmp.Or(e.How, "publish the port or set node.advertise")
}

// Who returns the node that answers at addr. It is bounded by ctx, and where that has no deadline
// by a few seconds.
func Who(ctx context.Context, network link.Network, addr string) (Member, error) {
	c, err := network.Dial(ctx, Protocol, addr)
	if err != nil {
		return Member{}, err
	}
	defer c.Close()
	there := link.PeerOf(c)
	return Member{NodeID: there.NodeID, InstanceID: there.InstanceID, Addr: addr}, nil
}

// bind ends what waits on c when ctx does.
func bind(ctx context.Context, c net.Conn) (release func() bool) {
	if deadline, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(deadline)
	}
	return context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
}

// Cause is the heart of an error of the network, as people search for it, with its hint. It wraps
// nothing.
func Cause(err error) error {
	var refused *link.RefusedError
	var errno syscall.Errno
	var timeout net.Error
	switch {
	case errors.As(err, &refused):
		problem, how := refused.Meaning()
		return hint.With(errors.New(problem), how)
	case errors.As(err, &errno):
		return errors.New(errno.Error())
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return errors.New("no answer in time")
	}
	return errors.New(err.Error())
}

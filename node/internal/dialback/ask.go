package dialback

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node/link"
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

// ErrAbsent says that nobody answers where the peer is.
var ErrAbsent = errors.New("cannot be asked")

// Ask asks peer whether it can reach self. It returns nil if so, an
// *UnreachableError if not, and another error where there is no answer: the peer
// cannot be asked, in which case it is ErrAbsent unless the peer refuses, does not know this protocol, or does not know self yet. It is
// bounded by ctx and by a few seconds.
func Ask(ctx context.Context, network driver.Network, self, peer Member) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	c, err := network.Dial(ctx, Protocol, peer.Addr)
	if err != nil {
		var refused *link.RefusedError // by somebody who is there
		if errors.As(err, &refused) {
			return fmt.Errorf("node %s cannot be asked: %s", peer.NodeID, Cause(err))
		}
		return fmt.Errorf("node %s %w: %s", peer.NodeID, ErrAbsent, Cause(err))
	}
	defer bind(ctx, c)()
	r, err := exchange(c, question{Version: version, Op: opReach, Instance: self.InstanceID})
	switch {
	case err != nil:
		return fmt.Errorf("node %s does not answer: %s", peer.NodeID, Cause(err))
	case r.Outcome == reached && r.Addr == self.Addr:
		return nil
	case r.Outcome == failed && r.Addr == self.Addr:
		return &UnreachableError{Addr: self.Addr, Peer: peer.NodeID, Reason: r.Reason}
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
}

// Error has the mend of the reason. One without, of the network, is mended at the address.
func (e *UnreachableError) Error() string {
	text := fmt.Sprintf("advertised %s, which node %s cannot reach: %s", e.Addr, e.Peer, e.Reason)
	if !strings.Contains(e.Reason, "; ") {
		text += "; publish the port or set node.advertise"
	}
	return text
}

// Who asks whoever answers at addr who it is.
func Who(ctx context.Context, network driver.Network, addr string) (Member, error) {
	c, err := network.Dial(ctx, Protocol, addr)
	if err != nil {
		return Member{}, err
	}
	defer bind(ctx, c)()
	r, err := exchange(c, question{Version: version, Op: opWho})
	return Member{NodeID: r.Node, InstanceID: r.Instance, Addr: addr}, err
}

// bind ends what waits on c when ctx does.
func bind(ctx context.Context, c net.Conn) (release func() bool) {
	if deadline, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(deadline)
	}
	return context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
}

// Cause is the heart of an error of the network, as people search for it.
func Cause(err error) string {
	var refused *link.RefusedError
	var errno syscall.Errno
	var timeout net.Error
	switch {
	case errors.As(err, &refused):
		return refused.Meaning()
	case errors.As(err, &errno):
		return errno.Error()
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "no answer in time"
	}
	return err.Error()
}

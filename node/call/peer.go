package call

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"

	"github.com/musterhq/muster/node"
)

const (
	// idleTimeout is after how long without a call a connection is closed.
	idleTimeout = 5 * time.Minute
	// dialTimeout bounds one dial.
	dialTimeout = 3 * time.Second
	// A connection on which nothing comes back is replaced after keepaliveTime+keepaliveTimeout.
	// That a member is gone is learned from membership, and sooner.
	keepaliveTime, keepaliveTimeout = 10 * time.Second, 5 * time.Second
)

// peer is the connection to one instance, which is made when it is needed. It is never one to any
// other process.
type peer struct {
	to   node.Peer
	zone string
	conn *grpc.ClientConn

	// byAddress is the rule broken that a call reaches the instance which it is meant for.
	byAddress bool

	// pending counts the calls that are on their way.
	pending atomic.Int64
	// avoidUntil is until when a pool calls others first: nanoseconds since 1970.
	avoidUntil atomic.Int64

	// closed says why there will be no connection any more: nil while there may be one.
	closed atomic.Pointer[error]
	// cut says that this node has cut the last connection, as it does when a member departs. The
	// view says so a moment later.
	cut atomic.Bool
	// dialErr is why the last dial failed. Nil once one has succeeded.
	dialErr atomic.Pointer[error]
}

func newPeer(n *node.Node, member node.Member, options []grpc.DialOption) (*peer, error) {
	p := &peer{to: peerOf(member), zone: member.Zone}
	options = append([]grpc.DialOption{
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return p.dial(ctx, n, member) }),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: dialTimeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.WithIdleTimeout(idleTimeout),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(), // what is sent again, and where to, is decided here
		grpc.WithNoProxy(),
	}, options...)
	var err error
	p.conn, err = grpc.NewClient("passthrough:///"+member.InstanceID, options...)
	return p, err
}

func (p *peer) dial(ctx context.Context, n *node.Node, member node.Member) (net.Conn, error) {
	if p.byAddress {
		for _, other := range n.View().Members {
			if other.Addr == member.Addr {
				member = other
			}
		}
	}
	c, err := n.Dial(ctx, protocol, member)
	if err == nil && node.PeerOf(c).InstanceID != member.InstanceID {
		c.Close()
		err = ErrLeft
	}
	if err != nil {
		p.dialErr.Store(&err)
		return nil, err
	}
	p.dialErr.Store(nil)
	p.cut.Store(false)
	return &peerConn{Conn: c, peer: p}, nil
}

// close ends all calls to the instance because of err.
func (p *peer) close(err error) {
	if p.closed.CompareAndSwap(nil, &err) {
		_ = p.conn.Close() // which has no error but that it was closed before
	}
}

// peerConn is a connection to a peer. It notices when this node closes it, and not gRPC or the
// other end.
type peerConn struct {
	net.Conn
	peer   *peer
	closed atomic.Bool
}

func (c *peerConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil && !c.closed.Load() && (errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe)) {
		c.peer.cut.Store(true)
	}
	return n, err
}

func (c *peerConn) Close() error {
	c.closed.Store(true)
	return c.Conn.Close()
}

// Peer is for node.PeerOf.
func (c *peerConn) Peer() node.Peer { return node.PeerOf(c.Conn) }

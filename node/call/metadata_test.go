package call_test

import (
	"context"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/call"
)

// A handler that passes on all metadata of its call, as many do for traces, makes no call to the
// master of one to a member, and no other one of one to the master.
func TestMetadataThatIsPassedOn(t *testing.T) {
	t.Parallel()
	_, members := startAll(t, 2, calm)
	master, other := members[0], members[1]
	if !master.IsMaster() {
		master, other = other, master
	}
	for _, terms := range [][]string{{"1"}, {"1", "1"}, {"99"}} {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "trace", "t1")
		for _, term := range terms {
			ctx = metadata.AppendToOutgoingContext(ctx, "muster-term", term)
		}
		if c, err := call.Invoke[call.Caller](ctx, master.Mesh.Node(other.ID()), "caller", struct{}{}); err != nil || c.Term != 0 {
			t.Errorf("%q: of a call to a member: %+v, %v", terms, c, err)
		}
		if c, err := call.Invoke[call.Caller](ctx, other.Mesh.Master(), "caller", struct{}{}); err != nil || c.Term == 0 {
			t.Errorf("%q: of a call to the master: %+v, %v", terms, c, err)
		}
	}

	// One who sends it without a mesh is told so.
	conn, err := grpc.NewClient("passthrough:///other", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return master.Dial(ctx, "muster.call", memberOf(master.Node, other.ID()))
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx := metadata.AppendToOutgoingContext(t.Context(), "muster-term", "1", "muster-term", "1")
	if _, err := who(ctx, conn); status.Code(err) != codes.InvalidArgument || other.ran.Load() != 0 {
		t.Errorf("two terms: %v, %d have run", err, other.ran.Load())
	}
}

func memberOf(n *node.Node, id string) node.Member {
	for _, m := range n.View().Members {
		if m.NodeID == id {
			return m
		}
	}
	return node.Member{}
}

// What gRPC refuses before it is sent has not run, is not sent again, and keeps its code.
func TestRefusedBeforeItIsSent(t *testing.T) {
	t.Parallel()
	_, members := startAll(t, 2, calm)
	wait.For(t, "the pool has a member", func() bool { _, err := who(t.Context(), members[0].Mesh.Pool(call.Pool{})); return err == nil })
	ctx := metadata.AppendToOutgoingContext(t.Context(), "name", "Grün")
	for name, to := range map[string]grpc.ClientConnInterface{
		"node": members[0].Mesh.Node(members[1].ID()), "master": members[0].Mesh.Master(), "pool": members[0].Mesh.Pool(call.Pool{}),
	} {
		if _, err := who(ctx, to); status.Code(err) != codes.Internal || call.MayHaveRun(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A call that ended before it was sent says nothing about the member that it would have gone to.
func TestCancelledCallAvoidsNobody(t *testing.T) {
	t.Parallel()
	_, members := startAll(t, 3, calm)
	keyed := members[0].Mesh.Pool(call.Pool{Policy: call.ByKey})
	ctx := call.WithKey(t.Context(), "orders")
	seen := make(map[string]bool)
	wait.For(t, "the pool has all members", func() bool {
		got, err := who(t.Context(), members[0].Mesh.Pool(call.Pool{}))
		seen[got] = err == nil
		return len(seen) >= 3
	})
	first, err := who(ctx, keyed)
	if err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	_, _ = who(cancelled, keyed)
	if second, err := who(ctx, keyed); err != nil || second != first {
		t.Errorf("%s after %s, %v", second, first, err)
	}
}

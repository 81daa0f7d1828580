package node_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
)

// splitNetwork is a network between the nodes of a test that can be cut in two: nothing
// gets across, neither on new connections nor on old ones.
type splitNetwork struct {
	mu    sync.Mutex
	side  map[string]int // by address; who is not named is on side 0
	conns map[*cuttable]struct{}
}

func newSplitNetwork() *splitNetwork {
	return &splitNetwork{side: make(map[string]int), conns: make(map[*cuttable]struct{})}
}

// on puts a node, whose Bind must be its address, on the splitNetwork.
func (f *splitNetwork) on(addr string) func(*node.Config) {
	return func(c *node.Config) {
		c.Bind = addr
		c.SetDial(func(ctx context.Context, to string) (net.Conn, error) { return f.dial(ctx, addr, to) })
	}
}

var errCut = errors.New("the network is cut here")

func (f *splitNetwork) dial(ctx context.Context, from, to string) (net.Conn, error) {
	if f.cutBetween(from, to) {
		return nil, errCut
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", to)
	if err != nil {
		return nil, err
	}
	c := &cuttable{Conn: conn, splitNetwork: f, from: from, to: to}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conns[c] = struct{}{}
	return c, nil
}

func (f *splitNetwork) cutBetween(a, b string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.side[a] != f.side[b]
}

// cut puts the addresses on a side of their own, and breaks what leads across.
func (f *splitNetwork) cut(addrs ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range addrs {
		f.side[a] = 1
	}
	for c := range f.conns {
		if f.side[c.from] != f.side[c.to] {
			_ = c.Conn.Close()
		}
	}
}

func (f *splitNetwork) heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.side)
}

type cuttable struct {
	net.Conn
	splitNetwork *splitNetwork
	from, to     string
}

func (c *cuttable) Close() error {
	c.splitNetwork.mu.Lock()
	delete(c.splitNetwork.conns, c)
	c.splitNetwork.mu.Unlock()
	return c.Conn.Close()
}

// splitCluster starts n nodes on a splitNetwork and returns their addresses.
func splitCluster(t testing.TB, n int) (*cluster, *splitNetwork, []string) {
	c, f := newCluster(t), newSplitNetwork()
	var addrs []string
	for i := range n {
		addr := freeAddr(t)
		addrs = append(addrs, addr)
		c.start(fmt.Sprintf("node-%d", i), expect(n), f.on(addr))
	}
	c.waitMembers(n, c.nodes...)
	c.waitMaster(0, c.nodes...)
	return c, f, addrs
}

func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// A partition takes members from each other's view, and no longer than it lasts.
// The side without a majority has no master, and says why.
func TestPartitionHeals(t *testing.T) {
	t.Parallel()
	c, f, addrs := splitCluster(t, 5)
	minority, majority := c.nodes[:2], c.nodes[2:]
	f.cut(addrs[:2]...)
	c.waitMembers(2, minority...)
	c.waitMembers(3, majority...)
	for _, n := range minority {
		if n.View().Majority {
			t.Errorf("%s sees a majority with %d of 5", n.ID(), len(n.Members()))
		}
	}
	wait.For(t, "the master is on the side of the majority", func() bool {
		for _, n := range minority {
			if n.IsMaster() {
				return false
			}
		}
		for _, n := range majority {
			if n.IsMaster() {
				return true
			}
		}
		return false
	})
	f.heal()
	healed := time.Now()
	c.waitMembers(5, c.nodes...)
	t.Logf("one component again %v after the partition healed", time.Since(healed).Round(time.Millisecond))
	c.waitMaster(0, c.nodes...)
}

// BenchmarkPartitionHeal takes the time from the end of a partition until every
// node sees every other.
func BenchmarkPartitionHeal(b *testing.B) {
	c, f, addrs := splitCluster(b, 5)
	var times durations
	for range b.N {
		f.cut(addrs[:2]...)
		c.waitMembers(2, c.nodes[:2]...)
		c.waitMembers(3, c.nodes[2:]...)
		f.heal()
		times.measure(func() { c.waitMembers(5, c.nodes...) })
	}
	times.report(b)
}

package membership_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/node/internal/link"
	"github.com/musterhq/muster/node/internal/membership"
)

// node is a member on a real port.
type node struct {
	*membership.Membership
	link *link.Link
}

// port is the one port of a node to be.
type port struct {
	*link.Link
	nodeID, instanceID string
}

func listen(t testing.TB, bind, cluster, nodeID string) *port {
	t.Helper()
	var instance [16]byte
	_, _ = rand.Read(instance[:])
	p := &port{nodeID: nodeID, instanceID: hex.EncodeToString(instance[:])}
	var err error
	if p.Link, err = link.Listen(link.Config{Bind: bind, Cluster: cluster, NodeID: nodeID, InstanceID: p.instanceID}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func join(t testing.TB, l *port, cluster string, details membership.Details) *node {
	t.Helper()
	transport, err := l.Transport(l.Addr())
	if err != nil {
		t.Fatal(err)
	}
	m, err := membership.Start(membership.Config{
		Cluster: cluster, NodeID: l.nodeID, InstanceID: l.instanceID, Addr: l.Addr(),
		Details: details, Transport: transport, Network: l, Departed: l.Disconnect,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return &node{m, l.Link}
}

func names(v membership.View) string {
	var ids []string
	for _, m := range v.Members {
		ids = append(ids, m.NodeID)
	}
	return strings.Join(ids, " ")
}

// await follows a member's views until one is as wanted.
func (n *node) await(t testing.TB, what string, ok func(membership.View) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for view := range n.Watch(ctx) {
		if ok(view) {
			return
		}
	}
	t.Fatalf("not within 30 s: %s; members [%s]", what, names(n.View()))
}

func (n *node) see(t testing.TB, want string) {
	t.Helper()
	n.await(t, "members ["+want+"]", func(v membership.View) bool { return names(v) == want })
}

func TestOverRealLinks(t *testing.T) {
	const cluster = "orders"
	big := membership.Details{Meta: map[string]string{"big": strings.Repeat("x", 100_000)}}
	la, lb, lc := listen(t, "127.0.0.1:0", cluster, "a"), listen(t, "127.0.0.1:0", cluster, "b"), listen(t, "127.0.0.1:0", cluster, "c")
	lx := listen(t, "127.0.0.1:0", "stock", "x")
	peers := []string{la.Addr().String(), lb.Addr().String(), lc.Addr().String(), lx.Addr().String(), "127.0.0.1:1"}
	a, b, c := join(t, la, cluster, membership.Details{}), join(t, lb, cluster, big), join(t, lc, cluster, membership.Details{})
	x := join(t, lx, "stock", membership.Details{})
	for _, n := range []*node{a, b, c, x} {
		n.SetPeers(peers)
	}
	for _, n := range []*node{a, b, c} {
		n.see(t, "a b c")
	}
	a.await(t, "b's details", func(v membership.View) bool { return v.Members[1].Details.Equal(big) })
	x.see(t, "x")

	// b leaves, and comes back as another instance on the same port.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := b.Leave(ctx); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*node{a, c} {
		n.see(t, "a c")
		if gone := n.View().Departed; len(gone) != 1 || gone[0].State != membership.StateLeft {
			t.Errorf("departed %+v", gone)
		}
	}
	_ = lb.Close()
	lb = listen(t, lb.Addr().String(), cluster, "b")
	b = join(t, lb, cluster, membership.Details{})
	b.SetPeers(peers)
	for _, n := range []*node{a, b, c} {
		n.see(t, "a b c")
	}

	// It crashes.
	_ = lb.Close()
	_ = b.Close()
	for _, n := range []*node{a, c} {
		n.await(t, "that b failed", func(v membership.View) bool {
			return names(v) == "a c" && len(v.Departed) == 2 && v.Departed[1].State == membership.StateDead
		})
	}
}

// BenchmarkFiftyNodes starts 50 nodes at once on loopback; the figure is the time
// until all see all, with the worst run as a metric of its own.
func BenchmarkFiftyNodes(b *testing.B) {
	const cluster, n = "orders", 50
	var worst time.Duration
	defer func() { b.ReportMetric(float64(worst.Milliseconds()), "worst-ms") }()
	for b.Loop() {
		b.StopTimer()
		links, peers := make([]*port, n), make([]string, n)
		for i := range n {
			links[i] = listen(b, "127.0.0.1:0", cluster, fmt.Sprintf("n%02d", i))
			peers[i] = links[i].Addr().String()
		}
		b.StartTimer()
		begin := time.Now()
		nodes := make([]*node, n)
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				nodes[i] = join(b, links[i], cluster, membership.Details{Zone: "eu-1", Tags: []string{"web"}})
				nodes[i].SetPeers(peers)
			})
		}
		wg.Wait()
		for _, node := range nodes {
			node.await(b, "all", func(v membership.View) bool { return len(v.Members) == n })
		}
		worst = max(worst, time.Since(begin))
		b.StopTimer()
		for i := range n {
			wg.Go(func() { _ = nodes[i].Close(); _ = links[i].Close() })
		}
		wg.Wait()
		b.StartTimer()
	}
}

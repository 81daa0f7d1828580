package nodetest_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/nodetest"
)

// memberlist does not wait for its probes when it is shut down.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}

func TestCluster(t *testing.T) {
	c := nodetest.Start(t, 3)
	first := c.Master()

	second := c.Depose()
	if m, _ := second.Master(); m.Term != 2 {
		t.Errorf("term %d after the master was deposed, want 2", m.Term)
	}

	restore := c.CutOff(second)
	third := c.MasterAbove(2)
	if third == second {
		t.Errorf("%s is master although it is cut off", third.ID())
	}
	restore()

	c.Leave(third)
	added := c.Add()
	if got := len(added.Members()); got != 3 {
		t.Errorf("%d members after one left and one joined, want 3", got)
	}
	if first.Cluster() != added.Cluster() {
		t.Error("two clusters")
	}
}

// What is to be done once is done by the next master when one goes.
func TestWorkMovesOn(t *testing.T) {
	c := nodetest.Start(t, 3, func(config *node.Config) { config.Zone = "eu-1" })
	type start struct {
		node string
		term node.Term
	}
	starts := make(chan start)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	for _, n := range c.Nodes() {
		go func() {
			ended <- n.WhileMaster(ctx, func(ctx context.Context, term node.Term) error {
				select {
				case starts <- start{n.ID(), term}:
				case <-ctx.Done():
				}
				<-ctx.Done()
				return nil
			})
		}()
	}
	next := func() (s start) {
		t.Helper()
		select {
		case s = <-starts:
		case <-time.After(nodetest.Patience):
			t.Fatal("nobody works")
		}
		return s
	}
	first := next()
	master := c.Master()
	if master.ID() != first.node || master.Members()[0].Zone != "eu-1" {
		t.Errorf("%s works, and %s is master", first.node, master.ID())
	}
	c.Leave(master)
	if second := next(); second.node == first.node || second.term <= first.term {
		t.Errorf("first %+v, then %+v", first, second)
	}
	if err := <-ended; !errors.Is(err, node.ErrStopped) {
		t.Errorf("the node that left ended with %v, want ErrStopped", err)
	}
	cancel()
	for range 2 {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the others ended with %v, want that of their context", err)
		}
	}
}

// BenchmarkStart is how long three nodes take to form a cluster.
func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		began := time.Now()
		nodetest.Start(b, 3)
		b.ReportMetric(float64(time.Since(began).Milliseconds()), "ms/cluster")
	}
}

// A restart at the same address is another instance, and a dial of the old one does not reach it.
func TestRestart(t *testing.T) {
	cluster := nodetest.Start(t, 2)
	one, two := cluster.Nodes()[0], cluster.Nodes()[1]
	old := two.View().Self()
	next := cluster.Restart(two)
	if next.ID() != two.ID() || next.Addr() != two.Addr() || next.InstanceID() == two.InstanceID() {
		t.Errorf("restarted as %s at %s, instance %s", next.ID(), next.Addr(), next.InstanceID())
	}
	if _, err := next.Listen("p"); err != nil {
		t.Fatal(err)
	}
	if _, err := one.Dial(t.Context(), "p", old); !errors.Is(err, node.ErrLeft) {
		t.Errorf("Dial of the old instance: %v", err)
	}
}

func TestAlone(t *testing.T) {
	n := nodetest.Alone(t)
	if m, ok := n.Master(); !ok || m.Term != 1 || !n.IsMaster() {
		t.Errorf("master %v", m)
	}
}

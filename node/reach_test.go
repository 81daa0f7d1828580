package node_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/registrar/advertise"
)

func reachable(n *node.Node) func() bool {
	return func() bool { return n.Status().Reach.State == node.Reachable }
}

func TestReachedByAPeer(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	first := c.start("a", patient)
	wait.For(t, "the first is ready alone", func() bool { return first.Status().Ready })
	if reach := first.Status().Reach; reach != (node.Reach{State: node.ReachAlone}) {
		t.Errorf("alone: %+v", reach)
	}
	began := time.Now()
	second := c.start("b", patient)
	wait.For(t, "the first was reached", func() bool {
		s := first.Status()
		if !s.Ready {
			t.Fatalf("the first is ready no longer, since another has come: %s", s.WaitingFor)
		}
		return s.Reach.State == node.Reachable
	})
	var ready node.Status
	wait.For(t, "the second is ready", func() bool { ready = second.Status(); return ready.Ready })
	// It waits for 3 s; a busy machine may answer later.
	if took := time.Since(began); ready.Reach.State != node.Reachable && took < 3*time.Second {
		t.Errorf("ready after %v, before it was reached: %+v", took, ready.Reach)
	}
	for _, n := range c.nodes {
		wait.For(t, n.ID()+" was reached", reachable(n))
		wait.For(t, n.ID()+" is ready", func() bool { return n.Status().Ready })
	}
	if peer := first.Status().Reach.Peer; peer != "b" {
		t.Errorf("a was reached by %q", peer)
	}
	if peer := second.Status().Reach.Peer; peer != "a" {
		t.Errorf("b was reached by %q", peer)
	}
}

// A node whose address leads nowhere, or to somebody else, says so and is not ready.
// The others are none the worse for it.
func TestNotReached(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		addr func(t *testing.T, others *cluster) string
		want string
	}{
		{"nobody listens", func(t *testing.T, _ *cluster) string { return freeAddr(t) }, "connection refused"},
		{"another node answers", func(_ *testing.T, others *cluster) string { return others.nodes[0].Addr() }, "node a answers there, instance "},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCluster(t)
			c.start("a")
			c.start("b")
			c.waitMembers(2, c.nodes...)
			addr := test.addr(t, c)
			lost := c.start("c", func(c *node.Config) { c.Advertise = addr })
			wait.For(t, "c knows that it was not reached", func() bool { return lost.Status().Reach.State == node.Unreachable })
			s := lost.Status()
			if s.Ready || s.WaitingFor != s.Reach.Reason {
				t.Errorf("ready %v, waiting for %q", s.Ready, s.WaitingFor)
			}
			const hint = "; publish the port or set node.advertise"
			prefix := fmt.Sprintf("advertised %s, which node %s cannot reach: ", addr, s.Reach.Peer)
			if !strings.HasPrefix(s.Reach.Reason, prefix) || !strings.Contains(s.Reach.Reason, test.want) || !strings.Contains(s.Reach.Reason, hint) {
				t.Errorf("reason %q\nwant %s...%s...%s", s.Reach.Reason, prefix, test.want, hint)
			}
			for _, n := range c.nodes[:2] {
				wait.For(t, n.ID()+" is ready", func() bool { return n.Status().Ready && reachable(n)() })
			}
		})
	}
}

// A node that nobody can reach is not master, not even where nobody else may be.
func TestNotReachedIsNotMaster(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	first := c.start("a", func(c *node.Config) { c.Mastership.Eligible = new(false) })
	wait.For(t, "a is listed", func() bool { return first.Status().Providers[0].Registration.Registered() })
	addr := freeAddr(t)
	lost := c.start("b", func(c *node.Config) { c.Advertise = addr })
	wait.For(t, "b knows that it was not reached", func() bool { return lost.Status().Reach.State == node.Unreachable })
	wait.For(t, "b waits", func() bool {
		return lost.Status().Mastership.WaitingFor == "waiting for this node to be ready"
	})
	if s := lost.Status().Mastership; s.Transitions > 0 {
		t.Errorf("b was master: %+v", s)
	}
	forward(t, addr, lost.BoundAddr())
	wait.For(t, "b is master, once it was reached", lost.IsMaster)
}

// One that can reach the node will do: it is fixed by nobody but itself.
func TestReachedAfterAll(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.start("a")
	addr := freeAddr(t)
	lost := c.start("b", func(c *node.Config) { c.Advertise = addr })
	wait.For(t, "b knows that it was not reached", func() bool { return lost.Status().Reach.State == node.Unreachable })
	forward(t, addr, lost.BoundAddr())
	wait.For(t, "b was reached", reachable(lost))
	wait.For(t, "b is ready", func() bool { return lost.Status().Ready })
}

// What the last of the others said goes with it: the node would never be ready again.
func TestVerdictOfOneWhoIsGone(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(n *node.Node){
		"left":    func(n *node.Node) { n.Leave(context.Background()) },
		"crashed": func(n *node.Node) { n.Kill() },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			first := c.start("a")
			addr := freeAddr(t)
			lost := c.start("b", func(c *node.Config) { c.Advertise = addr })
			wait.For(t, "b knows that it was not reached", func() bool { return lost.Status().Reach.State == node.Unreachable })
			end(first)
			wait.For(t, "b is alone", func() bool { return lost.Status().Reach == node.Reach{State: node.ReachAlone} })
			wait.For(t, "b is ready", func() bool { return lost.Status().Ready })
		})
	}
}

// One newcomer that cannot reach a node does not take it from those that count on it while
// there are others; nobody else being there, it is believed.
func TestWordOfANewcomer(t *testing.T) {
	t.Parallel()
	for name, others := range map[string]int{"the only one": 0, "one of two": 1} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			addr := freeAddr(t)
			first := c.start("a", func(c *node.Config) { c.Advertise = addr })
			wait.For(t, "a is ready alone", func() bool { return first.Status().Ready })
			for range others {
				// It says nothing, and does not speak against a either.
				mute := c.start("mute", func(c *node.Config) { c.SetMute() })
				c.waitMembers(2, c.nodes...)
				wait.For(t, "a is ready with another", func() bool {
					return first.Status().Ready && strings.Contains(first.Status().Reach.Reason, mute.ID()+" cannot be asked")
				})
			}
			c.start("c")
			wait.For(t, "a was told by the newcomer", func() bool { return strings.Contains(first.Status().Reach.Reason, "node c cannot reach") })
			if others == 0 {
				wait.For(t, "a is not ready", func() bool { s := first.Status(); return !s.Ready && s.Reach.State == node.Unreachable })
				return
			}
			if s := first.Status(); !s.Ready || s.Reach.State != node.ReachAsking {
				t.Errorf("ready %v, %+v", s.Ready, s.Reach)
			}
		})
	}
}

// Who is named as having reached a node is there. That it was reached stands without.
func TestReachedByOneWhoIsGone(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	first := c.start("a")
	named := func(peer string) func() bool {
		return func() bool { r := first.Status().Reach; return r.State == node.Reachable && r.Peer == peer }
	}
	second := c.start("b")
	wait.For(t, "a was reached by b", named("b"))
	second.Leave(t.Context())
	wait.For(t, "b is named no longer", named(""))
	if s := first.Status(); !s.Ready {
		t.Errorf("a is not ready: %s", s.WaitingFor)
	}
	third := c.start("c")
	wait.For(t, "a was reached by c", named("c"))
	third.Kill()
	wait.For(t, "c is named no longer", named(""))
}

// Members of a version that does not know the question keep nobody from being ready.
func TestReachWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	mute := func(c *node.Config) { c.SetMute() }
	c.start("a", mute, expect(2))
	c.start("b", mute, expect(2))
	c.waitMembers(2, c.nodes...)
	for _, n := range c.nodes {
		wait.For(t, n.ID()+" is ready", func() bool { return n.Status().Ready })
		wait.For(t, n.ID()+" has asked", func() bool { return strings.Contains(n.Status().Reach.Reason, "does not serve this protocol") })
		if state := n.Status().Reach.State; state != node.ReachAsking {
			t.Errorf("%s: %s", n.ID(), state)
		}
	}
}

// The chain by which the address was found is there to be seen.
func TestStatusExplainsTheAddress(t *testing.T) {
	t.Parallel()
	n := newCluster(t).start("a")
	s := n.Status()
	if s.Explained.Err != nil || s.Explained.Addr != n.Addr() || len(s.Explained.Steps) != 3 {
		t.Fatalf("%+v", s.Explained)
	}
	if last := s.Explained.Steps[2]; last.Name != advertise.StepBind || last.Outcome != advertise.Found {
		t.Errorf("the last step is %+v", last)
	}
}

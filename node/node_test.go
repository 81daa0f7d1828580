package node_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/memory"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
)

// memberlist does not wait for its probes when it is shut down.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}

// cluster is some nodes in this process, with a provider in memory.
type cluster struct {
	t      testing.TB
	memory *memory.Server
	nodes  []*node.Node
}

func newCluster(t testing.TB) *cluster {
	return &cluster{t: t, memory: memory.New()}
}

// start starts one more node.
func (c *cluster) start(id string, change ...func(*node.Config)) *node.Node {
	c.t.Helper()
	registry := discovery.New("memory", c.memory.Driver(), discovery.Options{})
	cfg := node.Config{Cluster: "orders", NodeID: id, Bind: "127.0.0.1:0", Registries: []*discovery.Registry{registry}}
	if os.Getenv("MUSTER_TEST_LOG") != "" {
		cfg.Logger = slog.New(slog.NewTextHandler(c.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	for _, f := range change {
		f(&cfg)
	}
	n, err := node.Start(c.t.Context(), cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	c.nodes = append(c.nodes, n)
	c.t.Cleanup(func() {
		wait.Leave(c.t, n.Leave)
		if err := registry.Close(); err != nil {
			c.t.Error(err)
		}
	})
	return n
}

// waitMaster waits until the nodes agree on a master of a term above last, and
// returns the one that is.
func (c *cluster) waitMaster(last node.Term, nodes ...*node.Node) (*node.Node, node.Term) {
	c.t.Helper()
	var master *node.Node
	var term node.Term
	wait.For(c.t, fmt.Sprintf("a master of a term above %d", last), func() bool {
		master = nil
		for _, n := range nodes {
			if n.IsMaster() {
				master = n
			}
		}
		if master == nil {
			return false
		}
		for _, n := range nodes {
			m, ok := n.Master()
			if !ok || m.Term <= last || m.InstanceID != master.InstanceID() {
				return false
			}
			term = m.Term
		}
		return true
	})
	return master, term
}

func (c *cluster) waitMembers(want int, nodes ...*node.Node) {
	c.t.Helper()
	wait.For(c.t, fmt.Sprintf("%d members", want), func() bool {
		for _, n := range nodes {
			if len(n.Members()) != want {
				return false
			}
		}
		return true
	})
}

func expect(n int) func(*node.Config) {
	return func(c *node.Config) { c.Bootstrap.Expect = n }
}

// patient is for tests in which nobody fails.
func patient(c *node.Config) { c.SetPatient() }

func TestThreeNodesFormAClusterAndHandMastershipOver(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	for i := range 3 {
		c.start(fmt.Sprintf("node-%d", i), expect(3))
	}
	c.waitMembers(3, c.nodes...)
	first, term := c.waitMaster(0, c.nodes...)
	id := first.View().ClusterID
	if id == "" {
		t.Error("no cluster id")
	}

	wait.Leave(t, first.Leave)
	var rest []*node.Node
	for _, n := range c.nodes {
		if n != first {
			rest = append(rest, n)
		}
	}
	if first.IsMaster() {
		t.Error("a node that has left is master")
	}
	_, next := c.waitMaster(term, rest...)
	c.waitMembers(2, rest...)
	if next <= term {
		t.Errorf("term %d after %d", next, term)
	}
	if got := rest[0].View().ClusterID; got != id {
		t.Errorf("cluster id %q, was %q", got, id)
	}
	for _, m := range rest[0].View().Departed {
		if m.NodeID == first.ID() && m.State != "left" {
			t.Errorf("%s departed as %s, want left", m.NodeID, m.State)
		}
	}
}

func TestWhileMasterRunsOnOneNodeAtATime(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	type spell struct {
		id   string
		term node.Term
	}
	begun, ended := make(chan spell), make(chan spell)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i := range 3 {
		n := c.start(fmt.Sprintf("node-%d", i), expect(3))
		go n.WhileMaster(ctx, func(ctx context.Context, term node.Term) error {
			begun <- spell{n.ID(), term}
			<-ctx.Done()
			ended <- spell{n.ID(), term}
			return nil
		})
	}
	first := <-begun
	var resigned error
	done := make(chan struct{})
	for _, n := range c.nodes {
		if n.ID() == first.id {
			go func() { defer close(done); resigned = n.Resign(ctx) }()
		}
	}
	// The end comes first: mastership is given back only when the function is out.
	select {
	case s := <-ended:
		if s != first {
			t.Errorf("%v ended, want %v", s, first)
		}
	case s := <-begun:
		t.Fatalf("%v began before %v had ended", s, first)
	}
	second := <-begun
	if second.term <= first.term || second.id == first.id {
		t.Errorf("%v after %v, want another node in the next term", second, first)
	}
	<-done
	if resigned != nil {
		t.Error(resigned)
	}
	cancel()
	<-ended
}

func TestNoMasterWithoutTheExpectedMembers(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := c.start("a", expect(3))
	wait.For(t, "the node says what it waits for", func() bool {
		return a.Status().WaitingFor == "the cluster is not formed: waiting for a majority: sees 1 of the 2 needed"
	})
	var quorum *node.NoQuorumError
	if _, err := a.Check(); !errors.As(err, &quorum) || quorum.Have != 1 || quorum.Need != 2 {
		t.Errorf("Check: %v, want 1 of 2", err)
	}
	b := c.start("b", expect(3))
	c.waitMembers(2, a, b)
	wait.For(t, "both wait for the third", func() bool {
		return a.Status().WaitingFor == "the cluster is not formed: waiting for 3 members, sees 2"
	})
	d := c.start("d", expect(3))
	c.waitMaster(0, a, b, d)
	if _, err := a.Check(); err == nil != a.IsMaster() {
		t.Errorf("Check: %v, IsMaster: %v", err, a.IsMaster())
	}
}

func TestJoinOnlyFormsNothing(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	joiner := c.start("joiner", func(c *node.Config) { c.Bootstrap.Mode = node.JoinOnly })
	wait.For(t, "the joiner says what it waits for", func() bool {
		return joiner.Status().WaitingFor == "the cluster is not formed: waiting for an existing cluster to join, as bootstrap mode join-only demands"
	})
	founder := c.start("founder")
	c.waitMembers(2, joiner, founder)
	if m, _ := c.waitMaster(0, joiner, founder); m != founder {
		t.Errorf("%s formed the cluster", m.ID())
	}
}

func TestSingleRefusesASecondMember(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	single := func(c *node.Config) { c.Bootstrap.Mode = node.Single }
	one := c.start("one", single)
	c.waitMaster(0, one)
	two := c.start("two")
	wait.For(t, "the second was refused", func() bool {
		for _, n := range two.Status().Membership.Refused {
			if n > 0 {
				return true
			}
		}
		return false
	})
	if got := len(one.Members()); got != 1 {
		t.Errorf("%d members, want 1", got)
	}
}

func TestIneligibleNodeIsNeverMaster(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	witness := c.start("witness", func(c *node.Config) { c.Mastership.Eligible = new(false) })
	wait.For(t, "the witness has joined", func() bool { return len(witness.Members()) == 1 })
	worker := c.start("worker")
	c.waitMembers(2, witness, worker)
	if m, _ := c.waitMaster(0, witness, worker); m != worker {
		t.Errorf("%s is master", m.ID())
	}
}

func TestDuplicateNodeIDEndsTheEarlier(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	earlier := c.start("twin")
	other := c.start("other")
	c.waitMembers(2, earlier, other)
	later := c.start("twin")
	select {
	case <-earlier.Done():
	case <-time.After(wait.Patience):
		t.Fatal("the earlier twin goes on")
	}
	if err := earlier.Err(); !errors.Is(err, node.ErrDuplicateNodeID) {
		t.Errorf("Err: %v, want ErrDuplicateNodeID", err)
	}
	c.waitMembers(2, later, other)
	c.waitMaster(0, later, other)
}

func TestEventsFoldToTheView(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := c.start("a")
	members := make(map[string]bool)
	var master string
	ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
	defer cancel()
	next := make(chan struct{})
	var b *node.Node
	go func() {
		defer close(next)
		b = c.start("b", func(c *node.Config) { c.Mastership.Eligible = new(false) })
	}()
	for e := range a.Events(ctx) {
		switch e.Kind {
		case node.MemberJoined:
			members[e.Member.InstanceID] = true
		case node.MemberLeft, node.MemberFailed:
			delete(members, e.Member.InstanceID)
		case node.MasterChanged:
			if master = ""; e.Master != nil {
				master = e.Master.InstanceID
			}
		}
		if len(members) == 2 && master != "" {
			break
		}
	}
	<-next
	if !members[a.InstanceID()] || !members[b.InstanceID()] || master != a.InstanceID() {
		t.Errorf("events lead to members %v and master %q", members, master)
	}
}

func TestLargeDetailsAndAppAddrsReachEveryNode(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	addrs := make(map[string]string)
	for i := range 100 {
		addrs[fmt.Sprintf("port-%d", i)] = fmt.Sprintf("10.0.0.5:%d", 8000+i)
	}
	a := c.start("a", func(c *node.Config) { c.AppAddrs = addrs })
	b := c.start("b", func(c *node.Config) { c.Mastership.Eligible = new(false) })
	c.waitMaster(0, a, b)
	wait.For(t, "b knows the application addresses of the master", func() bool {
		m, ok := b.Master()
		return ok && len(m.AppAddrs) == len(addrs)
	})
}

func TestStartOfNothingNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	_, err := node.Start(t.Context(), node.Config{})
	if err == nil {
		t.Fatal("Start of an empty Config succeeded")
	}
	for _, want := range []string{"cluster", "provider"} {
		if !containsKey(err, want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
}

// containsKey reports whether err names the configuration key.
func containsKey(err error, key string) bool {
	return errors.As(err, new(*driver.ConfigError)) && strings.Contains(err.Error(), key+":")
}

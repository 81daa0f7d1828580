// Package nodetest runs a cluster of nodes in one process, for tests of programs that embed
// a node: real nodes, which gossip over loopback, with a provider in memory and a short TTL.
//
//	cluster := nodetest.Start(t, 3)
//	worker := run(cluster.Nodes()[0]) // the program's own code
//	cluster.Depose()                  // another node becomes master
//
// A cluster of three is formed in well under half a second.
package nodetest

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/memory"
	"github.com/musterhq/muster/node"
)

// TTL is how long a master that is cut off is missed, unless a test configures another one.
const TTL = 500 * time.Millisecond

// Patience bounds each wait of a Cluster. The test fails after it.
const Patience = 30 * time.Second

// Cluster is nodes of one process that form one cluster. Its methods fail the test where
// what they wait for does not come about within Patience. They are safe for concurrent use,
// except by goroutines that may not call Fatal of the test.
type Cluster struct {
	t        testing.TB
	provider *memory.Server

	mu      sync.Mutex
	started int
	members []*member
}

// member is a node and its own way to the provider.
type member struct {
	*node.Node
	way  memory.Faults
	left bool
}

// Option changes the configuration of each node before it is started. Those of the cluster,
// of the node's id, its port and its registry are set before.
type Option func(*node.Config)

// Start starts n nodes, node-1 to node-N, waits until each sees all others and all agree on
// a master, and returns them. They leave when the test ends. Their log is that of the test if
// it is run with -v, or fails.
func Start(t testing.TB, n int, options ...Option) *Cluster {
	t.Helper()
	c := &Cluster{t: t, provider: memory.New()}
	for range n {
		c.start(n, options)
	}
	c.Master()
	return c
}

// Provider is where the nodes are registered and what grants mastership. Use it to make the
// faults of a provider: Fail, Delay, Wipe and the like are for all nodes at once.
func (c *Cluster) Provider() *memory.Server { return c.provider }

// Nodes returns the nodes that have not left, in the order in which they were started. The
// caller may keep the slice.
func (c *Cluster) Nodes() []*node.Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	var nodes []*node.Node
	for _, m := range c.members {
		if !m.left {
			nodes = append(nodes, m.Node)
		}
	}
	return nodes
}

// Add starts one more node, and waits until all see each other.
func (c *Cluster) Add(options ...Option) *node.Node {
	c.t.Helper()
	n := c.start(0, options)
	c.Master()
	return n
}

// Master waits until every node sees all others, and all agree on a master that is one, and
// returns it.
func (c *Cluster) Master() *node.Node {
	c.t.Helper()
	return c.MasterAbove(0)
}

// MasterAbove is Master with a term above last: for the one that follows another.
func (c *Cluster) MasterAbove(last node.Term) *node.Node {
	c.t.Helper()
	deadline := time.Now().Add(Patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		master, missing := c.agreed(last)
		if master != nil {
			return master
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("nodetest: not within %v: %s", Patience, missing)
		}
		<-tick.C
	}
}

// Depose has the provider take mastership away from the master, as one does that loses the
// master's session, and returns the next master, which may be the same node in a new term.
func (c *Cluster) Depose() *node.Node {
	c.t.Helper()
	last, ok := c.Master().Master()
	if !ok {
		c.t.Fatal("nodetest: the master has just gone")
	}
	c.provider.EndMastership(clusterName)
	return c.MasterAbove(last.Term)
}

// CutOff loses every answer of the provider to n until the returned function is called.
// Where n is master, it is so for the TTL at most, and then another node is: wait for it
// with MasterAbove. Gossip goes on.
func (c *Cluster) CutOff(n *node.Node) (restore func()) {
	way := c.member(n).way
	way.Lose()
	return way.Restore
}

// Leave has n leave in good order, and waits until the others have seen it go and have a
// master.
func (c *Cluster) Leave(n *node.Node) {
	c.t.Helper()
	c.leave(n)
	if len(c.Nodes()) > 0 {
		c.Master()
	}
}

func (c *Cluster) leave(n *node.Node) {
	c.t.Helper()
	m := c.member(n)
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	if err := n.Leave(ctx); err != nil {
		c.t.Errorf("nodetest: %s: %v", n.ID(), err)
	}
	c.mu.Lock()
	m.left = true
	c.mu.Unlock()
}

const clusterName = "nodetest"

func (c *Cluster) start(expect int, options []Option) *node.Node {
	c.t.Helper()
	driver, way := c.provider.FaultyDriver()
	registry := discovery.New("memory", driver, discovery.Options{})
	c.mu.Lock()
	c.started++
	config := node.Config{
		Cluster:    clusterName,
		NodeID:     fmt.Sprintf("node-%d", c.started),
		Bind:       "127.0.0.1:0",
		Registries: []*discovery.Registry{registry},
		DataDir:    c.t.TempDir(),
		Bootstrap:  node.Bootstrap{Expect: expect},
		Mastership: node.Mastership{TTL: TTL},
		Logger:     slog.New(slog.NewTextHandler(c.t.Output(), nil)),
	}
	c.mu.Unlock()
	for _, o := range options {
		o(&config)
	}
	n, err := node.Start(c.t.Context(), config)
	if err != nil {
		registry.Close()
		c.t.Fatalf("nodetest: %s: %v", config.NodeID, err)
	}
	c.mu.Lock()
	c.members = append(c.members, &member{Node: n, way: way})
	c.mu.Unlock()
	c.t.Cleanup(func() {
		way.Restore()
		ctx, cancel := context.WithTimeout(context.Background(), Patience)
		defer cancel()
		if err := n.Leave(ctx); err != nil {
			c.t.Errorf("nodetest: %s: %v", n.ID(), err)
		}
		if err := registry.Close(); err != nil {
			c.t.Errorf("nodetest: %s: %v", n.ID(), err)
		}
	})
	return n
}

func (c *Cluster) member(n *node.Node) *member {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	at := slices.IndexFunc(c.members, func(m *member) bool { return m.Node == n })
	if at < 0 {
		c.t.Fatalf("nodetest: %s is no node of this cluster", n.ID())
	}
	return c.members[at]
}

// agreed returns the master on which all nodes agree, or what is missing.
func (c *Cluster) agreed(last node.Term) (*node.Node, string) {
	nodes := c.Nodes()
	var master *node.Node
	for _, n := range nodes {
		if seen := len(n.Members()); seen != len(nodes) {
			return nil, fmt.Sprintf("%s sees %d members, not %d", n.ID(), seen, len(nodes))
		}
		if n.IsMaster() {
			master = n
		}
	}
	if master == nil {
		return nil, "no node is master"
	}
	for _, n := range nodes {
		if m, ok := n.Master(); !ok || m.Term <= last || m.InstanceID != master.InstanceID() {
			return nil, fmt.Sprintf("%s does not know that %s is master", n.ID(), master.ID())
		}
	}
	return master, ""
}

// Restart has n leave, and starts its node again at the same address, as a fast restart does: the
// id is the same, and the instance another one. It waits until all see each other.
func (c *Cluster) Restart(n *node.Node, options ...Option) *node.Node {
	c.t.Helper()
	c.leave(n)
	return c.Add(append(slices.Clone(options), func(config *node.Config) { config.NodeID, config.Bind = n.ID(), n.Addr() })...)
}

// Alone starts a node that is in no cluster, waits until it is master, and returns it. It leaves
// when the test ends.
func Alone(t testing.TB, options ...Option) *node.Node {
	t.Helper()
	config := node.Config{Alone: true, NodeID: "node-1", Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
	for _, o := range options {
		o(&config)
	}
	n, err := node.Start(t.Context(), config)
	if err != nil {
		t.Fatalf("nodetest: %v", err)
	}
	c := &Cluster{t: t, members: []*member{{Node: n}}}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), Patience)
		defer cancel()
		if err := n.Leave(ctx); err != nil {
			t.Errorf("nodetest: %s: %v", n.ID(), err)
		}
	})
	return c.Master()
}

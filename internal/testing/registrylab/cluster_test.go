//go:build unix

package registrylab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/internal/testing/checker"
	"github.com/musterhq/muster/internal/testing/faultproxy"
	"github.com/musterhq/muster/internal/testing/snapshot"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
)

// clusterSize is how many nodes a registryCluster has.
const clusterSize = 3

// registryCluster is a cluster of nodes in this process, each with a way of its own to
// a registry that can be made to misbehave. Once it has formed, no node may ever miss
// another.
type registryCluster struct {
	t       *testing.T
	name    string
	server  registryServer
	ttl     time.Duration      // of grants and of registrations
	options discovery.Options  // of the nodes' registries
	calls   []*faultproxy.HTTP // of all nodes, for each address of the server
	direct  *discovery.Registry
	nodes   []*registryNode

	watching sync.WaitGroup
	unwatch  context.CancelFunc
	missed   atomic.Bool // a member was, on a machine that was too busy
}

// registryNode is one of its nodes.
type registryNode struct {
	*node.Node
	name    string
	ways    []*faultproxy.TCP // for each address of the server
	log     sharedLog
	history sharedLog
}

// sharedLog can be read while it is written.
type sharedLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *sharedLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *sharedLog) bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.text.Bytes())
}

// newRegistryCluster prepares the nodes and starts none.
func newRegistryCluster(t *testing.T, name string, server registryServer, ttl time.Duration) *registryCluster {
	t.Helper()
	c := &registryCluster{t: t, name: name, server: server, ttl: ttl}
	for _, addr := range server.addrs() {
		c.calls = append(c.calls, faultproxy.NewHTTP(t, addr))
	}
	c.direct = c.open(server.addrs(), discovery.Options{})
	for i := range clusterSize {
		n := &registryNode{name: fmt.Sprintf("node-%d", i+1)}
		for _, calls := range c.calls {
			n.ways = append(n.ways, faultproxy.NewTCP(t, calls.Addr()))
		}
		c.nodes = append(c.nodes, n)
	}
	return c
}

// open returns a registry at these addresses. It is closed with the test, after the
// nodes.
func (c *registryCluster) open(addrs []string, o discovery.Options) *discovery.Registry {
	c.t.Helper()
	d, err := c.server.open(addrs, c.ttl)
	if err != nil {
		c.t.Fatal(err)
	}
	r := discovery.New(c.server.provider(), d, o)
	c.t.Cleanup(func() {
		if err := r.Close(); err != nil {
			c.t.Error(err)
		}
	})
	return r
}

// start starts the nodes, and does not wait for what becomes of them.
func (c *registryCluster) start() {
	c.t.Helper()
	for _, n := range c.nodes {
		var addrs []string
		for _, way := range n.ways {
			addrs = append(addrs, way.Addr())
		}
		logger := slog.New(slog.NewJSONHandler(&n.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		options := c.options
		options.Logger = logger
		registry := c.open(addrs, options)
		var err error
		n.Node, err = node.Start(c.t.Context(), node.Config{
			Cluster:    c.name,
			NodeID:     n.name,
			Bind:       "127.0.0.1:0",
			DataDir:    c.t.TempDir(),
			Registries: []*discovery.Registry{registry},
			Bootstrap:  node.Bootstrap{Expect: clusterSize},
			Mastership: node.Mastership{TTL: c.ttl},
			Logger:     logger,
			History:    &n.history,
		})
		if err != nil {
			c.t.Fatal(err)
		}
		c.t.Cleanup(func() { c.leave(n) })
	}
}

// leave ends a node in good order, as far as the registry lets it.
func (c *registryCluster) leave(n *registryNode) {
	if c.unwatch != nil {
		if c.missed.CompareAndSwap(true, false) {
			c.everyone("sees the members again that it missed", func(s node.Status) bool { return len(s.View.Members) == clusterSize })
		}
		c.unwatch() // from here on members do leave
		c.watching.Wait()
	}
	wait.Leave(c.t, func(ctx context.Context) error {
		err := n.Leave(ctx)
		if errors.Is(err, driver.ErrUnavailable) { // a busy machine is late with its answer
			c.t.Logf("%s: %v", n.name, err)
			return nil
		}
		return err
	})
	if c.t.Failed() {
		const most = 8 << 10
		text := n.log.bytes()
		c.t.Logf("log of %s, its last part:\n%s", n.name, text[max(0, len(text)-most):])
	}
}

// form starts the nodes and waits until all is well. It returns the master.
func (c *registryCluster) form() node.Master {
	c.t.Helper()
	c.start()
	return c.well(0)
}

// well waits until the nodes agree on one master of a term above last, who agrees with
// them, and until they, and nobody else, are registered and know it. From then on
// they are watched.
func (c *registryCluster) well(last node.Term) node.Master {
	c.t.Helper()
	master := c.waitMaster(last, c.nodes...)
	c.everyone("is well", func(s node.Status) bool {
		return s.Ready && s.Providers[0].Well() && len(s.View.Members) == clusterSize && len(snapshot.Instances(s.Peers)) >= clusterSize
	})
	c.eventually("the nodes and nobody else are registered", func() bool { return slices.Equal(c.registered(), c.instances()) })
	c.watchMembers()
	return master
}

// waitMaster waits until these nodes agree on one of them as master.
func (c *registryCluster) waitMaster(last node.Term, nodes ...*registryNode) (master node.Master) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("one master of a term above %d", last), func() bool {
		stands := false
		for i, n := range nodes {
			m, ok := n.Master()
			if !ok || m.Term <= last || i > 0 && m.InstanceID != master.InstanceID {
				return false
			}
			master = m
			if token, err := n.Check(); err == nil && token.Term == m.Term && n.InstanceID() == m.InstanceID {
				stands = true
			}
		}
		return stands
	})
	return master
}

// noMaster waits until no node is master, and none takes another for it.
func (c *registryCluster) noMaster() {
	c.t.Helper()
	c.everyone("knows no master", func(s node.Status) bool { return s.View.Master == nil })
}

// everyone waits until the status of each node is as wanted.
func (c *registryCluster) everyone(what string, wanted func(node.Status) bool) {
	c.t.Helper()
	for _, n := range c.nodes {
		c.eventually(n.name+" "+what, func() bool { return wanted(n.Status()) })
	}
}

// eventually waits until done, and fails the test with what was waited for.
func (c *registryCluster) eventually(what string, done func() bool) {
	c.t.Helper()
	wait.For(c.t, what, done, c.describe)
}

// hit waits until a fault has hit so often.
func (c *registryCluster) hit(n int, faults ...*faultproxy.Hits) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), wait.Patience)
	defer cancel()
	for _, f := range faults {
		if err := f.Wait(ctx, n); err != nil {
			c.t.Fatalf("%v%s", err, c.describe())
		}
	}
}

func (c *registryCluster) describe() string {
	var b strings.Builder
	for _, n := range c.nodes {
		if n.Node == nil {
			continue
		}
		s := n.Status()
		fmt.Fprintf(&b, "\n%s: ready %v, waiting for %q, master %v, %d members, registered %v (%v), %d peers, stale %v (%v)", n.name, s.Ready, s.WaitingFor,
			s.View.Master, len(s.View.Members), s.Providers[0].Registration.Registered(), s.Providers[0].Registration.Err(), len(snapshot.Instances(s.Peers)), s.Peers.Stale, s.Peers.Err)
	}
	return b.String()
}

// instances are the ids of the nodes.
func (c *registryCluster) instances() []string {
	var ids []string
	for _, n := range c.nodes {
		ids = append(ids, n.InstanceID())
	}
	slices.Sort(ids)
	return ids
}

// registered are the ids that the registry itself lists, nil if it does not answer.
func (c *registryCluster) registered() []string {
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Second)
	defer cancel()
	s, err := c.direct.List(ctx, discovery.Query{Service: c.name})
	if err != nil {
		return nil
	}
	ids := []string{}
	for _, i := range snapshot.Instances(s) {
		ids = append(ids, i.InstanceID)
	}
	slices.Sort(ids)
	return ids
}

// starving notes when a timer of this process was late: the machine was too busy to run the
// nodes, which are in this process, and their probes of one another are late, too.
type starving struct{ last atomic.Int64 } // since began, in ns

const (
	starved = 200 * time.Millisecond // a timer that is late by this much; probes have half a second
	// suspected is how long after a late probe a member may be missed.
	suspected = 10 * time.Second
)

func (s *starving) watch(ctx context.Context) {
	const interval = 20 * time.Millisecond
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for last := clock.Now(); ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := clock.Now()
		if now.Sub(last) > interval+starved {
			s.last.Store(int64(now))
		}
		last = now
	}
}

// lately reports whether a member that is missed now may have been given no time to answer.
func (s *starving) lately() bool {
	last := clock.Instant(s.last.Load())
	return last != 0 && clock.Now().Sub(last) < suspected
}

// watchMembers fails the test if a node misses another from now on, unless the machine was too
// busy: then it has to see all again before they leave.
func (c *registryCluster) watchMembers() {
	if c.unwatch != nil {
		return
	}
	var ctx context.Context
	ctx, c.unwatch = context.WithCancel(context.Background())
	var busy starving
	c.watching.Go(func() { busy.watch(ctx) })
	for _, n := range c.nodes {
		c.watching.Go(func() {
			for view := range n.Views(ctx) {
				if len(view.Members) == clusterSize && len(view.Departed) == 0 {
					continue
				}
				if !busy.lately() {
					c.t.Errorf("%s sees %d members, and %d departed", n.name, len(view.Members), len(view.Departed))
					return
				}
				c.missed.Store(true)
				c.t.Logf("%s sees %d members, and %d departed, on a machine that is too busy", n.name, len(view.Members), len(view.Departed))
			}
		})
	}
}

// nodeOf returns the master's node, and the others.
func (c *registryCluster) nodeOf(m node.Master) (master *registryNode, others []*registryNode) {
	for _, n := range c.nodes {
		if n.InstanceID() == m.InstanceID {
			master = n
		} else {
			others = append(others, n)
		}
	}
	return master, others
}

// eachWay does something to the ways of some nodes.
func eachWay(nodes []*registryNode, do func(*faultproxy.TCP) *faultproxy.Hits) (hits []*faultproxy.Hits) {
	for _, n := range nodes {
		for _, way := range n.ways {
			hits = append(hits, do(way))
		}
	}
	return hits
}

// inject lets calls of all nodes fail.
func (c *registryCluster) inject(f faultproxy.Fault) (hits []*faultproxy.Hits) {
	for _, calls := range c.calls {
		hits = append(hits, calls.Inject(f))
	}
	return hits
}

// restore ends all faults of the proxies.
func (c *registryCluster) restore() {
	for _, calls := range c.calls {
		calls.Restore()
	}
	for _, n := range c.nodes {
		for _, way := range n.ways {
			way.Restore()
		}
	}
}

// check fails the test where the histories of the nodes show that a promise was broken.
func (c *registryCluster) check() checker.Report {
	c.t.Helper()
	var run checker.Run
	for _, n := range c.nodes {
		run.Logs = append(run.Logs, checker.ReadLog(c.t, n.name, bytes.NewReader(n.history.bytes())))
	}
	return checker.Require(c.t, run)
}

//go:build unix

package registrylab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/faultproxy"
	"github.com/musterhq/muster/internal/testing/snapshot"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/mastership"
)

// Whatever a registry does, no member is missed who runs, there is never more than one
// master, terms only rise, and there is one cluster. What depends on the registry,
// registrations and mastership, comes back by itself when it does.
//
// Each of these faults meets a cluster over each provider, by proxies before a real
// server. The harness watches the members and reads the histories of all nodes.
func TestRegistryFaults(t *testing.T) {
	t.Parallel()
	clusters := make(chan struct{}, clustersAtOnce)
	for _, row := range registryRows {
		t.Run(row.provider, func(t *testing.T) {
			t.Parallel()
			for _, fault := range registryFaults {
				t.Run(fault.name, func(t *testing.T) {
					t.Parallel()
					clusters <- struct{}{}
					t.Cleanup(func() { <-clusters })
					name := clusterName(row.provider, fault.name)
					server := row.start(t, fault.kind, name)
					if server == nil {
						t.Skipf("%s has no such thing", row.provider)
					}
					ttl := fault.ttl
					if ttl == 0 {
						ttl = briefTTL
					}
					c := newRegistryCluster(t, name, server, ttl)
					fault.run(c)
					if n := c.check().Masterships; fault.masterships > 0 && n != fault.masterships {
						t.Errorf("%d masterships, want %d", n, fault.masterships)
					}
				})
			}
		})
	}
}

// clustersAtOnce bounds the clusters of three nodes that run at a time: their TTLs are short, and
// with the race detector they need a good part of a processor each.
const clustersAtOnce = 5

// clusterName keeps the tests that share a server apart.
func clusterName(provider, fault string) string {
	return strings.ReplaceAll(provider+" "+strings.ReplaceAll(fault, ",", ""), " ", "-")
}

// briefTTL is how long grants and registrations outlive their last renewal: the least
// that etcd grants. patientTTL is longer than a fault that is to change nothing takes,
// also on a machine that does a lot else.
const (
	briefTTL   = 2 * time.Second
	patientTTL = 30 * time.Second
)

var registryFaults = []struct {
	name        string
	kind        serverKind
	ttl         time.Duration // 0: briefTTL
	masterships int           // how many there are in the end, where that is certain
	run         func(c *registryCluster)
}{
	{name: "outage shorter than the TTL", ttl: patientTTL, masterships: 1, run: shortOutage},
	{name: "slow answers", ttl: patientTTL, masterships: 1, run: slowAnswers},
	{name: "outage longer than the TTL", run: longOutage((*faultproxy.TCP).Cut)},
	{name: "silence longer than the TTL", run: longOutage(func(p *faultproxy.TCP) *faultproxy.Hits { return p.Swallow(faultproxy.Both) })},
	{name: "requests lost", run: requestsLost},
	{name: "answers lost", run: longOutage(func(p *faultproxy.TCP) *faultproxy.Hits { return p.Swallow(faultproxy.Answers) })},
	{name: "answers cut short", run: longOutage(func(p *faultproxy.TCP) *faultproxy.Hits { return p.ResetAfter(10) })},
	{name: "garbage for answers", run: longOutage((*faultproxy.TCP).Garble)},
	{name: "garbage in answers", run: garbageInAnswers},
	{name: "master cut off", run: masterCutOff},
	{name: "mastership taken away", run: mastershipTakenAway},
	{name: "calls fail", run: callsFail},
	{name: "answer to the acquire lost", run: acquireUnanswered},
	{name: "entries nobody can read", ttl: patientTTL, masterships: 1, run: unreadableEntries},
	{name: "dead entries at boot", run: deadEntries},
	{name: "down at boot", kind: ownServer, run: downAtBoot},
	{name: "killed", kind: ownServer, run: killed},
	{name: "wiped", kind: ownServer, run: wiped},
	{name: "an old backup put back", kind: ownServer, run: oldBackup},
	{name: "an old backup with another master", kind: ownServer, run: oldBackupWithAnother},
	{name: "emptied, and founded by another", kind: ownServer, run: foundedByAnother},
	{name: "compacted", kind: ownServer, run: compacted},
	{name: "access denied", kind: guardedServer, ttl: 10 * time.Second, run: accessDenied},
	{name: "leader killed", kind: replicatedServer, ttl: patientTTL, masterships: 1, run: leaderKilled},
	{name: "agent restarted", kind: besideAgent, run: agentRestarted(forgetful.restartAgent)},
	{name: "agent restarted without its state", kind: besideAgent, run: agentRestarted(forgetful.wipeAgent)},
}

// unavailable reports whether a node says that the registry fails, and still knows
// everybody.
func unavailable(s node.Status) bool {
	return s.Peers.Stale && errors.Is(s.Peers.Err, driver.ErrUnavailable) && len(snapshot.Instances(s.Peers)) >= clusterSize
}

// Nothing changes but what the nodes say of the registry.
func shortOutage(c *registryCluster) {
	first := c.form()
	master, _ := c.nodeOf(first)
	before := master.Status().Mastership.RenewalFailures
	eachWay(c.nodes, (*faultproxy.TCP).Cut)
	c.everyone("says that the registry fails", unavailable)
	c.eventually("a renewal has failed", func() bool { return master.Status().Mastership.RenewalFailures > before })
	c.restore()
	c.unchanged(first)
}

// Every answer takes its time. Nothing changes.
func slowAnswers(c *registryCluster) {
	first := c.form()
	hits := eachWay(c.nodes, func(p *faultproxy.TCP) *faultproxy.Hits { return p.Delay(faultproxy.Both, 100*time.Millisecond) })
	eachWay(c.nodes, func(p *faultproxy.TCP) *faultproxy.Hits { return p.Throttle(faultproxy.Both, 20_000) })
	c.hit(5, hits...)
	c.renewedOnce(first)
	c.restore()
	c.unchanged(first)
}

// unchanged waits until all is well, and wants the master to be the one that it was in
// the same term, and that nobody has lost a registration.
func (c *registryCluster) unchanged(first node.Master) {
	c.t.Helper()
	c.renewedOnce(first)
	if now := c.well(0); now.Term != first.Term || now.InstanceID != first.InstanceID {
		c.t.Errorf("the master is %s in term %d, and was %s in term %d", now.NodeID, now.Term, first.NodeID, first.Term)
	}
	for _, n := range c.nodes {
		if r := n.Status().Providers[0].Registration; r.Counters.SessionsOpened != 1 || r.Counters.Registrations != 1 {
			c.t.Errorf("%s has been registered again: %+v", n.name, r.Counters)
		}
	}
}

// renewedOnce waits until mastership and all registrations have been renewed once
// more.
func (c *registryCluster) renewedOnce(first node.Master) {
	c.t.Helper()
	master, _ := c.nodeOf(first)
	grants := master.Status().Mastership.Renewals
	c.eventually("mastership is renewed", func() bool { return master.Status().Mastership.Renewals > grants })
	for _, n := range c.nodes {
		renewals := func() uint64 { return n.Status().Providers[0].Registration.Counters.Renewals }
		before := renewals()
		c.eventually(n.name+" renews its registration", func() bool { return renewals() > before })
	}
}

// Nobody learns of the registry for longer than the TTL of grants and registrations.
func longOutage(begin func(*faultproxy.TCP) *faultproxy.Hits) func(*registryCluster) {
	return outage(begin, unavailable)
}

// requestsLost is one in which the registry is still heard, and tells, truly, that the
// registrations are gone.
func requestsLost(c *registryCluster) {
	outage(func(p *faultproxy.TCP) *faultproxy.Hits { return p.Swallow(faultproxy.Requests) }, func(s node.Status) bool {
		return s.Peers.Stale && errors.Is(s.Peers.Err, driver.ErrUnavailable)
	})(c)
}

func outage(begin func(*faultproxy.TCP) *faultproxy.Hits, failing func(node.Status) bool) func(*registryCluster) {
	return func(c *registryCluster) {
		c.options.ResyncInterval = 5 * time.Second // or else a watch that hears nothing is content
		first := c.form()
		eachWay(c.nodes, begin)
		c.noMaster()
		c.everyone("takes its registration to be gone", func(s node.Status) bool {
			return !s.Providers[0].Registration.Registered() && failing(s)
		})
		c.restore()
		c.again(first)
	}
}

// again waits until all is well under a master of a later term, of the same cluster.
func (c *registryCluster) again(first node.Master) node.Master {
	c.t.Helper()
	next := c.well(first.Term)
	if next.ClusterID != first.ClusterID {
		c.t.Errorf("cluster id %s in term %d, and %s in term %d", first.ClusterID, first.Term, next.ClusterID, next.Term)
	}
	return next
}

// The answers are whole, and what they say is garbage.
func garbageInAnswers(c *registryCluster) {
	c.options.ResyncInterval = 5 * time.Second // or else a watch that is sent again by itself is content
	first := c.form()
	hits := c.inject(faultproxy.Fault{Outcome: faultproxy.Garbage})
	// A watch that has begun goes on; its end makes everybody ask.
	eachWay(c.nodes, (*faultproxy.TCP).Cut)
	eachWay(c.nodes, func(p *faultproxy.TCP) *faultproxy.Hits { p.Restore(); return nil })
	c.hit(10*clusterSize, hits...)
	c.noMaster()
	c.everyone("keeps its last good set", func(s node.Status) bool { return s.Peers.Stale && len(snapshot.Instances(s.Peers)) == clusterSize })
	c.restore()
	c.again(first)
}

// The master alone cannot reach the registry. It is not master any more when another
// is, and knows of that one by the members.
func masterCutOff(c *registryCluster) {
	first := c.form()
	master, others := c.nodeOf(first)
	eachWay([]*registryNode{master}, func(p *faultproxy.TCP) *faultproxy.Hits { return p.Swallow(faultproxy.Both) })
	next := c.waitMaster(first.Term, c.nodes...)
	if next.InstanceID == first.InstanceID {
		c.t.Errorf("%s is master in term %d although it cannot have been granted it", next.NodeID, next.Term)
	}
	for _, n := range others {
		if n.Status().Peers.Stale {
			c.t.Errorf("%s says that the registry fails, which it does for %s alone", n.name, master.name)
		}
	}
	c.restore()
	if last := c.again(first); last.Term != next.Term {
		c.t.Errorf("the return of %s has ended term %d: it is term %d", master.name, next.Term, last.Term)
	}
}

// An operator ends the grant behind the master's back.
func mastershipTakenAway(c *registryCluster) {
	first := c.form()
	c.server.depose(c.t, c.name)
	c.again(first)
}

// Calls fail by chance, before or after they were carried out: from the first start on.
func callsFail(c *registryCluster) {
	refused := c.inject(faultproxy.Fault{Outcome: faultproxy.Refuse, Fraction: 0.15, Seed: 1})
	broken := c.inject(faultproxy.Fault{Outcome: faultproxy.Break, Fraction: 0.15 / 0.85, Seed: 2})
	c.start()
	first := c.waitMaster(0, c.nodes...)
	c.everyone("has met the others", func(s node.Status) bool { return len(s.View.Members) == clusterSize && s.Peers.Known })
	c.watchMembers()
	count := func() (n int) {
		for _, h := range slices.Concat(refused, broken) {
			n += h.Count()
		}
		return n
	}
	most := count() + 40
	c.eventually("more calls have failed", func() bool { return count() >= most })
	c.restore()
	if last := c.well(first.Term - 1); last.ClusterID != first.ClusterID {
		c.t.Errorf("cluster id %s at last, %s at first", last.ClusterID, first.ClusterID)
	}
}

// The first grant is made, and nobody learns of it. It is of nobody, and another
// follows it.
func acquireUnanswered(c *registryCluster) {
	// All claims, as the first one that is sent may not be the one that is granted.
	silence := faultproxy.Fault{Outcome: faultproxy.Silence, Calls: c.server.acquire()}
	if c.server.provider() == "consul" {
		// A claim that founds a cluster writes twice, and does not go on without an answer
		// to the first.
		silence.Fraction, silence.Seed = 0.5, 1
	}
	hits := c.inject(silence)
	c.start()
	c.hit(1, hits...)
	c.eventually("one of the claims is granted", func() bool { return c.server.granted(c.t, c.name) })
	c.restore()
	// A record without a lease is found again by the node that it names, and is renewed
	// before it counts; all others wait for its end.
	if first := c.well(0); first.Term < 2 && c.server.provider() == "etcd" {
		c.t.Errorf("the master has term %d, which was granted to nobody", first.Term)
	}
}

// What nobody can read is skipped and named, and costs no other entry.
func unreadableEntries(c *registryCluster) {
	entries := c.server.litter(c.t, c.name)
	first := c.form()
	skips := func(n int) {
		c.everyone(fmt.Sprintf("skips %d entries", n), func(s node.Status) bool {
			return len(s.Peers.Skipped) == n && len(snapshot.Instances(s.Peers)) == clusterSize && s.Peers.Err == nil
		})
	}
	skips(entries)
	c.unchanged(first)
}

// Many are registered who are long dead: half of them refuse connections, and half
// take them and are silent. They hold up the start by 2 s at most.
func deadEntries(c *registryCluster) {
	began := time.Now()
	before := newRegistryCluster(c.t, c.name+"-before", c.server, c.ttl)
	before.form()
	alone := time.Since(began)

	const dead = 50
	refusing, silent := faultproxy.NewTCP(c.t, "127.0.0.1:1"), faultproxy.NewTCP(c.t, "127.0.0.1:1")
	refusing.Cut()
	silent.Swallow(faultproxy.Both)
	session := c.sessionOf(time.Minute)
	for i := range dead {
		addr := refusing.Addr()
		if i%2 == 0 {
			addr = silent.Addr()
		}
		instance := discovery.Instance{Service: c.name, NodeID: fmt.Sprintf("dead-%d", i), InstanceID: fmt.Sprintf("dead-%d", i), Addr: addr}
		if err := session.Register(c.t.Context(), instance); err != nil {
			c.t.Fatal(err)
		}
	}
	began = time.Now()
	c.start()
	c.waitMaster(0, c.nodes...)
	c.everyone("has met the others", func(s node.Status) bool { return len(s.View.Members) == clusterSize })
	// One after the other the silent ones would take more than a minute. The bound is several times
	// what a start takes without them, for a machine that does something else meanwhile.
	if took := time.Since(began); took > 4*alone+8*time.Second {
		c.t.Errorf("the start took %v, and %v without dead entries", took, alone)
	}
	c.watchMembers()
}

// sessionOf opens a session past the proxies, which ends with the test.
func (c *registryCluster) sessionOf(ttl time.Duration) driver.Session {
	c.t.Helper()
	d, err := c.server.open(c.server.addrs(), ttl)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { d.Close() })
	s, err := d.(driver.Registrar).OpenSession(c.t.Context(), driver.SessionOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

// Nothing is formed without the registry, and nothing hinders that when it comes.
func downAtBoot(c *registryCluster) {
	c.server.Kill()
	c.start()
	c.everyone("says what it waits for", func(s node.Status) bool {
		return !s.Ready && strings.Contains(s.WaitingFor, c.server.provider()) && errors.Is(s.Peers.Err, driver.ErrUnavailable)
	})
	for _, n := range c.nodes {
		if m, ok := n.Master(); ok || n.View().ClusterID != "" {
			c.t.Errorf("%s is in cluster %q with master %v while the registry is down", n.name, n.View().ClusterID, m)
		}
	}
	c.server.Restart()
	c.well(0)
}

// The server is gone for longer than the TTL, and comes back with its data.
func killed(c *registryCluster) {
	first := c.form()
	c.server.Kill()
	c.noMaster()
	c.everyone("takes its registration to be gone", func(s node.Status) bool {
		return !s.Providers[0].Registration.Registered() && unavailable(s)
	})
	c.server.Restart()
	c.again(first)
}

// Nothing is left of the data: the nodes know what they need.
func wiped(c *registryCluster) {
	first := c.form()
	c.server.Wipe()
	c.server.Restart()
	c.again(first)
}

// The registry has gone back to where it was two terms ago.
func oldBackup(c *registryCluster) {
	first := c.form()
	restore := c.server.backup()
	last := c.well(first.Term - 1)
	for range 2 {
		master, _ := c.nodeOf(last)
		if err := master.Resign(c.t.Context()); err != nil {
			c.t.Fatal(err)
		}
		last = c.well(last.Term)
	}
	restore()
	c.again(last)
}

// The registry has gone back, and before the nodes meet it, one that remembers nothing is
// master in a term that was another's. They name nobody. Those that the registry has shown or
// granted the later term, the last master at least, say both terms and what to do, and are
// not ready; hearsay proves nothing. All are well again with a higher term once that one has
// gone.
func oldBackupWithAnother(c *registryCluster) {
	first := c.form()
	restore := c.server.backup()
	last := c.well(first.Term - 1)
	for range 2 {
		master, _ := c.nodeOf(last)
		if err := master.Resign(c.t.Context()); err != nil {
			c.t.Fatal(err)
		}
		last = c.well(last.Term)
	}
	eachWay(c.nodes, (*faultproxy.TCP).Cut)
	restore()
	stranger, release := c.stranger(first.ClusterID)
	if stranger.Term >= last.Term {
		c.t.Fatalf("the stranger has term %d, and the cluster had %d", stranger.Term, last.Term)
	}
	c.restore()
	grantee, _ := c.nodeOf(last)
	reported := fmt.Sprintf("node stranger at 10.9.9.9:1 as master with term %d, and this node has seen term %d of cluster %s; run muster resign on stranger",
		stranger.Term, last.Term, first.ClusterID)
	c.eventually("the last master says both terms, and is not ready", func() bool {
		s := grantee.Status()
		return !s.Ready && s.WaitingReason == mastership.WaitTerm && errors.Is(s.Mastership.Alarm, mastership.ErrTermBehind) &&
			strings.Contains(s.WaitingFor, reported) && s.View.Warning == s.WaitingFor
	})
	c.everyone("names nobody, and says why", func(s node.Status) bool {
		return s.View.Master == nil && (s.WaitingReason == mastership.WaitTerm && !s.Ready || s.WaitingReason == mastership.WaitSilent && strings.Contains(s.WaitingFor, "stranger"))
	})
	release()
	c.everyone("is ready again", func(s node.Status) bool { return s.Ready && s.Mastership.Alarm == nil })
	c.again(last)
}

// The registry is emptied while the nodes run, and before they meet it, one that remembers
// nothing founds a cluster there. They name both, take no part, and say what to do.
func foundedByAnother(c *registryCluster) {
	first := c.form()
	// What was only heard proves nothing: a node that knew its cluster by gossip alone would
	// follow the stranger.
	c.everyone("knows its cluster from the registry", func(s node.Status) bool { return s.Mastership.ClusterProven })
	eachWay(c.nodes, (*faultproxy.TCP).Cut)
	c.server.Wipe()
	c.server.Restart()
	const another = "founded-by-the-stranger"
	c.stranger(another)
	c.restore()
	c.everyone("names both clusters, and is not ready", func(s node.Status) bool {
		return !s.Ready && s.WaitingReason == mastership.WaitCluster && errors.Is(s.Mastership.Alarm, driver.ErrClusterMismatch) && s.View.Master == nil &&
			strings.Contains(s.WaitingFor, fmt.Sprintf("this node belongs to cluster %s, the authority records cluster %s; ", first.ClusterID, another)) &&
			strings.Contains(s.WaitingFor, "restore its data") && s.View.Warning == s.WaitingFor
	})
	for _, n := range c.nodes {
		if id := n.View().ClusterID; id != first.ClusterID || n.IsMaster() {
			c.t.Errorf("%s is of cluster %s, master %v", n.name, id, n.IsMaster())
		}
	}
}

// stranger is granted mastership past the proxies, as a node that remembers nothing, and
// keeps it until release is called.
func (c *registryCluster) stranger(clusterID string) (grant driver.Grant, release func()) {
	c.t.Helper()
	d, err := c.server.open(c.server.addrs(), briefTTL)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { d.Close() })
	self := driver.Holder{NodeID: "stranger", InstanceID: "stranger", Addr: "10.9.9.9:1"}
	a, err := d.(driver.Authorizer).OpenAuthority(c.t.Context(), driver.AuthorityOptions{Cluster: c.name, Self: self, TTL: briefTTL})
	if err != nil {
		c.t.Fatal(err)
	}
	c.eventually("the stranger is granted", func() bool {
		ctx, cancel := context.WithTimeout(c.t.Context(), time.Second)
		defer cancel()
		grant, err = a.Acquire(ctx, driver.Claim{Holder: self, ClusterID: clusterID, Known: true})
		return err == nil
	})
	held := grant // of the goroutine, until it has ended
	ctx, cancel := context.WithCancel(context.Background())
	var renewing sync.WaitGroup
	renewing.Go(func() {
		tick := time.NewTicker(briefTTL / 4)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if g, err := a.Renew(ctx, held); err == nil {
					held = g
				}
			case <-ctx.Done():
				return
			}
		}
	})
	end := sync.OnceFunc(func() {
		cancel()
		renewing.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), wait.Patience)
		defer cancel()
		if err := a.Release(ctx, held); err != nil {
			c.t.Error(err)
		}
		if err := a.Close(ctx); err != nil {
			c.t.Error(err)
		}
	})
	c.t.Cleanup(end)
	return grant, end
}

// While nobody can watch, the set changes and the changes are compacted away.
func compacted(c *registryCluster) {
	server, ok := c.server.(compacter)
	if !ok {
		c.t.Skip("not known to this provider")
	}
	first := c.form()
	eachWay(c.nodes, (*faultproxy.TCP).Cut)
	c.everyone("says that the registry fails", unavailable)
	session := c.sessionOf(time.Minute)
	other := discovery.Instance{Service: c.name, NodeID: "other", InstanceID: "other", Addr: "127.0.0.1:1"}
	if err := session.Register(c.t.Context(), other); err != nil {
		c.t.Fatal(err)
	}
	server.compact(c.t)
	c.restore()
	c.everyone("sees the change", func(s node.Status) bool {
		return !s.Peers.Stale && slices.ContainsFunc(snapshot.Instances(s.Peers), func(i discovery.Instance) bool { return i.InstanceID == "other" })
	})
	if err := session.Deregister(c.t.Context(), other); err != nil {
		c.t.Fatal(err)
	}
	c.well(first.Term - 1)
}

// The nodes may not look any more. That is an error, and not an empty set. They may not renew what
// they registered, either: the TTL is long enough for all of them to look before it is over.
func accessDenied(c *registryCluster) {
	server := c.server.(guarded)
	c.options.ResyncInterval = time.Second // or else a watch goes on until somebody looks
	first := c.form()
	server.deny(c.t)
	c.everyone("says that access is denied, and keeps what it knew", func(s node.Status) bool {
		return s.Peers.Stale && errors.Is(s.Peers.Err, driver.ErrDenied) && len(snapshot.Instances(s.Peers)) == clusterSize
	})
	c.noMaster()
	server.allow(c.t)
	c.again(first)
}

// Of three servers the one that leads is killed. Nobody else is to notice.
func leaderKilled(c *registryCluster) {
	first := c.form()
	c.server.(replicated).killLeader(c.t)
	c.unchanged(first)
}

// The agent by which the nodes go is restarted.
func agentRestarted(restart func(forgetful)) func(*registryCluster) {
	return func(c *registryCluster) {
		first := c.form()
		restart(c.server.(forgetful))
		before := make(map[string]uint64)
		for _, n := range c.nodes {
			before[n.name] = n.Status().Providers[0].Registration.Counters.Renewals
		}
		c.everyone("has renewed its registration with the agent as it is now", func(s node.Status) bool {
			return s.Providers[0].Registration.Counters.Renewals > before[s.NodeID]
		})
		c.well(first.Term - 1)
		if now := c.well(0); now.ClusterID != first.ClusterID {
			c.t.Errorf("cluster id %s, and %s before", now.ClusterID, first.ClusterID)
		}
	}
}

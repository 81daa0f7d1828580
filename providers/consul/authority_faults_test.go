package consul

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/internal/testserver"
	"github.com/musterhq/muster/providers/internal/grants"
)

// grantTTL is short enough to wait for, and long enough for a loaded machine.
const grantTTL = 3 * time.Second

// contest watches that no two grants are valid at once, on the clock of this host.
type contest struct {
	t     testing.TB
	until clock.Instant // when the last grant ends, as its holder counts it
	by    string
	term  driver.Term
	// overlaps are what must not be.
	overlaps []string
}

// contender is one node that wants to be master.
type contender struct {
	*contest
	name  string
	a     *authority
	grant driver.Grant
}

func (c *contest) enter(name, address string) *contender {
	c.t.Helper()
	return c.enterWith(name, Config{Address: address})
}

func (c *contest) enterWith(name string, config Config) *contender {
	c.t.Helper()
	d := open(c.t, config)
	a, err := d.OpenAuthority(c.t.Context(), driver.AuthorityOptions{Cluster: "contest", TTL: grantTTL})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = a.Close(context.Background()) })
	return &contender{contest: c, name: name, a: a.(*authority)}
}

func (n *contender) holder() driver.Holder {
	return driver.Holder{NodeID: n.name, InstanceID: n.name, Addr: "10.0.0.1:7946"}
}

// try makes one attempt, and notes what it was granted.
func (n *contender) try() error {
	began := clock.Now()
	ctx, cancel := context.WithTimeout(n.t.Context(), bound)
	defer cancel()
	g, err := n.a.Acquire(ctx, driver.Claim{Holder: n.holder(), ClusterID: "id"})
	if err != nil {
		return err
	}
	now := clock.Now()
	if n.by != n.name && now.Before(n.until) {
		n.overlaps = append(n.overlaps, fmt.Sprintf("%s was granted term %d while %s had term %d for another %v",
			n.name, g.Term, n.by, n.term, n.until.Sub(now)))
	}
	if g.Term < n.term || g.Term == n.term && n.by != n.name {
		n.overlaps = append(n.overlaps, fmt.Sprintf("%s was granted term %d after %d", n.name, g.Term, n.term))
	}
	n.grant, n.by, n.term, n.until = g, n.name, g.Term, began.Add(g.ValidFor)
	return nil
}

// mustWin tries until it is granted, and returns how long that took.
func (n *contender) mustWin() time.Duration {
	n.t.Helper()
	began := time.Now()
	eventually(n.t, n.name+" is granted", func() bool {
		err := n.try()
		if err != nil && !driver.Retryable(err) {
			n.t.Fatalf("%s: %v", n.name, err)
		}
		return err == nil
	})
	return time.Since(began)
}

func (n *contender) renew() error {
	began := clock.Now()
	ctx, cancel := context.WithTimeout(n.t.Context(), bound)
	defer cancel()
	g, err := n.a.Renew(ctx, n.grant)
	if err == nil {
		n.grant, n.until = g, began.Add(g.ValidFor)
	}
	return err
}

func (c *contest) verify() {
	c.t.Helper()
	for _, what := range c.overlaps {
		c.t.Error(what)
	}
}

// A holder that dies is succeeded when its TTL is over and not a whole TTL later: the
// catalog tells that the TTL has run out.
func TestSuccessionByTTL(t *testing.T) {
	t.Parallel()
	server := testserver.StartConsul(t)
	c := &contest{t: t}
	a, b := c.enter("a", server.Addr()), c.enter("b", server.Addr())
	a.mustWin()
	if err := a.renew(); err != nil {
		t.Fatal(err)
	}
	took := b.mustWin()
	c.verify()
	if took > 2*grantTTL {
		t.Errorf("succeeded after %v, with a TTL of %v", took, grantTTL)
	}
	if err := a.renew(); !errors.Is(err, driver.ErrSessionLost) {
		t.Errorf("the old holder's renewal: %v, want ErrSessionLost", err)
	}
}

// The agent tells the servers of a check with the token that it was registered with,
// which may be revoked when there is another. A holder that dies after that is succeeded
// as any other, and not when its session itself has run out.
func TestSuccessionAfterRotation(t *testing.T) {
	t.Parallel()
	server := testserver.StartConsul(t, testserver.WithACL())
	const rules = `
		service "muster-master" { policy = "write" }
		node_prefix "" { policy = "read" }
		session_prefix "" { policy = "write" }
		key_prefix "muster/" { policy = "write" }`
	first, second := server.AddToken(rules), server.AddToken(rules)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(first), 0o600); err != nil {
		t.Fatal(err)
	}
	c := &contest{t: t}
	a := c.enterWith("a", Config{Address: server.Addr(), TokenFile: file})
	b := c.enterWith("b", Config{Address: server.Addr(), Token: testserver.ConsulToken})
	a.mustWin()
	if err := os.WriteFile(file, []byte(second), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := a.renew(); err != nil {
		t.Fatal(err)
	}
	acl := server.Client().ACL()
	revoked, _, err := acl.TokenReadSelf(&api.QueryOptions{Token: first})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := acl.TokenDelete(revoked.AccessorID, nil); err != nil {
		t.Fatal(err)
	}
	if err := a.renew(); err != nil {
		t.Fatal(err)
	}
	took := b.mustWin()
	c.verify()
	if took > 2*grantTTL {
		t.Errorf("succeeded after %v, with a TTL of %v", took, grantTTL)
	}
}

// Whatever ends a lock before its time, the next is granted only when what its holder
// was granted is over.
func TestEarlyEnd(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		end  func(t *testing.T, server, agent *testserver.Consul, a *contender)
	}{
		{"session destroyed", func(t *testing.T, server, _ *testserver.Consul, a *contender) {
			if _, err := server.Client().Session().Destroy(a.grant.Token.(token).pulse.session, nil); err != nil {
				t.Fatal(err)
			}
		}},
		{"service deregistered", func(t *testing.T, _, agent *testserver.Consul, a *contender) {
			if err := agent.Client().Agent().ServiceDeregister(a.grant.Token.(token).pulse.id.ServiceID); err != nil {
				t.Fatal(err)
			}
		}},
		{"agent restarted with its state", func(_ *testing.T, _, agent *testserver.Consul, _ *contender) { agent.Restart() }},
		{"agent restarted without its state", func(_ *testing.T, _, agent *testserver.Consul, _ *contender) {
			agent.Wipe()
			agent.Restart()
		}},
		{"key unlocked by hand", func(t *testing.T, server, _ *testserver.Consul, a *contender) {
			kv := server.Client().KV()
			pair, _, err := kv.Get(a.a.prefix+grants.MasterKey, nil)
			if err != nil {
				t.Fatal(err)
			}
			if ok, _, err := kv.Release(&api.KVPair{Key: pair.Key, Value: pair.Value, Session: pair.Session}, nil); err != nil || !ok {
				t.Fatal(ok, err)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := testserver.StartConsul(t, testserver.WithState())
			agent := testserver.StartConsulAgent(t, server)
			c := &contest{t: t}
			a, b := c.enter("a", agent.Addr()), c.enter("b", server.Addr())
			a.mustWin()
			if err := a.renew(); err != nil {
				t.Fatal(err)
			}
			tt.end(t, server, agent, a)
			_ = a.renew() // may go on where its lock still stands
			b.mustWin()
			c.verify()
			if err := a.renew(); !errors.Is(err, driver.ErrSessionLost) && !errors.Is(err, driver.ErrUnavailable) {
				t.Errorf("the old holder's renewal: %v", err)
			}
		})
	}
}

// The contest notices who does not wait: one who is told that the lock was given back.
func TestContestNoticesImpatience(t *testing.T) {
	t.Parallel()
	server := testserver.StartConsul(t)
	c := &contest{t: t}
	a, b := c.enter("a", server.Addr()), c.enter("b", server.Addr())
	a.mustWin()
	kv := server.Client().KV()
	pair, _, err := kv.Get(a.a.prefix+grants.MasterKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	lie := master{grants.Master{Holder: a.holder(), Term: a.grant.Term}, hold{TTL: grantTTL, Released: true}}
	if ok, _, err := kv.Release(&api.KVPair{Key: pair.Key, Value: lie.encode(), Session: pair.Session}, nil); err != nil || !ok {
		t.Fatal(ok, err)
	}
	b.mustWin()
	if len(c.overlaps) == 0 {
		t.Error("two holders at once, and nobody noticed")
	}
}

// An answer that is lost to a claim which succeeded leaves no lock for longer than a
// TTL, and is found by whoever asks next.
func TestLostAnswerOfAcquire(t *testing.T) {
	t.Parallel()
	server := testserver.StartConsul(t)
	proxy := testserver.NewProxy(t, server.Addr())
	c := &contest{t: t}
	a, b := c.enter("a", proxy.Addr()), c.enter("b", server.Addr())
	a.mustWin()
	if err := a.a.Release(t.Context(), a.grant); err != nil {
		t.Fatal(err)
	}
	c.until = 0
	for range 3 {
		proxy.Mute()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		_, err := a.a.Acquire(ctx, driver.Claim{Holder: a.holder(), ClusterID: "id"})
		cancel()
		if err == nil {
			t.Fatal("granted by an authority that does not answer")
		}
		proxy.Restore()
	}
	b.mustWin()
	c.verify()
	if err := b.a.Release(t.Context(), b.grant); err != nil {
		t.Fatal(err)
	}
	c.until = 0
	a.mustWin()
	c.verify()
}

// The store forgets, or goes back in time: terms rise all the same for those who
// remember the highest, and the cluster keeps its id.
func TestStoreForgets(t *testing.T) {
	t.Parallel()
	server := testserver.StartConsul(t)
	c := &contest{t: t}
	a := c.enter("a", server.Addr())
	a.mustWin()
	backup := server.Backup()
	for range 3 {
		if err := a.a.Release(t.Context(), a.grant); err != nil {
			t.Fatal(err)
		}
		a.mustWin()
	}
	highest := a.grant.Term
	claim := driver.Claim{Holder: a.holder(), MinTerm: highest, ClusterID: "id", Known: true}
	for _, forget := range []func(){
		func() { server.RestoreBackup(backup) },
		func() { server.Wipe(); server.Restart() },
	} {
		forget()
		var g driver.Grant
		eventually(t, "a grant", func() (ok bool) {
			var err error
			g, err = a.a.Acquire(within(t), claim)
			return err == nil
		})
		if g.Term <= highest || g.ClusterID != "id" {
			t.Errorf("granted %+v, want a term above %d and the same cluster", g, highest)
		}
		if err := a.a.Release(t.Context(), g); err != nil {
			t.Fatal(err)
		}
	}
}

// A server that leads dies: the holder goes on, or is succeeded after its time.
func TestLeaderKilled(t *testing.T) {
	t.Parallel()
	servers := testserver.StartConsulCluster(t, 3)
	agent := testserver.StartConsulAgent(t, servers[0])
	c := &contest{t: t}
	a, b := c.enter("a", agent.Addr()), c.enter("b", agent.Addr())
	a.mustWin()
	for _, s := range servers {
		if s.IsLeader() {
			s.Kill()
			break
		}
	}
	lost := false
	eventually(t, "one is master again", func() bool {
		err := a.renew()
		lost = lost || errors.Is(err, driver.ErrSessionLost)
		return err == nil || lost && b.try() == nil
	})
	c.verify()
}

package consul

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/secret"
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
	known bool // it knows the cluster, and the last term
}

func (c *contest) enter(name, address string) *contender {
	c.t.Helper()
	return c.enterWith(name, Config{Address: address})
}

func (c *contest) enterWith(name string, config Config) *contender {
	c.t.Helper()
	d := open(c.t, config)
	d.longestGrant = 2 * grantTTL
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
	ctx, cancel := context.WithTimeout(n.t.Context(), wait.Patience)
	defer cancel()
	claim := driver.Claim{Holder: n.holder(), ClusterID: "id", Known: n.known}
	if n.known {
		claim.MinTerm = n.term
	}
	g, err := n.a.Acquire(ctx, claim)
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
	wait.For(n.t, n.name+" is granted", func() bool {
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
	ctx, cancel := context.WithTimeout(n.t.Context(), wait.Patience)
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

// A holder that dies is succeeded when its TTL is over and not a whole TTL later.
func TestSuccessionByTTL(t *testing.T) {
	t.Parallel()
	// A machine with a lot else to do is late now and then, and not each time.
	var all []time.Duration
	for len(all) < 3 && !t.Failed() {
		t.Run(fmt.Sprint(len(all)+1), func(t *testing.T) {
			server := testserver.LendConsul(t)
			c := &contest{t: t}
			a, b := c.enter("a", server.Addr()), c.enter("b", server.Addr())
			a.mustWin()
			if err := b.try(); !errors.Is(err, driver.ErrConflict) { // and has seen the grant
				t.Fatal(err)
			}
			if err := a.renew(); err != nil {
				t.Fatal(err)
			}
			all = append(all, b.mustWin())
			c.verify()
			if err := a.renew(); !errors.Is(err, driver.ErrSessionLost) {
				t.Errorf("the old holder's renewal: %v, want ErrSessionLost", err)
			}
		})
		if len(all) > 0 && all[len(all)-1] <= 2*grantTTL {
			return
		}
	}
	t.Errorf("succeeded after %v, with a TTL of %v", all, grantTTL)
}

// A mastership is one key, and a number beside it: nothing of it is in the catalog, and no session
// is made. The permission to write the keys is all that it wants.
func TestOneKey(t *testing.T) {
	t.Parallel()
	server := testserver.StartConsul(t, testserver.WithACL())
	token := secret.String(server.AddToken(`key_prefix "muster/" { policy = "write" }`))
	c := &contest{t: t}
	a := c.enterWith("a", Config{Address: server.Addr(), Token: token})
	if err := a.a.CheckClaimPermission(wait.Context(t)); err != nil {
		t.Errorf("check of a permission: %v", err)
	}
	a.mustWin()
	if err := a.renew(); err != nil {
		t.Fatal(err)
	}
	client := server.Client()
	keys, _, err := client.KV().Keys("", "", nil)
	if want := []string{"muster/v1/clusters/contest/longest-ttl/mastership", "muster/v1/clusters/contest/mastership"}; err != nil || !slices.Equal(keys, want) {
		t.Errorf("the keys are %q, %v, want %q", keys, err, want)
	}
	services, _, err := client.Catalog().Services(nil)
	if err != nil || len(services) != 1 {
		t.Errorf("the services are %v, %v", services, err)
	}
	sessions, _, err := client.Session().List(nil)
	if err != nil || len(sessions) != 0 {
		t.Errorf("the sessions are %v, %v", sessions, err)
	}
	if err := a.a.Release(wait.Context(t), a.grant); err != nil {
		t.Fatal(err)
	}
}

// What others do to the record while a master has a grant: nobody is granted before that
// has expired.
func TestRecordChangedByHand(t *testing.T) {
	t.Parallel()
	key := newKeys(DefaultPrefix).root + "clusters/contest/mastership"
	put := func(t *testing.T, server *testserver.Consul, value string) {
		t.Helper()
		if _, err := server.Client().KV().Put(&api.KVPair{Key: key, Value: []byte(value)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name   string
		change func(t *testing.T, server *testserver.Consul, before *api.KVPair)
		keeps  bool // the holder keeps its grant
		reset  bool // an operator has to put it right
	}{
		{"deleted", func(t *testing.T, server *testserver.Consul, _ *api.KVPair) {
			if _, err := server.Client().KV().Delete(key, nil); err != nil {
				t.Fatal(err)
			}
		}, false, false},
		{"written again as it was", func(t *testing.T, server *testserver.Consul, before *api.KVPair) {
			put(t, server, string(before.Value))
		}, true, false},
		{"garbage", func(t *testing.T, server *testserver.Consul, _ *api.KVPair) { put(t, server, "garbage") }, false, true},
		{"a term out of bounds", func(t *testing.T, server *testserver.Consul, before *api.KVPair) {
			put(t, server, strings.Replace(string(before.Value), `"term":1,`, `"term":18446744073709551615,`, 1))
		}, false, true},
		{"a ttl of a year", func(t *testing.T, server *testserver.Consul, before *api.KVPair) {
			put(t, server, strings.Replace(string(before.Value), `"ttl_ns":3000000000`, `"ttl_ns":31536000000000000`, 1))
		}, false, true},
		{"a service id in it", func(t *testing.T, server *testserver.Consul, before *api.KVPair) {
			put(t, server, strings.Replace(string(before.Value), `{`, `{"pulse":{"service_id":"victim"},"service_id":"victim",`, 1))
		}, true, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server := testserver.LendConsul(t)
			if err := server.Client().Agent().ServiceRegister(&api.AgentServiceRegistration{ID: "victim", Name: "victim"}); err != nil {
				t.Fatal(err)
			}
			c := &contest{t: t}
			a, b := c.enter("a", server.Addr()), c.enter("b", server.Addr())
			a.mustWin()
			b.known, a.known = true, true
			if err := b.try(); !errors.Is(err, driver.ErrConflict) {
				t.Fatal(err)
			}
			before, _, err := server.Client().KV().Get(key, nil)
			if err != nil {
				t.Fatal(err)
			}
			test.change(t, server, before)
			err = a.renew()
			if test.keeps != (err == nil) {
				t.Errorf("the holder's renewal: %v, want kept %v", err, test.keeps)
			}
			if test.reset {
				b.mustReset()
			} else {
				b.mustWin()
			}
			c.verify()
			if services, err := server.Client().Agent().Services(); err != nil || services["victim"] == nil {
				t.Errorf("a service that the record named is gone: %v, %v", services, err)
			}
		})
	}
}

// mustReset wants the record to be unreadable: nobody is granted, and the alarm says why.
// An operator resets it.
func (n *contender) mustReset() {
	n.t.Helper()
	time.Sleep(time.Until(time.Now().Add(n.until.Sub(clock.Now())))) // the operator makes sure that nobody is master
	if err := n.try(); !errors.Is(err, driver.ErrInvalid) {
		n.t.Fatalf("a claim over what cannot be read: %v", err)
	}
	for m, err := range n.a.Observe(n.t.Context()) {
		if err != nil || m.Holder != nil || !strings.Contains(m.Warning, "contest/mastership holds") {
			n.t.Errorf("observed: %+v, %v, want a warning", m, err)
		}
		break
	}
	o := driver.ResetOptions{ClusterID: "another", Term: n.term}
	if _, err := n.a.Reset(wait.Context(n.t), o); !errors.Is(err, driver.ErrConflict) {
		n.t.Errorf("a reset without force: %v", err)
	}
	o.Force = true
	if _, err := n.a.Reset(wait.Context(n.t), o); err != nil {
		n.t.Fatal(err)
	}
	last := n.term
	n.known = false
	n.mustWin()
	if n.grant.Term <= last || n.grant.ClusterID != "another" {
		n.t.Errorf("after the reset %+v is granted", n.grant)
	}
}

// An answer that is lost to a claim which succeeded leaves a grant for no longer than a
// TTL, and is found by the next claim.
func TestLostAnswerOfAcquire(t *testing.T) {
	t.Parallel()
	server := testserver.LendConsul(t)
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

// The store forgets, or goes back in time: nobody is granted for as long as somebody may
// count on a grant that is forgotten. Terms rise all the same for those who remember the
// highest, and the cluster keeps its id.
func TestStoreForgets(t *testing.T) {
	t.Parallel()
	for name, forget := range map[string]func(server *testserver.Consul, backup []byte){
		"restored": func(server *testserver.Consul, backup []byte) { server.RestoreBackup(backup) },
		"emptied":  func(server *testserver.Consul, _ []byte) { server.Wipe(); server.Restart() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := testserver.StartConsul(t)
			c := &contest{t: t}
			a, b := c.enter("a", server.Addr()), c.enter("b", server.Addr())
			a.mustWin()
			backup := server.Backup()
			for range 3 {
				if err := a.a.Release(wait.Context(t), a.grant); err != nil {
					t.Fatal(err)
				}
				c.until = 0
				a.mustWin()
			}
			a.known, b.known = true, true
			if err := b.try(); !errors.Is(err, driver.ErrConflict) {
				t.Fatal(err)
			}
			highest := c.term
			forget(server, backup)
			b.mustWin()
			c.verify()
			if c.term <= highest+1000 || b.grant.ClusterID != "id" {
				t.Errorf("granted %+v, want a term a block above %d and the same cluster", b.grant, highest)
			}
		})
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
	wait.For(t, "one is master again", func() bool {
		err := a.renew()
		lost = lost || errors.Is(err, driver.ErrSessionLost)
		return err == nil || lost && b.try() == nil
	})
	c.verify()
}

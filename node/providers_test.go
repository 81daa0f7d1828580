package node_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/memory"
	"github.com/musterhq/muster/internal/testing/snapshot"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/mastership"
)

// stores are providers in memory by name.
type stores map[string]*memory.Server

func newStores(names ...string) stores {
	s := make(stores)
	for _, name := range names {
		s[name] = memory.New()
	}
	return s
}

// use has a node use the named providers, of which authority grants.
func (s stores) use(t testing.TB, authority string, names ...string) func(*node.Config) {
	return func(c *node.Config) {
		c.Registries = nil
		for _, name := range names {
			r := discovery.New(name, s[name].Driver(), discovery.Options{PollInterval: 200 * time.Millisecond})
			t.Cleanup(func() {
				if err := r.Close(); err != nil {
					t.Error(err)
				}
			})
			c.Registries = append(c.Registries, r)
		}
		if authority != "" {
			c.Mastership.Authority = strings.Split(authority, ",")
		}
	}
}

// lists reports which nodes a provider lists.
func (s stores) lists(t testing.TB, name string) map[string]bool {
	t.Helper()
	d := s[name].Driver()
	defer d.Close()
	snapshot, err := d.List(t.Context(), driver.Query{Service: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	nodes := make(map[string]bool)
	for _, i := range snapshot.Instances {
		nodes[i.NodeID] = true
	}
	return nodes
}

func (s stores) waitListed(t testing.TB, name string, nodes ...string) {
	t.Helper()
	wait.For(t, fmt.Sprintf("%s lists %v alone", name, nodes), func() bool {
		listed := s.lists(t, name)
		for _, n := range nodes {
			if !listed[n] {
				return false
			}
		}
		return len(listed) == len(nodes)
	})
}

// providerOf is what a node says of one of its providers.
func providerOf(t testing.TB, n *node.Node, name string) node.Provider {
	t.Helper()
	for _, p := range n.Status().Providers {
		if p.Name == name {
			return p
		}
	}
	t.Fatalf("%s says nothing of provider %s", n.ID(), name)
	return node.Provider{}
}

var errDown = fmt.Errorf("%w: connection refused", driver.ErrUnavailable)

// A node is registered with every provider and finds its peers through any. One that
// fails removes no member and is reported; what is lost in each is put back.
func TestSeveralProviders(t *testing.T) {
	t.Parallel()
	s := newStores("a", "b")
	c := newCluster(t)
	// They are found by one provider, by the other, or by both.
	one := c.start("one", s.use(t, "a", "a"))
	c.waitMaster(0, one)
	two := c.start("two", s.use(t, "a", "b", "a"))
	three := c.start("three", s.use(t, "", "b"), func(c *node.Config) { c.Mastership.Eligible = new(false) })
	c.waitMembers(3, one, two, three)
	s.waitListed(t, "a", "one", "two")
	s.waitListed(t, "b", "two", "three")

	status := two.Status()
	if len(status.Providers) != 2 || status.Providers[0].Name != "a" || !status.Providers[0].Authority || status.Providers[1].Authority {
		t.Errorf("providers %+v, want a first, which grants", status.Providers)
	}
	wait.For(t, "two knows the three of them, and is ready", func() bool {
		status := two.Status() // it is ready once it has learned who is master, too
		return status.Ready && len(snapshot.Instances(status.Peers)) == 3 && providerOf(t, two, "a").Well() && providerOf(t, two, "b").Well()
	})

	s["b"].Fail(errDown)
	wait.For(t, "two says that b fails", func() bool {
		p := providerOf(t, two, "b")
		return p.Peers.Stale && !p.Well() && two.Status().Peers.Stale
	})
	if status := two.Status(); !providerOf(t, two, "a").Well() || !status.Ready || len(snapshot.Instances(status.Peers)) != 3 || len(two.Members()) != 3 {
		t.Errorf("one of two providers fails, and ready is %v, %d peers are known, %d members seen",
			status.Ready, len(snapshot.Instances(status.Peers)), len(two.Members()))
	}
	s["b"].Wipe()
	s["b"].Fail(nil)
	s["a"].ExpireSessions()
	s.waitListed(t, "a", "one", "two")
	s.waitListed(t, "b", "two", "three")
	wait.For(t, "all is well again", func() bool {
		return providerOf(t, two, "a").Well() && providerOf(t, two, "b").Well() && !two.Status().Peers.Stale
	})
	if n := len(two.Members()); n != 3 {
		t.Errorf("%d members", n)
	}
}

// A provider that is down at boot, even if it grants mastership, keeps nobody
// from the others.
func TestOneProviderIsEnoughToJoin(t *testing.T) {
	t.Parallel()
	s := newStores("a", "b")
	c := newCluster(t)
	one := c.start("one", s.use(t, "a", "a", "b"))
	c.waitMaster(0, one)
	s["a"].Fail(errDown)
	two := c.start("two", s.use(t, "a", "a", "b"))
	c.waitMembers(2, one, two)
	wait.For(t, "two is ready by b, and waits for a to have a master", func() bool {
		status := two.Status()
		return status.Ready && !providerOf(t, two, "a").Peers.Known && (status.View.Master != nil || strings.Contains(status.WaitingFor, "authority"))
	})
	s["a"].Fail(nil)
	c.waitMaster(0, one, two)
	s.waitListed(t, "a", "one", "two")
}

func TestNoProviderAtAll(t *testing.T) {
	t.Parallel()
	s := newStores("a", "b")
	for _, m := range s {
		m.Fail(errDown)
	}
	c := newCluster(t)
	n := c.start("one", s.use(t, "a", "b", "a"))
	wait.For(t, "the node names both providers", func() bool {
		status := n.Status()
		return !status.Ready && strings.Contains(status.WaitingFor, "waiting for provider a: ") && strings.Contains(status.WaitingFor, "waiting for provider b: ")
	})
	s["b"].Fail(nil)
	wait.For(t, "the node has joined by b", func() bool {
		return strings.HasPrefix(n.Status().WaitingFor, "the cluster is not formed: ")
	})
	s["a"].Fail(nil)
	c.waitMaster(0, n)
}

// The registrations are taken away all at once: one provider that hangs costs the
// others nothing.
func TestLeaveDeregistersEverywhere(t *testing.T) {
	t.Parallel()
	s := newStores("a", "b", "d")
	c := newCluster(t)
	n := c.start("one", s.use(t, "b", "a", "b", "d"))
	c.waitMaster(0, n)
	for name := range s {
		s.waitListed(t, name, "one")
	}
	s["a"].Delay(time.Hour)
	ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
	defer cancel()
	left := make(chan error, 1)
	go func() { left <- n.Leave(ctx) }()
	s.waitListed(t, "b")
	s.waitListed(t, "d")
	select {
	case <-n.Done():
		t.Error("it did not wait for the provider that hangs")
	default:
	}
	err := <-left
	if err == nil || !strings.Contains(err.Error(), "provider a") || strings.Contains(err.Error(), "provider b") {
		t.Errorf("Leave: %v, want a reported", err)
	}
	s["a"].Delay(0)
	s["a"].ExpireSessions()
}

// Nodes that are granted mastership by different providers could both be master. They
// notice, stand no more, and say so; a master that stands stays.
func TestDiscordKeepsBothFromStanding(t *testing.T) {
	t.Parallel()
	s := newStores("a", "b")
	c := newCluster(t)
	one := c.start("one", patient, s.use(t, "a", "a", "b"))
	_, term := c.waitMaster(0, one)
	two := c.start("two", patient, s.use(t, "b", "a", "b"))
	c.waitMembers(2, one, two)
	for n, want := range map[*node.Node]string{
		one: `mastership.authority is "a" here and "b" at two`,
		two: `mastership.authority is "b" here and "a" at one`,
	} {
		wait.For(t, n.ID()+" warns", func() bool { return strings.HasPrefix(n.View().Warning, want) })
	}
	if !one.IsMaster() {
		t.Error("the master was driven away")
	}
	// On a busy machine the grant may have to end by itself.
	if err := one.Resign(t.Context()); err != nil && !errors.Is(err, mastership.ErrDrainTimeout) {
		t.Fatal(err)
	}
	wait.For(t, "both say why there is no master", func() bool {
		for _, n := range c.nodes {
			if n.IsMaster() {
				t.Fatalf("%s is master", n.ID())
			}
			if _, known := n.Master(); known || !strings.HasPrefix(n.Status().WaitingFor, "mastership.authority is ") {
				return false
			}
		}
		return true
	})
	wait.Leave(t, one.Leave)
	if _, next := c.waitMaster(term, two); next <= term {
		t.Errorf("term %d after %d", next, term)
	}
	if w := two.View().Warning; w != "" {
		t.Errorf("a warning stays: %s", w)
	}
}

// Where two authorities are named, a master needs both, and shuts out those who are
// granted by either alone.
func TestBothMustGrant(t *testing.T) {
	t.Parallel()
	s := newStores("a", "b")
	ttl := func(c *node.Config) { c.Mastership.TTL = 500 * time.Millisecond }
	c := newCluster(t)
	both := c.start("both", s.use(t, "b,a", "a", "b"), ttl)
	_, term := c.waitMaster(0, both)
	if got := both.View().Self().Authorities; strings.Join(got, ",") != "a,b" {
		t.Errorf("the members are told that %v grant", got)
	}
	for _, p := range both.Status().Providers {
		if !p.Authority {
			t.Errorf("provider %s is said not to grant", p.Name)
		}
	}
	alone := c.start("alone", s.use(t, "b", "a", "b"), ttl)
	c.waitMembers(2, both, alone)
	c.waitMaster(term-1, both, alone) // and no member reports a conflict
	if w := both.View().Warning + alone.View().Warning; w != "" {
		t.Errorf("warned of %q", w)
	}
	s["a"].Fail(errDown)
	wait.For(t, "who needs both is master no more, and the other is", func() bool { return !both.IsMaster() && alone.IsMaster() })
	s["a"].Fail(nil)
	wait.Leave(t, alone.Leave)
	c.waitMaster(term+1, both)
}

func TestAuthorityOfSeveralProviders(t *testing.T) {
	t.Parallel()
	s := newStores("a", "b", "d")
	mute := func(c *node.Config) { // b publishes and grants nothing
		r := discovery.New("mute", struct{ driver.Driver }{s["b"].Driver()}, discovery.Options{})
		t.Cleanup(func() { r.Close() })
		c.Registries = append(c.Registries, r)
	}
	for name, test := range map[string]struct {
		change []func(*node.Config)
		want   string
	}{
		"none named":    {[]func(*node.Config){s.use(t, "", "b", "a")}, `mastership.authority: "": missing: with several providers it names the one that grants mastership; write a or b`},
		"unknown":       {[]func(*node.Config){s.use(t, "d", "a", "b")}, `mastership.authority: "d": no such provider is configured; write a or b`},
		"unknown alone": {[]func(*node.Config){s.use(t, "d", "a")}, `mastership.authority: "d": no such provider is configured; write a or leave it out`},
		"three":         {[]func(*node.Config){s.use(t, "a,b,d", "a", "b", "d")}, `mastership.authority: "a,b,d": more than two; `},
		"twice":         {[]func(*node.Config){s.use(t, "a,a", "a", "b")}, `mastership.authority: "a,a": named twice; write it once`},
		"cannot grant":  {[]func(*node.Config){s.use(t, "mute", "a"), mute}, `mastership.authority: "mute": it grants no mastership (`},
		"one name":      {[]func(*node.Config){s.use(t, "a", "a", "a")}, `provider: "a,a": two of them have one name; give each its own`},
		"none":          {nil, `provider: "": missing; open a registry with a provider and add it to Registries`},
		"a nil one": {[]func(*node.Config){s.use(t, "a", "a"), func(c *node.Config) { c.Registries = append(c.Registries, nil) }},
			`provider: "": missing; open a registry with a provider and add it to Registries`},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := node.Config{Cluster: "orders", NodeID: "one", Bind: "127.0.0.1:0"}
			for _, change := range test.change {
				change(&cfg)
			}
			_, err := node.Start(t.Context(), cfg)
			var bad *driver.ConfigError
			if !errors.As(err, &bad) || !strings.HasPrefix(bad.Error(), test.want) {
				t.Errorf("Start: %v, want %s", err, test.want)
			}
		})
	}
}

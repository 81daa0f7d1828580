package authorities

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/discovery/discoverytest"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/memory"
)

// openMemory returns the authority of one node over a provider in memory.
func openMemory(t testing.TB, m *memory.Server, cluster string, self driver.Holder, ttl time.Duration) driver.Authority {
	t.Helper()
	a, err := m.Driver().(driver.Authorizer).OpenAuthority(t.Context(), driver.AuthorityOptions{Cluster: cluster, Self: self, TTL: ttl})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Two authorities that grant together keep the contract of one.
func TestRequireBothConformance(t *testing.T) {
	discoverytest.RunAuthority(t, func(t testing.TB) discoverytest.Harness {
		a, b := memory.New(), memory.New()
		nodes := 0
		return discoverytest.Harness{
			Open: func(testing.TB) driver.Driver { return a.Driver() },
			OpenAuthorities: func(t testing.TB, cluster string, ttls []time.Duration) []discoverytest.Candidate {
				var all []discoverytest.Candidate
				for _, ttl := range ttls {
					nodes++
					self := driver.Holder{NodeID: fmt.Sprint("node-", nodes), InstanceID: fmt.Sprint("instance-", nodes), Addr: "10.0.0.1:7946"}
					all = append(all, discoverytest.Candidate{Holder: self, Authority: RequireBoth(
						Named{"b", openMemory(t, b, cluster, self, ttl)},
						Named{"a", openMemory(t, a, cluster, self, ttl)},
					)})
				}
				return all
			},
			Stop:  func(testing.TB) { b.Fail(driver.ErrUnavailable) },
			Start: func(testing.TB) { b.Fail(nil) },
			Delay: func(_ testing.TB, d time.Duration) { a.Delay(d) },
			// The suite's own, as short as a loaded machine allows.
			GrantTTL: time.Second,
		}
	})
}

// The terms of the two are brought level, above whatever either has granted, and a
// grant is valid for as long as both grants are.
func TestRequireBothGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memory.New(), memory.New()
		other := driver.Holder{NodeID: "other", InstanceID: "other"}
		self := driver.Holder{NodeID: "self", InstanceID: "self"}
		grant := func(m *memory.Server, term driver.Term) {
			x := openMemory(t, m, "c", other, time.Second)
			g, err := x.Acquire(t.Context(), driver.Claim{Holder: other, MinTerm: term - 1, ClusterID: "id"})
			if err != nil || g.Term != term {
				t.Fatalf("term %d: %+v, %v", term, g, err)
			}
			if err := x.Release(t.Context(), g); err != nil {
				t.Fatal(err)
			}
		}
		grant(a, 7)
		grant(b, 12)
		j := RequireBoth(Named{"a", openMemory(t, a, "c", self, 5*time.Second)}, Named{"b", openMemory(t, b, "c", self, 3*time.Second)})
		g, err := j.Acquire(t.Context(), driver.Claim{Holder: self, ClusterID: "fresh"})
		if err != nil || g.Term <= 12 || g.ValidFor != 3*time.Second || g.ClusterID != "id" {
			t.Fatalf("granted %+v, %v; want a term above 12, 3s and the recorded id", g, err)
		}
		for name, m := range map[string]*memory.Server{"a": a, "b": b} {
			now, err := Named{name, openMemory(t, m, "c", other, time.Second)}.now(t.Context())
			if err != nil || now.Term != g.Term || now.Holder == nil || now.Holder.InstanceID != "self" {
				t.Errorf("%s has %+v, %v; want term %d of self", name, now, err, g.Term)
			}
		}
		if err := j.Release(t.Context(), g); err != nil {
			t.Fatal(err)
		}

		// Refused by the second, it does not keep the first.
		blocked, err := openMemory(t, b, "c", other, time.Minute).Acquire(t.Context(), driver.Claim{Holder: other, ClusterID: "id"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := j.Acquire(t.Context(), driver.Claim{Holder: self}); !errors.Is(err, driver.ErrConflict) {
			t.Fatalf("Acquire while %s is held by another: %v", "b", err)
		}
		if now, err := (Named{"a", openMemory(t, a, "c", other, time.Second)}).now(t.Context()); err != nil || now.Holder != nil {
			t.Errorf("a is left with %+v, %v", now, err)
		}
		// Who sees that takes the holder of the second for the master.
		if now, err := (Named{"a,b", j}).now(t.Context()); err != nil || now.Holder == nil || now.Holder.InstanceID != "other" || now.Term < blocked.Term {
			t.Errorf("together they show %+v, %v; want other", now, err)
		}
	})
}

// Who finds the second held by another leaves the first alone: its term would rise above
// that of a master who stands.
func TestRequireBothLeavesTheFirstAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memory.New(), memory.New()
		other, self := driver.Holder{NodeID: "other", InstanceID: "other"}, driver.Holder{NodeID: "self", InstanceID: "self"}
		if _, err := openMemory(t, b, "c", other, time.Minute).Acquire(t.Context(), driver.Claim{Holder: other, ClusterID: "id"}); err != nil {
			t.Fatal(err)
		}
		j := RequireBoth(Named{"a", openMemory(t, a, "c", self, time.Minute)}, Named{"b", openMemory(t, b, "c", self, time.Minute)})
		if _, err := j.Acquire(t.Context(), driver.Claim{Holder: self}); !errors.Is(err, driver.ErrConflict) {
			t.Errorf("Acquire = %v, want ErrConflict", err)
		}
		if now, err := (Named{"a", openMemory(t, a, "c", self, time.Second)}).now(t.Context()); err != nil || now.Term != 0 {
			t.Errorf("a is left with %+v, %v; want it untouched", now, err)
		}
	})
}

// What two authorities show together is never a holder with a term that it was not
// granted.
func TestRequireBothShowsWhatWasGranted(t *testing.T) {
	x, y := &driver.Holder{InstanceID: "x"}, &driver.Holder{InstanceID: "y"}
	for _, tt := range []struct {
		name          string
		first, second driver.Mastership
		holder        *driver.Holder
		term          driver.Term
		partial       bool
	}{
		{"nobody", driver.Mastership{Term: 5}, driver.Mastership{Term: 5}, nil, 5, false},
		{"nobody, and one counts further", driver.Mastership{Term: 3}, driver.Mastership{Term: 5}, nil, 5, true},
		{"one holds both", driver.Mastership{Term: 5, Holder: x}, driver.Mastership{Term: 5, Holder: x}, x, 5, false},
		{"one brings them level, from the first", driver.Mastership{Term: 4, Holder: x}, driver.Mastership{Term: 5, Holder: x}, x, 5, true},
		{"one brings them level, from the second", driver.Mastership{Term: 6, Holder: x}, driver.Mastership{Term: 5, Holder: x}, x, 6, true},
		{"the first alone", driver.Mastership{Term: 4, Holder: x}, driver.Mastership{Term: 9}, x, 4, true},
		{"the second alone", driver.Mastership{Term: 9}, driver.Mastership{Term: 4, Holder: y}, y, 4, false},
		{"another tries the first", driver.Mastership{Term: 6, Holder: x}, driver.Mastership{Term: 5, Holder: y}, y, 5, false},
	} {
		if have := merge(tt.first, tt.second); have.Holder != tt.holder || have.Term != tt.term || have.Partial != tt.partial {
			t.Errorf("%s: %+v with term %d, partial: %v, want %+v with %d, %v", tt.name, have.Holder, have.Term, have.Partial, tt.holder, tt.term, tt.partial)
		}
	}
}

// A node that either blocks takes no part, and what either says of voters is passed on.
func TestRequireBothIsBlockedByEither(t *testing.T) {
	one := driver.Mastership{Blocked: "why", Voter: "a:1"}
	for _, have := range []driver.Mastership{merge(one, driver.Mastership{}), merge(driver.Mastership{}, one)} {
		if have.Blocked != one.Blocked || have.BlockedBy != one.BlockedBy || have.Voter != one.Voter {
			t.Errorf("together they show %+v", have)
		}
	}
}

func TestRequireBothRefusesTwoClusters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memory.New(), memory.New()
		self := driver.Holder{NodeID: "self", InstanceID: "self"}
		for m, id := range map[*memory.Server]string{a: "one", b: "two"} {
			x := openMemory(t, m, "c", self, time.Second)
			g, err := x.Acquire(t.Context(), driver.Claim{Holder: self, ClusterID: id})
			if err != nil {
				t.Fatal(err)
			}
			if err := x.Release(t.Context(), g); err != nil {
				t.Fatal(err)
			}
		}
		j := RequireBoth(Named{"a", openMemory(t, a, "c", self, time.Second)}, Named{"b", openMemory(t, b, "c", self, time.Second)})
		if _, err := j.Acquire(t.Context(), driver.Claim{Holder: self, ClusterID: "one", Known: true}); !errors.Is(err, driver.ErrClusterMismatch) {
			t.Fatalf("Acquire = %v, want a mismatch", err)
		}
	})
}

// mover is one node of a cluster that moves from one authority to another.
type mover struct {
	name      string
	starts    int
	holder    driver.Holder
	authority driver.Authority
	grant     driver.Grant
	until     time.Time // of the grant, as its holder counts it
}

// TestRequireBothMove moves clusters from one authority to another while answers are lost,
// authorities fail and processes die, and holds that no two grants are ever valid at
// once and that terms rise. It is no test unless it finds the two masters of those who
// skip the middle step.
func TestRequireBothMove(t *testing.T) {
	const seeds = 300
	skipped := 0
	for seed := range uint64(seeds) {
		synctest.Test(t, func(t *testing.T) {
			if err := moveCluster(t, seed, true); err != nil {
				t.Errorf("seed %d: %v", seed, err)
			}
		})
		synctest.Test(t, func(t *testing.T) {
			if moveCluster(t, seed, false) != nil {
				skipped++
			}
		})
	}
	if skipped == 0 {
		t.Errorf("in %d runs without the middle step nothing went wrong", seeds)
	}
	t.Logf("without the middle step %d of %d runs went wrong", skipped, seeds)
}

func moveCluster(t *testing.T, seed uint64, byWayOfBoth bool) error {
	random := rand.New(rand.NewPCG(seed, 1))
	stores := map[string]*memory.Server{"a": memory.New(), "b": memory.New()}
	ttls := map[string]time.Duration{"a": 3 * time.Second, "b": 2 * time.Second}
	steps := [][]string{{"a"}, {"a", "b"}, {"b"}}
	if !byWayOfBoth {
		steps = [][]string{{"a"}, {"b"}}
	}
	restart := func(n *mover, step []string) {
		n.starts++
		n.holder = driver.Holder{NodeID: n.name, InstanceID: fmt.Sprint(n.name, "-", n.starts)}
		n.grant, n.until = driver.Grant{}, time.Time{} // a process that ends is no master
		var named []Named
		for _, name := range step {
			named = append(named, Named{name, openMemory(t, stores[name], "c", n.holder, ttls[name])})
		}
		n.authority = named[0].Authority
		if len(named) == 2 {
			n.authority = RequireBoth(named[1], named[0])
		}
	}
	var nodes []*mover
	for i := range 3 {
		nodes = append(nodes, &mover{name: fmt.Sprint("n", i)})
	}
	var term driver.Term
	grants := 0
	var id, last string // of the cluster, and of who was granted last
	// act has one node do what a node does. It is master once act has returned.
	act := func(n *mover) error {
		if n.authority == nil {
			return nil // not started yet
		}
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if began.Before(n.until) {
			if random.IntN(8) == 0 {
				n.until = time.Time{}
				_ = n.authority.Release(ctx, n.grant)
				return nil
			}
			g, err := n.authority.Renew(ctx, n.grant)
			if err == nil {
				n.grant, n.until = g, began.Add(g.ValidFor)
			}
			return nil
		}
		g, err := n.authority.Acquire(ctx, driver.Claim{Holder: n.holder, ClusterID: "id-" + n.holder.InstanceID})
		if err != nil || time.Since(began) >= g.ValidFor {
			return nil
		}
		for _, o := range nodes {
			if o != n && time.Now().Before(o.until) {
				return fmt.Errorf("%s was granted term %d while %s has term %d for another %v",
					n.holder.InstanceID, g.Term, o.holder.InstanceID, o.grant.Term, time.Until(o.until))
			}
		}
		if again := g.Term == term && last == n.holder.InstanceID; g.Term <= term && !again {
			return fmt.Errorf("%s was granted term %d after %d", n.holder.InstanceID, g.Term, term)
		}
		if id != "" && g.ClusterID != id {
			return fmt.Errorf("%s was granted cluster id %q after %q", n.holder.InstanceID, g.ClusterID, id)
		}
		grants++
		n.grant, n.until, term, id, last = g, began.Add(g.ValidFor), g.Term, g.ClusterID, n.holder.InstanceID
		return nil
	}
	// live lets some time pass with faults.
	live := func(rounds int) error {
		for range rounds {
			store := stores[[]string{"a", "b"}[random.IntN(2)]]
			switch random.IntN(10) {
			case 0:
				store.LoseResponses(true)
			case 1:
				store.Fail(driver.ErrUnavailable)
			case 2:
				store.Delay(time.Duration(random.IntN(900)) * time.Millisecond)
			default:
				store.LoseResponses(false)
				store.Fail(nil)
				store.Delay(0)
			}
			time.Sleep(time.Duration(random.IntN(600)) * time.Millisecond)
			if err := act(nodes[random.IntN(len(nodes))]); err != nil {
				return err
			}
		}
		return nil
	}
	for _, step := range steps {
		for _, n := range nodes { // a rolling change
			restart(n, step)
			if err := live(10); err != nil {
				return err
			}
		}
		// The next step wants a master of this one.
		for _, store := range stores {
			store.LoseResponses(false)
			store.Fail(nil)
			store.Delay(0)
		}
		before := grants
		for deadline := time.Now().Add(time.Minute); grants == before; {
			if time.Now().After(deadline) {
				return fmt.Errorf("no master in step %v", step)
			}
			time.Sleep(300 * time.Millisecond)
			for _, n := range nodes {
				n.until = time.Time{}
				if err := act(n); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// orderAuthority notes who is asked.
type orderAuthority struct {
	driver.Authority
	name  string
	asked *[]string
}

func (o orderAuthority) Observe(context.Context) iter.Seq2[driver.Mastership, error] {
	return func(yield func(driver.Mastership, error) bool) { yield(driver.Mastership{}, nil) }
}

func (o orderAuthority) Acquire(_ context.Context, c driver.Claim) (driver.Grant, error) {
	*o.asked = append(*o.asked, o.name)
	return driver.Grant{Term: c.MinTerm + 1, ClusterID: c.ClusterID, ValidFor: 10 * time.Second}, nil
}

// All nodes ask in one order, whatever the order of their configuration: two that hold one
// grant each
// would keep each other out.
func TestRequireBothAsksInOneOrder(t *testing.T) {
	for _, names := range [][2]string{{"a", "b"}, {"b", "a"}} {
		var asked []string
		one := Named{names[0], orderAuthority{name: names[0], asked: &asked}}
		two := Named{names[1], orderAuthority{name: names[1], asked: &asked}}
		if _, err := RequireBoth(one, two).Acquire(t.Context(), driver.Claim{Holder: driver.Holder{InstanceID: "x"}, ClusterID: "c"}); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(asked, " "); got != "a b" {
			t.Errorf("RequireBoth(%s, %s) asks %s, want a b", names[0], names[1], got)
		}
	}
}

// provingAuthority proves each grant by its name and a count, and keeps what it learns.
type provingAuthority struct {
	driver.Authority
	name    string
	grants  int
	learned []string
}

func (p *provingAuthority) Observe(context.Context) iter.Seq2[driver.Mastership, error] {
	return func(yield func(driver.Mastership, error) bool) { yield(driver.Mastership{}, nil) }
}

func (p *provingAuthority) Acquire(_ context.Context, c driver.Claim) (driver.Grant, error) {
	p.grants++
	return driver.Grant{Term: c.MinTerm + 1, ClusterID: c.ClusterID, ValidFor: time.Second, Proof: fmt.Sprint(p.name, p.grants)}, nil
}

func (p *provingAuthority) Renew(_ context.Context, g driver.Grant) (driver.Grant, error) {
	p.grants++
	g.Proof = fmt.Sprint(p.name, p.grants)
	return g, nil
}

func (p *provingAuthority) Learn(proof string) { p.learned = append(p.learned, proof) }

// Each of the two proves its renewals, and is told what proves those of others in it: of what it is
// told, the latest counts.
func TestBothProve(t *testing.T) {
	first, second := &provingAuthority{name: "a"}, &provingAuthority{name: "b"}
	both := RequireBoth(Named{"a", first}, Named{"b", second})
	g, err := both.Acquire(t.Context(), driver.Claim{Holder: driver.Holder{InstanceID: "x"}, ClusterID: "c"})
	if err != nil || g.Proof != "a1 b1" {
		t.Fatalf("acquired: %+v, %v", g, err)
	}
	if g, err = both.Renew(t.Context(), g); err != nil || g.Proof != "a2 b2" {
		t.Fatalf("renewed: %+v, %v", g, err)
	}
	both.(driver.Learner).Learn(g.Proof)
	both.(driver.Learner).Learn("alone") // of a node that uses one of them
	for _, half := range []*provingAuthority{first, second} {
		if got, want := strings.Join(half.learned, " "), half.name+"2 alone"; got != want {
			t.Errorf("%s is told %q, want %q", half.name, got, want)
		}
	}
}

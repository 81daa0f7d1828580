package quorum

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/providers/static/internal/votelease"
	"github.com/musterhq/muster/providers/static/internal/voter"
)

// opened starts n voters on which nobody but the test claims, and waits until the first
// is granted.
func opened(t *testing.T, n int, ttl time.Duration) (*cluster, *Authority, driver.Grant) {
	t.Helper()
	c := newCluster(t, n)
	c.ttl = ttl
	for _, p := range c.nodes {
		if err := p.open(); err != nil {
			t.Fatal(err)
		}
	}
	a := c.nodes[0].auth
	var g driver.Grant
	c.eventually("a grant", func() (ok bool) {
		var err error
		g, err = a.Acquire(ask(t), driver.Claim{Holder: c.nodes[0].holder(), ClusterID: "id"})
		return err == nil
	})
	return c, a, g
}

// TestLateReleaseOfAnEarlierTerm: a grant that the same holder has replaced can be neither
// renewed nor given back, which would end what protects the later one.
func TestLateReleaseOfAnEarlierTerm(t *testing.T) {
	t.Parallel()
	c, a, first := opened(t, 1, 5*time.Second)
	second, err := a.Acquire(ask(t), driver.Claim{Holder: c.nodes[0].holder(), ClusterID: "id", MinTerm: first.Term})
	if err != nil || second.Term <= first.Term {
		t.Fatalf("the second Acquire returned %+v, %v", second, err)
	}
	if _, err := a.Renew(ask(t), first); !errors.Is(err, driver.ErrSessionLost) {
		t.Errorf("Renew of the first term returned %v", err)
	}
	if err := a.Release(ask(t), first); err != nil {
		t.Errorf("Release of the first term returned %v", err)
	}
	if left := a.voter.Leases.Remaining(); left <= 0 {
		t.Error("the late release revoked the leases of the second term")
	}
	if !a.granted() {
		t.Error("the late release had the voter forget the second grant")
	}
	if _, err := a.Renew(ask(t), second); err != nil {
		t.Errorf("Renew of the second term returned %v", err)
	}
	if h := a.voter.Status().Holder; h == nil {
		t.Error("the late release struck out the second claim")
	}
}

// TestValidNoLongerThanLeased: a grant counted from before its call never outlives the
// leases that it depends on.
func TestValidNoLongerThanLeased(t *testing.T) {
	t.Parallel()
	c, a, _ := opened(t, 1, 5*time.Second)
	for range 5 {
		began := clock.Now()
		g, err := a.Acquire(ask(t), driver.Claim{Holder: c.nodes[0].holder(), ClusterID: "id", MinTerm: a.voter.Status().Term})
		leased := clock.Now().Add(a.voter.Leases.Remaining())
		if err != nil {
			t.Fatal(err)
		}
		if until := began.Add(g.ValidFor); leased.Before(until) {
			t.Errorf("a grant is valid for %v longer than the leases", until.Sub(leased))
		}
		began = clock.Now()
		g, err = a.Renew(ask(t), g)
		leased = clock.Now().Add(a.voter.Leases.Remaining())
		if err != nil {
			t.Fatal(err)
		}
		if until := began.Add(g.ValidFor); leased.Before(until) {
			t.Errorf("a renewal is valid for %v longer than the leases", until.Sub(leased))
		}
	}
}

// TestLeaseIsBoundedByTheVoter: a voter gives no longer lease than it keeps quiet for after a
// restart, and says so.
func TestLeaseIsBoundedByTheVoter(t *testing.T) {
	t.Parallel()
	c, a, _ := opened(t, 1, 2*time.Second)
	p := c.nodes[0]
	m := a.voter.Member()
	term, _ := m.Leading()
	reply := m.Leases.Answer(votelease.Request{To: p.addr, Leader: p.addr, Start: a.voter.Leases.Start, RaftTerm: term, Round: a.voter.Leases.NextRound(), For: time.Hour})
	if left := a.voter.Leases.Remaining(); !reply.Given || reply.For > p.c.ttl || left > p.c.ttl || left <= 0 {
		t.Errorf("asked for an hour, it says %+v and gave %v", reply, left)
	}
}

// TestMixedTTLs: the leader's TTL is longer than that of the voters, who give no longer leases
// than their own: the grant is no longer than the shortest of a majority, whichever answers
// first, and as long as the lead was waited for.
func TestMixedTTLs(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	const short, long = time.Second, 3 * time.Second
	for i, p := range c.nodes {
		ttl := short
		if i == 0 {
			ttl = long
		}
		p.tweak = func(cfg *voter.Config) { cfg.TTL = ttl }
		if err := p.open(); err != nil {
			t.Fatal(err)
		}
	}
	a := c.nodes[0].auth
	var g driver.Grant
	c.eventually("a grant", func() (ok bool) {
		began := clock.Now()
		var err error
		g, err = a.Acquire(ask(t), driver.Claim{Holder: c.nodes[0].holder(), ClusterID: "id"})
		if waited := clock.Now().Sub(began); err == nil && g.ValidFor > short+waited {
			t.Errorf("after %v a grant is valid for %v, and the leases last %v", waited, g.ValidFor, short)
		}
		return err == nil
	})
	for range 10 {
		var err error
		if g, err = a.Renew(ask(t), g); err != nil {
			t.Fatal(err)
		}
		if g.ValidFor > short {
			t.Fatalf("a renewal is valid for %v, and the leases last %v", g.ValidFor, short)
		}
	}
}

// TestPauseBetweenChanges: two changes of the voters are two leases apart, so that those
// that a majority of the configuration before the first gave have ended.
func TestPauseBetweenChanges(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.ttl = 5 * time.Second
	all := c.addrs()
	c.setList(all[:1]...)
	for _, p := range c.nodes {
		if err := p.open(); err != nil {
			t.Fatal(err)
		}
	}
	a := c.nodes[0].auth
	servers := func() int { return len(a.voter.Status().Servers) }
	c.eventually("a leader", func() bool { return a.voter.KnownLeader() != "" && servers() == 1 })
	c.setList(all[:2]...)
	c.eventually("the second voter", func() bool { return servers() == 2 })
	began := clock.Now()
	c.setList(all...)
	c.eventually("the third voter", func() bool { return servers() == 3 })
	// The first change was seen up to a look late, and was made before it was noted.
	if took := clock.Now().Sub(began); took < 2*c.ttl-50*time.Millisecond {
		t.Errorf("the changes are %v apart, want %v", took, 2*c.ttl)
	}
}

// TestCutLeaderAnswersNoRead: a leader that was cut from the others a moment ago cannot know
// whether another leads already, long before it steps down.
func TestCutLeaderAnswersNoRead(t *testing.T) {
	t.Parallel()
	c, m := formed(t, 3)
	c.put(m, "k", "v")
	m = c.master()
	if got := c.get(m, "k"); got != "v" {
		t.Fatalf("Get returned %q", got)
	}
	c.net.Cut([]string{m.addr}, c.addrs(), true)
	began := time.Now()
	for time.Since(began) < 300*time.Millisecond {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		if r, err := m.auth.Get(ctx, "k"); err == nil {
			t.Errorf("%v after it was cut off it answers %q", time.Since(began), r.Value)
		}
		if r, err := m.auth.Records(ctx, ""); err == nil {
			t.Errorf("%v after it was cut off it lists %d records", time.Since(began), len(r))
		}
		cancel()
	}
	c.net.Heal()
}

// TestAcknowledgedRecordOutlivesItsLeader: the leader goes right after it has acknowledged a
// record. The next one holds it before it answers anything.
func TestAcknowledgedRecordOutlivesItsLeader(t *testing.T) {
	t.Parallel()
	c, m := formed(t, 3)
	for i := range 4 {
		key := fmt.Sprint("k", i)
		c.eventually("an acknowledged record", func() bool {
			m = c.master()
			_, err := m.auth.Set(ask(t), key, []byte("v"), 0)
			return err == nil
		})
		rest := c.others(m)
		m.crash()
		c.eventually("an answer", func() bool {
			for _, p := range rest {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				r, err := p.auth.Get(ctx, key)
				cancel()
				if errors.Is(err, driver.ErrNotFound) {
					t.Fatalf("%s has no record %s", p.name, key)
				}
				if err == nil {
					return string(r.Value) == "v"
				}
			}
			return false
		})
		m.start()
		c.voting()
	}
}

// TestReplayedListIsNoDifference: a voter that is far behind finds the lists of long ago in
// its log, and does not warn of what is no difference any more.
func TestReplayedListIsNoDifference(t *testing.T) {
	t.Parallel()
	c, m := formed(t, 3)
	follower := c.others(m)[0]
	f := follower.auth.voter.Member()
	if _, leads := f.Leading(); leads {
		t.Fatal("the follower leads")
	}
	c.eventually("sight of the leader", func() bool { return len(voter.InForce(follower.auth.voter.PeerStatuses(), f)) == 3 })
	// To a list of two others the log of the follower differs. Whether the voters in force
	// do, the leader knows.
	other := []string{"x:1", "y:1"}
	if w := voter.ListWarnings(other, nil, f); len(w) > 0 {
		t.Errorf("without the leader's word it warns: %v", w)
	}
	peers := follower.auth.voter.PeerStatuses()
	if w := voter.ListWarnings(other, peers, f); len(w) != 2 || !strings.Contains(w[1], "differs by 5 from the voters in force") {
		t.Errorf("with the leader's word it warns: %v", w)
	}
	leader := m.auth.voter.Member()
	if w := voter.ListWarnings(other, peers, leader); len(w) != 2 {
		t.Errorf("the leader warns: %v", w)
	}
}

// TestClaimThatWasGivenBack: the claim of a grant that was given back is still recorded for a
// while. It neither renews that grant nor makes the next one out of it, and is removed in the end.
func TestClaimThatWasGivenBack(t *testing.T) {
	t.Parallel()
	c, a, first := opened(t, 1, 5*time.Second)
	claim := driver.Claim{Holder: c.nodes[0].holder(), ClusterID: "id"}
	recorded := func() *driver.Holder { return a.voter.Member().State.Mastership().Holder }
	if err := a.Release(ask(t), first); err != nil {
		t.Fatal(err)
	}
	if h := a.voter.Status().Holder; h != nil {
		t.Errorf("after the release %v is still known as the holder", h)
	}
	if _, err := a.Renew(ask(t), first); !errors.Is(err, driver.ErrSessionLost) {
		t.Errorf("Renew of what was given back returned %v", err)
	}
	second, err := a.Acquire(ask(t), claim)
	if err != nil || second.Term <= first.Term {
		t.Fatalf("after the release of term %d Acquire returned %+v, %v", first.Term, second, err)
	}
	if _, err := a.Renew(ask(t), second); err != nil {
		t.Errorf("Renew of the second grant returned %v", err)
	}
	if err := a.Release(ask(t), second); err != nil {
		t.Fatal(err)
	}
	c.eventually("the removal of the claim", func() bool { return recorded() == nil })
}

// TestForgedReleaseEndsNoGrant: a message which says that all terms were given back neither ends a
// grant of this node nor keeps it from the next one.
func TestForgedReleaseEndsNoGrant(t *testing.T) {
	t.Parallel()
	c, a, g := opened(t, 1, 5*time.Second)
	m := a.voter.Member()
	m.Leases.Answer(votelease.Request{To: m.ID, Leader: "x:1", Start: "forged", RaftTerm: 1, Round: 1, Withdraw: true, Released: math.MaxUint64})
	for range 2 {
		if _, err := a.Renew(ask(t), g); err != nil {
			t.Fatalf("Renew of term %d returned %v", g.Term, err)
		}
		if err := a.Release(ask(t), g); err != nil {
			t.Fatal(err)
		}
		var err error
		if g, err = a.Acquire(ask(t), driver.Claim{Holder: c.nodes[0].holder(), ClusterID: "id"}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestClaimThatIsBeingRemoved: a claim that has expired is not granted again while its removal is
// under way.
func TestClaimThatIsBeingRemoved(t *testing.T) {
	t.Parallel()
	c, a, g := opened(t, 1, 5*time.Second)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for range 10 {
		a.mu.Lock()
		a.grantUntil, a.wanted = 0, 0
		a.mu.Unlock()
		a.expireClaim(ended, a.voter.Member()) // it does not wait for the disk
		next, err := a.Acquire(ask(t), driver.Claim{Holder: c.nodes[0].holder(), ClusterID: "id"})
		if err != nil || next.Term <= g.Term {
			t.Fatalf("after term %d was removed Acquire returned %+v, %v", g.Term, next, err)
		}
		if g, err = a.Renew(ask(t), next); err != nil {
			t.Fatalf("Renew of term %d returned %v", next.Term, err)
		}
	}
}

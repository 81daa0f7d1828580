package discoverytest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

func authorityClauses() []clause {
	return []clause{
		{"authority/one_master", "while a grant is valid no other holder is granted, however many try at once", authorityOneMaster},
		{"authority/conflict", "where another holder stands Acquire returns ErrConflict and changes nothing", authorityConflict},
		{"authority/terms_rise", "the granted term is higher than every earlier one", authorityTermsRise},
		{"authority/min_term", "the granted term is higher than Claim.MinTerm", authorityMinTerm},
		{"authority/found_again", "a lost response grants nothing that is forgotten: the next Acquire by the same instance finds the grant and returns it", authorityFoundAgain},
		{"authority/lost_responses", "whatever became of the calls that were given up on, the same instance is granted mastership, or another once it has expired", authorityLostResponses},
		{"authority/expiry", "a grant that is not renewed ends after its TTL, and nobody else is granted before Grant.ValidFor has passed since the call was sent", authorityExpiry},
		{"authority/renew", "Renew extends the grant and keeps its term", authorityRenew},
		{"authority/renew_after_loss", "Renew returns ErrSessionLost if the grant is known to be over", authorityRenewAfterLoss},
		{"authority/release", "Release gives the grant back so that another can be granted at once", authorityRelease},
		{"authority/late_release", "Release changes nothing if the grant is over", authorityLateRelease},
		{"authority/later_release", "Release changes nothing if the grant is over, also if another was granted since and the holder again", authorityLaterRelease},
		{"authority/renumbered", "a grant is over when its instance is granted a higher term: then its Renew returns ErrSessionLost and its Release changes nothing", authorityRenumbered},
		{"authority/old_reading", "the term is raised in the same atomic step that grants: whatever others do while an Acquire is under way, no two grants have one term, and none is given while another is valid", authorityOldReading},
		{"authority/mixed_ttls", "a grant is valid for Grant.ValidFor whatever the TTL of others: nobody with a shorter one is granted sooner, and nobody with a longer one waits for its own", authorityMixedTTLs},
		{"authority/early_end", "while a grant is valid no other holder is granted, even if the provider has ended it before its time, and has done so before", authorityEarlyEnd},
		{"authority/found_validity", "a grant that Acquire finds is valid for Grant.ValidFor since that call was sent", authorityFoundValidity},
		{"authority/lost_answer", "a grant whose answer was lost is found by the next Acquire, and what that returns is valid for no longer than the provider keeps it", authorityLostAnswer},
		{"authority/learned", "Grant.Proof is a new one with each renewal, and what a Learner is handed, forged, late or repeated, makes nobody be granted sooner, and keeps nobody from being granted", authorityLearned},
		{"authority/close", "Close gives nothing back: nobody else is granted before the grant has expired", authorityClose},
		{"authority/closed", "after the Close of an authority its other methods fail with ErrClosed, those of its Store too", authorityClosed},
		{"authority/closed_driver", "after the Close of a driver OpenAuthority fails with ErrClosed, and so do the methods of its authorities", authorityClosedDriver},
		{"authority/cluster_id", "the cluster id is the recorded one; where none is recorded the claimed one becomes it in the step that grants", authorityClusterID},
		{"authority/cluster_mismatch", "where the recorded cluster id differs from a known one, Acquire returns ErrClusterMismatch", authorityClusterMismatch},
		{"authority/observe", "Observe yields the state now and after each change: the holder with its term, and the vacancy", authorityObserve},
		{"authority/whole", "Partial is not said of a term that was granted as a whole", authorityWhole},
		{"authority/observe_cancelled", "Observe ends with its context", authorityObserveCancelled},
		{"authority/cancelled", "every method honours its context: a call with a cancelled one returns promptly with its error", authorityCancelled},
		{"authority/clusters", "the masterships of two clusters have nothing to do with each other, even if one's name is the other's prefix", authorityClusters},
		{"authority/outage", "without the provider nothing is granted and no grant is known to be over; terms rise over the outage", authorityOutage},
	}
}

const cluster = "suite"

// candidates opens the authority of a cluster for n nodes.
func (k *check) candidates(cluster string, n int, ttl time.Duration) []Candidate {
	k.Helper()
	if ttl > k.GrantTTL {
		k.found(cluster)
	}
	return k.mixed(cluster, slices.Repeat([]time.Duration{ttl}, n)...)
}

// found has the first term of a cluster granted, without a cluster id. If there is no
// record an authority may wait for as long as a grant of its TTL is valid, since it cannot
// know whether one was lost, and that should not be a long one. A harness that opens the
// authorities itself has others each time.
func (k *check) found(cluster string) {
	k.Helper()
	if k.OpenAuthorities != nil {
		return
	}
	c := k.candidate(k.open(), cluster, 99, k.GrantTTL)
	for deadline := time.Now().Add(k.Patience); ; k.sleep(pollEvery) {
		g, err := c.Authority.Acquire(k.ctx(), driver.Claim{Holder: c.Holder})
		if err == nil {
			k.must("Release", func(ctx context.Context) error { return c.Authority.Release(ctx, g) })
			return
		}
		if time.Now().After(deadline) {
			k.broken("after %v the first claim of a cluster is answered by %v", k.Patience, err)
		}
	}
}

// mixed opens the authority of a cluster for one node for each TTL.
func (k *check) mixed(cluster string, ttls ...time.Duration) []Candidate {
	k.Helper()
	if k.OpenAuthorities == nil {
		var cs []Candidate
		for i, ttl := range ttls {
			cs = append(cs, k.candidate(k.open(), cluster, i, ttl))
		}
		return cs
	}
	cs := k.OpenAuthorities(k, cluster, ttls)
	if len(cs) != len(ttls) {
		k.Fatalf("OpenAuthorities returned %d candidates, want %d", len(cs), len(ttls))
	}
	for _, c := range cs {
		k.closing(c)
	}
	return cs
}

// candidate opens the authority of a cluster on d, for the n-th node.
func (k *check) candidate(d driver.Driver, cluster string, n int, ttl time.Duration) Candidate {
	k.Helper()
	a, ok := d.(driver.Authorizer)
	if !ok {
		k.Skipf("%T is no driver.Authorizer", d)
	}
	in := instance(cluster, n)
	h := driver.Holder{NodeID: in.NodeID, InstanceID: in.InstanceID, Addr: in.Addr, AppAddrs: map[string]string{"http": "10.0.0.5:8080"}}
	authority, err := a.OpenAuthority(k.ctx(), driver.AuthorityOptions{
		Cluster: cluster, Self: h, TTL: ttl, DataDir: k.TempDir(), Logger: slog.New(slog.DiscardHandler),
	})
	if errors.Is(err, driver.ErrUnsupported) {
		k.Skipf("OpenAuthority: %v", err)
	}
	if err != nil {
		k.Fatalf("clause %q: OpenAuthority: %v", k.clause.name, err)
	}
	c := Candidate{Authority: authority, Holder: h}
	k.closing(c)
	return c
}

// closing has the authority of c closed when the clause ends.
func (k *check) closing(c Candidate) {
	k.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), k.Patience)
		defer cancel()
		if err := c.Authority.Close(ctx); err != nil {
			k.Errorf("Close of the authority of %s: %v", c.Holder.NodeID, err)
		}
	})
}

// mastership is a grant and who has it.
type mastership struct {
	Candidate
	grant driver.Grant
	// sent is from before the call that granted or last renewed.
	sent time.Time
}

func (m mastership) until() time.Time { return m.sent.Add(m.grant.ValidFor) }

// clockSlack is what two readings of one machine's clock may disagree by with a
// provider that counts in coarse ticks.
const clockSlack = 20 * time.Millisecond

// try makes one attempt to be granted. It returns false if another stands or
// the provider is unavailable, and ends the clause on what is no such answer.
func (k *check) try(ctx context.Context, c Candidate, claim driver.Claim) (mastership, bool) {
	k.Helper()
	claim.Holder = c.Holder
	if claim.ClusterID == "" {
		claim.ClusterID = "cluster-of-" + c.Holder.NodeID
	}
	m := mastership{Candidate: c, sent: time.Now()}
	var err error
	m.grant, err = c.Authority.Acquire(ctx, claim)
	switch {
	case err == nil:
		if m.grant.Term == 0 || m.grant.ValidFor <= 0 || m.grant.ClusterID == "" {
			k.broken("the grant %+v lacks a term, a validity or a cluster id", m.grant)
		}
		return m, true
	case errors.Is(err, driver.ErrClusterMismatch), !errors.Is(err, driver.ErrConflict) && !errors.Is(err, driver.ErrSessionLost) && !unavailable(err):
		k.broken("Acquire returned %v", err)
	}
	return m, false
}

// first waits for the first grant of a cluster. A provider may have to form before it, so this
// may take longer than one that is to come soon.
func (k *check) first(claim driver.Claim, cs ...Candidate) mastership {
	k.Helper()
	return k.acquireWithin(3*k.Patience, "the start", claim, cs...)
}

// acquire lets candidates try in turn until one is granted. Which of them an
// authority prefers is its own affair.
func (k *check) acquire(why string, claim driver.Claim, cs ...Candidate) mastership {
	k.Helper()
	return k.acquireWithin(k.Patience, why, claim, cs...)
}

func (k *check) acquireWithin(bound time.Duration, why string, claim driver.Claim, cs ...Candidate) mastership {
	k.Helper()
	deadline := time.Now().Add(bound)
	for {
		for _, c := range cs {
			ctx, cancel := context.WithTimeout(k.Context(), k.Patience)
			m, ok := k.try(ctx, c, claim)
			cancel()
			if ok {
				return m
			}
		}
		if time.Now().After(deadline) {
			k.broken("%v after %s nobody was granted mastership", bound, why)
		}
		k.sleep(pollEvery)
	}
}

// renew makes one renewal that is to succeed.
func (k *check) renew(m *mastership) {
	k.Helper()
	err := k.answer("Renew", func(ctx context.Context) error {
		sent := time.Now()
		g, err := m.Authority.Renew(ctx, m.grant)
		if err == nil && g.Term != m.grant.Term {
			k.broken("Renew of term %d returned term %d", m.grant.Term, g.Term)
		}
		if err == nil {
			m.grant, m.sent = g, sent
		}
		return err
	})
	if err != nil {
		k.broken("Renew of term %d by %s returned %v", m.grant.Term, m.Holder.NodeID, err)
	}
}

func (k *check) release(m mastership) {
	k.Helper()
	k.must("Release", func(ctx context.Context) error { return m.Authority.Release(ctx, m.grant) })
}

// without returns the candidates but m's.
func without(cs []Candidate, m mastership) []Candidate {
	return slices.DeleteFunc(slices.Clone(cs), func(c Candidate) bool {
		return c.Holder.InstanceID == m.Holder.InstanceID
	})
}

func authorityOneMaster(k *check) {
	cs := k.candidates(cluster, 3, k.GrantTTL)
	type reign struct {
		who        string
		term       driver.Term
		start, end time.Time
	}
	var mu sync.Mutex
	var reigns []reign
	enough := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(reigns) >= 20
	}
	ctx, cancel := context.WithTimeout(k.Context(), k.Patience)
	defer cancel()
	atLeast := time.Now().Add(2 * k.GrantTTL)
	var all sync.WaitGroup
	for _, c := range cs {
		all.Go(func() {
			for ctx.Err() == nil && !(enough() && time.Now().After(atLeast)) {
				k.sleep(rand.N(10 * time.Millisecond))
				m, ok := k.try(ctx, c, driver.Claim{})
				if !ok {
					continue
				}
				r := reign{c.Holder.NodeID, m.grant.Term, time.Now(), time.Time{}}
				if r.start.After(m.until()) {
					continue // granted, and over before the answer was here
				}
				// One reign in four ends in silence, the others by a release.
				for range rand.IntN(3) {
					k.sleep(rand.N(k.GrantTTL / 20))
					sent := time.Now()
					if g, err := c.Authority.Renew(ctx, m.grant); err == nil && sent.Before(m.until()) {
						m.grant, m.sent = g, sent
					}
				}
				silent := rand.IntN(4) == 0
				r.end = m.until()
				if now := time.Now(); !silent && now.Before(r.end) {
					r.end = now
				}
				mu.Lock()
				reigns = append(reigns, r)
				mu.Unlock()
				if silent {
					k.sleep(time.Until(m.until()))
				} else {
					c.Authority.Release(ctx, m.grant)
				}
			}
		})
	}
	all.Wait()
	if k.Failed() {
		return
	}
	if len(reigns) < 2 {
		k.broken("in %v only %d grants were given to candidates that kept trying", k.Patience, len(reigns))
	}
	slices.SortFunc(reigns, func(a, b reign) int { return cmp.Or(cmp.Compare(a.term, b.term), a.start.Compare(b.start)) })
	for n, r := range reigns[1:] {
		before := reigns[n]
		if before.who != r.who && before.end.Sub(r.start) > clockSlack {
			k.broken("%s was granted term %d while %s held term %d for another %v", r.who, r.term, before.who, before.term, before.end.Sub(r.start))
		}
		if before.term == r.term && before.who != r.who {
			k.broken("term %d was granted to %s and to %s", r.term, before.who, r.who)
		}
	}
}

func authorityConflict(k *check) {
	// Long enough that nothing expires meanwhile.
	cs := k.candidates(cluster, 2, max(k.GrantTTL, 30*time.Second))
	m := k.first(driver.Claim{}, cs...)
	for range 5 {
		for _, c := range without(cs, m) {
			var err error
			k.must("Acquire", func(ctx context.Context) error {
				_, err = c.Authority.Acquire(ctx, driver.Claim{Holder: c.Holder, ClusterID: "x", MinTerm: m.grant.Term + 10})
				if err == nil || errors.Is(err, driver.ErrConflict) {
					return nil
				}
				return err
			})
			if err == nil {
				k.broken("%s was granted mastership while %s held it", c.Holder.NodeID, m.Holder.NodeID)
			}
		}
	}
	k.renew(&m)
}

func authorityTermsRise(k *check) {
	cs := k.candidates(cluster, 3, k.GrantTTL)
	var last driver.Term
	for range 6 {
		m := k.acquire("a release", driver.Claim{}, cs...)
		if m.grant.Term <= last {
			k.broken("term %d was granted to %s after term %d was", m.grant.Term, m.Holder.NodeID, last)
		}
		last = m.grant.Term
		k.release(m)
		// The one that was granted last goes last, so that others are granted too.
		cs = append(without(cs, m), m.Candidate)
	}
}

func authorityMinTerm(k *check) {
	k.found(cluster)
	cs := k.candidates(cluster, 2, k.GrantTTL)
	m := k.first(driver.Claim{MinTerm: 1000}, cs...)
	if m.grant.Term <= 1000 {
		k.broken("term %d was granted after term 1000 had been announced", m.grant.Term)
	}
	k.release(m)
	next := k.acquire("a release", driver.Claim{MinTerm: 5}, cs...)
	if next.grant.Term <= m.grant.Term {
		k.broken("term %d was granted after term %d, with MinTerm 5", next.grant.Term, m.grant.Term)
	}
	k.release(next)
}

func authorityFoundAgain(k *check) {
	cs := k.candidates(cluster, 2, max(k.GrantTTL, 30*time.Second))
	m := k.first(driver.Claim{}, cs...)
	for range 3 {
		again := k.acquire("its own grant", driver.Claim{}, m.Candidate)
		if again.grant.Term != m.grant.Term || again.grant.ClusterID != m.grant.ClusterID {
			k.broken("%s holds term %d of %s, and Acquire returned term %d of %s", m.Holder.NodeID,
				m.grant.Term, m.grant.ClusterID, again.grant.Term, again.grant.ClusterID)
		}
		k.renew(&again)
	}
}

func authorityLostResponses(k *check) {
	cs := k.candidates(cluster, 2, k.GrantTTL)
	first := k.first(driver.Claim{}, cs...)
	k.release(first)
	var last driver.Term = first.grant.Term
	for n := range 5 {
		c := cs[n%len(cs)]
		// Given up at moments from before the call is out to after it was answered.
		for _, patience := range []time.Duration{0, 200 * time.Microsecond, 500 * time.Microsecond, time.Millisecond, 3 * time.Millisecond} {
			ctx, cancel := context.WithTimeout(k.Context(), patience)
			k.try(ctx, c, driver.Claim{})
			cancel()
		}
		m := k.acquireWithin(k.Patience+k.GrantTTL+k.ExpiryGrace, "calls that were given up on", driver.Claim{}, c, first.Candidate)
		if m.grant.Term <= last {
			k.broken("term %d was granted to %s although term %d had been released", m.grant.Term, m.Holder.NodeID, last)
		}
		last = m.grant.Term
		k.release(m)
	}
}

// notBefore wants next to have been granted only after m had expired.
func (k *check) notBefore(m, next mastership, how string) {
	k.Helper()
	if early := time.Until(m.until()); early > clockSlack {
		k.broken("%s was granted %v before the grant of %s, %s, had expired (valid for %v)",
			next.Holder.NodeID, early, m.Holder.NodeID, how, m.grant.ValidFor)
	}
}

// bequeath waits until another than m is granted, because m fell silent.
func (k *check) bequeath(cs []Candidate, m mastership, how string) mastership {
	k.Helper()
	next := k.acquireWithin(m.grant.ValidFor+k.ExpiryGrace, "a grant "+how, driver.Claim{}, without(cs, m)...)
	k.notBefore(m, next, how)
	if next.grant.Term <= m.grant.Term {
		k.broken("term %d was granted after term %d was", next.grant.Term, m.grant.Term)
	}
	return next
}

func authorityExpiry(k *check) {
	cs := k.candidates(cluster, 3, k.GrantTTL)
	m := k.first(driver.Claim{}, cs...)
	k.renew(&m)
	k.bequeath(cs, m, "that is no longer renewed")
}

func authorityRenew(k *check) {
	cs := k.candidates(cluster, 2, k.GrantTTL)
	m := k.first(driver.Claim{}, cs...)
	for start := time.Now(); time.Since(start) < 3*m.grant.ValidFor; k.sleep(m.grant.ValidFor / 5) {
		sent := time.Now()
		g, err := m.Authority.Renew(k.ctx(), m.grant)
		if late := time.Since(m.sent); late > m.grant.ValidFor/2 {
			k.Skipf("this machine stalled for %v, half a TTL or more", late)
		}
		if unavailable(err) {
			continue
		}
		if err != nil || g.Term != m.grant.Term || g.ValidFor <= 0 {
			k.broken("Renew of term %d returned term %d, valid for %v, and the error %v", m.grant.Term, g.Term, g.ValidFor, err)
		}
		m.grant, m.sent = g, sent
		for _, c := range without(cs, m) {
			if next, ok := k.try(k.ctx(), c, driver.Claim{}); ok {
				k.notBefore(m, next, "renewed all the time")
			}
		}
	}
}

func authorityRenewAfterLoss(k *check) {
	cs := k.candidates(cluster, 3, k.GrantTTL)
	m := k.first(driver.Claim{}, cs...)
	next := k.bequeath(cs, m, "that is no longer renewed")
	k.lostTo(m, next)
}

// lostTo wants the renewal of m to say that it is over.
func (k *check) lostTo(m, next mastership) {
	k.Helper()
	err := k.answer("Renew", func(ctx context.Context) error {
		_, err := m.Authority.Renew(ctx, m.grant)
		return err
	})
	if !errors.Is(err, driver.ErrSessionLost) {
		k.broken("%s was granted term %d, and Renew of term %d by %s returned %v",
			next.Holder.NodeID, next.grant.Term, m.grant.Term, m.Holder.NodeID, err)
	}
}

func authorityRelease(k *check) {
	// The TTL is longer than the wait: the one that is granted owes it to the release.
	cs := k.candidates(cluster, 3, 3*k.Patience)
	m := k.first(driver.Claim{}, cs...)
	k.release(m)
	start := time.Now()
	next := k.acquire("a release", driver.Claim{}, without(cs, m)...)
	k.Logf("granted to another %v after the release", time.Since(start))
	k.lostTo(m, next)
}

// authorityLearned has others learn what is true, what is old and what nobody announced, all the
// time: while the holder renews, which must cost it nothing, and when it no longer does.
func authorityLearned(k *check) {
	cs := k.candidates(cluster, 2, k.GrantTTL)
	m := k.first(driver.Claim{}, cs...)
	other := without(cs, m)[0]
	learner, ok := other.Authority.(driver.Learner)
	if !ok {
		k.Skipf("%T is no driver.Learner", other.Authority)
	}
	if m.grant.Proof == "" {
		k.Skipf("the grants of %T have no proofs", m.Authority)
	}
	var proofs []string
	learn := func() {
		for n, p := range proofs {
			learner.Learn(p)
			learner.Learn(fmt.Sprintf("forged-%d-%d", len(proofs), n))
		}
		for _, p := range []string{"", strings.Repeat("x", 1<<16), proofs[len(proofs)-1]} {
			learner.Learn(p)
		}
	}
	for start := time.Now(); len(proofs) < 4 || time.Since(start) < 2*m.grant.ValidFor; k.sleep(m.grant.ValidFor / 5) {
		if late := time.Since(m.sent); late > m.grant.ValidFor/2 {
			k.Skipf("this machine stalled for %v, half a TTL or more", late)
		}
		k.renew(&m)
		if p := m.grant.Proof; p == "" || slices.Contains(proofs, p) {
			k.broken("a renewal has the proof %q after %q", p, proofs)
		}
		proofs = append(proofs, m.grant.Proof)
		learn()
		if next, ok := k.try(k.ctx(), other, driver.Claim{}); ok {
			k.notBefore(m, next, "renewed all the time")
		}
	}
	stop := k.keepAlive(m.grant.ValidFor, func(context.Context) { learn() })
	k.bequeath(cs, m, "of which others are still reminded")
	stop()
}

func authorityLateRelease(k *check) {
	cs := k.candidates(cluster, 2, 3*k.Patience)
	m := k.first(driver.Claim{}, cs...)
	k.release(m)
	next := k.acquire("a release", driver.Claim{}, without(cs, m)...)
	k.releaseLate(m)
	k.renew(&next)
	if third, ok := k.try(k.ctx(), m.Candidate, driver.Claim{}); ok {
		k.broken("%s released its old term %d and was granted term %d while %s held term %d",
			m.Holder.NodeID, m.grant.Term, third.grant.Term, next.Holder.NodeID, next.grant.Term)
	}
}

// releaseLate releases a grant that is over.
func (k *check) releaseLate(m mastership) {
	k.Helper()
	if err := m.Authority.Release(k.ctx(), m.grant); err != nil && !errors.Is(err, driver.ErrSessionLost) && !unavailable(err) {
		k.broken("Release of term %d by %s, which is over, returned %v", m.grant.Term, m.Holder.NodeID, err)
	}
}

func authorityLaterRelease(k *check) {
	// Nothing expires meanwhile.
	cs := k.candidates(cluster, 2, 3*k.Patience)
	first := k.first(driver.Claim{}, cs[0])
	k.release(first)
	second := k.acquire("a release", driver.Claim{}, cs[1])
	k.release(second)
	third := k.acquire("another release", driver.Claim{}, cs[0])
	for _, late := range []mastership{first, second, first} {
		k.lostTo(late, third)
		k.releaseLate(late)
		if next, ok := k.try(k.ctx(), cs[1], driver.Claim{}); ok {
			k.broken("%s released its old term %d and %s was granted term %d while %s held term %d", late.Holder.NodeID,
				late.grant.Term, next.Holder.NodeID, next.grant.Term, third.Holder.NodeID, third.grant.Term)
		}
		k.renew(&third)
	}
}

func authorityRenumbered(k *check) {
	cs := k.candidates(cluster, 2, 2*k.GrantTTL)
	m := k.first(driver.Claim{}, cs...)
	for _, renewed := range []bool{true, false} {
		old := m
		m = k.acquire("its own grant", driver.Claim{MinTerm: old.grant.Term}, old.Candidate)
		if m.grant.Term <= old.grant.Term {
			k.broken("term %d was granted with MinTerm %d", m.grant.Term, old.grant.Term)
		}
		k.lostTo(old, m)
		k.releaseLate(old)
		if renewed {
			k.renew(&m)
		}
	}
	k.bequeath(cs, m, "whose holder released an earlier term late")
}

// outcome is what became of an Acquire.
type outcome struct {
	mastership
	err error
}

// acquiring makes one attempt beside the clause.
func (k *check) acquiring(c Candidate) <-chan outcome {
	done := make(chan outcome, 1)
	ctx := k.ctx()
	go func() {
		o := outcome{mastership: mastership{Candidate: c, sent: time.Now()}}
		o.grant, o.err = c.Authority.Acquire(ctx, driver.Claim{Holder: c.Holder, ClusterID: "x"})
		done <- o
	}()
	return done
}

// faulty opens a client with a way of its own, or skips the clause.
func (k *check) faulty() (driver.Driver, Faults) {
	k.Helper()
	k.needs("OpenFaulty", k.OpenFaulty != nil)
	d, way := k.OpenFaulty(k)
	k.Cleanup(way.Restore) // before the client is closed
	return k.opened(d), way
}

// An Acquire is held up between its steps, so that it goes on from what it read
// before. What others do meanwhile must make it fail, or be heeded.
func authorityOldReading(k *check) {
	d, way := k.faulty()
	a := k.candidate(k.open(), cluster, 0, k.GrantTTL)
	b := k.candidate(d, cluster, 1, k.GrantTTL)
	for _, c := range []Candidate{a, b} { // who is connected from now on
		k.release(k.first(driver.Claim{}, c))
	}
	var last driver.Term
	var standing *mastership // of a
	act := func(keeps bool) {
		// Where one request is all of an Acquire, b may have been granted.
		m, ok := k.try(k.ctx(), a, driver.Claim{})
		if !ok {
			return
		}
		last = max(last, m.grant.Term)
		if keeps {
			standing = &m
		} else {
			k.release(m)
		}
	}
	judge := func(got outcome) {
		switch {
		case got.err != nil && !errors.Is(got.err, driver.ErrConflict) && !errors.Is(got.err, driver.ErrSessionLost) && !unavailable(got.err):
			k.broken("Acquire returned %v", got.err)
		case got.err != nil:
		case got.grant.Term <= last:
			k.broken("%s was granted term %d, and %s term %d before", b.Holder.NodeID, got.grant.Term, a.Holder.NodeID, last)
		case standing != nil:
			k.notBefore(*standing, got.mastership, "granted while the other's Acquire was under way")
		}
		if got.err == nil {
			last = got.grant.Term
			k.release(got.mastership)
		}
		if standing != nil {
			k.release(*standing)
			standing = nil
		}
	}
	// After the first step of the Acquire.
	for _, keeps := range []bool{false, true} {
		held := way.Hold(k.Patience)
		done := k.acquiring(b)
		if err := held(k.ctx()); err != nil {
			k.Fatalf("no answer was held back: %v", err)
		}
		act(keeps)
		way.Restore()
		judge(<-done)
	}
	// After each step. Which of the two is granted first is not known here.
	way.Hold(k.GrantTTL / 20)
	done := k.acquiring(b)
	for over := false; !over; {
		select {
		case got := <-done:
			over = true
			if got.err == nil {
				k.release(got.mastership)
				if got.grant.Term == last {
					k.broken("term %d was granted to %s and to %s", last, a.Holder.NodeID, b.Holder.NodeID)
				}
				last = max(last, got.grant.Term)
			}
		default:
			act(false)
			k.sleep(time.Millisecond)
		}
	}
	way.Restore()
	if m := k.acquireWithin(k.Patience+k.GrantTTL+k.ExpiryGrace, "all of this", driver.Claim{}, a, b); m.grant.Term <= last {
		k.broken("term %d was granted to %s after term %d was", m.grant.Term, m.Holder.NodeID, last)
	}
}

func authorityMixedTTLs(k *check) {
	cs := k.mixed(cluster, 3*k.GrantTTL, k.GrantTTL)
	for n, how := range []string{"whose TTL is longer than the other's", "whose TTL is shorter than the other's"} {
		m := k.acquireWithin(k.Patience+3*k.GrantTTL+k.ExpiryGrace, "a vacancy", driver.Claim{}, cs[n])
		k.renew(&m)
		k.release(k.bequeath(cs, m, how))
	}
}

func authorityEarlyEnd(k *check) {
	k.needs("EndGrant", k.EndGrant != nil)
	cs := k.mixed(cluster, 2*k.GrantTTL, k.GrantTTL)
	var last driver.Term
	for _, n := range []int{0, 0, 1} {
		m := k.acquireWithin(k.Patience+2*k.GrantTTL+k.ExpiryGrace, "a vacancy", driver.Claim{MinTerm: last}, cs[n])
		k.renew(&m)
		k.EndGrant(k, cluster)
		last = m.grant.Term
		next := k.acquireWithin(m.grant.ValidFor+k.ExpiryGrace, "a grant that ended early", driver.Claim{MinTerm: last}, without(cs, m)...)
		k.notBefore(m, next, "ended by the provider")
		k.lostTo(m, next)
		last = next.grant.Term
		k.release(next)
	}
}

func authorityFoundValidity(k *check) {
	cs := k.candidates(cluster, 2, k.GrantTTL)
	m := k.first(driver.Claim{}, cs...)
	k.sleep(m.grant.ValidFor / 2)
	found := k.acquire("its own grant", driver.Claim{}, m.Candidate)
	k.bequeath(cs, found, "found by a second Acquire")
}

func authorityLostAnswer(k *check) {
	d, way := k.faulty()
	a := k.candidate(d, cluster, 0, k.GrantTTL)
	b := k.candidate(k.open(), cluster, 1, k.GrantTTL)
	first := k.first(driver.Claim{}, a)
	k.release(first)
	way.Lose()
	ctx, cancel := context.WithTimeout(k.Context(), k.GrantTTL/4)
	_, granted := k.try(ctx, a, driver.Claim{})
	cancel()
	way.Restore()
	if granted {
		k.Fatal("the answers to what changes something were to be lost, and Acquire granted")
	}
	k.sleep(k.GrantTTL / 4)
	found := k.acquireWithin(k.Patience+k.GrantTTL+k.ExpiryGrace, "an Acquire whose answer was lost", driver.Claim{}, a)
	if found.grant.Term <= first.grant.Term {
		k.broken("term %d was granted after term %d was released", found.grant.Term, first.grant.Term)
	}
	k.bequeath([]Candidate{a, b}, found, "found after an answer was lost")
}

func authorityClose(k *check) {
	cs := k.candidates(cluster, 3, k.GrantTTL)
	m := k.first(driver.Claim{}, cs...)
	for range 2 {
		ctx, cancel := context.WithTimeout(k.Context(), k.Patience)
		err := m.Authority.Close(ctx)
		cancel()
		if err != nil {
			k.broken("Close returned %v", err)
		}
	}
	k.bequeath(cs, m, "whose authority was closed")
}

// wantClosed makes every call of the authority of m.
func (k *check) wantClosed(m mastership) {
	k.Helper()
	a, ctx := m.Authority, k.ctx()
	_, err := a.Acquire(ctx, driver.Claim{Holder: m.Holder, ClusterID: "x"})
	k.closed("Acquire", err)
	_, err = a.Renew(ctx, m.grant)
	k.closed("Renew", err)
	k.closed("Release", a.Release(ctx, m.grant))
	k.closed("Observe", lastOf(a.Observe(ctx)))
	if r, ok := a.(driver.ClaimPermissionChecker); ok {
		k.closed("CheckClaimPermission", r.CheckClaimPermission(ctx))
	}
	s, ok := a.(driver.Store)
	if !ok {
		return
	}
	_, err = s.Get(ctx, "k")
	k.closed("Get", err)
	_, err = s.Set(ctx, "k", nil, 0)
	k.closed("Set", err)
	k.closed("Delete", s.Delete(ctx, "k", 1))
	_, err = s.Records(ctx, "")
	k.closed("Records", err)
}

func authorityClosed(k *check) {
	cs := k.candidates(cluster, 2, k.GrantTTL)
	m := k.first(driver.Claim{}, cs...)
	k.must("Close", m.Authority.Close)
	k.wantClosed(m)
}

func authorityClosedDriver(k *check) {
	if k.OpenAuthorities != nil {
		k.Skip("the harness opens the authorities itself, and has their driver")
	}
	d := k.open()
	m := k.first(driver.Claim{}, k.candidate(d, cluster, 0, k.GrantTTL))
	if err := d.Close(); err != nil {
		k.broken("Close of the driver returned %v", err)
	}
	k.wantClosed(m)
	_, err := d.(driver.Authorizer).OpenAuthority(k.ctx(), driver.AuthorityOptions{
		Cluster: cluster, Self: m.Holder, TTL: k.GrantTTL, DataDir: k.TempDir(), Logger: slog.New(slog.DiscardHandler),
	})
	k.closed("OpenAuthority", err)
}

func authorityClusterID(k *check) {
	cs := k.candidates(cluster, 3, k.GrantTTL)
	// All claim with one id: a claim that was given up on may have been recorded.
	const want = "the-first"
	m := k.first(driver.Claim{ClusterID: want}, cs...)
	if m.grant.ClusterID != want {
		k.broken("the first claim, with id %q, was granted with id %q", want, m.grant.ClusterID)
	}
	k.renew(&m)
	if m.grant.ClusterID != want {
		k.broken("Renew changed the id from %q to %q", want, m.grant.ClusterID)
	}
	k.release(m)
	next := k.acquire("a release", driver.Claim{ClusterID: "freshly-minted"}, without(cs, m)...)
	if next.grant.ClusterID != want {
		k.broken("recorded is %q, and a claim with a freshly minted id was granted with id %q", want, next.grant.ClusterID)
	}
	k.release(next)
	known := k.acquire("a release", driver.Claim{ClusterID: want, Known: true}, cs...)
	if known.grant.ClusterID != want {
		k.broken("recorded and known is %q, and it was granted with id %q", want, known.grant.ClusterID)
	}
}

func authorityClusterMismatch(k *check) {
	cs := k.candidates(cluster, 3, k.GrantTTL)
	m := k.first(driver.Claim{ClusterID: "one"}, cs...)
	k.release(m)
	deadline := time.Now().Add(k.Patience)
	for refused := 0; refused == 0; k.sleep(pollEvery) {
		for _, c := range cs {
			g, err := c.Authority.Acquire(k.ctx(), driver.Claim{Holder: c.Holder, ClusterID: "two", Known: true})
			switch {
			case err == nil:
				k.broken("recorded is %q, and a claim that knows %q was granted, with id %q", "one", "two", g.ClusterID)
			case errors.Is(err, driver.ErrClusterMismatch):
				refused++
			case !errors.Is(err, driver.ErrConflict) && !unavailable(err):
				k.broken("Acquire returned %v", err)
			case time.Now().After(deadline):
				k.broken("for %v Acquire returned %v instead", k.Patience, err)
			}
		}
	}
	again := k.acquire("refused claims", driver.Claim{ClusterID: "one", Known: true}, cs...)
	if again.grant.ClusterID != "one" {
		k.broken("after refused claims, the id is %q", again.grant.ClusterID)
	}
}

// observer follows one candidate's Observe until the clause ends.
func (k *check) observe(c Candidate) <-chan driver.Mastership {
	ctx, cancel := context.WithCancel(k.Context())
	out := make(chan driver.Mastership)
	var done sync.WaitGroup
	done.Go(func() {
		for ctx.Err() == nil {
			for m, err := range c.Authority.Observe(ctx) {
				if err != nil {
					if m.Holder != nil || m.Term != 0 {
						k.Errorf("clause %q: Observe yielded %+v with the error %v", k.clause.name, m, err)
					}
					continue
				}
				select {
				case out <- m:
				case <-ctx.Done():
					return
				}
			}
			k.sleep(pollEvery)
		}
	})
	k.Cleanup(func() { cancel(); done.Wait() })
	return out
}

// observed waits until what is observed is as wanted.
func (k *check) observed(from <-chan driver.Mastership, want string, ok func(driver.Mastership) bool) {
	k.Helper()
	patience := 3 * k.Patience
	deadline := time.After(patience)
	last := "nothing"
	for {
		select {
		case m := <-from:
			if ok(m) {
				return
			}
			last = fmt.Sprintf("%+v", m)
			if m.Holder != nil {
				last += fmt.Sprintf(" with holder %+v", *m.Holder)
			}
		case <-deadline:
			k.broken("for %v Observe did not yield %s, but last %s", patience, want, last)
		}
	}
}

func holds(m mastership) func(driver.Mastership) bool {
	return func(o driver.Mastership) bool {
		return o.Holder != nil && o.Holder.InstanceID == m.Holder.InstanceID && o.Holder.NodeID == m.Holder.NodeID &&
			o.Holder.Addr == m.Holder.Addr && fmt.Sprint(o.Holder.AppAddrs) == fmt.Sprint(m.Holder.AppAddrs) &&
			o.Term == m.grant.Term && o.ClusterID == m.grant.ClusterID
	}
}

func vacant(o driver.Mastership) bool { return o.Holder == nil }

func authorityObserve(k *check) {
	cs := k.candidates(cluster, 3, k.GrantTTL)
	var views []<-chan driver.Mastership
	for _, c := range cs {
		views = append(views, k.observe(c))
	}
	all := func(want string, ok func(driver.Mastership) bool) {
		k.Helper()
		for _, v := range views {
			k.observed(v, want, ok)
		}
	}
	all("a cluster without a master", vacant)
	for range 2 {
		m := k.acquire("a vacancy", driver.Claim{}, cs...)
		stop := k.keepAlive(m.grant.ValidFor, func(ctx context.Context) { m.Authority.Renew(ctx, m.grant) })
		all(fmt.Sprintf("%s as the holder of term %d", m.Holder.NodeID, m.grant.Term), holds(m))
		late := k.observe(cs[0])
		k.observed(late, "the holder to one who came later", holds(m))
		stop()
		k.release(m)
		all("the vacancy after the release", func(o driver.Mastership) bool { return vacant(o) && o.Term == m.grant.Term })
	}
	k.acquire("a release", driver.Claim{}, cs...) // and not renewed
	all("the vacancy after a grant that was not renewed", vacant)
}

func authorityWhole(k *check) {
	cs := k.candidates(cluster, 2, max(k.GrantTTL, 30*time.Second))
	view := k.observe(cs[1])
	for range 2 {
		m := k.acquire("a vacancy", driver.Claim{}, cs...)
		k.observed(view, fmt.Sprintf("term %d as granted as a whole", m.grant.Term), func(o driver.Mastership) bool {
			return holds(m)(o) && !o.Partial
		})
		k.release(m)
	}
}

func authorityObserveCancelled(k *check) {
	cs := k.candidates(cluster, 1, k.GrantTTL)
	ctx, cancel := context.WithCancel(k.Context())
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range cs[0].Authority.Observe(ctx) {
		}
		<-ctx.Done()
	}()
	k.sleep(5 * pollEvery)
	cancel()
	select {
	case <-done:
	case <-time.After(prompt):
		k.broken("%v after its context was cancelled it goes on", prompt)
	}
}

func authorityCancelled(k *check) {
	cs := k.candidates(cluster, 1, k.GrantTTL)
	m := k.first(driver.Claim{}, cs...)
	ctx, cancel := context.WithCancel(k.Context())
	cancel()
	start := time.Now()
	if _, err := m.Authority.Renew(ctx, m.grant); !errors.Is(err, context.Canceled) {
		k.broken("Renew returned %v", err)
	}
	if _, err := m.Authority.Acquire(ctx, driver.Claim{Holder: m.Holder, ClusterID: "x"}); !errors.Is(err, context.Canceled) {
		k.broken("Acquire returned %v", err)
	}
	if took := time.Since(start); took > prompt {
		k.broken("it took %v", took)
	}
}

func authorityClusters(k *check) {
	if k.OpenAuthorities != nil {
		k.Skip("the harness opens the authorities itself, and only of one cluster")
	}
	claims := make(map[string]mastership)
	for _, name := range []string{"foo", "foobar", "foo/bar"} {
		c := k.candidates(name, 1, max(k.GrantTTL, 30*time.Second))
		claims[name] = k.first(driver.Claim{ClusterID: "id of " + name}, c...)
	}
	for name, m := range claims {
		if want := "id of " + name; m.grant.ClusterID != want {
			k.broken("cluster %s was granted with the id %q", name, m.grant.ClusterID)
		}
	}
	k.release(claims["foo"])
	for _, name := range []string{"foobar", "foo/bar"} {
		m := claims[name]
		k.renew(&m)
	}
}

func authorityOutage(k *check) {
	k.needs("Stop and Start", k.Stop != nil)
	cs := k.candidates(cluster, 2, k.GrantTTL)
	m := k.first(driver.Claim{}, cs...)
	stopped := time.Now()
	k.Stop(k)
	var wrong []string
	for _, c := range cs {
		ctx, cancel := context.WithTimeout(k.Context(), k.GrantTTL/8)
		g, err := c.Authority.Acquire(ctx, driver.Claim{Holder: c.Holder, ClusterID: "x"})
		cancel()
		if err == nil {
			wrong = append(wrong, fmt.Sprintf("Acquire by %s granted %+v", c.Holder.NodeID, g))
		}
	}
	ctx, cancel := context.WithTimeout(k.Context(), k.GrantTTL/8)
	_, err := m.Authority.Renew(ctx, m.grant)
	cancel()
	if err == nil {
		wrong = append(wrong, "Renew extended the grant")
	} else if errors.Is(err, driver.ErrSessionLost) {
		wrong = append(wrong, fmt.Sprintf("Renew returned %q, which nobody can know", err))
	}
	late := time.Since(stopped)
	k.Start(k)
	if late > k.GrantTTL/2 { // three calls of an eighth each
		k.Skipf("this machine stalled: the calls took %v, and a provider of voters knows its own end by then", late)
	}
	if len(wrong) > 0 {
		k.broken("with the provider stopped, %s", strings.Join(wrong, "; "))
	}
	next := k.bequeath(cs, m, "that was not renewed over an outage")
	k.lostTo(m, next)
}

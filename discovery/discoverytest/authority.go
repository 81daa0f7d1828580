package discoverytest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
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
		{"authority/close", "Close gives nothing back: nobody else is granted before the grant has run out", authorityClose},
		{"authority/cluster_id", "the cluster id is the recorded one; where none is recorded the claimed one becomes it in the step that grants", authorityClusterID},
		{"authority/cluster_mismatch", "where the recorded cluster id differs from a known one, Acquire returns ErrClusterMismatch", authorityClusterMismatch},
		{"authority/observe", "Observe yields the state now and after each change: the holder with its term, and the vacancy", authorityObserve},
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
	if k.OpenAuthorities == nil {
		var cs []Candidate
		for i := range n {
			cs = append(cs, k.candidate(k.open(), cluster, i, ttl))
		}
		return cs
	}
	cs := k.OpenAuthorities(k, cluster, n, ttl)
	if len(cs) != n {
		k.Fatalf("OpenAuthorities returned %d candidates, want %d", len(cs), n)
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

// try makes one attempt to be granted. It returns false where another stands or
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
	m := k.acquire("the start", driver.Claim{}, cs...)
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
		// Whoever was granted last goes last, so that others are granted too.
		cs = append(without(cs, m), m.Candidate)
	}
}

func authorityMinTerm(k *check) {
	cs := k.candidates(cluster, 2, k.GrantTTL)
	m := k.acquire("the start", driver.Claim{MinTerm: 1000}, cs...)
	if m.grant.Term <= 1000 {
		k.broken("term %d was granted where 1000 had been heard of", m.grant.Term)
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
	m := k.acquire("the start", driver.Claim{}, cs...)
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
	first := k.acquire("the start", driver.Claim{}, cs...)
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

// notBefore wants next to have been granted only after m had run out.
func (k *check) notBefore(m, next mastership, how string) {
	k.Helper()
	if early := time.Until(m.until()); early > clockSlack {
		k.broken("%s was granted %v before the grant of %s, %s, had run out (valid for %v)",
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
	m := k.acquire("the start", driver.Claim{}, cs...)
	k.renew(&m)
	k.bequeath(cs, m, "that is no longer renewed")
}

func authorityRenew(k *check) {
	cs := k.candidates(cluster, 2, k.GrantTTL)
	m := k.acquire("the start", driver.Claim{}, cs...)
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
	m := k.acquire("the start", driver.Claim{}, cs...)
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
	// The TTL is longer than the wait: whoever is granted owes it to the release.
	cs := k.candidates(cluster, 3, 3*k.Patience)
	m := k.acquire("the start", driver.Claim{}, cs...)
	k.release(m)
	start := time.Now()
	next := k.acquire("a release", driver.Claim{}, without(cs, m)...)
	k.Logf("granted to another %v after the release", time.Since(start))
	k.lostTo(m, next)
}

func authorityLateRelease(k *check) {
	cs := k.candidates(cluster, 2, 3*k.Patience)
	m := k.acquire("the start", driver.Claim{}, cs...)
	k.release(m)
	next := k.acquire("a release", driver.Claim{}, without(cs, m)...)
	if err := m.Authority.Release(k.ctx(), m.grant); err != nil && !errors.Is(err, driver.ErrSessionLost) && !unavailable(err) {
		k.broken("Release of the grant that is over returned %v", err)
	}
	k.renew(&next)
	if third, ok := k.try(k.ctx(), m.Candidate, driver.Claim{}); ok {
		k.broken("%s released its old term %d and was granted term %d while %s held term %d",
			m.Holder.NodeID, m.grant.Term, third.grant.Term, next.Holder.NodeID, next.grant.Term)
	}
}

func authorityClose(k *check) {
	cs := k.candidates(cluster, 3, k.GrantTTL)
	m := k.acquire("the start", driver.Claim{}, cs...)
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

func authorityClusterID(k *check) {
	cs := k.candidates(cluster, 3, k.GrantTTL)
	// All claim with one id: a claim that was given up on may have been recorded.
	const want = "the-first"
	m := k.acquire("the start", driver.Claim{ClusterID: want}, cs...)
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
	m := k.acquire("the start", driver.Claim{ClusterID: "one"}, cs...)
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
	deadline := time.After(k.Patience)
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
			k.broken("for %v Observe did not yield %s, but last %s", k.Patience, want, last)
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
	m := k.acquire("the start", driver.Claim{}, cs...)
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
		claims[name] = k.acquire("the start", driver.Claim{ClusterID: "id of " + name}, c...)
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
	m := k.acquire("the start", driver.Claim{}, cs...)
	k.Stop(k)
	var errs []error
	for _, c := range cs {
		ctx, cancel := context.WithTimeout(k.Context(), k.GrantTTL/8)
		g, err := c.Authority.Acquire(ctx, driver.Claim{Holder: c.Holder, ClusterID: "x"})
		cancel()
		if err == nil {
			errs = append(errs, fmt.Errorf("Acquire by %s granted %+v", c.Holder.NodeID, g))
		}
	}
	ctx, cancel := context.WithTimeout(k.Context(), k.GrantTTL/8)
	_, err := m.Authority.Renew(ctx, m.grant)
	cancel()
	if err == nil {
		errs = append(errs, errors.New("Renew extended the grant"))
	} else if errors.Is(err, driver.ErrSessionLost) {
		errs = append(errs, fmt.Errorf("Renew returned %q, which nobody can know", err))
	}
	k.Start(k)
	if len(errs) > 0 {
		k.broken("with the provider stopped, %v", errors.Join(errs...))
	}
	next := k.bequeath(cs, m, "that was not renewed over an outage")
	k.lostTo(m, next)
}

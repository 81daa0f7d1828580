package discoverytest

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

func rehearseClauses() []clause {
	return []clause{
		{"rehearse/registration", "Rehearse finds out whether instances of a service may be registered, and changes nothing that anybody could see", rehearseRegistration},
		{"rehearse/registration_denied", "the error of Rehearse wraps ErrDenied where the provider says no", rehearseRegistrationDenied},
		{"rehearse/registration_outage", "Rehearse makes one attempt to find out: an outage is an error, and no ErrDenied", rehearseRegistrationOutage},
	}
}

func rehearseClaimClauses() []clause {
	return []clause{
		{"rehearse/claim", "RehearseClaim finds out whether the node may become master, and changes nothing about who is", rehearseClaim},
		{"rehearse/claim_denied", "the error of RehearseClaim wraps ErrDenied where the provider says no", rehearseClaimDenied},
		{"rehearse/claim_outage", "RehearseClaim makes one attempt to find out: an outage is an error, and no ErrDenied", rehearseClaimOutage},
	}
}

// rehearser returns d's ability to rehearse a registration, or skips the clause.
func (k *check) rehearser(d driver.Driver) driver.Rehearser {
	k.Helper()
	r, ok := d.(driver.Rehearser)
	if !ok {
		k.Skipf("%T is no driver.Rehearser", d)
	}
	return r
}

func (k *check) claimRehearser(c Candidate) driver.ClaimRehearser {
	k.Helper()
	r, ok := c.Authority.(driver.ClaimRehearser)
	if !ok {
		k.Skipf("%T is no driver.ClaimRehearser", c.Authority)
	}
	return r
}

// permitted makes a rehearsal that is to go well.
func (k *check) permitted(what string, rehearse func(context.Context) error) {
	k.Helper()
	if err := k.answer(what, rehearse); err != nil {
		k.broken("%s of what is permitted returned %v", what, err)
	}
}

// denied makes a rehearsal, and then what it was of, neither of which is permitted.
func (k *check) denied(what string, rehearse func(context.Context) error, inEarnest string, do func(context.Context) error) {
	k.Helper()
	if err := k.answer(what, rehearse); !errors.Is(err, driver.ErrDenied) {
		k.broken("%s of what is not permitted returned %v", what, err)
	}
	if err := k.answer(inEarnest, do); !errors.Is(err, driver.ErrDenied) {
		k.broken("%s was denied, and %s returned %v", what, inEarnest, err)
	}
}

// unanswered makes rehearsals to which there is no answer.
func (k *check) unanswered(what string, rehearse func(context.Context) error) {
	k.Helper()
	ctx, cancel := context.WithCancel(k.Context())
	cancel()
	start := time.Now()
	if err := rehearse(ctx); !errors.Is(err, context.Canceled) {
		k.broken("with a cancelled context, %s returned %v", what, err)
	}
	if took := time.Since(start); took > prompt {
		k.broken("with a cancelled context, %s took %v", what, took)
	}
	k.needs("Stop and Start", k.Stop != nil)
	k.Stop(k)
	ctx, cancel = context.WithTimeout(k.Context(), k.SessionTTL/4)
	err := rehearse(ctx)
	cancel()
	k.Start(k)
	switch {
	case err == nil:
		k.broken("with the provider stopped, %s returned no error", what)
	case !unavailable(err):
		k.broken("with the provider stopped, %s returned %q, which is an answer of the provider", what, err)
	}
	k.permitted(what, rehearse)
}

func rehearseRegistration(k *check) {
	r := k.rehearser(k.open())
	rehearse := func(service string) {
		k.permitted("Rehearse", func(ctx context.Context) error { return r.Rehearse(ctx, service) })
	}
	s, reader := k.liveSession(k.open()), k.open()
	a, b := instance(service, 0), instance(service, 1)
	k.register(s, a)
	k.eventually(reader, service, "one instance was registered", a)

	const first = "rehearsed"
	rehearse(first)
	k.stays(25*pollEvery, reader, first, "the first registration of a service was rehearsed")
	if skipped := k.list(reader, first).Skipped; len(skipped) > 0 {
		k.broken("after a rehearsal Skipped names %v", skipped)
	}
	if c, ok := reader.(driver.Cataloger); ok {
		k.must("Services", func(ctx context.Context) error {
			names, err := c.Services(ctx)
			if slices.Contains(names, first) {
				k.broken("after a rehearsal Services returned %q", names)
			}
			return err
		})
	}

	w, ok := reader.(driver.Watcher)
	if !ok {
		rehearse(service)
		k.stays(25*pollEvery, reader, service, "another registration was rehearsed", a)
		return
	}
	watched, _ := k.watch(w, service, k.list(reader, service))
	// Taken at once: what is not may be yielded as one with what comes next.
	events := make(chan event, 1000)
	go func() {
		defer close(events)
		for e := range watched {
			events <- e
		}
	}()
	for range 3 {
		rehearse(service)
	}
	k.register(s, b) // by which the watch is seen to have come past the rehearsals
	for {
		e, ok := k.next(events, k.Patience)
		if !ok || e.err != nil {
			k.broken("the watch ended with the error %v", e.err)
		}
		if diffSets([]driver.Instance{a, b}, e.snapshot.Instances) == "" {
			return
		}
		if diff := diffSets([]driver.Instance{a}, e.snapshot.Instances); diff != "" {
			k.broken("a watch saw the rehearsal: %s", diff)
		}
	}
}

func rehearseRegistrationDenied(k *check) {
	d := k.openDenied()
	r := k.rehearser(d)
	k.denied("Rehearse", func(ctx context.Context) error { return r.Rehearse(ctx, service) },
		"the registration", func(ctx context.Context) error {
			s, err := k.registrar(d).OpenSession(ctx, driver.SessionOptions{TTL: k.SessionTTL})
			if err != nil {
				return err
			}
			defer s.Close(ctx)
			return s.Register(ctx, instance(service, 0))
		})
}

func rehearseRegistrationOutage(k *check) {
	r := k.rehearser(k.open())
	k.unanswered("Rehearse", func(ctx context.Context) error { return r.Rehearse(ctx, service) })
}

func rehearseClaim(k *check) {
	// Long enough that nothing expires meanwhile.
	cs := k.candidates(cluster, 2, max(k.GrantTTL, 30*time.Second))
	rehearse := func() {
		k.Helper()
		for _, c := range cs {
			k.permitted("RehearseClaim", k.claimRehearser(c).RehearseClaim)
		}
	}
	now := func(want string, ok func(driver.Mastership) bool) {
		k.Helper()
		k.observed(k.observe(cs[0]), want, ok)
	}
	rehearse()
	now("a cluster that is as new as before the rehearsals", func(o driver.Mastership) bool {
		return vacant(o) && o.Term == 0 && o.ClusterID == ""
	})
	m := k.acquire("a rehearsal", driver.Claim{}, cs...)
	rehearse()
	k.renew(&m)
	now("the holder from before the rehearsals", holds(m))
	k.release(m)
	rehearse()
	now("the vacancy from before the rehearsals", func(o driver.Mastership) bool {
		return vacant(o) && o.Term == m.grant.Term && o.ClusterID == m.grant.ClusterID
	})
}

func rehearseClaimDenied(k *check) {
	c := k.candidate(k.openDenied(), cluster, 0, k.GrantTTL)
	k.denied("RehearseClaim", k.claimRehearser(c).RehearseClaim,
		"Acquire", func(ctx context.Context) error {
			_, err := c.Authority.Acquire(ctx, driver.Claim{Holder: c.Holder, ClusterID: "x"})
			return err
		})
}

func rehearseClaimOutage(k *check) {
	c := k.candidates(cluster, 1, k.GrantTTL)[0]
	k.unanswered("RehearseClaim", k.claimRehearser(c).RehearseClaim)
}

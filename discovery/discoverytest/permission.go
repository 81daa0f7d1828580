package discoverytest

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

func permissionClauses() []clause {
	return []clause{
		{"permission/registration", "CheckPermission finds out whether instances of a service may be registered, and changes nothing that anybody could see", registrationPermission},
		{"permission/registration_denied", "the error of CheckPermission wraps ErrDenied where the provider says no", registrationPermissionDenied},
		{"permission/registration_outage", "CheckPermission makes one attempt to find out: an outage is an error, and no ErrDenied", registrationPermissionOutage},
	}
}

func claimPermissionClauses() []clause {
	return []clause{
		{"permission/claim", "CheckClaimPermission finds out whether the node may become master, and changes nothing about who is", claimPermission},
		{"permission/claim_denied", "the error of CheckClaimPermission wraps ErrDenied where the provider says no", claimPermissionDenied},
		{"permission/claim_outage", "CheckClaimPermission makes one attempt to find out: an outage is an error, and no ErrDenied", claimPermissionOutage},
	}
}

// permissionChecker returns d's ability to check a registration, or skips the clause.
func (k *check) permissionChecker(d driver.Driver) driver.PermissionChecker {
	k.Helper()
	r, ok := d.(driver.PermissionChecker)
	if !ok {
		k.Skipf("%T is no driver.PermissionChecker", d)
	}
	return r
}

func (k *check) claimPermissionChecker(c Candidate) driver.ClaimPermissionChecker {
	k.Helper()
	r, ok := c.Authority.(driver.ClaimPermissionChecker)
	if !ok {
		k.Skipf("%T is no driver.ClaimPermissionChecker", c.Authority)
	}
	return r
}

// permitted makes a check of a permission that is to go well.
func (k *check) permitted(what string, check func(context.Context) error) {
	k.Helper()
	if err := k.answer(what, check); err != nil {
		k.broken("%s of what is permitted returned %v", what, err)
	}
}

// denied makes a check of a permission, and then what it was of, neither of which is permitted.
func (k *check) denied(what string, check func(context.Context) error, inEarnest string, do func(context.Context) error) {
	k.Helper()
	if err := k.answer(what, check); !errors.Is(err, driver.ErrDenied) {
		k.broken("%s of what is not permitted returned %v", what, err)
	}
	if err := k.answer(inEarnest, do); !errors.Is(err, driver.ErrDenied) {
		k.broken("%s was denied, and %s returned %v", what, inEarnest, err)
	}
}

// unanswered makes checks to which there is no answer.
func (k *check) unanswered(what string, check func(context.Context) error) {
	k.Helper()
	ctx, cancel := context.WithCancel(k.Context())
	cancel()
	start := time.Now()
	if err := check(ctx); !errors.Is(err, context.Canceled) {
		k.broken("with a cancelled context, %s returned %v", what, err)
	}
	if took := time.Since(start); took > prompt {
		k.broken("with a cancelled context, %s took %v", what, took)
	}
	k.needs("Stop and Start", k.Stop != nil)
	k.Stop(k)
	ctx, cancel = context.WithTimeout(k.Context(), k.SessionTTL/4)
	err := check(ctx)
	cancel()
	k.Start(k)
	switch {
	case err == nil:
		k.broken("with the provider stopped, %s returned no error", what)
	case !unavailable(err):
		k.broken("with the provider stopped, %s returned %q, which is an answer of the provider", what, err)
	}
	k.permitted(what, check)
}

func registrationPermission(k *check) {
	r := k.permissionChecker(k.open())
	check := func(service string) {
		k.permitted("CheckPermission", func(ctx context.Context) error { return r.CheckPermission(ctx, service) })
	}
	s, reader := k.liveSession(k.open()), k.open()
	a, b := instance(service, 0), instance(service, 1)
	k.register(s, a)
	k.eventually(reader, service, "one instance was registered", a)

	const first = "checked"
	check(first)
	k.stays(25*pollEvery, reader, first, "the first registration of a service was checked")
	if skipped := k.list(reader, first).Skipped; len(skipped) > 0 {
		k.broken("after a check of a permission Skipped names %v", skipped)
	}
	if c, ok := reader.(driver.Cataloger); ok {
		k.must("Services", func(ctx context.Context) error {
			names, err := c.Services(ctx)
			if slices.Contains(names, first) {
				k.broken("after a check of a permission Services returned %q", names)
			}
			return err
		})
	}

	w, ok := reader.(driver.Watcher)
	if !ok {
		check(service)
		k.stays(25*pollEvery, reader, service, "another registration was checked", a)
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
		check(service)
	}
	k.register(s, b) // by which the watch is seen to have come past the checks
	for {
		e, ok := k.next(events, k.Patience)
		if !ok || e.err != nil {
			k.broken("the watch ended with the error %v", e.err)
		}
		if diffSets([]driver.Instance{a, b}, e.snapshot.Instances) == "" {
			return
		}
		if diff := diffSets([]driver.Instance{a}, e.snapshot.Instances); diff != "" {
			k.broken("a watch saw the check: %s", diff)
		}
	}
}

func registrationPermissionDenied(k *check) {
	d := k.openDenied()
	r := k.permissionChecker(d)
	k.denied("CheckPermission", func(ctx context.Context) error { return r.CheckPermission(ctx, service) },
		"the registration", func(ctx context.Context) error {
			s, err := k.registrar(d).OpenSession(ctx, driver.SessionOptions{TTL: k.SessionTTL})
			if err != nil {
				return err
			}
			defer s.Close(ctx)
			return s.Register(ctx, instance(service, 0))
		})
}

func registrationPermissionOutage(k *check) {
	r := k.permissionChecker(k.open())
	k.unanswered("CheckPermission", func(ctx context.Context) error { return r.CheckPermission(ctx, service) })
}

func claimPermission(k *check) {
	fresh := k.candidates(cluster, 1, k.GrantTTL)
	k.permitted("CheckClaimPermission", k.claimPermissionChecker(fresh[0]).CheckClaimPermission)
	k.observed(k.observe(fresh[0]), "a cluster that is as new as before the check", func(o driver.Mastership) bool {
		return vacant(o) && o.Term == 0 && o.ClusterID == ""
	})
	// Long enough that nothing expires meanwhile.
	cs := k.candidates(cluster, 2, max(k.GrantTTL, 30*time.Second))
	check := func() {
		k.Helper()
		for _, c := range cs {
			k.permitted("CheckClaimPermission", k.claimPermissionChecker(c).CheckClaimPermission)
		}
	}
	now := func(want string, ok func(driver.Mastership) bool) {
		k.Helper()
		k.observed(k.observe(cs[0]), want, ok)
	}
	check()
	m := k.acquire("a check of a permission", driver.Claim{}, cs...)
	check()
	k.renew(&m)
	now("the holder from before the checks", holds(m))
	k.release(m)
	check()
	now("the vacancy from before the checks", func(o driver.Mastership) bool {
		return vacant(o) && o.Term == m.grant.Term && o.ClusterID == m.grant.ClusterID
	})
}

func claimPermissionDenied(k *check) {
	c := k.candidate(k.openDenied(), cluster, 0, k.GrantTTL)
	k.denied("CheckClaimPermission", k.claimPermissionChecker(c).CheckClaimPermission,
		"Acquire", func(ctx context.Context) error {
			_, err := c.Authority.Acquire(ctx, driver.Claim{Holder: c.Holder, ClusterID: "x"})
			return err
		})
}

func claimPermissionOutage(k *check) {
	c := k.candidates(cluster, 1, k.GrantTTL)[0]
	k.unanswered("CheckClaimPermission", k.claimPermissionChecker(c).CheckClaimPermission)
}

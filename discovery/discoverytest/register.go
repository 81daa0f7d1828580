package discoverytest

import (
	"context"
	"errors"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

func registerClauses() []clause {
	return []clause{
		{"register/visible", "what one client registers, another lists, and no longer after it was deregistered; to deregister what is not there is no error", registerVisible},
		{"register/update", "Register puts right what differs, and is idempotent where nothing does", registerUpdate},
		{"register/invalid", "an instance that nobody could dial is refused with ErrInvalid", registerInvalid},
		{"register/unchanged", "Register of what is registered already, as it is and on this session, changes nothing in the provider", registerUnchanged},
		{"register/deleted_key", "Register puts a registration back that is missing, though its session lives", registerDeletedKey},
		{"register/ttl", "registrations vanish when their session is not renewed for its TTL, and not before", registerTTL},
		{"register/renew", "Renew keeps the session for another TTL, and its registrations with it", registerRenew},
		{"register/lost_session", "a lost session is an error that wraps ErrSessionLost from Renew and Register, after which another session takes its place", registerLostSession},
		{"register/close", "Close ends the session: what is registered on it vanishes at once; it is idempotent", registerClose},
		{"register/closed", "after the Close of a session its other methods fail with ErrClosed, and so do those of a session whose driver was closed", registerClosed},
		{"register/own_sessions", "a session owns its registrations and no others", registerOwnSessions},
		{"register/successor_deregister", "Deregister leaves a registration alone that another session has taken over", registerSuccessorDeregister},
		{"register/successor_close", "Close of a session leaves a registration alone that another session has taken over", registerSuccessorClose},
		{"register/taken_back", "Register puts right what hangs on another session: after it, the end of that session leaves the registration alone", registerTakenBack},
		{"register/successor_expiry", "the end of a session leaves a registration alone that another session has taken over", registerSuccessorExpiry},
		{"register/cancelled", "every method honours its context: Renew and Register with a cancelled one return promptly with its error", registerCancelled},
		{"register/outage", "an outage is an error, and ErrSessionLost only if the session is known to be over; once the provider is back, the registration can be put right", registerOutage},
	}
}

func registerVisible(k *check) {
	d, other := k.open(), k.open()
	s := k.liveSession(d)
	a, b := instance(service, 0), instance(service, 1)
	k.register(s, a, b)
	k.eventually(other, service, "two instances were registered", a, b)
	for range 2 {
		if err := s.Deregister(k.ctx(), a); err != nil {
			k.broken("Deregister returned %v", err)
		}
		k.eventually(other, service, "one of two was deregistered", b)
	}
}

func registerUpdate(k *check) {
	d := k.open()
	s := k.liveSession(d)
	i := instance(service, 0)
	k.register(s, i, i)
	k.eventually(d, service, "one instance was registered twice", i)
	i.Addr, i.Tags, i.Meta = "10.9.9.9:7946", []string{"new"}, map[string]string{"new": "yes"}
	k.register(s, i)
	k.eventually(k.open(), service, "it was registered with another address, tag and meta", i)
	i.Tags, i.Meta = nil, nil
	k.register(s, i)
	k.eventually(k.open(), service, "it was registered without tags and meta", i)
}

func registerInvalid(k *check) {
	d := k.open()
	s := k.liveSession(d)
	for _, addr := range []string{"", "10.0.0.1", "10.0.0.1:0", "0.0.0.0:7946", "[::]:7946", ":7946"} {
		i := instance(service, 0)
		i.Addr = addr
		if err := s.Register(k.ctx(), i); !errors.Is(err, driver.ErrInvalid) {
			k.broken("Register at %q returned %v", addr, err)
		}
	}
	k.eventually(d, service, "nothing valid was registered")
}

func registerUnchanged(k *check) {
	k.needs("Dump", k.Dump != nil)
	d := k.open()
	s := k.liveSession(d)
	a, b := instance(service, 0), instance(service, 1)
	k.register(s, a, b)
	k.eventually(d, service, "two instances were registered", a, b)
	before := k.settled()
	for range 3 {
		k.register(s, a, b)
		k.list(d, service)
	}
	k.unchanged(before, "Register of what stands")
}

func registerDeletedKey(k *check) {
	k.needs("RemoveRegistration", k.RemoveRegistration != nil)
	d := k.open()
	s := k.liveSession(d)
	a, b := instance(service, 0), instance(service, 1)
	k.register(s, a, b)
	k.eventually(d, service, "two instances were registered", a, b)
	k.RemoveRegistration(k, a)
	k.eventually(d, service, "one of two was deleted behind the driver's back", b)
	k.register(s, a)
	k.eventually(k.open(), service, "the deleted one was registered again", a, b)
}

func registerTTL(k *check) {
	d := k.open()
	s := k.session(k.open())
	stay, gone := instance(service, 0), instance(service, 1)
	k.register(k.liveSession(d), stay)
	k.register(s, gone)
	before := time.Now()
	if err := s.Renew(k.ctx()); err != nil {
		k.broken("Renew right after the session was opened returned %v", err)
	}
	// Half a TTL leaves room for a machine that stalls; a list that was asked for
	// after it proves nothing.
	for time.Since(before) < s.TTL()/2 {
		have := k.list(d, service)
		if diff := diffSets([]driver.Instance{stay, gone}, have.Instances); diff != "" && time.Since(before) < s.TTL() {
			k.broken("%v after the renewal of a session with TTL %v: %s", time.Since(before), s.TTL(), diff)
		}
		k.sleep(pollEvery)
	}
	k.eventuallyWithin(s.TTL()+k.ExpiryGrace, d, service, "a session was last renewed", stay)
}

func registerRenew(k *check) {
	d := k.open()
	s := k.session(k.open())
	i := instance(service, 0)
	k.register(s, i)
	k.eventually(d, service, "an instance was registered", i)
	last := time.Now()
	for start := last; time.Since(start) < 3*s.TTL(); {
		now := time.Now()
		if err := s.Renew(k.ctx()); err != nil {
			if gap := time.Since(last); gap > s.TTL()/2 {
				k.Skipf("this machine stalled for %v, half a TTL or more; the renewal came too late", gap)
			}
			k.broken("Renew returned %v", err)
		}
		last = now
		if diff := diffSets([]driver.Instance{i}, k.list(d, service).Instances); diff != "" && time.Since(last) < s.TTL()/2 {
			k.broken("%v after a session with TTL %v was opened, and renewed ever since: %s", time.Since(start), s.TTL(), diff)
		}
		k.sleep(s.TTL() / 5)
	}
}

// lose ends s without its owner's doing.
func (k *check) lose(s driver.Session) {
	k.Helper()
	if k.ExpireSession != nil {
		k.ExpireSession(k, s)
		return
	}
	k.sleep(s.TTL() + k.ExpiryGrace)
}

func registerLostSession(k *check) {
	d := k.open()
	s := k.session(d)
	a, b := instance(service, 0), instance(service, 1)
	k.register(s, a, b)
	k.lose(s)
	k.eventually(d, service, "the session was lost")
	for range 2 {
		if err := s.Renew(k.ctx()); !errors.Is(err, driver.ErrSessionLost) {
			k.broken("Renew returned %v", err)
		}
		if err := s.Register(k.ctx(), a); !errors.Is(err, driver.ErrSessionLost) {
			k.broken("Register returned %v", err)
		}
	}
	again := k.liveSession(d)
	k.register(again, a, b)
	k.eventually(k.open(), service, "another session was opened and the instances registered on it", a, b)
}

func registerClose(k *check) {
	d := k.open()
	// Long enough to tell the Close from the end of the TTL.
	k.SessionTTL = max(k.SessionTTL, 30*time.Second)
	s := k.session(d)
	stay, gone := instance(service, 0), instance(service, 1)
	k.register(k.liveSession(d), stay)
	k.register(s, gone)
	k.eventually(d, service, "two instances were registered", stay, gone)
	for range 2 {
		if err := s.Close(k.ctx()); err != nil {
			k.broken("Close returned %v", err)
		}
	}
	k.eventuallyWithin(min(k.Patience, s.TTL()/2), d, service, "the session was closed", stay)
}

func registerClosed(k *check) {
	i := instance(service, 0)
	calls := func(s driver.Session) {
		k.Helper()
		k.closed("Renew", s.Renew(k.ctx()))
		k.closed("Register", s.Register(k.ctx(), i))
		k.closed("Deregister", s.Deregister(k.ctx(), i))
	}
	s := k.session(k.open())
	k.register(s, i)
	k.must("Close", s.Close)
	calls(s)

	// A session that was lost is closed for the sake of what the driver keeps for it.
	if k.ExpireSession != nil {
		lost := k.session(k.open())
		k.ExpireSession(k, lost)
		k.must("Close of a lost session", lost.Close)
		calls(lost)
	}

	d := k.open()
	s = k.session(d)
	k.register(s, i)
	if err := d.Close(); err != nil {
		k.broken("Close of the driver returned %v", err)
	}
	calls(s)
}

func registerOwnSessions(k *check) {
	d := k.open()
	s, other := k.session(d), k.liveSession(d)
	a, b := instance(service, 0), instance(service, 1)
	k.register(s, a)
	k.register(other, b)
	if err := s.Deregister(k.ctx(), b); err != nil {
		k.broken("Deregister of what hangs on another session returned %v", err)
	}
	if err := s.Close(k.ctx()); err != nil {
		k.broken("Close returned %v", err)
	}
	k.eventually(d, service, "one of two sessions was closed", b)
	k.stays(25*pollEvery, d, service, "one of two sessions was closed", b)
}

// takeover registers one instance on a session and then on another, of another
// client, as a restarted process does that kept its name.
func (k *check) takeover() (old driver.Session, reader driver.Driver, i driver.Instance) {
	k.Helper()
	i = instance(service, 0)
	old = k.session(k.open())
	k.register(old, i)
	k.register(k.liveSession(k.open()), i)
	reader = k.open()
	k.eventually(reader, service, "an instance was registered, and taken over by another session", i)
	return old, reader, i
}

func registerSuccessorDeregister(k *check) {
	old, reader, i := k.takeover()
	if err := old.Deregister(k.ctx(), i); err != nil && !errors.Is(err, driver.ErrSessionLost) {
		k.broken("Deregister on the old session returned %v", err)
	}
	k.stays(25*pollEvery, reader, service, "the old session deregistered it", i)
}

func registerSuccessorClose(k *check) {
	old, reader, i := k.takeover()
	if err := old.Close(k.ctx()); err != nil {
		k.broken("Close of the old session returned %v", err)
	}
	k.stays(25*pollEvery, reader, service, "the old session was closed", i)
}

func registerTakenBack(k *check) {
	one, two := k.liveSession(k.open()), k.liveSession(k.open())
	i := instance(service, 0)
	k.register(one, i)
	k.register(two, i)
	k.register(one, i)
	if err := two.Close(k.ctx()); err != nil {
		k.broken("Close of the other session returned %v", err)
	}
	k.stays(25*pollEvery, k.open(), service, "it was taken back from a session that was then closed", i)
}

func registerSuccessorExpiry(k *check) {
	old, reader, i := k.takeover()
	if k.ExpireSession != nil {
		k.ExpireSession(k, old)
		k.stays(25*pollEvery, reader, service, "the old session was ended", i)
		return
	}
	k.stays(old.TTL()+k.ExpiryGrace, reader, service, "the old session was last renewed", i)
}

func registerCancelled(k *check) {
	s := k.liveSession(k.open())
	ctx, cancel := context.WithCancel(k.Context())
	cancel()
	start := time.Now()
	if err := s.Renew(ctx); !errors.Is(err, context.Canceled) {
		k.broken("Renew returned %v", err)
	}
	if err := s.Register(ctx, instance(service, 0)); !errors.Is(err, context.Canceled) {
		k.broken("Register returned %v", err)
	}
	if took := time.Since(start); took > prompt {
		k.broken("it took %v", took)
	}
}

func registerOutage(k *check) {
	k.needs("Stop and Start", k.Stop != nil)
	d := k.open()
	s := k.session(d)
	i := instance(service, 0)
	k.register(s, i)
	k.Stop(k)
	ctx, cancel := context.WithTimeout(k.Context(), k.SessionTTL/4)
	renewErr, registerErr := s.Renew(ctx), s.Register(ctx, i)
	cancel()
	k.Start(k)
	for op, err := range map[string]error{"Renew": renewErr, "Register": registerErr} {
		switch {
		case err == nil:
			k.broken("with the provider stopped, %s returned no error", op)
		case errors.Is(err, driver.ErrSessionLost):
			k.broken("with the provider stopped, %s returned %q, which nobody can know", op, err)
		case !driver.Retryable(err):
			k.broken("with the provider stopped, %s returned %q, which says that no retry helps", op, err)
		}
	}
	// What a registrar does: the session if it still is, else another.
	var err error
	k.must("Register after the outage", func(ctx context.Context) error {
		err = s.Register(ctx, i)
		if errors.Is(err, driver.ErrSessionLost) {
			return nil
		}
		return err
	})
	if err != nil {
		k.register(k.liveSession(d), i)
	}
	k.eventually(k.open(), service, "the provider was back and the instance registered again", i)
}

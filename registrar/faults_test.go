package registrar

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/memory"
	"github.com/musterhq/muster/internal/testing/snapshot"
)

func TestLostSessionIsReplacedAtOnce(t *testing.T) {
	virtual(t, Config{}, func(l *lab) {
		a, b := instance("a", 1), instance("b", 2)
		l.set(a, b)
		after(10 * ttl)
		l.memory.ExpireSessions()
		l.holds(a, b) // no time has passed
		if c := l.Status().Counters; c.SessionsLost != 1 || c.SessionsOpened != 2 {
			l.Errorf("counters %+v", c)
		}
		if n := l.tap.count("close"); n != 1 {
			l.Errorf("the lost session was closed %d times, want once", n)
		}
		after(10 * ttl)
		l.holds(a, b)
	})
}

func TestSessionsThatAreLostAgainAndAgainAreNotABusyLoop(t *testing.T) {
	virtual(t, Config{}, func(l *lab) {
		l.tap.on("register", func(context.Context) error { return driver.ErrSessionLost })
		l.set(instance("a", 1))
		after(time.Minute)
		if n := l.tap.count("open"); n < 10 || n > 200 {
			l.Errorf("%d sessions in a minute", n)
		}
		l.tap.on("register", nil)
		after(ttl)
		l.holds(instance("a", 1))
	})
}

// The provider is away for longer than the TTL: everything expires, the status says
// so, and everything comes back.
func TestOutageLongerThanTheTTL(t *testing.T) {
	virtual(t, Config{}, func(l *lab) {
		a, b := instance("a", 1), instance("b", 2)
		l.set(a, b)
		after(time.Minute)
		renewed := l.Status().Session.LastRenewal
		l.memory.Fail(driver.ErrUnavailable)

		after(time.Until(renewed.Add(ttl)) - time.Millisecond)
		if s := l.Status(); !s.Registered() || s.Session.Err == nil {
			l.Errorf("within the TTL: %+v, want it registered still, and the failure told", s)
		}
		after(2 * time.Millisecond)
		s := l.Status()
		if s.Registered() || s.Instances[0].Registered || s.Instances[0].Err == nil {
			l.Errorf("after the TTL: %+v, want nothing registered, and why", s.Instances)
		}
		after(10 * ttl)
		l.memory.Fail(nil)
		after(ttl)
		l.holds(a, b)
		s = l.Status()
		if !s.Registered() || s.Session.Err != nil || s.Instances[0].Err != nil || s.Counters.SessionsLost != 1 {
			l.Errorf("after the outage: %+v", s)
		}
	})
}

// A provider that stops counting while it is away, as etcd does when it restarts,
// goes on with the session.
func TestOutageThatTheSessionSurvives(t *testing.T) {
	virtual(t, Config{}, func(l *lab) {
		a := instance("a", 1)
		l.set(a)
		after(time.Minute)
		for _, op := range []string{"renew", "register", "open"} {
			l.tap.on(op, unavailable)
		}
		for range 10 {
			time.Sleep(ttl / 2)
			l.tap.keepAlive(l.Context())
		}
		if l.Status().Registered() {
			l.Error("registered although not renewed for five TTLs")
		}
		for _, op := range []string{"renew", "register", "open"} {
			l.tap.on(op, nil)
		}
		after(ttl / 2)
		l.holds(a)
		if s := l.Status(); !s.Registered() || s.Counters.SessionsLost != 0 {
			l.Errorf("after the outage: %+v", s)
		}
	})
}

// A registration that is not renewed while the session is costs the others nothing: they
// stay registered in the status, too, and each is confirmed, which tells what is wrong.
func TestRenewalInPart(t *testing.T) {
	virtual(t, Config{}, func(l *lab) {
		a, b := instance("a", 1), instance("b", 2)
		l.set(a, b)
		after(time.Minute)
		l.tap.on("renew", func(ctx context.Context) error {
			l.tap.keepAlive(ctx)
			return fmt.Errorf("%w: b: %w", driver.ErrPartial, driver.ErrDenied)
		})
		registers := l.tap.count("register")
		after(10 * ttl)
		l.holds(a, b)
		s := l.Status()
		if !s.Registered() || s.Session.Err != nil || s.Counters.SessionsLost != 0 || s.Counters.RenewErrors < 20 {
			l.Errorf("while one of two is not renewed: %+v", s)
		}
		if n := l.tap.count("register") - registers; n < 2*20 {
			l.Errorf("%d registrations were confirmed in ten TTLs, want each at each renewal", n)
		}
		l.tap.on("renew", nil)
		after(ttl)
		errors := l.Status().Counters.RenewErrors
		after(10 * ttl)
		if n := l.Status().Counters.RenewErrors; n != errors {
			l.Errorf("%d errors of renewals that were whole", n-errors)
		}
	})
}

func TestProviderThatIsDownAtFirst(t *testing.T) {
	down := func(m *memory.Server, _ *tap) { m.Fail(driver.ErrUnavailable) }
	virtualFrom(t, Config{}, down, func(l *lab) {
		l.set(instance("a", 1))
		after(time.Hour)
		s := l.Status()
		if s.Registered() || s.Session.Open || s.Session.Err == nil || s.Instances[0].Err == nil {
			l.Errorf("during the outage: %+v", s)
		}
		if n := s.Counters.OpenErrors; n < 3600/10 || n > 3600*2 {
			l.Errorf("%d attempts in an hour", n)
		}
		l.memory.Fail(nil)
		after(maxRetry)
		l.holds(instance("a", 1))
	})
}

func TestRefusalIsTriedForEver(t *testing.T) {
	virtual(t, Config{}, func(l *lab) {
		a, b := instance("a", 1), instance("b", 2)
		l.set(a, b)
		l.holds(a, b)
		l.tap.on("register", func(context.Context) error { return fmt.Errorf("%w: no such role", driver.ErrDenied) })
		b.Addr = "10.0.0.2:2"
		l.set(a, b)
		after(10 * time.Minute)
		l.holds(a, instance("b", 2)) // the old form stands as long as it is renewed
		s := l.Status()
		if !s.Instances[0].Registered || s.Instances[0].Err == nil {
			l.Errorf("a: %+v, want it registered, and the refusal to confirm it", s.Instances[0])
		}
		if s.Instances[1].Registered || s.Instances[1].Err == nil || s.Instances[1].Attempts < 100 {
			l.Errorf("b: %+v, want it not registered in its new form", s.Instances[1])
		}
		l.tap.on("register", nil)
		after(maxRetry)
		l.holds(a, b)
		if s := l.Status(); !s.Registered() || s.Instances[0].Err != nil || s.Instances[1].Attempts != 0 {
			l.Errorf("after the refusal: %+v", s.Instances)
		}
	})
}

func TestDeletedOrChangedRegistrationIsPutBackAtOnce(t *testing.T) {
	virtual(t, Config{}, func(l *lab) {
		a, b := instance("a", 1), instance("b", 2)
		l.set(a, b)
		after(time.Minute)
		l.memory.Remove(a)
		l.holds(a, b)
		after(time.Minute)
		changed := b
		changed.Addr = "10.6.6.6:2"
		l.memory.Put(changed)
		l.holds(a, b)
		if c := l.Status().Counters; c.Repairs != 2 || c.Registrations != 4 || c.SessionsLost != 0 {
			l.Errorf("counters %+v, want 2 repairs", c)
		}
		after(time.Minute)
		l.memory.Wipe() // with the sessions
		l.holds(a, b)
	})
}

// Without a watch, and with a read that never comes, the timer must do.
func TestDeletedRegistrationIsPutBackWithinTheTTLWithoutAWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memory.New()
		type deaf struct {
			driver.Driver
			driver.Registrar
		}
		d := m.Driver()
		registry := discovery.New("deaf", deaf{d, d.(driver.Registrar)}, discovery.Options{PollInterval: 1000 * time.Hour})
		defer registry.Close()
		l := &lab{tester: t, memory: m, Registrar: New(Config{Registry: registry, TTL: ttl})}
		defer l.Stop(context.Background())
		a := instance("a", 1)
		l.set(a)
		for range 20 {
			after(ttl / 2)
			l.memory.Remove(a)
			after(ttl)
			l.holds(a)
		}
	})
}

// Two who undo each other's work must not load the provider.
func TestDisputedRegistrationIsPutBackEverMoreSlowly(t *testing.T) {
	virtual(t, Config{}, func(l *lab) {
		a := instance("a", 1)
		l.set(a)
		after(time.Minute)
		ctx, cancel := context.WithTimeout(l.Context(), 10*time.Minute)
		defer cancel()
		before := l.tap.count("register")
		rival := discovery.New("rival", l.memory.Driver(), discovery.Options{})
		defer rival.Close()
		for s := range rival.Watch(ctx, discovery.Query{Service: "web"}) {
			if len(snapshot.Instances(s)) > 0 {
				l.memory.Remove(a)
			}
		}
		if n := l.tap.count("register") - before; n > 600 {
			l.Errorf("%d calls in ten minutes", n)
		}
		after(ttl)
		l.holds(a)
		// When peace has lasted, the next repair is prompt again.
		after(time.Minute)
		l.memory.Remove(a)
		l.holds(a)
	})
}

// What a snapshot shows while a call is under way may be older or newer than what
// the call does.
func TestDeletionWhileTheCallIsUnderWay(t *testing.T) {
	virtual(t, Config{}, func(l *lab) {
		a := instance("a", 1)
		l.tap.on("registered", func(context.Context) error {
			l.tap.on("registered", nil)
			time.Sleep(time.Second)
			l.memory.Remove(a)
			time.Sleep(time.Second)
			return nil
		})
		l.set(a)
		after(2 * time.Second)
		l.holds(a)
	})
}

func TestSetWhileTheCallIsUnderWay(t *testing.T) {
	virtual(t, Config{}, func(l *lab) {
		a := instance("a", 1)
		l.tap.on("registered", func(ctx context.Context) error { return lasts(ctx, time.Second, nil) })
		l.set(a)
		after(time.Second / 2)
		a.Addr = "10.0.0.2:1"
		l.set(a)
		after(time.Second)
		if l.Status().Registered() {
			l.Error("registered, with the confirmation of an earlier form")
		}
		after(time.Second)
		l.holds(a)
		if !l.Status().Registered() {
			l.Errorf("status %+v", l.Status())
		}
	})
}

func TestUnknownIsNotMissing(t *testing.T) {
	virtual(t, Config{}, func(l *lab) {
		l.tap.on("list", func(ctx context.Context) error { return lasts(ctx, time.Second, driver.ErrUnavailable) })
		l.set(instance("a", 1))
		after(time.Minute)
		if s := l.Status(); !s.Registered() || s.Counters.Repairs != 0 || s.Counters.Registrations != 1 {
			l.Errorf("status %+v", s)
		}
	})
}

// Renewals alone fail: what is confirmed on a session that nobody renews is not
// worth much.
func TestLapseWhileOtherCallsWork(t *testing.T) {
	virtual(t, Config{}, func(l *lab) {
		l.set(instance("a", 1))
		after(time.Minute)
		l.tap.on("renew", unavailable)
		for range 10 {
			after(ttl / 2)
			l.tap.keepAlive(l.Context())
		}
		if s := l.Status(); s.Registered() || s.Instances[0].Err == nil {
			l.Errorf("registered although not renewed for five TTLs: %+v", s)
		}
		l.tap.on("renew", nil)
		renewals := l.Status().Counters.Renewals
		for l.Status().Counters.Renewals == renewals {
			after(time.Millisecond)
		}
		if s := l.Status(); !s.Registered() || s.Instances[0].Err != nil || s.Counters.SessionsLost != 0 {
			l.Errorf("not registered right after the renewal: %+v", s)
		}
	})
}

func TestErrorsAreNoReasonToRepair(t *testing.T) {
	virtual(t, Config{}, func(l *lab) {
		l.set(instance("a", 1))
		after(time.Minute)
		before := l.Status().Counters
		l.tap.on("watch", unavailable)
		l.memory.Fail(driver.ErrUnavailable)
		after(ttl / 4)
		l.memory.Fail(nil)
		after(time.Minute)
		if c := l.Status().Counters; c.Repairs != 0 || c.Registrations != before.Registrations || c.SessionsLost != 0 {
			l.Errorf("counters %+v, before %+v", c, before)
		}
	})
}

func TestSlowAnswersCostNothing(t *testing.T) {
	virtual(t, Config{}, func(l *lab) {
		l.memory.Delay(ttl / 4)
		a := instance("a", 1)
		l.set(a)
		after(20 * ttl)
		l.memory.Delay(0)
		l.holds(a)
		if s := l.Status(); !s.Registered() || s.Counters.SessionsLost != 0 {
			l.Errorf("status %+v", s)
		}
	})
}

// One call that hangs holds up neither the renewals nor the other instances.
func TestHangingRegisterHoldsUpNobody(t *testing.T) {
	virtual(t, Config{CallTimeout: time.Minute}, func(l *lab) {
		l.tap.on("register", hang)
		l.set(instance("a", 1))
		synctest.Wait()
		l.tap.on("register", nil) // for the others
		all := []driver.Instance{instance("a", 1)}
		for n := range 50 {
			all = append(all, instance(fmt.Sprint("b", n), 100+n))
		}
		l.set(all...)
		after(time.Minute + maxRetry)
		l.holds(all...)
		if s := l.Status(); s.Counters.SessionsLost != 0 || s.Counters.RenewErrors != 0 {
			l.Errorf("counters %+v", s.Counters)
		}
	})
}

func TestHangingRenewalIsGivenUpInTime(t *testing.T) {
	virtual(t, Config{CallTimeout: time.Hour}, func(l *lab) {
		a := instance("a", 1)
		l.set(a)
		after(time.Minute)
		for range 10 { // the first attempt of each period is lost
			renewals := l.Status().Counters.Renewals
			l.tap.on("renew", func(ctx context.Context) error { l.tap.on("renew", nil); return hang(ctx) })
			for l.Status().Counters.Renewals == renewals {
				time.Sleep(10 * time.Millisecond)
			}
		}
		l.holds(a)
		if s := l.Status(); !s.Registered() || s.Counters.SessionsLost != 0 || s.Counters.RenewErrors != 10 {
			l.Errorf("status %+v", s)
		}
	})
}

// Lost answers leave nothing behind: what was written without our knowing is taken
// away again when it is no longer wanted.
func TestLostResponsesLeaveNoGhost(t *testing.T) {
	virtual(t, Config{}, func(l *lab) {
		a, b := instance("a", 1), instance("b", 2)
		l.set(a)
		l.holds(a)
		l.memory.LoseResponses(true)
		l.set(a, b)
		synctest.Wait()
		if !sameSet(l.published("web"), []driver.Instance{a, b}) {
			l.Fatal("the call had no effect: this test is wrong")
		}
		l.set(a)
		after(time.Second)
		l.memory.LoseResponses(false)
		after(ttl)
		l.holds(a)
		after(time.Hour)
		l.holds(a)
		if s := l.Status(); len(s.Instances) != 1 || !s.Registered() {
			l.Errorf("status %+v", s)
		}
	})
}

// A call that was given up arrives at the provider after the call that undid it.
func TestLateRegistrationIsTakenAway(t *testing.T) {
	virtual(t, Config{CallTimeout: time.Second}, func(l *lab) {
		a, b := instance("a", 1), instance("b", 2)
		l.set(a)
		l.holds(a)
		l.tap.on("register", hang)
		l.set(a, b)
		after(500 * time.Millisecond)
		l.set(a)
		after(600 * time.Millisecond) // b's call was given up and b deregistered
		if n := l.tap.count("deregister"); n != 1 {
			l.Fatalf("%d deregistrations, want one so far", n)
		}
		l.tap.on("register", nil)
		l.memory.Put(b) // here it is
		after(2 * time.Second)
		if n := l.tap.count("deregister"); n != 2 {
			l.Errorf("%d deregistrations, want another to catch the late one", n)
		}
	})
}

func TestDeregistrationIsTriedForEver(t *testing.T) {
	virtual(t, Config{}, func(l *lab) {
		a := instance("a", 1)
		l.set(a)
		l.holds(a)
		l.tap.on("deregister", unavailable)
		l.set()
		after(time.Minute)
		s := l.Status()
		if len(s.Instances) != 1 || !s.Instances[0].Leaving || s.Instances[0].Err == nil || s.Registered() {
			l.Errorf("status %+v, want a leaving, and why it cannot", s.Instances)
		}
		l.tap.on("deregister", nil)
		after(maxRetry)
		l.holds()
		if s := l.Status(); len(s.Instances) != 0 {
			l.Errorf("status %+v, want nothing", s.Instances)
		}
	})
}

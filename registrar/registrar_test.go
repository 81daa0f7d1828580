package registrar

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/memory"
)

func TestRegistersAndReportsTheTruth(t *testing.T) {
	virtual(t, Config{}, func(l *lab) {
		start := time.Now()
		a, b := instance("a", 1), instance("b", 2)
		if s := l.Status(); s.Registered() || len(s.Instances) != 0 {
			l.Fatalf("before Set: %+v", s)
		}
		l.set(b, a)
		if s := l.Status(); len(s.Instances) != 2 || s.Registered() && len(l.published("web")) != 2 {
			l.Fatalf("right after Set: %+v, want registered only what is there", s)
		}
		if err := l.Wait(l.Context()); err != nil {
			l.Fatalf("Wait: %v", err)
		}
		l.holds(a, b)
		if at := l.published("web")["a"].RegisteredAt; !at.Equal(start.UTC().Truncate(time.Millisecond)) {
			l.Errorf("RegisteredAt = %v, want %v", at, start)
		}
		s := l.Status()
		if !s.Registered() || s.Off != "" || !s.Session.Open || s.Session.TTL != ttl || s.Session.Err != nil || !s.Session.LastRenewal.Equal(start) {
			l.Errorf("session %+v of %+v", s.Session, s)
		}
		if len(s.Instances) != 2 || s.Instances[0].Instance.InstanceID != "a" || s.Instances[0].Attempts != 0 || s.Instances[0].Err != nil {
			l.Errorf("instances %+v, want a and b", s.Instances)
		}
		if s.Counters.Registrations != 2 || s.Counters.SessionsOpened != 1 || s.Counters.Repairs != 0 {
			l.Errorf("counters %+v", s.Counters)
		}

		// Nothing happens for a long time, and nothing changes.
		after(20 * ttl)
		l.holds(a, b)
		s = l.Status()
		if c := s.Counters; c.SessionsLost != 0 || c.RenewErrors != 0 || c.Repairs != 0 || c.Registrations != 2 {
			l.Errorf("after a quiet time: %+v", c)
		}
		if n := s.Counters.Renewals; n < 59 || n > 61 {
			l.Errorf("%d renewals in 20 TTLs, want 3 in each", n)
		}
		if since := s.Instances[0].Since; !since.Equal(start) {
			l.Errorf("registered since %v, want %v", since, start)
		}
	})
}

func TestSetIsTheWholeDesiredState(t *testing.T) {
	virtual(t, Config{}, func(l *lab) {
		a, b := instance("a", 1), instance("b", 2)
		l.set(a)
		l.holds(a)
		registeredAt := l.published("web")["a"].RegisteredAt
		after(time.Minute)

		a.Addr = "10.0.0.1:11" // the same instance at a new address
		l.set(a, b)
		l.holds(a, b)
		if at := l.published("web")["a"].RegisteredAt; !at.Equal(registeredAt) {
			l.Errorf("RegisteredAt moved from %v to %v with the address", registeredAt, at)
		}

		calls := l.tap.count("register")
		a.Tags = []string{"a", "b"} // the order of tags means nothing
		l.set(a, b)
		synctest.Wait()
		if n := l.tap.count("register"); n != calls {
			l.Errorf("an unchanged Set made %d calls", n-calls)
		}

		l.set(b)
		l.holds(b)
		if s := l.Status(); len(s.Instances) != 1 || s.Counters.Deregistrations != 1 {
			l.Errorf("after a was taken out: %+v", s)
		}
		l.set()
		l.holds()
		if err := l.Wait(l.Context()); err != nil {
			l.Errorf("Wait for nothing: %v", err)
		}
		l.set(a)
		l.holds(a)
	})
}

func TestSetDoesNotShareMemoryWithItsCaller(t *testing.T) {
	virtual(t, Config{}, func(l *lab) {
		a := instance("a", 1)
		l.set(a)
		a.Meta["version"] = "2"
		a.Tags[0] = "z"
		l.Status().Instances[0].Instance.Meta["version"] = "3"
		after(2 * ttl)
		l.holds(instance("a", 1))
	})
}

func TestInvalidInstancesAreRefusedAndTheOthersKept(t *testing.T) {
	virtual(t, Config{}, func(l *lab) {
		good := instance("good", 1)
		turned := instance("turned", 2)
		l.set(good, turned)
		l.holds(good, turned)

		turned.Addr = "0.0.0.0:7946"
		noID := instance("", 3)
		twice := instance("twice", 4)
		err := l.Set(good, turned, noID, twice, twice)
		if !errors.Is(err, driver.ErrInvalid) {
			l.Fatalf("Set = %v, want ErrInvalid", err)
		}
		for _, part := range []string{"nobody can dial 0.0.0.0", "no instance id", `"twice"`} {
			if !strings.Contains(err.Error(), part) {
				l.Errorf("the error does not say %q: %v", part, err)
			}
		}
		l.holds(good)
		after(3 * ttl)
		l.holds(good)
		for _, i := range l.Status().Instances {
			if valid := i.Instance.InstanceID == "good"; i.Registered != valid || (i.Err == nil) != valid {
				l.Errorf("status of %q: %+v", i.Instance.InstanceID, i)
			}
		}
		if err := l.Wait(l.Context()); !errors.Is(err, driver.ErrInvalid) {
			l.Errorf("Wait = %v, want ErrInvalid", err)
		}
		turned.Addr = "10.0.0.9:2"
		l.set(good, turned)
		l.holds(good, turned)
	})
}

func TestWaitSaysWhatStoodInTheWay(t *testing.T) {
	down := func(m *memory.Server, _ *tap) { m.Fail(fmt.Errorf("%w: connection refused", driver.ErrUnavailable)) }
	virtualFrom(t, Config{}, down, func(l *lab) {
		l.set(instance("a", 1))
		ctx, cancel := context.WithTimeout(l.Context(), time.Minute)
		defer cancel()
		err := l.Wait(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, driver.ErrUnavailable) || !strings.Contains(err.Error(), "connection refused") {
			l.Fatalf("Wait = %v, want the deadline and the reason", err)
		}
		l.memory.Fail(nil)
		if err := l.Wait(l.Context()); err != nil {
			l.Fatalf("Wait after the outage: %v", err)
		}
		l.holds(instance("a", 1))
	})
}

func TestProviderThatRegistersNothing(t *testing.T) {
	d := memory.New().Driver()
	registry := discovery.New("static", struct{ driver.Driver }{d}, discovery.Options{}) // hides the abilities
	defer registry.Close()
	r := New(Config{Registry: registry})
	if err := r.Set(instance("a", 1)); err != nil {
		t.Fatal(err)
	}
	if s := r.Status(); s.Off != "provider static registers nothing" || s.Registered() {
		t.Errorf("status %+v", s)
	}
	if err := r.Wait(t.Context()); err != nil {
		t.Errorf("Wait: %v", err)
	}
	if err := r.Stop(t.Context()); err != nil {
		t.Errorf("Stop: %v", err)
	}
}

func TestWatchReportsEachTurn(t *testing.T) {
	virtual(t, Config{}, func(l *lab) {
		ctx, cancel := context.WithCancel(l.Context())
		var turns []bool
		done := make(chan struct{})
		go func() {
			defer close(done)
			for s := range l.Watch(ctx) {
				if r := s.Registered(); len(turns) == 0 || turns[len(turns)-1] != r {
					turns = append(turns, r)
				}
			}
		}()
		synctest.Wait()
		l.set(instance("a", 1))
		after(ttl)
		l.tap.on("open", unavailable)
		l.memory.ExpireSessions()
		after(time.Minute)
		l.tap.on("open", nil)
		after(time.Minute)
		l.Stop(ctx)
		synctest.Wait()
		cancel()
		<-done
		if got, want := fmt.Sprint(turns), fmt.Sprint([]bool{false, true, false, true, false}); got != want {
			l.Errorf("registered: %s, want %s", got, want)
		}
	})
}

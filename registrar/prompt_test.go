package registrar

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/memory"
)

// What went with a lost session is registered on the next one at once, whether or not the
// provider can be read.
func TestLostSessionIsReplacedWithoutReading(t *testing.T) {
	virtual(t, Config{}, func(l *lab) {
		l.tap.on("list", unavailable)
		l.tap.on("watch", unavailable)
		a := instance("a", 1)
		l.set(a)
		after(time.Minute)
		l.holds(a)
		l.memory.ExpireSessions()
		opened := l.Status().Counters.SessionsOpened
		for l.Status().Counters.SessionsOpened == opened {
			after(time.Millisecond)
		}
		after(time.Millisecond)
		l.holds(a)
	})
}

// Why the session was not renewed in time is what is said of its registrations.
func TestLapseSaysWhy(t *testing.T) {
	virtual(t, Config{}, func(l *lab) {
		l.set(instance("a", 1))
		after(time.Minute)
		l.tap.on("renew", func(context.Context) error { return errors.New("the cat sat on the cable") })
		l.tap.on("register", hang) // and says nothing for now
		for l.Status().Registered() {
			after(time.Millisecond)
		}
		s := l.Status()
		if err := errors.Join(s.Instances[0].Err, s.Session.Err); strings.Count(err.Error(), "cat") != 2 {
			t.Fatalf("after a TTL without a renewal: %+v", s)
		}
	})
	e := entry{instance: instance("a", 1), wanted: true, registered: true}
	e.expired(errNotRenewed)
	if !errors.Is(e.err, errNotRenewed) || e.registered || !e.next.due {
		t.Errorf("a registration whose session has expired: %+v", e)
	}
	gone := entry{instance: instance("a", 1), presence: presence{sent: true}}
	if gone.expired(errNotRenewed); gone.next.due {
		t.Error("what is to go is registered again")
	}
}

// What was written without an answer, and then with one, is certain: it is deregistered once.
func TestCertainAgain(t *testing.T) {
	virtual(t, Config{}, func(l *lab) {
		l.tap.on("registered", unavailable) // it is done, and says that it is not
		l.set(instance("a", 1))
		after(time.Second)
		l.tap.on("registered", nil)
		after(2 * ttl)
		if !l.Status().Registered() {
			t.Fatalf("%+v", l.Status())
		}
		l.set()
		after(2 * ttl)
		if n := l.tap.count("deregister"); n != 1 {
			t.Errorf("it was deregistered %d times", n)
		}
	})
}

// An instance that yields to its rival is not retried at once, but by the end of that; a new form
// of it is registered at once, whatever came before.
func TestHurry(t *testing.T) {
	now := time.Now()
	e := entry{instance: instance("a", 1), wanted: true}
	e.yield(now)
	due := e.next.notBefore
	if !due.Equal(now.Add(yieldFor)) {
		t.Fatalf("it yields until %v", due)
	}
	e.retryNow()
	e.expired(errNotRenewed)
	if !e.next.notBefore.Equal(due) || !e.contest.yielding || errors.Is(e.err, errNotRenewed) {
		t.Errorf("one that yields is retried at once: %+v", e)
	}
	e.resume()
	if e.contest.yielding || !e.next.due || !e.next.notBefore.IsZero() || e.err != nil {
		t.Errorf("one that yields no more: %+v", e)
	}
	for _, change := range []func(e *entry){
		func(e *entry) { e.want(instance("a", 2), nil, now) },
		func(e *entry) { e.shadow(true, "another"); e.shadow(false, "") },
	} {
		e := entry{instance: instance("a", 1), wanted: true}
		for range 20 {
			e.failed(driver.ErrUnavailable, time.Hour)
		}
		change(&e)
		if !e.next.due || !e.next.notBefore.IsZero() || e.err != nil || e.attempts != 0 {
			t.Errorf("a new form is not registered at once: %+v", e)
		}
		if e.failed(driver.ErrUnavailable, time.Hour); time.Until(e.next.notBefore) > time.Minute {
			t.Errorf("after its first failure it waits until %v, as if it had failed before", e.next.notBefore)
		}
	}
}

// byAddress is a provider in memory that has one place for each address.
type byAddress struct{ crowded }

func (byAddress) RecordKey(i driver.Instance) string { return i.Addr }

// One that moves to where another stands is deregistered, and says for what, and for as long.
func TestMovedToWhereAnotherStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		registry := discovery.New("memory", byAddress{crowded{addresses{memory.New().Driver()}, &calls}}, discovery.Options{})
		defer registry.Close()
		r := New(Config{Registry: registry, TTL: ttl})
		defer r.Stop(context.Background())
		set := func(all ...discovery.Instance) {
			t.Helper()
			if err := r.Set(all...); err != nil {
				t.Fatal(err)
			}
			after(2 * ttl)
		}
		set(of("alpha", "a", 1), of("beta", "b", 2))
		if got := standsOf(t, registry, "alpha", "beta"); got != "alpha a, beta b" {
			t.Fatalf("there is %q", got)
		}
		set(of("alpha", "a", 1), of("beta", "b", 1))
		b := r.Status().Instances[1]
		if got := standsOf(t, registry, "alpha", "beta"); got != "alpha a" || b.Registered || !b.Yields || !errors.Is(b.Err, driver.ErrConflict) {
			t.Errorf("there is %q; the one that moved is %+v", got, b)
		}
		set(of("alpha", "a", 1), of("beta", "b", 3))
		b = r.Status().Instances[1]
		if got := standsOf(t, registry, "alpha", "beta"); got != "alpha a, beta b" || !b.Registered || b.Yields || b.Err != nil {
			t.Errorf("there is %q; the one that moved on is %+v", got, b)
		}
	})
}

// Between two looks at a registration that somebody undoes again and again lies the bound at
// most, and one that is undone now and then is looked at at once.
func TestDoubtsAreSpaced(t *testing.T) {
	const bound = 2 * time.Second
	now := time.Now()
	e := entry{instance: instance("a", 1), wanted: true, registered: true}
	waits := time.Duration(0)
	for n := range 500 {
		e.dispute(now, bound)
		wait := e.next.notBefore.Sub(now)
		if wait < 0 || wait > bound || n == 0 && wait != 0 {
			t.Fatalf("the %d. look is %v after the doubt", n+1, wait)
		}
		waits += wait
		now = now.Add(bound)
	}
	if waits < 100*time.Second || !e.next.due || !e.repair || e.registered {
		t.Errorf("500 looks waited for %v in all: %+v", waits, e)
	}
	now = now.Add(2*bound + time.Millisecond)
	if e.doubt(now, bound); !e.next.notBefore.Equal(now) {
		t.Errorf("after a while without a doubt it waits for %v", e.next.notBefore.Sub(now))
	}
}

// All that is to be registered is, whatever else is about to go, and there is something.
func TestStatusRegistered(t *testing.T) {
	yes, no, going := InstanceStatus{Registered: true}, InstanceStatus{}, InstanceStatus{Leaving: true}
	for _, v := range []struct {
		all  []InstanceStatus
		want bool
	}{
		{nil, false}, {[]InstanceStatus{going}, false}, {[]InstanceStatus{yes}, true}, {[]InstanceStatus{no}, false},
		{[]InstanceStatus{going, yes}, true}, {[]InstanceStatus{yes, going, no}, false}, {[]InstanceStatus{going, no}, false}, {[]InstanceStatus{yes, yes, going}, true},
	} {
		if got := (Status{Instances: v.all}).Registered(); got != v.want {
			t.Errorf("%+v: registered %v", v.all, got)
		}
	}
}

package registrar

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

func TestEvict(t *testing.T) {
	virtual(t, Config{}, func(l *lab) {
		stranger, stays, mine := instance("stranger", 1), instance("stays", 2), instance("mine", 3)
		l.memory.Put(stranger, stays) // on no session: until it is removed
		l.set(mine)
		if err := l.Evict(stranger, mine); err != nil {
			l.Fatal(err)
		}
		l.holds(stays, mine)
		if s := l.Status(); len(s.Instances) != 1 || !s.Registered() {
			l.Errorf("status %+v", s)
		}
		if err := l.Evict(driver.Instance{Service: "web", Addr: "10.0.0.1:1"}); !errors.Is(err, driver.ErrInvalid) {
			l.Errorf("Evict of one without an id = %v", err)
		}
		after(10 * ttl)
		l.holds(stays, mine)
	})
}

// It is tried until it is done, whatever the provider does meanwhile.
func TestEvictThroughOutages(t *testing.T) {
	for name, fault := range map[string]func(l *lab){
		"no register":     func(l *lab) { l.tap.on("register", unavailable) },
		"no deregister":   func(l *lab) { l.tap.on("deregister", unavailable) },
		"no session":      func(l *lab) { l.memory.Fail(driver.ErrUnavailable) },
		"answers lost":    func(l *lab) { l.memory.LoseResponses(true) },
		"hang":            func(l *lab) { l.memory.Delay(time.Hour) },
		"session expires": func(l *lab) { l.tap.on("deregister", unavailable); l.tap.on("renew", unavailable) },
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, Config{}, func(l *lab) {
				stranger, mine := instance("stranger", 1), instance("mine", 3)
				l.memory.Put(stranger)
				l.set(mine)
				l.holds(stranger, mine)
				fault(l)
				if err := l.Evict(stranger); err != nil {
					l.Fatal(err)
				}
				after(3 * ttl)
				l.heal()
				after(5*time.Second + 2*ttl)
				l.holds(mine)
				if s := l.Status(); len(s.Instances) != 1 || !s.Registered() {
					l.Errorf("status %+v", s)
				}
			})
		})
	}
}

// What is desired before it is gone stays.
func TestEvictOfWhatIsDesiredThen(t *testing.T) {
	virtual(t, Config{}, func(l *lab) {
		a := instance("a", 1)
		l.memory.Put(a)
		l.tap.on("register", unavailable)
		if err := l.Evict(a); err != nil {
			l.Fatal(err)
		}
		after(time.Second)
		l.set() // what is not desired does not end an eviction
		after(time.Second)
		l.set(a)
		l.tap.on("register", nil)
		after(5 * time.Second)
		l.holds(a)
		if s := l.Status(); !s.Registered() {
			l.Errorf("status %+v", s)
		}
		l.set()
		l.holds()
	})
}

// A successor takes over what was left, and nothing is missing between the two.
func TestKeepOnStop(t *testing.T) {
	virtual(t, Config{KeepOnStop: true}, func(l *lab) {
		a, b := instance("a", 1), instance("b", 2)
		l.set(a, b)
		l.holds(a, b)
		after(ttl/3 - time.Millisecond) // just before it is renewed
		if err := l.Stop(context.Background()); err != nil {
			l.Fatal(err)
		}
		l.holds(a, b)
		if s := l.Status(); !s.Stopped || s.Registered() {
			l.Errorf("status %+v", s)
		}
		after(ttl - time.Millisecond) // a whole TTL from the stop, whenever the last renewal was
		l.holds(a, b)
		successor := newLab(l.tester, l.memory, Config{})
		successor.set(a)
		synctest.Wait()
		after(ttl)
		l.holds(a) // b has ended with its TTL
		after(10 * ttl)
		l.holds(a)
	})
}

// It is done at once, also when nothing else is to be done.
func TestEvictAtOnce(t *testing.T) {
	virtual(t, Config{}, func(l *lab) {
		stranger, mine := instance("stranger", 1), instance("mine", 3)
		l.memory.Put(stranger)
		l.set(mine)
		l.holds(stranger, mine)
		if err := l.Evict(stranger); err != nil {
			l.Fatal(err)
		}
		l.holds(mine)
	})
}

// What is no longer desired while it is being registered does not count as registered when
// the answer comes, and is removed.
func TestUnwantedWhileItIsRegistered(t *testing.T) {
	virtual(t, Config{}, func(l *lab) {
		answer := make(chan struct{})
		l.tap.on("registered", func(context.Context) error { <-answer; return nil })
		l.set(instance("mine", 1))
		synctest.Wait()
		l.set()
		l.tap.on("registered", nil)
		close(answer)
		l.holds()
		if c := l.Status().Counters; c.Registrations != 0 || c.Deregistrations != 1 {
			l.Errorf("counters %+v, want no registration and one removal", c)
		}
	})
}

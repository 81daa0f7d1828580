package registrar

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/memory"
)

func TestStopDeregistersAtOnce(t *testing.T) {
	virtual(t, Config{}, func(l *lab) {
		a := instance("a", 1)
		l.set(a)
		l.holds(a)
		start := time.Now()
		if err := l.Stop(context.Background()); err != nil {
			l.Fatalf("Stop: %v", err)
		}
		l.holds()
		if d := time.Since(start); d != 0 {
			l.Errorf("Stop took %v of a provider that answers at once", d)
		}
		if err := l.Stop(context.Background()); err != nil {
			l.Errorf("second Stop: %v", err)
		}
		if err := l.Set(a); !errors.Is(err, ErrStopped) {
			l.Errorf("Set after Stop = %v, want ErrStopped", err)
		}
		if err := l.Wait(l.Context()); !errors.Is(err, ErrStopped) {
			l.Errorf("Wait after Stop = %v, want ErrStopped", err)
		}
		if s := l.Status(); !s.Stopped || s.Registered() || s.Session.Open {
			l.Errorf("status %+v", s)
		}
		after(10 * ttl)
		l.holds()
	})
}

// Stop in whatever state, with whatever provider, ends within its bound.
func TestStopIsBounded(t *testing.T) {
	tests := []struct {
		name    string
		open    func(context.Context) error // what opening a session does, from the start
		prepare func(l *lab)
		bound   time.Duration // 0: none given
		within  time.Duration
		fails   bool
	}{
		{"nothing was ever set", nil, func(*lab) {}, time.Second, 0, false},
		{"no session yet", hang, func(l *lab) { l.set(instance("a", 1)); synctest.Wait() }, time.Second, 0, false},
		{"waiting to open one", unavailable, func(l *lab) { l.set(instance("a", 1)); after(time.Minute) }, time.Second, 0, false},
		{"a call in flight", nil, func(l *lab) { l.tap.on("register", hang); l.set(instance("a", 1)); synctest.Wait() }, time.Second, 0, false},
		{"a renewal in flight", nil, func(l *lab) { l.tap.on("renew", hang); l.set(instance("a", 1)); after(ttl/3 + 1) }, time.Second, 0, false},
		{"the provider fails", nil, func(l *lab) { l.set(instance("a", 1)); synctest.Wait(); l.memory.Fail(driver.ErrUnavailable) }, 2 * time.Second, 2 * time.Second, true},
		{"the provider hangs", nil, func(l *lab) { l.set(instance("a", 1)); synctest.Wait(); l.memory.Delay(time.Hour) }, 2 * time.Second, 2 * time.Second, true},
		{"the provider hangs, no bound given", nil, func(l *lab) { l.set(instance("a", 1)); synctest.Wait(); l.memory.Delay(time.Hour) }, 0, StopTimeout, true},
		{"the provider recovers in time", nil, func(l *lab) {
			l.set(instance("a", 1))
			synctest.Wait()
			l.memory.Fail(driver.ErrUnavailable)
			time.AfterFunc(time.Second, func() { l.memory.Fail(nil) })
		}, 10 * time.Second, 3 * time.Second, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			virtualFrom(t, Config{}, func(_ *memory.Server, tap *tap) { tap.on("open", tt.open) }, func(l *lab) {
				tt.prepare(l)
				ctx := context.Background()
				if tt.bound > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tt.bound)
					defer cancel()
				}
				start := time.Now()
				err := l.Stop(ctx)
				if took := time.Since(start); took > tt.within {
					l.Errorf("Stop took %v, want at most %v", took, tt.within)
				}
				if (err != nil) != tt.fails {
					l.Errorf("Stop = %v, want an error: %v", err, tt.fails)
				}
				if tt.fails && !strings.Contains(err.Error(), "end with their TTL") {
					l.Errorf("Stop = %v, which does not say what becomes of the registrations", err)
				}
				l.memory.Fail(nil)
				l.memory.Delay(0)
				after(ttl + time.Second)
				l.holds()
			})
		})
	}
}

// A driver that breaks its contract and ignores contexts does not keep the process
// from ending.
func TestStopDoesNotWaitForADriverThatIgnoresContexts(t *testing.T) {
	for _, op := range []string{"register", "renew", "close"} {
		t.Run(op, func(t *testing.T) {
			virtual(t, Config{}, func(l *lab) {
				release := make(chan struct{})
				l.tap.on(op, func(context.Context) error { <-release; return driver.ErrUnavailable })
				l.set(instance("a", 1))
				after(ttl / 3)
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				start := time.Now()
				// Where the session can be closed it is, whatever hangs beside that.
				if err := l.Stop(ctx); (err == nil) != (op != "close") {
					l.Errorf("Stop = %v", err)
				}
				if op != "close" {
					l.holds()
				}
				if took := time.Since(start); took > 1100*time.Millisecond {
					l.Errorf("Stop took %v with a bound of 1 s", took)
				}
				close(release)
				synctest.Wait()
			})
		})
	}
}

func TestStopTwiceAtATime(t *testing.T) {
	virtual(t, Config{}, func(l *lab) {
		l.set(instance("a", 1))
		synctest.Wait()
		l.memory.Delay(time.Second)
		results := make(chan error)
		for range 3 {
			go func() { results <- l.Stop(context.Background()) }()
		}
		for range 3 {
			if err := <-results; err != nil {
				l.Errorf("Stop: %v", err)
			}
		}
		l.memory.Delay(0)
		l.holds()
	})
}

// The predecessor of the same name may stop after its successor has registered.
func TestStopLeavesTheSuccessorAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memory.New()
		old, successor := newLab(t, m, Config{}), newLab(t, m, Config{})
		a := instance("a", 1)
		old.set(a)
		old.holds(a)
		successor.set(a) // even under the very same key
		successor.holds(a)
		if err := old.Stop(context.Background()); err != nil {
			t.Fatal(err)
		}
		successor.holds(a)
		if n := successor.Status().Counters.Repairs; n != 0 {
			t.Errorf("the successor had to put back its registration %d times", n)
		}

		next := newLab(t, m, Config{})
		b := a
		b.InstanceID, b.Addr = "b", a.Addr // a new start at the same address
		next.set(b)
		next.holds(a, b)
		successor.Stop(context.Background())
		next.holds(b)
	})
}

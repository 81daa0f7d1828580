package registrar

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/memory"
)

// A driver that ignores its context holds up no other call: a session that the provider has
// ended is replaced, no more calls hang than are given, and once it answers all is well.
func TestDriverThatHangs(t *testing.T) {
	for _, op := range []string{"renew", "register", "deregister"} {
		t.Run(op, func(t *testing.T) {
			var logs logBuffer
			virtual(t, Config{Logger: slog.New(slog.NewTextHandler(&logs, nil))}, func(l *lab) {
				a, b := instance("a", 1), instance("b", 2)
				l.set(a, b)
				l.holds(a, b)
				var inside, most atomic.Int64
				release := make(chan struct{})
				letGo := sync.OnceFunc(func() { close(release) })
				defer letGo()
				l.tap.on(op, func(context.Context) error {
					most.Store(max(most.Load(), inside.Add(1)))
					defer inside.Add(-1)
					<-release
					return driver.ErrUnavailable
				})
				c := instance("c", 3)
				l.set(a, c) // b is to go
				after(2 * ttl)
				s := l.Status()
				switch op {
				case "renew":
					// The provider has ended the session, and there is another.
					if s.Counters.SessionsOpened < 2 || s.Counters.RenewErrors == 0 || !strings.Contains(logs.String(), "session not kept") {
						l.Errorf("two TTLs after the last renewal: %+v\n%s", s, logs.String())
					}
				case "register":
					if s.Registered() || s.Counters.RegisterErrors == 0 || len(l.published("web")) != 1 {
						l.Errorf("registered is %v, with %d errors; the provider has %v", s.Registered(), s.Counters.RegisterErrors, l.published("web"))
					}
				case "deregister":
					if s.Counters.DeregisterErrors == 0 || len(l.published("web")) != 3 {
						l.Errorf("%d errors; the provider has %v", s.Counters.DeregisterErrors, l.published("web"))
					}
				}
				after(time.Hour)
				if n := most.Load(); n == 0 || n > maxHung+concurrency {
					l.Errorf("up to %d calls hang", n)
				}
				l.tap.on(op, nil)
				letGo()
				after(2 * ttl)
				l.holds(a, c)
				if !l.Status().Registered() {
					l.Errorf("the driver answers again: %+v", l.Status())
				}
			})
		})
	}
}

// sweeping is a provider in memory whose sessions sweep.
type sweeping struct {
	driver.Driver
	sweep func(context.Context) error
}

func (d sweeping) OpenSession(ctx context.Context, o driver.SessionOptions) (driver.Session, error) {
	s, err := d.Driver.(driver.Registrar).OpenSession(ctx, o)
	return sweepingSession{s, d.sweep}, err
}

type sweepingSession struct {
	driver.Session
	sweep func(context.Context) error
}

func (s sweepingSession) Sweep(ctx context.Context) error { return s.sweep(ctx) }

// A session that sweeps does so about once in a TTL, each time in a bound of its own; what
// becomes of that changes nothing of what is registered, and after Stop it ends.
func TestSweep(t *testing.T) {
	const callTimeout = 2 * time.Second
	for name, v := range map[string]struct {
		sweep func(context.Context) error
		fails bool
	}{
		"well":                 {func(context.Context) error { return nil }, false},
		"fails":                {func(context.Context) error { return driver.ErrUnavailable }, true},
		"says that it is lost": {func(context.Context) error { return driver.ErrSessionLost }, true},
		"hangs":                {hang, true},
		"ignores its context": {func(context.Context) error {
			time.Sleep(time.Hour)
			return errors.New("too late")
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				memory := memory.New()
				var sweeps, late atomic.Int64
				var logs logBuffer
				registry := discovery.New("memory", sweeping{memory.Driver(), func(ctx context.Context) error {
					sweeps.Add(1)
					if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > callTimeout {
						t.Errorf("a sweep until %v, %v, want one that is bounded", deadline, ok)
					}
					err := v.sweep(ctx)
					if ctx.Err() != nil {
						late.Add(1)
					}
					return err
				}}, discovery.Options{})
				defer registry.Close()
				r := New(Config{Registry: registry, TTL: ttl, CallTimeout: callTimeout, Logger: slog.New(slog.NewTextHandler(&logs, &slog.HandlerOptions{Level: slog.LevelDebug}))})
				if err := r.Set(instance("a", 1)); err != nil {
					t.Fatal(err)
				}
				after(ttl / 2)
				if n := sweeps.Load(); n != 0 {
					t.Errorf("swept %d times at the start", n)
				}
				const ttls = 20
				after(ttls * ttl)
				// A resync comes after three to five fifths of a TTL, and a sweep that hangs takes
				// its bound.
				if n := sweeps.Load(); n < ttls/2 || n > 2*ttls {
					t.Errorf("swept %d times in %d TTLs", n, ttls)
				}
				s := r.Status()
				if c := s.Counters; !s.Registered() || c.SessionsOpened != 1 || c.SessionsLost != 0 || c.RenewErrors != 0 || c.Repairs != 0 {
					t.Errorf("beside the sweeps: %+v", s)
				}
				if said := strings.Contains(logs.String(), "not all that was left behind is removed"); said != v.fails {
					t.Errorf("the log reports a failure: %v, want %v", said, v.fails)
				}
				if err := r.Stop(t.Context()); err != nil {
					t.Error(err)
				}
				n := sweeps.Load()
				after(10 * ttl)
				if again := sweeps.Load(); again != n {
					t.Errorf("swept %d times after Stop", again-n)
				}
				time.Sleep(time.Hour) // what ignores its context ends
			})
		})
	}
}

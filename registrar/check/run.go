package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/musterhq/muster/internal/alarm"
	"github.com/musterhq/muster/internal/watch"
	"github.com/musterhq/muster/registrar/declared"
)

// Status is what is known of one service.
type Status struct {
	Service declared.Service
	// Up says that the service is to be registered.
	Up bool
	// Since is when Up became what it is, zero if it has none.
	Since time.Time
	// Checked says that its check was attempted at least once, or that it has none.
	Checked bool
	// Err is why the last attempt failed. Nil if it passed.
	Err error
	// Passes and Failures count the attempts.
	Passes, Failures uint64
}

// checkFails has the service as its subject, which is not registered meanwhile.
var checkFails = alarm.Kind{Name: "check_fails", Raised: "check fails", Cleared: "check no longer fails"}

// Runner checks services.
type Runner struct {
	services []declared.Service
	address  func() string
	log      *slog.Logger

	alarms   *alarm.Set
	newProbe func(declared.Check, string) (Probe, error) // NewProbe, but for tests
	changed  watch.Value[struct{}]

	mu     sync.Mutex
	status []Status
}

// NewRunner returns a Runner of services that Validate finds nothing wrong with. Address
// returns the address of this host, for those that name none; it is asked again for each
// attempt. A nil logger writes nothing.
func NewRunner(services []declared.Service, address func() string, logger *slog.Logger) *Runner {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	r := &Runner{services: services, address: address, log: logger, alarms: alarm.New(logger), newProbe: NewProbe}
	for _, s := range services {
		always := !s.Check.Enabled()
		r.status = append(r.status, Status{Service: s, Up: always, Checked: always})
	}
	r.changed.Store(struct{}{})
	return r
}

// Status returns what is known now, in the order in which the services were given.
func (r *Runner) Status() []Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.status)
}

// Changes yields now and each time that what Status returns has changed, until ctx ends: a
// service was checked first, or has come up or gone down. A listener that is slow misses
// changes, but never the last.
func (r *Runner) Changes(ctx context.Context) iter.Seq[struct{}] { return r.changed.Watch(ctx) }

// Run makes the checks until ctx ends, and waits for the attempts under way.
func (r *Runner) Run(ctx context.Context) {
	var checks sync.WaitGroup
	defer r.alarms.Close()
	defer checks.Wait()
	for n, s := range r.services {
		if s.Check.Enabled() {
			checks.Go(func() { r.check(ctx, n, s) })
		}
	}
}

// firstWithin spreads the first attempts of many services.
const firstWithin = time.Second

func (r *Runner) check(ctx context.Context, n int, s declared.Service) {
	c := s.Check.WithDefaults()
	timer := time.NewTimer(rand.N(min(c.Interval, firstWithin)))
	defer timer.Stop()
	passes, failures := 0, 0
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		begun := time.Now()
		err := r.attempt(ctx, c, s.Addr(r.address()))
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			passes, failures = passes+1, 0
		} else {
			passes, failures = 0, failures+1
		}
		r.record(n, err, passes >= c.Rise, failures >= c.Fall)
		spread := c.Interval / 10
		timer.Reset(max(0, c.Interval-spread+rand.N(2*spread+1)-time.Since(begun)))
	}
}

func (r *Runner) attempt(ctx context.Context, c declared.Check, addr string) error {
	probe, err := r.newProbe(c, addr)
	if err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	err = probe(bounded)
	if err != nil && errors.Is(bounded.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %v", c.Timeout)
	}
	return err
}

// record takes in the outcome of an attempt.
func (r *Runner) record(n int, err error, up, down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &r.status[n]
	first := !s.Checked
	s.Checked, s.Err = true, err
	if err == nil {
		s.Passes++
	} else {
		s.Failures++
	}
	name := cmp.Or(s.Service.ID, s.Service.Name)
	switch {
	case !s.Up && up:
		s.Up, s.Since = true, time.Now()
		r.log.Info("check passes", "service", name)
		r.alarms.Clear(checkFails, name)
	case s.Up && down:
		s.Up, s.Since = false, time.Now()
		r.alarms.Raise(checkFails, name, "registered", false, "error", err)
	case first && err != nil:
		r.alarms.Raise(checkFails, name, "registered", false, "error", err)
	default:
		if !first {
			return
		}
	}
	r.changed.Store(struct{}{})
}

package registrar

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
)

// concurrency is how many calls of one session are made at a time, so that one
// slow answer does not hold up a host full of instances.
const concurrency = 8

// reconcile makes the provider hold what is desired: when that changes, when a
// watch finds a difference, after failures, and within each TTL whether or not
// there is a reason. It returns nil when ctx ends, or the error that says that the
// session is lost.
func (r *Registrar) reconcile(ctx context.Context, session driver.Session) error {
	ttl := ttlOf(session)
	bound := min(maxRetry, ttl/2)
	resync := time.NewTimer(resyncAfter(ttl))
	defer resync.Stop()
	for {
		if err := r.pass(ctx, session, bound); err != nil {
			return err
		}
		var again <-chan time.Time
		var timer *time.Timer
		if at, ok := r.nextDue(); ok {
			timer = time.NewTimer(time.Until(at))
			again = timer.C
		}
		select {
		case <-r.notify:
		case <-again:
		case <-resync.C:
			r.confirmAll()
			r.sweep(ctx, session)
			r.lookForOccupants(ctx, session)
			resync.Reset(resyncAfter(ttl))
		case <-ctx.Done():
		}
		if timer != nil {
			timer.Stop()
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

// sweep removes what others left behind, where they may. It is tried again at the next
// resync, and no reader takes what is left for alive.
func (r *Registrar) sweep(ctx context.Context, session driver.Session) {
	s, ok := session.(driver.Sweeper)
	if !ok {
		return
	}
	if err := r.call(ctx, r.config.CallTimeout, s.Sweep); err != nil && ctx.Err() == nil {
		r.log.Debug("not all that was left behind is removed", "error", err)
	}
}

// lookForOccupants ends the yielding to services that are gone: no reader of the own service sees
// that.
func (r *Registrar) lookForOccupants(ctx context.Context, session driver.Session) {
	r.mu.Lock()
	var yielding []*entry
	for _, e := range r.entries.all {
		if e.contest.yielding && e.contest.occupant != nil {
			yielding = append(yielding, e)
		}
	}
	r.mu.Unlock()
	for _, e := range yielding {
		r.mu.Lock()
		i := e.instance
		r.mu.Unlock()
		there := r.look(ctx, session, e, i)
		r.mu.Lock()
		if e.contest.yielding && !there {
			e.resume()
			signal(r.notify)
			r.publish()
		}
		r.mu.Unlock()
	}
}

// look asks what stands in the place of an instance, and reports whether something may: of what
// is not known nothing changes.
func (r *Registrar) look(ctx context.Context, session driver.Session, e *entry, i discovery.Instance) bool {
	o, ok := session.(driver.Occupier)
	if !ok {
		return false
	}
	var found discovery.Instance
	there := false
	err := r.call(ctx, r.config.CallTimeout, func(ctx context.Context) (err error) {
		found, there, err = o.Occupant(ctx, i)
		return err
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.entries.all[keyOf(i)] != e:
		return false // forgotten meanwhile, and with it its alarms
	case err != nil:
	case there:
		e.contest.occupied(time.Now(), found)
		r.reportContest(keyOf(i), e)
		r.publish()
	default:
		e.contest.occupant = nil
	}
	return e.contest.occupant != nil
}

// resyncAfter spreads the confirmations of many registrars. They come within each
// TTL.
func resyncAfter(ttl time.Duration) time.Duration { return ttl*3/5 + rand.N(ttl*2/5) }

// job is one call that is to be made.
type job struct {
	entry    *entry
	instance discovery.Instance
	version  uint64
	doubts   uint64
	register bool // or else deregister
}

// pass makes each call that is due once. It returns an error only if the session
// is lost.
func (r *Registrar) pass(ctx context.Context, session driver.Session, bound time.Duration) error {
	var g errgroup.Group
	g.SetLimit(concurrency)
	for _, j := range r.jobs() {
		g.Go(func() error {
			if ctx.Err() != nil {
				return nil
			}
			var err error
			if j.register {
				err = r.register(ctx, session, j, bound)
			} else {
				err = r.deregister(ctx, session, j, bound)
			}
			if errors.Is(err, driver.ErrSessionLost) {
				return err
			}
			return nil
		})
	}
	return g.Wait()
}

// jobs returns the calls that are due now.
func (r *Registrar) jobs() []job {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	var jobs []job
	for _, e := range r.entries.all {
		if !e.pending() || e.next.notBefore.After(now) {
			continue
		}
		jobs = append(jobs, job{e, e.instance, e.version, e.doubts, e.publishable()})
	}
	return jobs
}

// pending reports whether a call is to be made, now or later.
func (e *entry) pending() bool {
	if e.publishable() {
		return e.next.due
	}
	return e.presence.sent
}

// nextDue returns when the next call may be made, if one is to be.
func (r *Registrar) nextDue() (at time.Time, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.entries.all {
		if e.pending() && (!ok || e.next.notBefore.Before(at)) {
			at, ok = e.next.notBefore, true
		}
	}
	return at, ok
}

// confirmAll makes every registration due.
func (r *Registrar) confirmAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.entries.all {
		if e.publishable() {
			e.next.due = true
		}
	}
}

func (r *Registrar) register(ctx context.Context, session driver.Session, j job, bound time.Duration) error {
	r.mu.Lock()
	e := j.entry
	e.presence.sent = true
	e.attempts++
	look := e.contest.unlooked
	e.contest.unlooked = false
	r.mu.Unlock()

	if look {
		r.look(ctx, session, e, j.instance) // before it is replaced
	}
	err := r.call(ctx, r.config.CallTimeout, func(ctx context.Context) error { return session.Register(ctx, j.instance) })

	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		// Whether it took effect is known only if the provider refused it.
		e.presence.unsure = e.presence.unsure || driver.Retryable(err)
		if ctx.Err() != nil || errors.Is(err, driver.ErrSessionLost) {
			return err
		}
		r.counters.RegisterErrors++
		if e.version != j.version {
			return err
		}
		r.alarms.Raise(notRegistered, keyOf(j.instance).subject(),
			"service", j.instance.Service, "instance_id", j.instance.InstanceID, "addr", j.instance.Addr, "error", err)
		e.failed(err, bound)
		r.publish()
		return err
	}
	e.presence.unsure = false
	if e.version != j.version {
		return nil // something else is desired by now
	}
	e.contest.yielding = false
	e.confirmed = time.Now()
	repaired := e.repair
	// A snapshot that came meanwhile may show what happened after this call.
	e.next.due, e.repair = e.doubts != j.doubts, false
	if r.expired {
		return nil // the session was still there, but for how long? The next renewal tells
	}
	if e.evict {
		e.unwant() // now that it hangs on this session, it can be deregistered
		signal(r.notify)
		r.publish()
		return nil
	}
	failing := e.err != nil
	e.succeeded()
	r.alarms.Clear(notRegistered, keyOf(j.instance).subject())
	r.alarms.Clear(notRemoved, keyOf(j.instance).subject())
	if repaired {
		r.counters.Repairs++
	}
	if e.registered {
		if failing {
			r.publish()
		}
		return nil
	}
	e.setRegistered(true)
	r.counters.Registrations++
	r.log.Info("registered", "service", j.instance.Service, "instance_id", j.instance.InstanceID, "addr", j.instance.Addr, "repair", repaired)
	r.publish()
	return nil
}

func (r *Registrar) deregister(ctx context.Context, session driver.Session, j job, bound time.Duration) error {
	r.mu.Lock()
	e := j.entry
	e.attempts++
	r.mu.Unlock()

	err := r.call(ctx, r.config.CallTimeout, func(ctx context.Context) error { return session.Deregister(ctx, j.instance) })

	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		if ctx.Err() != nil || errors.Is(err, driver.ErrSessionLost) {
			return err
		}
		r.counters.DeregisterErrors++
		if e.version != j.version {
			return err
		}
		r.alarms.Raise(notRemoved, keyOf(j.instance).subject(),
			"service", j.instance.Service, "instance_id", j.instance.InstanceID, "error", err)
		e.failed(err, bound)
		r.publish()
		return err
	}
	if !e.presence.recheck {
		r.counters.Deregistrations++
		r.log.Info("deregistered", "service", j.instance.Service, "instance_id", j.instance.InstanceID)
	}
	if e.version != j.version {
		return nil
	}
	e.succeeded()
	r.alarms.Clear(notRegistered, keyOf(j.instance).subject())
	r.alarms.Clear(notRemoved, keyOf(j.instance).subject())
	e.err = e.invalid
	if e.record.shadowed {
		e.err = e.record.err()
	}
	if e.presence.removed() {
		e.next.notBefore = time.Now().Add(r.config.CallTimeout)
	}
	if e.forgotten() {
		r.forget(keyOf(e.instance))
	}
	r.publish()
	return nil
}

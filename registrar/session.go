package registrar

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/backoff"
	"github.com/musterhq/muster/internal/within"
)

// run opens one session after another, and keeps each for as long as it lasts. It
// returns when ctx ends, with the session that is then open, or nil.
func (r *Registrar) run(ctx context.Context) driver.Session {
	retry := backoff.Backoff{Max: maxRetry}
	if r.config.TTL > 0 {
		retry.Max = min(retry.Max, r.config.TTL/2)
	}
	for {
		sent := time.Now()
		session, err := r.config.Registry.OpenSession(ctx, driver.SessionOptions{TTL: r.config.TTL})
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			r.openFailed(err)
			r.pause(ctx, retry.Next())
			continue
		}
		r.opened(session, sent)
		lost := r.serve(ctx, session, sent)
		if ctx.Err() != nil {
			return session
		}
		r.sessionLost(lost)
		// The old one is done with before there is a new one, so that its end cannot
		// touch what is registered next.
		r.dispose(ctx, session)
		if time.Since(sent) < ttlOf(session)/3 {
			// One is replaced at once, but not one after the other.
			r.pause(ctx, retry.Next())
			continue
		}
		retry.Reset()
	}
}

// serve keeps the registrations on session until ctx ends or the session is lost,
// and returns why.
func (r *Registrar) serve(ctx context.Context, session driver.Session, sent time.Time) error {
	ctx, end := context.WithCancelCause(ctx)
	renewing := make(chan struct{})
	go func() {
		defer close(renewing)
		if err := r.renew(ctx, session, sent); err != nil {
			end(err)
		}
	}()
	if err := r.reconcile(ctx, session); err != nil {
		end(err)
	}
	<-renewing
	return context.Cause(ctx)
}

// renew keeps session alive. It returns nil when ctx ends, or the error that says
// that the session is lost. sent is when it was asked for.
func (r *Registrar) renew(ctx context.Context, session driver.Session, sent time.Time) error {
	ttl := ttlOf(session)
	retry := backoff.Backoff{Max: ttl / 3}
	next := sent.Add(ttl / 3)
	expired := false
	last := errNotRenewed
	for {
		expiry := sent.Add(ttl) // all moments are counted from before the call was sent
		at := next
		if !expired && expiry.Before(next) {
			at = expiry
		}
		if sleepUntil(ctx, at) != nil {
			return nil
		}
		now := time.Now()
		if !expired && !now.Before(expiry) {
			expired = true
			r.sessionLapsed(last)
		}
		if now.Before(next) {
			continue
		}
		bound := min(r.config.CallTimeout, ttl/3)
		if !expired {
			bound = min(bound, expiry.Sub(now))
		}
		err := r.call(ctx, bound, session.Renew)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil, errors.Is(err, driver.ErrPartial):
			sent, next = now, now.Add(ttl/3)
			retry.Reset()
			r.renewed(sent, err)
			expired, last = false, errNotRenewed
			if err != nil {
				r.renewedInPart(err)
			}
		case errors.Is(err, driver.ErrSessionLost):
			return err
		default:
			last = err
			r.renewFailed(err)
			next = time.Now().Add(retry.Next())
		}
	}
}

var errNotRenewed = errors.New("session not renewed within its TTL")

// dispose closes a session that is lost, for the sake of what the driver keeps
// for it. The provider has just answered; if it does not now, that is no matter.
func (r *Registrar) dispose(ctx context.Context, session driver.Session) {
	if err := r.call(ctx, time.Second, session.Close); err != nil && ctx.Err() == nil {
		r.log.Debug("could not close the lost session", "error", err)
	}
}

func (r *Registrar) opened(session driver.Session, sent time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.session = SessionStatus{Open: true, TTL: ttlOf(session), OpenedAt: time.Now(), LastRenewal: sent}
	r.expired = false
	r.counters.SessionsOpened++
	r.log.Info("session opened", "ttl", r.session.TTL)
	r.alarms.Clear(sessionFails, "")
	r.alarms.Clear(sessionExpired, "")
	r.alarms.Clear(sessionInPart, "")
	r.publish()
}

func (r *Registrar) openFailed(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counters.OpenErrors++
	r.sessionFails(err)
	r.session.Err = err
	for _, e := range r.entries.all {
		if e.publishable() {
			e.err = err
		}
	}
	r.publish()
}

// sessionFails reports that there is no session, or none that can be renewed.
func (r *Registrar) sessionFails(err error) {
	r.alarms.Raise(sessionFails, "", "addr", r.addrs(), "error", err)
}

// reviewWay reports what the provider says of the way to it.
func (r *Registrar) reviewWay() {
	if text := r.config.Registry.Warning(); text != "" {
		r.alarms.Raise(providerWarns, "", "addr", r.addrs(), "warning", text)
	} else {
		r.alarms.Clear(providerWarns, "")
	}
}

// addrs names where the provider is, for the log.
func (r *Registrar) addrs() string { return strings.Join(r.config.Registry.Addrs(), ",") }

func (r *Registrar) sessionLost(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.session.Open = false
	r.session.Err = err
	r.counters.SessionsLost++
	for k, e := range r.entries.all {
		e.sessionLost(err)
		if e.forgotten() {
			r.forget(k)
		}
	}
	r.sessionFails(err)
	r.publish()
}

// sessionLapsed records that the session was not renewed within its TTL. The
// provider may have ended it, or may be down and go on with it later: until it
// says so, renewals are tried on.
func (r *Registrar) sessionLapsed(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expired = true
	for _, e := range r.entries.all {
		e.expired(err)
	}
	r.alarms.Raise(sessionExpired, "", "ttl", r.session.TTL, "addr", r.addrs(), "error", err, "hint", "the registrations may be gone")
	r.publish()
}

// renewed records that the session was renewed, but for the registrations of which err
// tells.
func (r *Registrar) renewed(sent time.Time, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counters.Renewals++
	r.session.LastRenewal = sent
	r.reviewWay()
	r.alarms.Clear(sessionFails, "")
	r.alarms.Clear(sessionExpired, "")
	if err == nil {
		r.alarms.Clear(sessionInPart, "")
	}
	if r.session.Err != nil {
		r.session.Err = nil
		r.publish()
	}
	if r.expired {
		// The session lives after all; so may the registrations.
		r.expired = false
		for _, e := range r.entries.all {
			if e.publishable() {
				e.retryNow()
			}
		}
		signal(r.notify)
	}
}

// renewedInPart has every registration confirmed. Those that were not renewed say why,
// each for itself.
func (r *Registrar) renewedInPart(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counters.RenewErrors++
	r.alarms.Raise(sessionInPart, "", "addr", r.addrs(), "error", err)
	for _, e := range r.entries.all {
		if e.publishable() {
			e.next.due = true
		}
	}
	signal(r.notify)
}

func (r *Registrar) renewFailed(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counters.RenewErrors++
	r.sessionFails(err)
	r.session.Err = err
	r.publish()
}

// pause waits for d, until the provider is seen to answer again, or until ctx
// ends.
func (r *Registrar) pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.recovered:
	case <-ctx.Done():
	}
}

// maxHung is how many calls may hang in a driver that ignores its context, each of which
// costs a goroutine. Beyond that none is made.
const maxHung = 4 * concurrency

// call makes one call with a bound of its own, also where the driver ignores its context.
func (r *Registrar) call(ctx context.Context, bound time.Duration, f func(context.Context) error) error {
	if n := r.hung.Load(); n >= maxHung {
		return fmt.Errorf("%w: %d calls of the driver hang, which have ended", driver.ErrUnavailable, n)
	}
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	defer r.hung.Add(1) // unless f has returned
	return within.Do(ctx, func(ctx context.Context) error {
		defer r.hung.Add(-1)
		return f(ctx)
	})
}

// ttlOf is what the session was granted. A driver that grants nothing must not
// make a busy loop.
func ttlOf(session driver.Session) time.Duration {
	if ttl := session.TTL(); ttl > 0 {
		return ttl
	}
	return 10 * time.Second
}

func sleepUntil(ctx context.Context, t time.Time) error {
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

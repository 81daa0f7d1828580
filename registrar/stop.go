package registrar

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/backoff"
)

// StopTimeout bounds Stop where its context has no deadline.
const StopTimeout = 5 * time.Second

// ending is the way of a Registrar to its end, which Stop begins.
type ending struct {
	begin   sync.Once
	session chan driver.Session // takes the open session, or nil, when run returns
	done    chan struct{}       // closed when everything has come to rest
	err     error               // set before done is closed
}

func newEnding() ending {
	return ending{session: make(chan driver.Session, 1), done: make(chan struct{})}
}

// Stop deregisters all instances by closing their session, or leaves them where Config.KeepOnStop
// is set, and joins what the Registrar started. It returns when that is done or ctx ends, after
// StopTimeout where ctx has no deadline, whatever the provider does; the error then says that the
// registrations are left to their TTL. Stop is idempotent: further calls wait for the first and
// return what it found.
func (r *Registrar) Stop(ctx context.Context) error {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, StopTimeout)
		defer cancel()
	}
	r.end.begin.Do(func() {
		r.mu.Lock()
		r.stopping = true // from here on no watcher is added
		r.mu.Unlock()
		r.cancel()
		go r.shutDown(ctx)
	})
	select {
	case <-r.end.done:
		return r.end.err
	case <-ctx.Done():
	}
	// The calls in flight end with ctx too, unless a driver ignores it: then they
	// are not waited for.
	timer := time.NewTimer(100 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-r.end.done:
		return r.end.err
	case <-timer.C:
		return r.abandoned(ctx.Err())
	}
}

// shutDown is the part of Stop that may outlive its context, if a driver does.
func (r *Registrar) shutDown(ctx context.Context) {
	defer close(r.end.done)
	session := <-r.end.session
	r.watchers.Wait()
	if session != nil {
		if r.config.KeepOnStop {
			// If this fails, less than the TTL is left, and the session may be over by now.
			if err := r.call(ctx, r.config.CallTimeout, session.Renew); err != nil {
				r.log.Warn("session not renewed at the end", "error", err)
			}
			r.log.Info("left registered; the registrations end with their ttl unless a successor takes them over", "ttl", session.TTL())
		} else if err := r.close(ctx, session); err != nil {
			r.end.err = r.abandoned(err)
			r.log.Warn("not deregistered at the end", "ttl", session.TTL(), "error", err, "hint", "the registrations end with their ttl")
		} else {
			r.log.Info("deregistered")
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	r.alarms.Close()
	r.session.Open = false
	for _, e := range r.entries.all {
		e.expired(ErrStopped)
	}
	r.publish()
}

func (r *Registrar) abandoned(err error) error {
	return fmt.Errorf("registrar: could not deregister from provider %s; the registrations end with their TTL: %w", r.config.Registry.Name(), err)
}

// close closes the session on the way out, with as many attempts as ctx allows.
func (r *Registrar) close(ctx context.Context, session driver.Session) error {
	retry := backoff.Backoff{Max: time.Second}
	for {
		err := r.call(ctx, r.config.CallTimeout, session.Close)
		if err == nil || errors.Is(err, driver.ErrSessionLost) {
			return nil
		}
		if errors.Is(err, driver.ErrClosed) {
			return err // the driver is, by its user
		}
		if retry.Wait(ctx) != nil {
			return err
		}
	}
}

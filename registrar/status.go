package registrar

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
)

// Status is what a Registrar knows of its work.
type Status struct {
	// Off says why nothing is ever registered: the Registrar is read-only, or the
	// provider registers nothing. It is empty otherwise.
	Off string

	// Stopped is true after Stop.
	Stopped bool

	Session SessionStatus

	// Warning says what is wrong with the way to the provider although it works, and how to fix
	// it. It is empty if nothing is known to be wrong.
	Warning string

	// Instances are the desired ones, and those that are still to be deregistered,
	// by service and instance id.
	Instances []InstanceStatus

	Counters Counters
}

// Registered reports whether all desired instances are registered, and there is
// at least one.
func (s Status) Registered() bool {
	desired := 0
	for _, i := range s.Instances {
		if i.Leaving {
			continue
		}
		if !i.Registered {
			return false
		}
		desired++
	}
	return desired > 0
}

// Err returns what stands in the way of a registration: why there is no session, or
// why an instance could not be registered. Nil if nothing is known to.
func (s Status) Err() error {
	err := s.Session.Err
	for _, i := range s.Instances {
		err = cmp.Or(err, i.Err)
	}
	return err
}

// SessionStatus is that of the session on which the registrations hang.
type SessionStatus struct {
	// Open is false while there is no session. The provider may have ended one
	// that is open without the Registrar having learned of it yet.
	Open bool
	// TTL is what the provider granted to the session, or to the last one.
	TTL time.Duration
	// OpenedAt is when the session was opened.
	OpenedAt time.Time
	// LastRenewal is when the last successful renewal was sent, the opening
	// included.
	LastRenewal time.Time
	// Err is why the session could not be opened, or why the last renewal failed.
	Err error
}

// InstanceStatus is that of one instance.
type InstanceStatus struct {
	Instance discovery.Instance
	// Registered means that the provider has confirmed the instance in this form,
	// on a session that was renewed within its TTL.
	Registered bool
	// Since is when Registered became what it is.
	Since time.Time
	// Err is the last failure since the last success. A registered instance has one
	// while it cannot be confirmed.
	Err error
	// Attempts counts the calls since the last success.
	Attempts int
	// Contested means that somebody else registers the same id in another form, or takes
	// it away, and did so again each time that it was put back. Rival is the address that
	// readers saw in its place, empty if it was missing.
	Contested bool
	Rival     string
	// Conflict names the desired instances that the provider would keep in the same record, by
	// service and id. Only one of them is registered. It is empty if there is none.
	Conflict string
	// Yields means that the instance is not registered because of a Conflict, or, where it is
	// Contested, so that two do not replace each other again and again. It is registered
	// once the other one is gone.
	Yields bool
	// Warning says who does not find the instance once it is registered, and how to fix it.
	// It is empty if all readers do.
	Warning string
	// Leaving means that the instance is no longer desired, or to be evicted, and not
	// yet deregistered.
	Leaving bool
}

// Counters count from the start of the Registrar.
type Counters struct {
	SessionsOpened uint64
	SessionsLost   uint64 // those that the provider ended, not Stop
	OpenErrors     uint64 // attempts to open a session that failed
	Renewals       uint64
	RenewErrors    uint64
	Registrations  uint64 // times that an instance came to be registered
	RegisterErrors uint64
	// Repairs are the registrations of what was found missing or changed by
	// somebody else, while the session stood.
	Repairs          uint64
	Deregistrations  uint64 // of single instances, not counting Stop
	DeregisterErrors uint64
}

// Status returns the state of now.
func (r *Registrar) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status()
}

// Watch yields the status of now, and the newest one each time that an instance
// or the session has come to another state, until ctx ends. A successful renewal
// is no change. A slow reader misses states, never the newest.
func (r *Registrar) Watch(ctx context.Context) iter.Seq[Status] {
	return func(yield func(Status) bool) {
		for range r.changed.Watch(ctx) {
			if !yield(r.Status()) {
				return
			}
		}
	}
}

// Wait returns nil as soon as all desired instances are registered, and at once if none is desired
// or nothing is ever registered. It returns an error when an instance is invalid or in a conflict
// with another one and will never be registered as it is, when the Registrar is stopped, and when
// ctx ends; the last includes what stood in the way.
func (r *Registrar) Wait(ctx context.Context) error {
	var last Status
	for s := range r.Watch(ctx) {
		last = s
		if s.Off != "" {
			return nil
		}
		if s.Stopped {
			return ErrStopped
		}
		missing := false
		for _, i := range s.Instances {
			if i.Leaving || i.Registered {
				continue
			}
			if errors.Is(i.Err, driver.ErrInvalid) || i.Conflict != "" && i.Yields {
				return i.Err
			}
			missing = true
		}
		if !missing {
			return nil
		}
	}
	err := fmt.Errorf("not registered: %w", ctx.Err())
	if reason := last.Err(); reason != nil {
		err = fmt.Errorf("%w; last error: %w", err, reason)
	}
	return err
}

// publish wakes the watchers, who make the status themselves: it has all instances, and each
// of them publishes.
func (r *Registrar) publish() { r.changed.Store(struct{}{}) }

// status wants the lock held.
func (r *Registrar) status() Status {
	s := Status{Off: r.off, Stopped: r.stopped, Session: r.session, Warning: r.config.Registry.Warning(), Counters: r.counters}
	for _, e := range r.entries.all {
		if e.wanted || e.presence.sent && !e.presence.recheck {
			s.Instances = append(s.Instances, e.status())
		}
	}
	slices.SortFunc(s.Instances, func(a, b InstanceStatus) int {
		return cmp.Or(cmp.Compare(a.Instance.Service, b.Instance.Service), cmp.Compare(a.Instance.Key(), b.Instance.Key()))
	})
	return s
}

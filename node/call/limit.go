package call

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/semaphore"
)

// Limit bounds the calls that a node works on at a time, where the work is done. A call above
// InFlight waits, in turn, where there are no more than Waiting of them, and ends with
// ErrOverloaded otherwise. The zero value has no bound.
type Limit struct{ InFlight, Waiting int }

func (l Limit) validate(of string) error {
	if l.InFlight < 0 || l.Waiting < 0 || l.InFlight == 0 && l.Waiting > 0 {
		return fmt.Errorf("call: limit of %s: %d in flight and %d waiting: want neither below 0, and some in flight", of, l.InFlight, l.Waiting)
	}
	return nil
}

// limiter enforces a Limit. A nil one has no bound.
type limiter struct {
	slots   *semaphore.Weighted
	most    int64
	waiting atomic.Int64
}

func newLimiter(l Limit) *limiter {
	if l.InFlight == 0 {
		return nil
	}
	return &limiter{slots: semaphore.NewWeighted(int64(l.InFlight)), most: int64(l.Waiting)}
}

// enter waits for a slot, and returns an error if there is none to wait for, or ctx has ended.
func (l *limiter) enter(ctx context.Context) error {
	if l == nil || l.slots.TryAcquire(1) {
		return nil
	}
	defer l.waiting.Add(-1)
	if l.waiting.Add(1) > l.most {
		return ErrOverloaded
	}
	return l.slots.Acquire(ctx, 1)
}

func (l *limiter) leave() {
	if l != nil {
		l.slots.Release(1)
	}
}

// limits are those of a mesh.
type limits struct {
	all     *limiter
	service map[string]*limiter
}

func newLimits(o Options) (l limits, err error) {
	if err := o.Limit.validate("all services"); err != nil {
		return l, err
	}
	l = limits{newLimiter(o.Limit), make(map[string]*limiter)}
	for service, limit := range o.Limits {
		if err := limit.validate(service); err != nil {
			return l, err
		}
		l.service[service] = newLimiter(limit)
	}
	return l, nil
}

// of returns the limiter of a method.
func (l limits) of(method string) *limiter {
	if l.all == nil && len(l.service) == 0 {
		return nil
	}
	service := serviceOf(method)
	if own, ok := l.service[service]; ok {
		return own
	}
	if isTool(service) {
		return nil
	}
	return l.all
}

// serviceOf returns the service of /SERVICE/METHOD.
func serviceOf(method string) string {
	service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	return service
}

// ownServices begins the names of services that each mesh has.
const ownServices = "muster."

// isTool reports whether a service is one that tells about the others, such as those of health and
// reflection, or one that each mesh has: it is not limited, and no reason to call a member.
func isTool(service string) bool {
	return strings.HasPrefix(service, "grpc.") || strings.HasPrefix(service, ownServices)
}

package discoverytest

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// memoryDriver is one client of a Memory.
type memoryDriver struct {
	m      *Memory
	closed chan struct{}
	once   sync.Once
}

func (d *memoryDriver) Close() error {
	d.once.Do(func() { close(d.closed) })
	return nil
}

func (d *memoryDriver) List(ctx context.Context, q driver.Query) (driver.Snapshot, error) {
	if err := d.enter(ctx); err != nil {
		return driver.Snapshot{}, err
	}
	defer d.m.mu.Unlock()
	return d.m.snapshot(q), nil
}

func (d *memoryDriver) Watch(ctx context.Context, q driver.Query, since driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
	return func(yield func(driver.Snapshot, error) bool) {
		if err := d.enter(ctx); err != nil {
			yield(driver.Snapshot{}, err)
			return
		}
		last := since.Revision
		compacted := d.m.service(q.Service).compacted > last
		d.m.mu.Unlock()
		if compacted {
			yield(driver.Snapshot{}, driver.ErrCompacted)
			return
		}
		for {
			snap, changed, err := d.changedSince(q, last)
			switch {
			case err != nil:
				yield(driver.Snapshot{}, err)
				return
			case snap.Revision > last:
				last = snap.Revision
				if !yield(snap, nil) {
					return
				}
				continue
			}
			select {
			case <-changed:
			case <-d.closed:
			case <-ctx.Done():
				return
			}
		}
	}
}

// changedSince returns the set if it changed after last, and else a zero snapshot
// and what to wait for.
func (d *memoryDriver) changedSince(q driver.Query, last driver.Revision) (driver.Snapshot, <-chan struct{}, error) {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	select {
	case <-d.closed:
		return driver.Snapshot{}, nil, errDriverClosed
	default:
	}
	if d.m.fault != nil {
		return driver.Snapshot{}, nil, d.m.fault
	}
	if d.m.service(q.Service).revision > last {
		return d.m.snapshot(q), d.m.changed, nil
	}
	return driver.Snapshot{}, d.m.changed, nil
}

func (d *memoryDriver) Services(ctx context.Context) ([]string, error) {
	if err := d.enter(ctx); err != nil {
		return nil, err
	}
	defer d.m.mu.Unlock()
	var names []string
	for name, s := range d.m.services {
		if len(s.entries) > 0 || len(s.garbage) > 0 {
			names = append(names, name)
		}
	}
	return names, nil
}

// Rehearse has nothing to try: what is not made to fail is permitted.
func (d *memoryDriver) Rehearse(ctx context.Context, service string) error {
	if service == "" {
		return fmt.Errorf("%w: rehearsal without a service", driver.ErrInvalid)
	}
	if err := d.enter(ctx); err != nil {
		return err
	}
	d.m.mu.Unlock()
	return nil
}

// memoryTTL is granted where none is asked for.
const memoryTTL = 10 * time.Second

func (d *memoryDriver) OpenSession(ctx context.Context, o driver.SessionOptions) (driver.Session, error) {
	if o.TTL < 0 {
		return nil, fmt.Errorf("%w: session TTL %v is negative", driver.ErrInvalid, o.TTL)
	}
	if err := d.enter(ctx); err != nil {
		return nil, err
	}
	defer d.m.mu.Unlock()
	s := &memorySession{d: d, ttl: o.TTL}
	if s.ttl == 0 {
		s.ttl = memoryTTL
	}
	s.expires = time.Now().Add(s.ttl)
	s.timer = time.AfterFunc(s.ttl, s.lapse)
	d.m.sessions[s] = true
	if err := d.m.answered(); err != nil {
		return nil, err // and the session lapses, as one does that nobody knows of
	}
	return s, nil
}

type memorySession struct {
	d       *memoryDriver
	ttl     time.Duration
	expires time.Time
	timer   *time.Timer
}

func (s *memorySession) TTL() time.Duration { return s.ttl }

// lapse is called by the timer, which may be late after a renewal.
func (s *memorySession) lapse() {
	s.d.m.mu.Lock()
	defer s.d.m.mu.Unlock()
	if !time.Now().Before(s.expires) {
		s.d.m.end(s)
	}
}

// enter is the driver's, and then wants the session to live. It returns nil with
// the lock held.
func (s *memorySession) enter(ctx context.Context) error {
	if err := s.d.enter(ctx); err != nil {
		return err
	}
	if !time.Now().Before(s.expires) {
		s.d.m.end(s)
	}
	if !s.d.m.sessions[s] {
		s.d.m.mu.Unlock()
		return driver.ErrSessionLost
	}
	return nil
}

func (s *memorySession) Renew(ctx context.Context) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.d.m.mu.Unlock()
	s.expires = time.Now().Add(s.ttl)
	s.timer.Reset(s.ttl)
	return s.d.m.answered()
}

func (s *memorySession) Register(ctx context.Context, i driver.Instance) error {
	if err := i.Validate(); err != nil {
		return err
	}
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.d.m.mu.Unlock()
	service := s.d.m.service(i.Service)
	have, ok := service.entries[i.Key()]
	if !ok || have.session != s || !equal(have.instance, i) {
		service.entries[i.Key()] = memoryEntry{instance: clone(i), session: s}
		s.d.m.touch(service)
	}
	return s.d.m.answered()
}

func (s *memorySession) Deregister(ctx context.Context, i driver.Instance) error {
	if err := s.d.enter(ctx); err != nil {
		return err
	}
	defer s.d.m.mu.Unlock()
	if s.d.m.service(i.Service).entries[i.Key()].session == s {
		s.d.m.remove(i.Service, i.Key())
	}
	return s.d.m.answered()
}

func (s *memorySession) Close(ctx context.Context) error {
	if err := s.d.enter(ctx); err != nil {
		return err
	}
	defer s.d.m.mu.Unlock()
	s.d.m.end(s)
	return s.d.m.answered()
}

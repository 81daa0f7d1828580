package memory

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// client is one client of a Server.
type client struct {
	m      *Server
	closed chan struct{}
	once   sync.Once
	faults *faults // nil if it has no faults of its own
}

func (d *client) Close() error {
	d.once.Do(func() { close(d.closed) })
	return nil
}

func (d *client) List(ctx context.Context, q driver.Query) (driver.Snapshot, error) {
	if err := d.enter(ctx); err != nil {
		return driver.Snapshot{}, err
	}
	defer d.m.mu.Unlock()
	return d.m.snapshot(q), nil
}

func (d *client) Watch(ctx context.Context, q driver.Query, since driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
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
func (d *client) changedSince(q driver.Query, last driver.Revision) (driver.Snapshot, <-chan struct{}, error) {
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
	s := d.m.service(q.Service)
	if s.revision > last {
		return d.m.snapshot(q), s.changed, nil
	}
	return driver.Snapshot{}, s.changed, nil
}

func (d *client) Services(ctx context.Context) ([]string, error) {
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

// CheckPermission has nothing to try: what is not made to fail is permitted.
func (d *client) CheckPermission(ctx context.Context, service string) error {
	if service == "" {
		return fmt.Errorf("%w: check of a permission without a service", driver.ErrInvalid)
	}
	if err := d.enter(ctx); err != nil {
		return err
	}
	d.m.mu.Unlock()
	return nil
}

// memoryTTL is granted if none is asked for.
const memoryTTL = 10 * time.Second

func (d *client) OpenSession(ctx context.Context, o driver.SessionOptions) (driver.Session, error) {
	if o.TTL < 0 {
		return nil, fmt.Errorf("%w: session TTL %v is negative", driver.ErrInvalid, o.TTL)
	}
	if err := d.enter(ctx); err != nil {
		return nil, err
	}
	defer d.m.mu.Unlock()
	s := &session{d: d, ttl: o.TTL}
	if s.ttl == 0 {
		s.ttl = memoryTTL
	}
	s.expires = time.Now().Add(s.ttl)
	s.timer = time.AfterFunc(s.ttl, s.expire)
	d.m.sessions[s] = true
	if err := d.answered(); err != nil {
		return nil, err // and the session expires, as one does that nobody knows of
	}
	return s, nil
}

type session struct {
	d       *client
	ttl     time.Duration
	expires time.Time
	timer   *time.Timer
	closed  bool
}

func (s *session) TTL() time.Duration { return s.ttl }

// expire is called by the timer, which may be late after a renewal.
func (s *session) expire() {
	s.d.m.mu.Lock()
	defer s.d.m.mu.Unlock()
	if !time.Now().Before(s.expires) {
		s.d.m.end(s)
	}
}

// enter is the driver's, and then wants the session to live. It returns nil with
// the lock held.
func (s *session) enter(ctx context.Context) error {
	if err := s.d.enter(ctx); err != nil {
		return err
	}
	if !time.Now().Before(s.expires) {
		s.d.m.end(s)
	}
	if s.closed {
		s.d.m.mu.Unlock()
		return errSessionClosed
	}
	if !s.d.m.sessions[s] {
		s.d.m.mu.Unlock()
		return driver.ErrSessionLost
	}
	return nil
}

var errSessionClosed = fmt.Errorf("memory: the session is %w", driver.ErrClosed)

func (s *session) Renew(ctx context.Context) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.d.m.mu.Unlock()
	s.expires = time.Now().Add(s.ttl)
	s.timer.Reset(s.ttl)
	return s.d.answered()
}

func (s *session) Register(ctx context.Context, i driver.Instance) error {
	if err := i.Validate(); err != nil {
		return err
	}
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.d.m.mu.Unlock()
	service := s.d.m.service(i.Service)
	have, ok := service.entries[i.Key()]
	if !ok || have.session != s || !have.instance.SameAs(i) {
		service.entries[i.Key()] = entry{instance: clone(i), session: s}
		s.d.m.touch(service)
	}
	return s.d.answered()
}

func (s *session) Deregister(ctx context.Context, i driver.Instance) error {
	if err := s.d.enter(ctx); err != nil {
		return err
	}
	defer s.d.m.mu.Unlock()
	if s.closed {
		return errSessionClosed
	}
	if s.d.m.service(i.Service).entries[i.Key()].session == s {
		s.d.m.remove(i.Service, i.Key())
	}
	return s.d.answered()
}

func (s *session) Close(ctx context.Context) error {
	if err := s.d.enter(ctx); err != nil {
		return err
	}
	defer s.d.m.mu.Unlock()
	s.d.m.end(s)
	if err := s.d.answered(); err != nil {
		return err
	}
	s.closed = true
	return nil
}

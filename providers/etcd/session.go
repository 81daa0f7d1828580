package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/internal/format"
)

// DefaultSessionTTL is how long registrations outlive their last renewal if
// nothing else is asked for.
//
// It is renewed every third of it, and each registration is looked at once within it.
// With what is read afresh now and then that makes one request in 5.4 s for an idle node.
const DefaultSessionTTL = 36 * time.Second

// OpenSession makes a lease, on which the registrations are put.
func (d *Driver) OpenSession(ctx context.Context, o driver.SessionOptions) (driver.Session, error) {
	ttl, err := checkTTL(o.TTL, DefaultSessionTTL)
	if err != nil {
		return nil, err
	}
	lease, granted, err := d.grant(ctx, ttl)
	if err != nil {
		return nil, err
	}
	return &session{driver: d, layout: written(d.layout, granted), lease: lease, ttl: granted, written: make(map[string]string)}, nil
}

type session struct {
	driver *Driver
	layout layout
	lease  clientv3.LeaseID
	ttl    time.Duration

	keys format.Keys // of what may be on the lease

	mu      sync.Mutex
	written map[string]string // what this session has put: values by key
	gone    bool              // the lease is, of which etcd need not be told again
	closed  bool
}

func (s *session) TTL() time.Duration { return s.ttl }

func (s *session) Renew(ctx context.Context) error {
	if err := s.over(); err != nil {
		return err
	}
	_, err := s.driver.keepAlive(ctx, s.lease)
	if errors.Is(err, driver.ErrSessionLost) {
		s.end()
	}
	return err
}

// Register writes at once what this session has not written before. What it has,
// it reads first: a read costs etcd no disk, and mostly nothing is to be done.
func (s *session) Register(ctx context.Context, i driver.Instance) error {
	if err := i.Validate(); err != nil {
		return fmt.Errorf("etcd: register: %w", err)
	}
	key, value, err := s.layout.Encode(i)
	if err != nil {
		return fmt.Errorf("etcd: register: %w", err)
	}
	if s.driver.reserved(key) {
		return fmt.Errorf("etcd: register: %w: %s is among the keys of authorities, which are below %s; give the service another name", driver.ErrInvalid, key, s.driver.keys.root)
	}
	if err := s.over(); err != nil {
		return err
	}
	s.keys.Add(i, key)
	if err := s.put(ctx, key, value); err != nil {
		return err
	}
	return s.remove(ctx, s.keys.Former(i, key))
}

// put writes the registration, on this session, unless it is there.
func (s *session) put(ctx context.Context, key, value string) error {
	if s.wrote(key) == value {
		switch stands, err := s.isRegistered(ctx, key, value); {
		case err != nil:
			return err
		case stands:
			return nil
		}
	}
	if _, err := s.driver.client.Put(ctx, key, value, clientv3.WithLease(s.lease)); err != nil {
		if leaseGone(err) {
			s.end()
			return s.lost()
		}
		return s.driver.failed(ctx, "register "+key, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.written[key] = value
	return nil
}

// isRegistered reports whether the registration is there, as it should be and on this
// session.
func (s *session) isRegistered(ctx context.Context, key, value string) (bool, error) {
	r, err := s.driver.client.Get(ctx, key)
	if err != nil {
		return false, s.driver.failed(ctx, "read "+key, err)
	}
	return len(r.Kvs) == 1 && string(r.Kvs[0].Value) == value && r.Kvs[0].Lease == int64(s.lease), nil
}

// Deregister removes the key of i, also if this session knows of none: an answer
// that was lost may have been of a registration that comes after all.
func (s *session) Deregister(ctx context.Context, i driver.Instance) error {
	if err := s.over(); errors.Is(err, driver.ErrClosed) {
		return err
	}
	key, _, err := s.layout.Encode(i)
	if err != nil {
		key = "" // not valid any more, but maybe under a former key
	}
	return s.remove(ctx, s.keys.Last(i, key))
}

// remove deletes those keys that are on this session. A successor may have put one
// there again, on its own. One that cannot be deleted keeps none of the others.
func (s *session) remove(ctx context.Context, keys []string) error {
	var errs []error
	for _, key := range keys {
		errs = append(errs, s.removeOne(ctx, key))
	}
	return errors.Join(errs...)
}

func (s *session) removeOne(ctx context.Context, key string) error {
	_, err := s.driver.client.Txn(ctx).
		If(clientv3.Compare(clientv3.LeaseValue(key), "=", s.lease)).
		Then(clientv3.OpDelete(key)).
		Commit()
	if err != nil {
		return s.driver.failed(ctx, "deregister "+key, err)
	}
	s.keys.Remove(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.written, key)
	return nil
}

// Close revokes the lease, which removes all keys on it in one step. Where etcd
// cannot be reached it may be called again.
func (s *session) Close(ctx context.Context) error {
	if s.over() == nil {
		if err := s.driver.revoke(ctx, s.lease); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone, s.closed = true, true
	return nil
}

// end records that the lease is gone. The registrar opens another session, and registers there.
func (s *session) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
}

// over says why nothing can be done on the session any more, or nil.
func (s *session) over() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return fmt.Errorf("etcd: the session of lease %x is %w", s.lease, driver.ErrClosed)
	case s.gone:
		return s.lost()
	}
	return nil
}

func (s *session) wrote(key string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.written[key]
}

func (s *session) lost() error {
	return fmt.Errorf("etcd: lease %x: %w", s.lease, driver.ErrSessionLost)
}

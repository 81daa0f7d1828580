package consul

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/consul/internal/checks"
)

// serverSession is a session of Consul that registrations depend on. It depends on nothing but its
// own TTL, which the servers count: no agent and no gossip ends it. Consul takes its time, up to
// twice the TTL.
type serverSession struct {
	driver          *Driver
	session         string        // its ID
	ttl             time.Duration // of what hangs on it
	instanceSession string        // by which that is known to be our own, empty if none is

	mu     sync.Mutex
	ended  bool // Consul knows of it no more
	closed bool
}

// createSession makes a session of Consul that deletes the keys which it holds when it
// ends. It is on a node, the agent's where that is empty, and ends when that leaves.
func (d *Driver) createSession(ctx context.Context, node string, ttl time.Duration) (string, error) {
	id, _, err := d.client.Session().CreateNoChecks(&api.SessionEntry{
		Name:      "registrations of Muster",
		Node:      node,
		TTL:       checks.Duration(ttl),
		Behavior:  api.SessionBehaviorDelete,
		LockDelay: time.Millisecond, // 0 stands for 15 s, for which no successor could register
	}, d.write(ctx))
	return id, err
}

func (s *serverSession) TTL() time.Duration { return s.ttl }

func (s *serverSession) Renew(ctx context.Context) error {
	if err := s.over(); err != nil {
		return err
	}
	ctx, cancel := s.driver.call(ctx)
	defer cancel()
	switch there, err := s.driver.renewSession(ctx, s.session, s.driver.config.Datacenter); {
	case err != nil:
		return err
	case !there:
		return s.lost()
	}
	return nil
}

// destroy ends the session, after which nothing can be registered on it any more by a
// request that comes late.
func (s *serverSession) destroy(ctx context.Context) error {
	if _, err := s.driver.client.Session().Destroy(s.session, s.driver.write(ctx)); err != nil {
		return s.driver.failed(ctx, "end session "+s.session, err)
	}
	s.end()
	return nil
}

// over says why nothing can be done on the session any more, or nil.
func (s *serverSession) over() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return errSessionClosed(s.session)
	case s.ended:
		return s.errLost()
	}
	return nil
}

// open reports whether the session has not been closed.
func (s *serverSession) open() bool { return !errors.Is(s.over(), driver.ErrClosed) }

func (s *serverSession) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

func (s *serverSession) end() {
	s.driver.setOwn(s.instanceSession, false)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
}

// lost ends the session, which Consul has ended for good.
func (s *serverSession) lost() error {
	s.end()
	return s.errLost()
}

func (s *serverSession) errLost() error {
	return fmt.Errorf("consul: session %s: %w", s.session, driver.ErrSessionLost)
}

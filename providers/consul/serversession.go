package consul

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
)

// serverSession is a session of Consul for registrations to hang on, whichever way. It
// hangs on nothing but its own TTL, which the servers count: no agent and no gossip ends
// it. Consul takes its time, up to twice the TTL.
type serverSession struct {
	driver  *Driver
	session string        // its ID
	ttl     time.Duration // of what hangs on it
	own     string        // by which that is known to be our own, empty where none is

	mu    sync.Mutex
	ended bool // by Close, or found so
}

// createSession makes a session of Consul that deletes the keys which it holds when it
// ends. It is on a node, the agent's where that is empty, and ends when that leaves.
func (d *Driver) createSession(ctx context.Context, node string, ttl time.Duration) (string, error) {
	id, _, err := d.client.Session().CreateNoChecks(&api.SessionEntry{
		Name:      "registrations of Muster",
		Node:      node,
		TTL:       spell(ttl),
		Behavior:  api.SessionBehaviorDelete,
		LockDelay: time.Millisecond, // 0 stands for 15 s, for which no successor could register
	}, d.write(ctx))
	return id, err
}

func (s *serverSession) TTL() time.Duration { return s.ttl }

func (s *serverSession) Renew(ctx context.Context) error {
	if s.over() {
		return s.lost()
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

func (s *serverSession) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

func (s *serverSession) end() {
	s.driver.setOwn(s.own, false)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
}

// lost ends the session, which Consul has ended for good.
func (s *serverSession) lost() error {
	s.end()
	return fmt.Errorf("consul: session %s: %w", s.session, driver.ErrSessionLost)
}

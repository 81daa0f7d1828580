package consul

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/internal/format"
)

// A session of Consul has a TTL of 10 s at least, unless the servers are configured
// otherwise, and they wait for twice as long.
const (
	leastSession  = 10 * time.Second
	longerSession = 2
)

// noAddress is the address of a node that has no service yet, of which it gets one.
const noAddress = "0.0.0.0"

// openCatalogSession makes a session of Consul, for registrations that are written
// straight into the catalog.
//
// A session of Consul is on a node, and ends when that leaves. So it is on the one that
// is there for it alone, and not on that of the agent which happens to be at the
// address: it may be restarted, and may be of another datacenter. A process that dies
// between the two steps leaves an empty node.
func (d *Driver) openCatalogSession(ctx context.Context, ttl time.Duration) (driver.Session, error) {
	short := max(ttl/longerSession, d.leastSession)
	if short > maxGrantTTL {
		return nil, fmt.Errorf("consul: %w: a TTL of %v; want %v at most", driver.ErrInvalid, ttl, longerSession*maxGrantTTL)
	}
	ctx, cancel := d.call(ctx)
	defer cancel()
	id := strings.ToLower(rand.Text())
	s := &catalogSession{
		serverSession: serverSession{driver: d, own: id, ttl: longerSession * short},
		node:          d.config.NodeName + "-" + id,
		key:           d.keys.alive(id),
		written:       make(map[string]bool),
	}
	_, err := d.client.Catalog().Register(&api.CatalogRegistration{
		Datacenter: d.config.Datacenter, Node: s.node, Address: noAddress, NodeMeta: nodeMeta(),
	}, d.write(ctx))
	if err != nil {
		return nil, d.failed(ctx, "register node "+s.node, err)
	}
	if s.session, err = d.createSession(ctx, s.node, short); err != nil {
		cleaning, stop := context.WithTimeout(context.WithoutCancel(ctx), dialTimeout)
		defer stop()
		_ = s.deregister(cleaning, "")
		if said(err, "cross datacenter") {
			return nil, fmt.Errorf("consul: datacenter: %q: %w: the agent at %s is a client of another datacenter, and only a server can open a session elsewhere; name a server in address, or an agent of %s",
				d.config.Datacenter, driver.ErrInvalid, d.config.Address, d.config.Datacenter)
		}
		return nil, d.failed(ctx, "create a session", err)
	}
	d.setOwn(id, true)
	return s, nil
}

// nodeMeta says that nobody needs to look after a node.
func nodeMeta() map[string]string {
	return map[string]string{"external-node": "true", "external-probe": "false"}
}

// write returns the options of what is written to the datacenter to register in.
func (d *Driver) write(ctx context.Context) *api.WriteOptions {
	return (&api.WriteOptions{Datacenter: d.config.Datacenter}).WithContext(ctx)
}

// catalogSession registers services on a node that is there for it alone: what it
// leaves behind can be removed in one step, and nothing of anybody else with it.
// alive.go says how it is known that it has ended.
type catalogSession struct {
	serverSession
	node string      // on which it is and all services are
	key  string      // that it holds once something is registered
	keys format.Keys // the IDs that may be registered

	// Both are guarded by mu.
	written map[string]bool // the IDs of services that are registered, as far as is known
	closed  bool
}

// Register writes the service, its node and the key on which they hang in one
// transaction, unless all of it stands already.
func (s *catalogSession) Register(ctx context.Context, i driver.Instance) error {
	want, err := s.driver.registration(i, map[string]string{metaSession: s.own, metaAlive: s.key})
	if err != nil {
		return fmt.Errorf("consul: register: %w", err)
	}
	if s.over() {
		return s.lost()
	}
	ctx, cancel := s.driver.call(ctx)
	defer cancel()
	s.keys.Add(i, want.ID)
	if err := s.put(ctx, want); err != nil {
		return err
	}
	return s.removeAll(ctx, s.keys.Former(i, want.ID))
}

func (s *catalogSession) put(ctx context.Context, want *api.AgentServiceRegistration) error {
	if s.wrote(want.ID) {
		if stands, err := s.stands(ctx, want); err != nil || stands {
			return err
		}
	}
	_, err := s.driver.transact(ctx, "register "+want.ID, s.driver.config.Datacenter, api.TxnOps{
		{KV: &api.KVTxnOp{Verb: api.KVLock, Key: s.key, Value: []byte(s.node), Session: s.session}},
		{Node: &api.NodeTxnOp{Verb: api.NodeSet, Node: api.Node{
			Node: s.node, Address: want.Address, Meta: nodeMeta(),
		}}},
		{Service: &api.ServiceTxnOp{Verb: api.ServiceSet, Node: s.node, Service: api.AgentService{
			ID: want.ID, Service: want.Name, Address: want.Address, Port: want.Port, Tags: want.Tags, Meta: want.Meta,
			EnableTagOverride: want.EnableTagOverride,
		}}},
	})
	switch {
	case err == nil:
		s.note(want.ID)
		return nil
	case errors.Is(err, driver.ErrConflict) && strings.Contains(err.Error(), "invalid session"):
		return s.lost()
	}
	return err
}

// stands reports whether the service is there as it should be, and the key is held.
func (s *catalogSession) stands(ctx context.Context, want *api.AgentServiceRegistration) (bool, error) {
	results, err := s.driver.transact(ctx, "read service "+want.ID, s.driver.config.Datacenter, api.TxnOps{
		{KV: &api.KVTxnOp{Verb: api.KVCheckSession, Key: s.key, Session: s.session}},
		{Service: &api.ServiceTxnOp{Verb: api.ServiceGet, Node: s.node, Service: api.AgentService{ID: want.ID, Service: want.Name}}},
	})
	switch {
	case errors.Is(err, driver.ErrConflict): // one of them is missing
		return false, nil
	case err != nil:
		return false, err
	}
	for _, r := range results {
		if have := r.Service; have != nil {
			return sameService(&api.AgentService{
				Service: have.Service, Address: have.Address, Port: have.Port, Tags: have.Tags, Meta: have.Meta,
				EnableTagOverride: have.EnableTagOverride,
			}, want), nil
		}
	}
	return false, nil
}

// Deregister removes the service from the node of this session, also if this session
// knows of none: an answer that was lost may have been of a registration that comes
// after all. Those of other sessions are on other nodes.
func (s *catalogSession) Deregister(ctx context.Context, i driver.Instance) error {
	ctx, cancel := s.driver.call(ctx)
	defer cancel()
	id, err := s.driver.serviceID(i)
	if err != nil {
		id = "" // not valid any more, but maybe under a former ID
	}
	return s.removeAll(ctx, s.keys.Last(i, id))
}

func (s *catalogSession) removeAll(ctx context.Context, ids []string) error {
	for _, id := range ids {
		if err := s.deregister(ctx, id); err != nil {
			return err
		}
		s.keys.Remove(id)
		s.forget(id)
	}
	return nil
}

// deregister removes a service from the node, or the node where it is not of any.
func (s *catalogSession) deregister(ctx context.Context, id string) error {
	_, err := s.driver.client.Catalog().Deregister(&api.CatalogDeregistration{
		Datacenter: s.driver.config.Datacenter, Node: s.node, ServiceID: id,
	}, s.driver.write(ctx))
	if err != nil {
		return s.driver.failed(ctx, "deregister "+strings.TrimSuffix(s.node+"/"+id, "/"), err)
	}
	return nil
}

// Close ends the session, and removes the node with all that is on it. Where Consul
// cannot be reached it may be called again.
func (s *catalogSession) Close(ctx context.Context) error {
	if s.isClosed() {
		return nil
	}
	ctx, cancel := s.driver.call(ctx)
	defer cancel()
	if err := s.destroy(ctx); err != nil {
		return err
	}
	if err := s.deregister(ctx, ""); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

func (s *catalogSession) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

func (s *catalogSession) wrote(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.written[id]
}

func (s *catalogSession) note(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.written[id] = true
}

func (s *catalogSession) forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.written, id)
}

// sameService reports whether what stands is what should. Tags that others may change
// are theirs.
func sameService(have *api.AgentService, want *api.AgentServiceRegistration) bool {
	return have != nil && have.Service == want.Name && have.Address == want.Address && have.Port == want.Port &&
		have.EnableTagOverride == want.EnableTagOverride && (want.EnableTagOverride || slices.Equal(have.Tags, want.Tags)) &&
		maps.Equal(have.Meta, want.Meta)
}

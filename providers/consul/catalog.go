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
	"github.com/musterhq/muster/providers/consul/internal/registration"
	"github.com/musterhq/muster/providers/internal/format"
)

// A session of Consul has a TTL of 10 s at least, unless the servers are configured
// otherwise, and they wait for twice as long.
const (
	leastSession  = 10 * time.Second
	maxSession    = 24 * time.Hour
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
	if short > maxSession {
		return nil, fmt.Errorf("consul: %w: a TTL of %v; want %v at most", driver.ErrInvalid, ttl, longerSession*maxSession)
	}
	ctx, cancel := d.call(ctx)
	defer cancel()
	id := strings.ToLower(rand.Text())
	s := &catalogSession{
		serverSession: serverSession{driver: d, instanceSession: id, ttl: longerSession * short},
		node:          d.config.NodeName + "-" + id,
		key:           d.keys.livenessKey(id),
		written:       make(map[string]bool),
		names:         make(map[string]bool),
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

// nodeMeta says that no program needs to probe a node.
func nodeMeta() map[string]string {
	return map[string]string{"external-node": "true", "external-probe": "false"}
}

// write returns the options of what is written to the datacenter to register in.
func (d *Driver) write(ctx context.Context) *api.WriteOptions {
	return (&api.WriteOptions{Datacenter: d.config.Datacenter}).WithContext(ctx)
}

// catalogSession registers services on a node that is there for it alone: what it
// leaves behind can be removed in one step, and nothing of any other program with it.
// liveness.go says how it is known that it has ended.
type catalogSession struct {
	serverSession
	node string      // on which it is and all services are
	key  string      // that it holds once something is registered
	keys format.Keys // the IDs that may be registered

	// Guarded by mu.
	written map[string]bool // the IDs of services that are registered, as far as is known
	names   map[string]bool // of the services that were registered
}

// Register writes the service, its node and the key on which they hang in one
// transaction, unless all of it is there already.
func (s *catalogSession) Register(ctx context.Context, i driver.Instance) error {
	want, err := s.driver.registration(i, map[string]string{registration.SessionMeta: s.instanceSession, registration.LivenessMeta: s.key})
	if err != nil {
		return fmt.Errorf("consul: register: %w", err)
	}
	if err := s.over(); err != nil {
		return err
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
		if registered, err := s.isRegistered(ctx, want); err != nil || registered {
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
		s.note(want.ID, want.Name)
		return nil
	case errors.Is(err, driver.ErrConflict) && strings.Contains(err.Error(), "invalid session"):
		return s.lost()
	}
	return err
}

// isRegistered reports whether the service is as want says, and the key is held.
func (s *catalogSession) isRegistered(ctx context.Context, want *api.AgentServiceRegistration) (bool, error) {
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
			return registration.SameService(&api.AgentService{
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
	if !s.open() {
		return s.over()
	}
	ctx, cancel := s.driver.call(ctx)
	defer cancel()
	id, err := s.driver.serviceID(i)
	if err != nil {
		id = "" // not valid any more, but maybe under a former ID
	}
	return s.removeAll(ctx, s.keys.Last(i, id))
}

func (s *catalogSession) removeAll(ctx context.Context, ids []string) error {
	var errs []error
	for _, id := range ids {
		if err := s.deregister(ctx, id); err != nil {
			errs = append(errs, err)
			continue
		}
		s.keys.Remove(id)
		s.forget(id)
	}
	return errors.Join(errs...)
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
	if !s.open() {
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
	s.close()
	return nil
}

func (s *catalogSession) wrote(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.written[id]
}

func (s *catalogSession) note(id, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.written[id], s.names[name] = true, true
}

// services returns the names of the services that were registered.
func (s *catalogSession) services() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.names))
}

func (s *catalogSession) forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.written, id)
}

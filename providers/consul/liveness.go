package consul

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/consul/internal/registration"
)

// If no agent runs the clock of a check, the servers run that of a session of Consul (catalog.go).
// The session holds a key, which is deleted when it ends, and each registration names that key.
//
// A key is never acquired again by another session, and a session that has lost its key has ended.
// So a registration is an orphan for good if its key is missing in a consistent read that was made
// after the registration was found. No clock is compared, and a process that comes back is not
// affected: it has another key and another node.

// keySet has the keys that sessions hold.
type keySet map[string]bool

// orphan is what a session has left behind, all of it on a node of its own.
type orphan struct {
	node string
	key  string
}

// keysHeldFor returns the keys of sessions that are held, or nil if no entry depends on a key.
func (d *Driver) keysHeldFor(ctx context.Context, dc string, entries []*api.ServiceEntry) (keySet, error) {
	for _, entry := range entries {
		if entry.Service.Meta[registration.LivenessMeta] != "" {
			alive, _, err := d.keysHeld(ctx, reading{dc: dc})
			return alive, err
		}
	}
	return nil, nil
}

// keysHeld reads which keys are held, and their index.
func (d *Driver) keysHeld(ctx context.Context, r reading) (keySet, uint64, error) {
	prefix := d.keys.livenessKey("")
	request := question{what: "list " + prefix, needs: fmt.Sprintf("key_prefix %q read", prefix)}
	q := &api.QueryOptions{Datacenter: r.dc, WaitIndex: r.index, RequireConsistent: true}
	if r.index > 0 {
		q.WaitTime = waitWithin(ctx, waitTime)
	}
	pairs, index, err := ask(ctx, d, request.in(r.dc), q.WithContext(ctx), func(q *api.QueryOptions) (api.KVPairs, *api.QueryMeta, error) {
		return d.client.KV().List(prefix, q)
	})
	if err != nil {
		return nil, 0, err
	}
	alive := make(keySet)
	for _, pair := range pairs {
		if pair.Session != "" {
			alive[pair.Key] = true
		}
	}
	return alive, index, nil
}

// isReadable reports whether key is among those that lives reads.
func (d *Driver) isReadable(key string) error {
	if prefix := d.keys.livenessKey(""); !strings.HasPrefix(key, prefix) {
		return fmt.Errorf("%w: it depends on the key %s, and only those below %s are read here; give all nodes the same authority_prefix",
			driver.ErrInvalid, key, prefix)
	}
	return nil
}

// orphanOf returns what the session of entry, which has ended, has left behind. The
// node of an orphan is removed with all that is on it, and anyone may write into the meta
// of a service. So the error is that of one which is not on a node of such a session.
func (d *Driver) orphanOf(entry *api.ServiceEntry) (orphan, error) {
	node, session, key := entry.Node.Node, entry.Service.Meta[registration.SessionMeta], entry.Service.Meta[registration.LivenessMeta]
	switch {
	case session == "" || key != d.keys.livenessKey(session):
		return orphan{}, fmt.Errorf("%w: it depends on the key %s, which is not that of its session %q; deregister it if nothing that you know registered it",
			driver.ErrInvalid, key, session)
	case !strings.HasSuffix(node, "-"+session):
		return orphan{}, fmt.Errorf("%w: its session %s is over, and it is on node %s, which is not that of the session; deregister it", driver.ErrInvalid, session, node)
	}
	return orphan{node: node, key: key}, nil
}

// isOwnNode reports whether a node was made for one session by a driver with our
// node_name. What is read in the catalog names no other node that is removed.
func (d *Driver) isOwnNode(node, session string) bool {
	return registration.SessionID.MatchString(session) && node == d.config.NodeName+"-"+session
}

// Sweep implements driver.Sweeper. It removes the nodes of sessions that are over.
func (s *catalogSession) Sweep(ctx context.Context) error {
	ctx, cancel := s.driver.call(ctx)
	defer cancel()
	var errs []error
	for _, service := range s.services() {
		all, err := s.driver.read(ctx, service, reading{dc: s.driver.config.Datacenter, exact: true})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		done := make(map[string]bool)
		for _, g := range all.orphans {
			if !done[g.node] {
				done[g.node] = true
				errs = append(errs, s.driver.deleteOrphan(ctx, g))
			}
		}
	}
	return errors.Join(errs...)
}

// deleteOrphan removes the node of an orphan with all that is on it, if it was made for the session
// alone and nothing else was put there. In the step that removes it the key is still
// missing, and the node as it was looked at.
func (d *Driver) deleteOrphan(ctx context.Context, g orphan) error {
	session := strings.TrimPrefix(g.key, d.keys.livenessKey(""))
	if !d.isOwnNode(g.node, session) {
		return nil
	}
	q := d.consistent(ctx, 0)
	q.Datacenter = d.config.Datacenter
	found, _, err := d.client.Catalog().Node(g.node, q)
	if err != nil {
		return d.failed(ctx, "read node "+g.node, err)
	}
	if found == nil || found.Node == nil || found.Node.Meta["external-node"] != "true" {
		return nil
	}
	for _, service := range found.Services {
		if service.Meta[registration.SessionMeta] != session || service.Meta[registration.LivenessMeta] != g.key {
			return nil
		}
	}
	return d.removeNode(ctx, g, found.Node.ModifyIndex)
}

// removeNode removes the node of an orphan, unless the session lives or the node was
// written since index.
func (d *Driver) removeNode(ctx context.Context, g orphan, index uint64) error {
	_, err := d.transact(ctx, "remove node "+g.node, d.config.Datacenter, api.TxnOps{
		{KV: &api.KVTxnOp{Verb: api.KVCheckNotExists, Key: g.key}},
		{Node: &api.NodeTxnOp{Verb: api.NodeDeleteCAS, Node: api.Node{Node: g.node, ModifyIndex: index}}},
	})
	if errors.Is(err, driver.ErrConflict) {
		return nil // another was faster, or the session lives after all
	}
	return err
}

package consul

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
)

// Where no agent runs the clock of a check, the servers run that of a session of
// Consul (catalog.go). The session holds a key, which goes when it ends, and each
// registration names that key.
//
// A key is never taken again by another session, and a session that has lost its key
// is over. So what was registered is dead for good if its key is missing
// in a consistent reading that was made after it was found. Nobody's
// clock is asked, and nobody who comes back can be hurt: he has another key and
// another node.

// liveness has the keys that a session holds.
type liveness map[string]bool

// grave is what a session has left behind, all of it on a node of its own.
type grave struct {
	node string
	key  string
}

// livesOf returns which of the keys that entries hang on are held, nil if they hang on
// none.
func (d *Driver) livesOf(ctx context.Context, dc string, entries []*api.ServiceEntry) (liveness, error) {
	for _, entry := range entries {
		if entry.Service.Meta[metaAlive] != "" {
			alive, _, err := d.lives(ctx, reading{dc: dc})
			return alive, err
		}
	}
	return nil, nil
}

// lives reads which keys are held, and their index.
func (d *Driver) lives(ctx context.Context, r reading) (liveness, uint64, error) {
	prefix := d.keys.alive("")
	request := question{what: "list " + prefix, needs: fmt.Sprintf("key_prefix %q read", prefix)}
	q := &api.QueryOptions{Datacenter: r.dc, WaitIndex: r.index, RequireConsistent: true}
	if r.index > 0 {
		q.WaitTime = waitTime
	}
	pairs, index, err := ask(ctx, d, request.in(r.dc), q.WithContext(ctx), func(q *api.QueryOptions) (api.KVPairs, *api.QueryMeta, error) {
		return d.client.KV().List(prefix, q)
	})
	if err != nil {
		return nil, 0, err
	}
	alive := make(liveness)
	for _, pair := range pairs {
		if pair.Session != "" {
			alive[pair.Key] = true
		}
	}
	return alive, index, nil
}

// readable reports whether key is among those that lives reads.
func (d *Driver) readable(key string) error {
	if prefix := d.keys.alive(""); !strings.HasPrefix(key, prefix) {
		return fmt.Errorf("%w: its life hangs on the key %s, and only those below %s are read here; give all nodes the same authority_prefix",
			driver.ErrInvalid, key, prefix)
	}
	return nil
}

// graveOf returns what is left of the session that entry, which is dead, hangs on. The
// node of a grave is removed with all that is on it, and anybody may write into the meta
// of a service. So the error is that of one which is not on a node of such a session.
func (d *Driver) graveOf(entry *api.ServiceEntry) (grave, error) {
	node, session, key := entry.Node.Node, entry.Service.Meta[metaSession], entry.Service.Meta[metaAlive]
	switch {
	case session == "" || key != d.keys.alive(session):
		return grave{}, fmt.Errorf("%w: its life hangs on the key %s, which is not that of its session %q; deregister it if nothing that you know registered it",
			driver.ErrInvalid, key, session)
	case !strings.HasSuffix(node, "-"+session):
		return grave{}, fmt.Errorf("%w: its session %s is over, and it is on node %s, which is not that of the session; deregister it", driver.ErrInvalid, session, node)
	}
	return grave{node: node, key: key}, nil
}

// buryWithin spreads those who find a grave, so that mostly one of them clears it.
const buryWithin = 5 * time.Second

// bury removes the node of each grave that is still found by open after a while.
// Everything on the node goes with it. A token that may not do it leaves it to others:
// no reader takes what is in a grave for alive.
func (d *Driver) bury(ctx context.Context, dc string, open func() []grave) {
	select {
	case <-time.After(rand.N(buryWithin)):
	case <-ctx.Done():
		return
	}
	done := make(map[string]bool)
	for _, g := range open() {
		if done[g.node] {
			continue
		}
		done[g.node] = true
		ops := api.TxnOps{
			{KV: &api.KVTxnOp{Verb: api.KVCheckNotExists, Key: g.key}},
			{Node: &api.NodeTxnOp{Verb: api.NodeDelete, Node: api.Node{Node: g.node}}},
		}
		_, _, _, _ = d.client.Txn().Txn(ops, (&api.QueryOptions{Datacenter: dc}).WithContext(ctx))
	}
}

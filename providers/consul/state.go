package consul

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/providers/internal/grants"
)

// master is the value of the key.
type master struct {
	grants.Master
	hold
}

// hold is how a master holds the lock.
type hold struct {
	// TTL is how long a grant outlives its last renewal.
	TTL time.Duration `json:"ttl_ns"`
	// Pulse is what the lock hangs on.
	Pulse pulseID `json:"pulse"`
	// Released says that the holder gave the lock back.
	Released bool `json:"released,omitempty"`
}

func (m master) encode() []byte {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // strings and numbers alone
	}
	return b
}

// state is what stands in the keys of a cluster.
type state struct {
	grants.State      // of a master whose lock may have ended
	hold         hold // of that master

	session string            // that locks the key of the master, empty if none does
	locks   uint64            // how often it was locked
	indices map[string]uint64 // at which the keys were written, 0 for one that is not there
}

func (s state) held() bool { return s.Master != nil && s.session != "" }

// lockedBy reports whether the lock is that of t.
func (s state) lockedBy(t token) bool {
	return s.held() && s.session == t.pulse.session && s.locks == t.lock
}

// unchanged holds as long as no key was written, locked or deleted since the read.
func (s state) unchanged(prefix string) []*api.KVTxnOp {
	var all []*api.KVTxnOp
	for _, name := range grants.Keys() {
		op := &api.KVTxnOp{Verb: api.KVCheckNotExists, Key: prefix + name}
		if index := s.indices[name]; index > 0 {
			op.Verb, op.Index = api.KVCheckIndex, index
		}
		all = append(all, op)
	}
	return all
}

// consistent returns the options of a reading of which the leader made sure, with a
// majority, that it is not out of date.
func (d *Driver) consistent(ctx context.Context, index uint64) *api.QueryOptions {
	q := &api.QueryOptions{RequireConsistent: true, WaitIndex: index}
	if index > 0 {
		q.WaitTime = observeWait
	}
	return q.WithContext(ctx)
}

// read returns the keys of the cluster as they stood at one index, after a change if
// index is not 0.
func (a *authority) read(ctx context.Context, index uint64) (state, uint64, error) {
	pairs, index, err := a.list(ctx, "read", a.prefix, index)
	if err != nil {
		return state{}, 0, err
	}
	s := state{indices: make(map[string]uint64)}
	for _, pair := range pairs {
		name := strings.TrimPrefix(pair.Key, a.prefix)
		if !slices.Contains(grants.Keys(), name) {
			continue
		}
		s.indices[name] = pair.ModifyIndex
		if err := s.parse(name, pair); err != nil {
			return state{}, 0, fmt.Errorf("consul: %w", grants.Unreadable(pair.Key, pair.Value, err))
		}
	}
	return s, index, nil
}

// list returns all keys below prefix and their index, after a change if index is
// not 0.
func (a *authority) list(ctx context.Context, what, prefix string, index uint64) (api.KVPairs, uint64, error) {
	request := question{what: what + " " + prefix, needs: fmt.Sprintf("key_prefix %q write", a.driver.config.AuthorityPrefix+"/")}
	return ask(ctx, a.driver, request, a.driver.consistent(ctx, index), func(q *api.QueryOptions) (api.KVPairs, *api.QueryMeta, error) {
		return a.driver.client.KV().List(prefix, q)
	})
}

// parse takes over one key, with what this store keeps beside the value and in it.
func (s *state) parse(name string, pair *api.KVPair) error {
	if err := s.Parse(name, pair.Value); err != nil || name != grants.MasterKey {
		return err
	}
	s.session, s.locks = pair.Session, pair.LockIndex
	return json.Unmarshal(pair.Value, &s.hold)
}

package consul

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
)

// master is the value of the key.
type master struct {
	driver.Holder
	Term driver.Term `json:"term"`
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
	master *master // whose lock may have ended
	term   driver.Term
	id     string

	session string            // that locks the key of the master, empty if none does
	locks   uint64            // how often it was locked
	indices map[string]uint64 // at which the keys were written, 0 for one that is not there
}

func (s state) held() bool { return s.master != nil && s.session != "" }

// lockedBy reports whether the lock is that of t.
func (s state) lockedBy(t token) bool {
	return s.held() && s.session == t.pulse.session && s.locks == t.lock
}

// unchanged holds as long as no key was written, locked or deleted since the read.
func (s state) unchanged(prefix string) []*api.KVTxnOp {
	var all []*api.KVTxnOp
	for _, name := range []string{masterKey, termKey, idKey} {
		op := &api.KVTxnOp{Verb: api.KVCheckNotExists, Key: prefix + name}
		if index := s.indices[name]; index > 0 {
			op.Verb, op.Index = api.KVCheckIndex, index
		}
		all = append(all, op)
	}
	return all
}

func (s state) mastership() driver.Mastership {
	m := driver.Mastership{Term: s.term, ClusterID: s.id}
	if s.held() {
		holder := s.master.Holder
		m.Holder = &holder
	}
	return m
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
		if name != masterKey && name != termKey && name != idKey {
			continue
		}
		s.indices[name] = pair.ModifyIndex
		// No place to guess: a term that is too low would be granted twice.
		if err := s.parse(name, pair); err != nil {
			return state{}, 0, fmt.Errorf("consul: %w: %s holds %.40q (%w); delete the key if nothing that you know wrote it",
				driver.ErrInvalid, pair.Key, pair.Value, err)
		}
	}
	// They differ only where someone has changed one of them by hand.
	if s.master != nil {
		s.term = max(s.term, s.master.Term)
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

func (s *state) parse(name string, pair *api.KVPair) error {
	switch name {
	case masterKey:
		s.session, s.locks = pair.Session, pair.LockIndex
		s.master = new(master)
		if err := json.Unmarshal(pair.Value, s.master); err != nil {
			return err
		}
		if s.master.InstanceID == "" {
			return fmt.Errorf("no instance_id")
		}
		return storable(s.master.Term)
	case termKey:
		term, err := strconv.ParseUint(string(pair.Value), 10, 64)
		if err != nil {
			return err
		}
		s.term = driver.Term(term)
		return storable(s.term)
	case idKey:
		s.id = string(pair.Value)
	}
	return nil
}

// storable refuses a term that was written by hand and leaves no room to count on from
// it: the next one would be 0. Those that were only heard of are bounded far below.
func storable(t driver.Term) error {
	if t > 2*driver.MaxTerm {
		return fmt.Errorf("term %d is out of bounds", t)
	}
	return nil
}

package consul

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/driver/casauthority"
)

// The bounds of a grant's TTL, and the one if nothing else is asked for. The longest is
// also how long no grant is given after the KV store may have forgotten something.
const (
	DefaultGrantTTL  = 3 * time.Second
	shortestGrantTTL = 500 * time.Millisecond
	longestGrantTTL  = 30 * time.Second
)

// TTLBounds returns the bounds of a grant's TTL.
func (d *Driver) TTLBounds() (shortest, longest time.Duration) {
	return shortestGrantTTL, longestGrantTTL
}

// OpenAuthority opens the authority of one cluster. It makes no call.
func (d *Driver) OpenAuthority(_ context.Context, o driver.AuthorityOptions) (driver.Authority, error) {
	if d.closed.Load() {
		return nil, d.errClosed("open an authority")
	}
	ttl := o.TTL
	if ttl == 0 {
		ttl = DefaultGrantTTL
	}
	a, err := casauthority.New(casauthority.Config{
		Store: kvStore{d}, Name: "consul", Prefix: d.keys.root, Cluster: o.Cluster,
		TTL: ttl, MinTTL: shortestGrantTTL, MaxTTL: d.longestGrant,
	})
	if err != nil {
		return nil, err
	}
	return &authority{Authority: a, driver: d}, nil
}

// authority is one record of the KV store and nothing else: DESIGN.md.
type authority struct {
	*casauthority.Authority
	driver *Driver
	closed atomic.Bool
}

var (
	_ driver.Authority    = (*authority)(nil)
	_ driver.Store        = (*authority)(nil)
	_ driver.StoreWatcher = (*authority)(nil)
	_ driver.Suspecter    = (*authority)(nil)
	_ driver.Resetter     = (*authority)(nil)

	_ driver.ClaimPermissionChecker = (*authority)(nil)
)

// Close is that of the record's authority.
func (a *authority) Close(ctx context.Context) error {
	a.closed.Store(true)
	return a.Authority.Close(ctx)
}

// CheckClaimPermission asks for a write of the record that cannot come about, since it wants
// what is not there to be as it was at some index. Consul looks first at what the token
// may do.
func (a *authority) CheckClaimPermission(ctx context.Context) error {
	if a.closed.Load() {
		return fmt.Errorf("consul: the authority of %s is %w", a.Key(), driver.ErrClosed)
	}
	ctx, cancel := a.driver.call(ctx)
	defer cancel()
	_, err := a.driver.commit(ctx, "check a claim of "+a.Key(), []*api.KVTxnOp{{Verb: api.KVCAS, Key: a.Key(), Index: never}})
	if errors.Is(err, driver.ErrConflict) {
		return nil
	}
	return err
}

// kvStore is the KV store of Consul as a casauthority.Store.
type kvStore struct{ driver *Driver }

var _ casauthority.Watcher = kvStore{}

func value(pair *api.KVPair) casauthority.Value {
	return casauthority.Value{Data: pair.Value, Revision: driver.Revision(pair.ModifyIndex)}
}

// Read reads consistently: the leader asks a majority whether it still leads.
func (s kvStore) Read(ctx context.Context, key string) (casauthority.Value, error) {
	ctx, cancel := s.driver.call(ctx)
	defer cancel()
	pair, err := s.driver.readKey(ctx, key)
	if err != nil || pair == nil {
		return casauthority.Value{}, err
	}
	return value(pair), nil
}

// maxTxnValue is what a transaction certainly takes: Consul bounds its whole body by
// as much as a value may have, and the value is in base64 there.
const maxTxnValue = driver.MaxRecordSize / 2

// CompareAndSet writes where the key is as it was at prev; Consul, too, takes 0 for a key
// that is not there.
func (s kvStore) CompareAndSet(ctx context.Context, key string, data []byte, prev driver.Revision) (casauthority.Value, error) {
	ctx, cancel := s.driver.call(ctx)
	defer cancel()
	if err := checkPath("/" + key); err != nil { // a transaction would take it, and no read finds it
		return casauthority.Value{}, fmt.Errorf("consul: write %s: %w", key, err)
	}
	if data == nil {
		_, err := s.driver.commit(ctx, "delete "+key, []*api.KVTxnOp{{Verb: api.KVDeleteCAS, Key: key, Index: uint64(prev)}})
		return casauthority.Value{}, err
	}
	if len(data) > maxTxnValue {
		return s.setLarge(ctx, key, data, prev)
	}
	results, err := s.driver.commit(ctx, "write "+key, []*api.KVTxnOp{{Verb: api.KVCAS, Key: key, Value: data, Index: uint64(prev)}})
	if err != nil {
		return casauthority.Value{}, err
	}
	for _, r := range results {
		if r.KV != nil {
			return value(r.KV), nil
		}
	}
	return casauthority.Value{}, fmt.Errorf("consul: write %s: %w: the answer lacks the revision", key, driver.ErrUnavailable)
}

// setLarge writes a value that no transaction takes, by a request whose answer lacks the
// revision, which is read after it.
func (s kvStore) setLarge(ctx context.Context, key string, data []byte, prev driver.Revision) (casauthority.Value, error) {
	pair := &api.KVPair{Key: key, Value: data, ModifyIndex: uint64(prev)}
	written, _, err := s.driver.client.KV().CAS(pair, (&api.WriteOptions{}).WithContext(ctx))
	switch {
	case err != nil:
		return casauthority.Value{}, s.driver.failed(ctx, "write "+key, err)
	case !written:
		return casauthority.Value{}, fmt.Errorf("consul: write %s: %w: it does not have revision %d", key, driver.ErrConflict, prev)
	}
	now, err := s.Read(ctx, key)
	switch {
	case err != nil:
		return now, fmt.Errorf("consul: write %s: %w: written, but at which revision is not known: %w", key, driver.ErrUnavailable, err)
	case string(now.Data) != string(data):
		return now, fmt.Errorf("consul: write %s: %w: written, and by another since", key, driver.ErrUnavailable)
	}
	return now, nil
}

// List lists consistently.
func (s kvStore) List(ctx context.Context, prefix string) (map[string]casauthority.Value, error) {
	ctx, cancel := s.driver.call(ctx)
	defer cancel()
	pairs, _, err := ask(ctx, s.driver, s.question("list", prefix), s.driver.consistent(ctx, 0), func(q *api.QueryOptions) (api.KVPairs, *api.QueryMeta, error) {
		return s.driver.client.KV().List(prefix, q)
	})
	if err != nil {
		return nil, err
	}
	found := make(map[string]casauthority.Value, len(pairs))
	for _, pair := range pairs {
		found[pair.Key] = value(pair)
	}
	return found, nil
}

// Wait is a blocking query. If no key is below the prefix, Consul answers at each
// write anywhere.
func (s kvStore) Wait(ctx context.Context, prefix string, mark uint64) (uint64, error) {
	ctx, cancel := s.driver.call(ctx)
	defer cancel()
	_, next, err := ask(ctx, s.driver, s.question("watch", prefix), s.driver.consistent(ctx, mark), func(q *api.QueryOptions) ([]string, *api.QueryMeta, error) {
		return s.driver.client.KV().Keys(prefix, "", q)
	})
	return next, err
}

func (s kvStore) question(what, prefix string) question {
	return question{what: what + " " + prefix, needs: fmt.Sprintf("key_prefix %q write", s.driver.config.AuthorityPrefix+"/")}
}

// commit makes a transaction on keys, and returns ErrConflict if it did not come about.
func (d *Driver) commit(ctx context.Context, what string, kv []*api.KVTxnOp) (api.TxnResults, error) {
	ops := make(api.TxnOps, len(kv))
	for i, op := range kv {
		ops[i] = &api.TxnOp{KV: op}
	}
	return d.transact(ctx, what, "", ops)
}

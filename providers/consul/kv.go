package consul

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/internal/format"
)

// readKeys reads the registrations of one datacenter where they are keys. Strangers
// may have put them, so that a key that no session holds is as good as another.
func (d *Driver) readKeys(ctx context.Context, service string, r reading) (reply, error) {
	prefix := d.kv.Prefix(service)
	leaf, hasLeaf := d.kv.Leaf(service)
	if hasLeaf {
		prefix = leaf // of other services, too: left out below
	}
	request := question{what: "list " + prefix, needs: fmt.Sprintf("key_prefix %q read", prefix)}
	pairs, index, err := ask(ctx, d, request.in(r.dc), d.query(ctx, r), func(q *api.QueryOptions) (api.KVPairs, *api.QueryMeta, error) {
		return d.client.KV().List(prefix, q)
	})
	if err != nil {
		return reply{}, err
	}
	all := reply{index: index}
	pairs = slices.DeleteFunc(pairs, func(p *api.KVPair) bool { return !d.kv.Of(service, p.Key) || d.keys.owns(p.Key) })
	if hasLeaf && len(pairs) > 1 { // it counts where nothing stands below it, as for other readers
		pairs = slices.DeleteFunc(pairs, func(p *api.KVPair) bool { return p.Key == leaf })
	}
	for _, pair := range pairs {
		i, err := d.kv.Decode(service, pair.Key, pair.Value)
		if err != nil {
			all.skipped = append(all.skipped, driver.Skipped{Key: pair.Key, Reason: err})
			continue
		}
		all.passing = append(all.passing, i)
	}
	return all, nil
}

// kvSession registers keys that the session of Consul holds.
type kvSession struct {
	serverSession
	kv   format.KV   // as it is written on this session
	keys format.Keys // that it may hold
}

func (d *Driver) openKVSession(ctx context.Context, ttl time.Duration) (driver.Session, error) {
	ttl = max(ttl, d.leastSession)
	if ttl > maxSession {
		return nil, fmt.Errorf("consul: %w: a TTL of %v; want %v at most", driver.ErrInvalid, ttl, maxSession)
	}
	ctx, cancel := d.call(ctx)
	defer cancel()
	id, err := d.createSession(ctx, "", ttl)
	if err != nil {
		return nil, d.failed(ctx, "create a session", err)
	}
	return &kvSession{kv: d.kv.WithTTL(ttl), serverSession: serverSession{driver: d, session: id, ttl: ttl}}, nil
}

// Register reads the key and, unless it is as it should be, acquires it: from no holder,
// from another program, or from the session of a predecessor at the same address.
func (s *kvSession) Register(ctx context.Context, i driver.Instance) error {
	key, value, err := s.kv.Encode(i)
	if err != nil {
		return fmt.Errorf("consul: register: %w", err)
	}
	if s.driver.keys.owns(key) {
		return fmt.Errorf("consul: register: %w: %s is among the keys of authorities, which are below %s; give the service another name", driver.ErrInvalid, key, s.driver.keys.root)
	}
	if err := s.over(); err != nil {
		return err
	}
	ctx, cancel := s.driver.call(ctx)
	defer cancel()
	s.keys.Add(i, key)
	have, err := s.driver.readKey(ctx, key)
	if err != nil {
		return err
	}
	if have == nil || have.Session != s.session || string(have.Value) != value {
		if err := s.take(ctx, key, value, have); err != nil {
			return err
		}
	}
	return s.remove(ctx, s.keys.Former(i, key))
}

// take puts the key on this session in one step, so that readers never miss it. have
// is what is there.
func (s *kvSession) take(ctx context.Context, key, value string, have *api.KVPair) error {
	var ops []*api.KVTxnOp
	if have != nil && have.Session != "" && have.Session != s.session {
		ops = append(ops, &api.KVTxnOp{Verb: api.KVUnlock, Key: key, Value: have.Value, Session: have.Session})
	}
	ops = append(ops, &api.KVTxnOp{Verb: api.KVLock, Key: key, Value: []byte(value), Session: s.session})
	_, err := s.driver.commit(ctx, "register "+key, ops)
	switch {
	case err == nil:
		return nil
	case !errors.Is(err, driver.ErrConflict):
		return err
	case strings.Contains(err.Error(), "invalid session"):
		return s.lost()
	}
	return fmt.Errorf("%w: %w", driver.ErrUnavailable, err) // another was faster; the next attempt reads what stands there now
}

// Deregister removes the key of i, also if this session knows of none: an answer
// that was lost may have been of a registration that comes after all.
func (s *kvSession) Deregister(ctx context.Context, i driver.Instance) error {
	if !s.open() {
		return s.over()
	}
	key, _, err := s.kv.Encode(i)
	if err != nil {
		key = "" // not valid any more, but maybe under a former key
	}
	ctx, cancel := s.driver.call(ctx)
	defer cancel()
	return s.remove(ctx, s.keys.Last(i, key))
}

// remove deletes those keys that are on this session. A successor may have taken one
// over, on its own. One that cannot be deleted keeps none of the others.
func (s *kvSession) remove(ctx context.Context, keys []string) error {
	var errs []error
	for _, key := range keys {
		errs = append(errs, s.removeOne(ctx, key))
	}
	return errors.Join(errs...)
}

func (s *kvSession) removeOne(ctx context.Context, key string) error {
	have, err := s.driver.readKey(ctx, key)
	if err != nil {
		return err
	}
	if have != nil && have.Session == s.session {
		deleted, _, err := s.driver.client.KV().DeleteCAS(have, (&api.WriteOptions{}).WithContext(ctx))
		switch {
		case err != nil:
			return s.driver.failed(ctx, "deregister "+key, err)
		case !deleted:
			return fmt.Errorf("consul: deregister %s: %w: it has changed meanwhile", key, driver.ErrUnavailable)
		}
	}
	s.keys.Remove(key)
	return nil
}

// Close ends the session, which deletes its keys in one step. Where Consul cannot be
// reached it may be called again.
func (s *kvSession) Close(ctx context.Context) error {
	if s.over() == nil {
		ctx, cancel := s.driver.call(ctx)
		defer cancel()
		if err := s.destroy(ctx); err != nil {
			return err
		}
	}
	s.close()
	return nil
}

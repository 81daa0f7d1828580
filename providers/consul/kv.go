package consul

import (
	"context"
	"errors"
	"fmt"
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
	request := question{what: "list " + prefix, needs: fmt.Sprintf("key_prefix %q read", prefix)}
	pairs, index, err := ask(ctx, d, request.in(r.dc), d.query(ctx, r), func(q *api.QueryOptions) (api.KVPairs, *api.QueryMeta, error) {
		return d.client.KV().List(prefix, q)
	})
	if err != nil {
		return reply{}, err
	}
	all := reply{index: index}
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
	keys format.Keys // that it may hold
}

func (d *Driver) openKVSession(ctx context.Context, ttl time.Duration) (driver.Session, error) {
	ttl = max(ttl, d.leastSession)
	if ttl > maxGrantTTL {
		return nil, fmt.Errorf("consul: %w: a TTL of %v; want %v at most", driver.ErrInvalid, ttl, maxGrantTTL)
	}
	ctx, cancel := d.call(ctx)
	defer cancel()
	id, err := d.createSession(ctx, "", ttl)
	if err != nil {
		return nil, d.failed(ctx, "create a session", err)
	}
	return &kvSession{serverSession: serverSession{driver: d, session: id, ttl: ttl}}, nil
}

// Register reads the key and, unless it is as it should be, takes it: from nobody,
// from a stranger, or from the session of a predecessor at the same address.
func (s *kvSession) Register(ctx context.Context, i driver.Instance) error {
	key, value, err := s.driver.kv.Encode(i)
	if err != nil {
		return fmt.Errorf("consul: register: %w", err)
	}
	if s.over() {
		return s.lost()
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
// is what stands there.
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
	key, _, err := s.driver.kv.Encode(i)
	if err != nil {
		key = "" // not valid any more, but maybe under a former key
	}
	ctx, cancel := s.driver.call(ctx)
	defer cancel()
	return s.remove(ctx, s.keys.Last(i, key))
}

// remove deletes those keys that are on this session. A successor may have taken one
// over, on its own.
func (s *kvSession) remove(ctx context.Context, keys []string) error {
	for _, key := range keys {
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
	}
	return nil
}

// Close ends the session, which deletes its keys in one step. Where Consul cannot be
// reached it may be called again.
func (s *kvSession) Close(ctx context.Context) error {
	if s.over() {
		return nil
	}
	ctx, cancel := s.driver.call(ctx)
	defer cancel()
	return s.destroy(ctx)
}

package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/musterhq/muster/discovery/driver"
)

// DefaultGrantTTL is how long a grant of mastership outlives its last renewal if
// nothing else is asked for.
const DefaultGrantTTL = 5 * time.Second

// OpenAuthority opens the authority of one cluster. It talks to nobody.
func (d *Driver) OpenAuthority(_ context.Context, o driver.AuthorityOptions) (driver.Authority, error) {
	if o.Cluster == "" {
		return nil, fmt.Errorf("etcd: %w: authority without a cluster", driver.ErrInvalid)
	}
	ttl, err := checkTTL(o.TTL, DefaultGrantTTL)
	if err != nil {
		return nil, err
	}
	a := &authority{driver: d, ttl: ttl, prefix: d.keys.cluster(o.Cluster), records: d.keys.records(o.Cluster)}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	return a, nil
}

// authority grants mastership by one key, and tells one grant from another by the
// revision at which that key was written:
//
//   - A grant is the transaction that writes the key. It also writes the term, and
//     fails if the key or the term were written since they were read.
//   - A grant is over when the key is gone or was written again.
//   - An instance that finds the key in its own name is given that grant again only
//     if it is known here to stand. Otherwise, because an answer was lost or
//     because it was released in vain, the key is written anew, on a new lease and
//     with a higher term. For the revocation of the old lease may still be on its
//     way, and would end a grant in use.
type authority struct {
	driver  *Driver
	ttl     time.Duration
	prefix  string // of the keys of the cluster
	records string // of the records

	// What outlives a call is bound to ctx, and waited for by Close.
	ctx      context.Context
	cancel   context.CancelFunc
	cleaning sync.WaitGroup

	mu    sync.Mutex   // also guards cleaning against Close
	given driver.Grant // the last one given that nobody has tried to end
}

var (
	_ driver.Authority = (*authority)(nil)
	_ driver.Store     = (*authority)(nil)

	_ driver.ClaimRehearser = (*authority)(nil)
)

// token is what Grant.Token holds.
type token struct {
	lease    clientv3.LeaseID
	revision int64 // at which the key of the master was written
}

// master is the value of the key.
type master struct {
	driver.Holder
	Term driver.Term `json:"term"`
}

// Acquire reads, makes a lease, and writes if nothing has changed since the read.
func (a *authority) Acquire(ctx context.Context, c driver.Claim) (driver.Grant, error) {
	if c.Holder.InstanceID == "" {
		return driver.Grant{}, fmt.Errorf("etcd: %w: claim without an instance id", driver.ErrInvalid)
	}
	if a.ctx.Err() != nil {
		return driver.Grant{}, a.errClosed()
	}
	s, err := a.read(ctx)
	if err != nil {
		return driver.Grant{}, err
	}
	if c.Known && s.id != "" && s.id != c.ClusterID {
		return driver.Grant{}, fmt.Errorf("etcd: %w: etcd records cluster id %q below %s, this node's cluster has %q",
			driver.ErrClusterMismatch, s.id, a.prefix, c.ClusterID)
	}
	if s.master != nil && s.master.InstanceID != c.Holder.InstanceID {
		return driver.Grant{}, fmt.Errorf("etcd: %w: %s is master with term %d", driver.ErrConflict, s.master.NodeID, s.master.Term)
	}
	if g, ok := a.standing(s); ok && g.Term > c.MinTerm {
		return a.again(ctx, g)
	}
	lease, ttl, err := a.driver.grant(ctx, a.ttl)
	if err != nil {
		return driver.Grant{}, err
	}
	g, err := a.write(ctx, c, s, lease)
	if err != nil {
		// A transaction that may still come through must find no lease. If it
		// does nevertheless, it is found at the next Acquire, or expires.
		a.revokeLater(lease)
		return driver.Grant{}, err
	}
	g.ValidFor = ttl
	a.give(g)
	return g, nil
}

// standing returns the grant given here before, if its key is still in place.
func (a *authority) standing(s state) (driver.Grant, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t, ok := a.given.Token.(token)
	return a.given, ok && t.revision == s.revisions[masterKey]
}

func (a *authority) again(ctx context.Context, g driver.Grant) (driver.Grant, error) {
	again, err := a.Renew(ctx, g)
	if errors.Is(err, driver.ErrSessionLost) {
		return driver.Grant{}, fmt.Errorf("etcd: acquire: %w: the grant of term %d has just ended", driver.ErrUnavailable, g.Term)
	}
	return again, err
}

func (a *authority) give(g driver.Grant) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.given = g
}

// take forgets a grant that is about to be ended, whether that succeeds or not.
func (a *authority) take(t token) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.given.Token == t {
		a.given = driver.Grant{}
	}
}

func (a *authority) write(ctx context.Context, c driver.Claim, s state, lease clientv3.LeaseID) (driver.Grant, error) {
	if c.MinTerm > driver.MaxTerm {
		return driver.Grant{}, fmt.Errorf("etcd: acquire: %w: term %d is out of bounds", driver.ErrInvalid, c.MinTerm)
	}
	g := driver.Grant{Term: max(s.term, c.MinTerm) + 1, ClusterID: s.id}
	value, err := json.Marshal(master{c.Holder, g.Term})
	if err != nil {
		return driver.Grant{}, fmt.Errorf("etcd: acquire: %w: %w", driver.ErrInvalid, err)
	}
	writes := []clientv3.Op{
		clientv3.OpPut(a.prefix+masterKey, string(value), clientv3.WithLease(lease)),
		clientv3.OpPut(a.prefix+termKey, strconv.FormatUint(uint64(g.Term), 10)),
	}
	if s.id == "" && c.ClusterID != "" {
		g.ClusterID = c.ClusterID
		writes = append(writes, clientv3.OpPut(a.prefix+idKey, c.ClusterID))
	}
	r, err := a.driver.client.Txn(ctx).If(s.unchanged(a.prefix)...).Then(writes...).Commit()
	switch {
	case err != nil:
		return driver.Grant{}, a.driver.acquireFailed(ctx, err)
	case !r.Succeeded:
		return driver.Grant{}, fmt.Errorf("etcd: %w: another candidate was faster", driver.ErrConflict)
	}
	g.Token = token{lease, r.Header.Revision}
	return g, nil
}

func (d *Driver) acquireFailed(ctx context.Context, err error) error {
	if leaseGone(err) {
		return fmt.Errorf("etcd: acquire: %w: the new lease ended before it was used", driver.ErrUnavailable)
	}
	return d.failed(ctx, "acquire", err)
}

// Renew extends the lease and then reads the key: someone may have deleted it, and
// some versions of etcd (before 3.5.23 and 3.6.5) can confirm a lease that has
// just been revoked. The read costs one more round trip and no disk.
func (a *authority) Renew(ctx context.Context, g driver.Grant) (driver.Grant, error) {
	t, err := tokenOf(g)
	if err != nil {
		return driver.Grant{}, err
	}
	if a.ctx.Err() != nil {
		return driver.Grant{}, a.errClosed()
	}
	ttl, err := a.driver.keepAlive(ctx, t.lease)
	if err != nil {
		return driver.Grant{}, err
	}
	key := a.prefix + masterKey
	r, err := a.driver.client.Get(ctx, key)
	if err != nil {
		return driver.Grant{}, a.driver.failed(ctx, "read "+key, err)
	}
	if len(r.Kvs) == 0 || r.Kvs[0].ModRevision != t.revision {
		return driver.Grant{}, fmt.Errorf("etcd: %w: %s is gone or was written by another", driver.ErrSessionLost, key)
	}
	g.ValidFor = ttl
	return g, nil
}

// Release revokes the lease, which removes the key if it is still on it.
func (a *authority) Release(ctx context.Context, g driver.Grant) error {
	t, err := tokenOf(g)
	if err != nil {
		return err
	}
	a.take(t)
	return a.driver.revoke(ctx, t.lease)
}

func tokenOf(g driver.Grant) (token, error) {
	t, ok := g.Token.(token)
	if !ok {
		return token{}, fmt.Errorf("etcd: %w: a grant that etcd did not give", driver.ErrInvalid)
	}
	return t, nil
}

// Observe reads and then watches from that revision on.
func (a *authority) Observe(ctx context.Context) iter.Seq2[driver.Mastership, error] {
	return func(yield func(driver.Mastership, error) bool) {
		inner, cancel := context.WithCancel(ctx) // ends with the authority, too
		defer cancel()
		defer context.AfterFunc(a.ctx, cancel)()
		done := false
		kvs, revision, err := a.readKeys(inner)
		if err == nil {
			done, err = a.observeFrom(inner, kvs, revision, yield)
		}
		switch {
		case done || ctx.Err() != nil:
		case a.ctx.Err() != nil:
			yield(driver.Mastership{}, a.errClosed())
		case err != nil:
			yield(driver.Mastership{}, err)
		}
	}
}

// observeFrom reports whether the consumer has had enough.
func (a *authority) observeFrom(ctx context.Context, kvs map[string]*mvccpb.KeyValue, revision int64, yield func(driver.Mastership, error) bool) (done bool, err error) {
	s, err := a.parse(kvs)
	if err != nil {
		return false, err
	}
	if !yield(s.mastership(), nil) {
		return true, nil
	}
	for events, err := range a.driver.watch(ctx, a.prefix, revision) {
		if err != nil {
			return false, err
		}
		for _, e := range events {
			if e.Type == mvccpb.Event_DELETE {
				delete(kvs, string(e.Kv.Key))
			} else {
				kvs[string(e.Kv.Key)] = e.Kv
			}
		}
		if s, err = a.parse(kvs); err != nil {
			return false, err
		}
		if !yield(s.mastership(), nil) {
			return true, nil
		}
	}
	return false, nil
}

// Close gives up what Acquire left to be cleaned up, which then expires.
func (a *authority) Close(ctx context.Context) error {
	a.mu.Lock()
	a.cancel()
	a.mu.Unlock()
	done := make(chan struct{})
	go func() {
		a.cleaning.Wait()
		close(done)
	}()
	select {
	case <-done: // soon, as what it waits for has just been cancelled
		return nil
	case <-ctx.Done():
		return fmt.Errorf("etcd: close: %w: %w", driver.ErrUnavailable, ctx.Err())
	}
}

// revokeLater revokes a lease of which the caller, whose context may have ended,
// cannot wait to be rid. After its TTL the lease ends anyway.
func (a *authority) revokeLater(lease clientv3.LeaseID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ctx.Err() != nil {
		return
	}
	a.cleaning.Go(func() {
		ctx, cancel := context.WithTimeout(a.ctx, a.ttl)
		defer cancel()
		_ = a.driver.revoke(ctx, lease) // it expires
	})
}

func (a *authority) errClosed() error {
	return fmt.Errorf("etcd: %w: the authority of %s is closed", driver.ErrInvalid, a.prefix)
}

// state is what stands in the keys of a cluster.
type state struct {
	master *master
	term   driver.Term
	id     string
	// The revisions at which the keys were written, 0 for one that is not there.
	revisions map[string]int64
}

// unchanged holds as long as no key was written or deleted since the read.
func (s state) unchanged(prefix string) []clientv3.Cmp {
	var all []clientv3.Cmp
	for _, name := range []string{masterKey, termKey, idKey} {
		all = append(all, clientv3.Compare(clientv3.ModRevision(prefix+name), "=", s.revisions[name]))
	}
	return all
}

func (s state) mastership() driver.Mastership {
	m := driver.Mastership{Term: s.term, ClusterID: s.id}
	if s.master != nil {
		holder := s.master.Holder
		m.Holder = &holder
	}
	return m
}

func (a *authority) read(ctx context.Context) (state, error) {
	kvs, _, err := a.readKeys(ctx)
	if err != nil {
		return state{}, err
	}
	return a.parse(kvs)
}

// readKeys returns the keys of the cluster as they stood at one revision.
func (a *authority) readKeys(ctx context.Context) (map[string]*mvccpb.KeyValue, int64, error) {
	r, err := a.driver.client.Get(ctx, a.prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, 0, a.driver.failed(ctx, "read "+a.prefix, err)
	}
	kvs := make(map[string]*mvccpb.KeyValue, len(r.Kvs))
	for _, kv := range r.Kvs {
		kvs[string(kv.Key)] = kv
	}
	return kvs, r.Header.Revision, nil
}

// parse fails on a key that cannot be read. That is no place to guess: a term that
// is too low would be granted twice.
func (a *authority) parse(kvs map[string]*mvccpb.KeyValue) (state, error) {
	s := state{revisions: make(map[string]int64)}
	for _, name := range []string{masterKey, termKey, idKey} {
		kv := kvs[a.prefix+name]
		if kv == nil {
			continue
		}
		s.revisions[name] = kv.ModRevision
		if err := s.parse(name, kv.Value); err != nil {
			return state{}, fmt.Errorf("etcd: %w: %s holds %.40q (%w); delete the key if nothing that you know wrote it",
				driver.ErrInvalid, kv.Key, kv.Value, err)
		}
	}
	// They differ only where someone has changed one of them by hand.
	if s.master != nil {
		s.term = max(s.term, s.master.Term)
	}
	return s, nil
}

func (s *state) parse(name string, value []byte) error {
	switch name {
	case masterKey:
		s.master = new(master)
		if err := json.Unmarshal(value, s.master); err != nil {
			return err
		}
		if s.master.InstanceID == "" {
			return fmt.Errorf("no instance_id")
		}
		return storable(s.master.Term)
	case termKey:
		term, err := strconv.ParseUint(string(value), 10, 64)
		if err != nil {
			return err
		}
		s.term = driver.Term(term)
		return storable(s.term)
	case idKey:
		s.id = string(value)
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

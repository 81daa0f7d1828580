package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/etcd/internal/grants"
)

// DefaultGrantTTL is how long a grant of mastership outlives its last renewal if
// nothing else is asked for.
const DefaultGrantTTL = 5 * time.Second

// OpenAuthority opens the authority of one cluster. It makes no call.
func (d *Driver) OpenAuthority(_ context.Context, o driver.AuthorityOptions) (driver.Authority, error) {
	if o.Cluster == "" {
		return nil, fmt.Errorf("etcd: %w: authority without a cluster", driver.ErrInvalid)
	}
	ttl, err := checkTTL(o.TTL, DefaultGrantTTL)
	if err != nil {
		return nil, err
	}
	if d.closed.Load() {
		return nil, errClosed("open an authority")
	}
	return &authority{
		driver: d, ttl: ttl, prefix: d.keys.cluster(o.Cluster), records: d.keys.records(o.Cluster), life: grants.NewLifetime(),
	}, nil
}

// authority grants mastership by one key, and distinguishes grants by the
// revision at which that key was written:
//
//   - A grant is the transaction that writes the key. It also writes the term, and
//     fails if the key or the term were written since they were read.
//   - A grant has ended when the key is gone or was written again.
//   - An instance that finds the key in its own name is given that grant again only
//     if it is known here to be valid. Otherwise, because an answer was lost or
//     because it was released in vain, the key is written again, on a new lease and
//     with a higher term. For the revocation of the old lease may still be on its
//     way, and would end a grant in use.
type authority struct {
	driver  *Driver
	ttl     time.Duration
	prefix  string // of the keys of the cluster
	records string // of the records
	life    *grants.Lifetime
	active  grants.Active[token]
}

var (
	_ driver.Authority = (*authority)(nil)
	_ driver.Store     = (*authority)(nil)

	_ driver.StoreWatcher           = (*authority)(nil)
	_ driver.ClaimPermissionChecker = (*authority)(nil)
)

// token is what Grant.Token holds.
type token struct {
	lease    clientv3.LeaseID
	revision int64 // at which the key of the master was written
}

// Acquire reads, makes a lease, and writes if nothing has changed since the read.
func (a *authority) Acquire(ctx context.Context, c driver.Claim) (driver.Grant, error) {
	if c.Holder.InstanceID == "" {
		return driver.Grant{}, fmt.Errorf("etcd: %w: claim without an instance id", driver.ErrInvalid)
	}
	if a.life.Ended() {
		return driver.Grant{}, a.errClosed()
	}
	s, err := a.read(ctx)
	if err != nil {
		return driver.Grant{}, err
	}
	if c.Known && s.ID != "" && s.ID != c.ClusterID {
		return driver.Grant{}, fmt.Errorf("etcd: %w: etcd records cluster id %q below %s, this node's cluster has %q",
			driver.ErrClusterMismatch, s.ID, a.prefix, c.ClusterID)
	}
	if s.Master != nil && s.Master.InstanceID != c.Holder.InstanceID {
		return driver.Grant{}, fmt.Errorf("etcd: %w: %s is master with term %d", driver.ErrConflict, s.Master.NodeID, s.Master.Term)
	}
	if g, ok := a.activeGrant(s); ok && g.Term > c.MinTerm {
		return a.renewActive(ctx, g)
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
	a.active.Set(g)
	return g, nil
}

// activeGrant returns the grant given here before, if its key is still in place.
func (a *authority) activeGrant(s state) (driver.Grant, bool) {
	g, t, ok := a.active.Get()
	return g, ok && t.revision == s.revisions[grants.MasterKey]
}

func (a *authority) renewActive(ctx context.Context, g driver.Grant) (driver.Grant, error) {
	again, err := a.Renew(ctx, g)
	if errors.Is(err, driver.ErrSessionLost) {
		return driver.Grant{}, fmt.Errorf("etcd: acquire: %w: the grant of term %d has just ended", driver.ErrUnavailable, g.Term)
	}
	return again, err
}

func (a *authority) write(ctx context.Context, c driver.Claim, s state, lease clientv3.LeaseID) (driver.Grant, error) {
	term, err := s.Next(c.MinTerm)
	if err != nil {
		return driver.Grant{}, fmt.Errorf("etcd: acquire: %w", err)
	}
	g := driver.Grant{Term: term, ClusterID: s.ID}
	value, err := json.Marshal(grants.Master{Holder: c.Holder, Term: term})
	if err != nil {
		return driver.Grant{}, fmt.Errorf("etcd: acquire: %w: %w", driver.ErrInvalid, err)
	}
	writes := []clientv3.Op{
		clientv3.OpPut(a.prefix+grants.MasterKey, string(value), clientv3.WithLease(lease)),
		clientv3.OpPut(a.prefix+grants.TermKey, strconv.FormatUint(uint64(g.Term), 10)),
	}
	if s.ID == "" && c.ClusterID != "" {
		g.ClusterID = c.ClusterID
		writes = append(writes, clientv3.OpPut(a.prefix+grants.IDKey, c.ClusterID))
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
	if a.life.Ended() {
		return driver.Grant{}, a.errClosed()
	}
	ttl, err := a.driver.keepAlive(ctx, t.lease)
	if err != nil {
		return driver.Grant{}, err
	}
	key := a.prefix + grants.MasterKey
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
	a.active.Clear(t)
	if a.life.Ended() {
		return a.errClosed()
	}
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
		inner, cancel := a.life.Bind(ctx)
		defer cancel()
		done := false
		kvs, revision, err := a.readKeys(inner)
		if err == nil {
			done, err = a.observeFrom(inner, kvs, revision, yield)
		}
		switch {
		case done || ctx.Err() != nil:
		case a.life.Ended():
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
	if !yield(a.mastership(s), nil) {
		return true, nil
	}
	for events, err := range a.driver.watch(ctx, a.prefix, clientv3.GetPrefixRangeEnd(a.prefix), revision) {
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
		if !yield(a.mastership(s), nil) {
			return true, nil
		}
	}
	return false, nil
}

// Close gives up what Acquire left to be cleaned up, which then expires.
func (a *authority) Close(ctx context.Context) error {
	if err := a.life.Close(ctx); err != nil {
		return fmt.Errorf("etcd: close: %w", err)
	}
	return nil
}

// revokeLater revokes a lease of which the caller, whose context may have ended,
// cannot wait to be rid. After its TTL the lease ends anyway.
func (a *authority) revokeLater(lease clientv3.LeaseID) {
	a.life.Go(a.ttl, func(ctx context.Context) {
		_ = a.driver.revoke(ctx, lease) // it expires
	})
}

func (a *authority) errClosed() error {
	return fmt.Errorf("etcd: the authority of %s is %w", a.prefix, driver.ErrClosed)
}

// state is what the keys of a cluster hold. A master's grant is valid as long as the
// key of the master does.
type state struct {
	grants.State
	// The revisions at which the keys were written, 0 for one that is not there.
	revisions map[string]int64
	// leased says that the key of the master is on a lease, as that of every grant is.
	leased bool
}

// mastership is what s says of it. A key of the master that was put there by hand, as to
// restore it, is on no lease: no other grant is given, and it never expires.
func (a *authority) mastership(s state) driver.Mastership {
	m := s.Mastership(s.Master != nil)
	if s.Master != nil && !s.leased {
		m.Warning = fmt.Sprintf("etcd: %s names node %s as master and is on no lease, so that it never expires: somebody has written it by hand; delete it if no node is master, and the next grant has a higher term",
			a.prefix+grants.MasterKey, s.Master.NodeID)
	}
	return m
}

// unchanged holds as long as no key was written or deleted since the read.
func (s state) unchanged(prefix string) []clientv3.Cmp {
	var all []clientv3.Cmp
	for _, name := range grants.Keys() {
		all = append(all, clientv3.Compare(clientv3.ModRevision(prefix+name), "=", s.revisions[name]))
	}
	return all
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

// parse fails on a key that cannot be read.
func (a *authority) parse(kvs map[string]*mvccpb.KeyValue) (state, error) {
	s := state{revisions: make(map[string]int64)}
	for _, name := range grants.Keys() {
		kv := kvs[a.prefix+name]
		if kv == nil {
			continue
		}
		s.revisions[name] = kv.ModRevision
		s.leased = s.leased || name == grants.MasterKey && kv.Lease != 0
		if err := s.Parse(name, kv.Value); err != nil {
			return state{}, fmt.Errorf("etcd: %w", grants.Unreadable(string(kv.Key), kv.Value, err))
		}
	}
	return s, nil
}

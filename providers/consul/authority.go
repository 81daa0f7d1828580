package consul

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/providers/internal/grants"
)

// DefaultGrantTTL is how long a grant of mastership outlives its last renewal if
// nothing else is asked for.
const DefaultGrantTTL = 3 * time.Second

// maxGrantTTL is the longest TTL of a session of Consul.
const maxGrantTTL = 24 * time.Hour

// TTLBounds returns the bounds of a grant's TTL.
func (d *Driver) TTLBounds() (shortest, longest time.Duration) { return minTTL, maxGrantTTL }

// OpenAuthority opens the authority of one cluster. It talks to nobody.
func (d *Driver) OpenAuthority(_ context.Context, o driver.AuthorityOptions) (driver.Authority, error) {
	if o.Cluster == "" {
		return nil, fmt.Errorf("consul: %w: authority without a cluster", driver.ErrInvalid)
	}
	ttl := o.TTL
	if ttl == 0 {
		ttl = DefaultGrantTTL
	}
	if ttl < minTTL || ttl > maxGrantTTL {
		return nil, fmt.Errorf("consul: %w: mastership.ttl: %v: Consul wants %v to %v", driver.ErrInvalid, o.TTL, minTTL, maxGrantTTL)
	}
	k := newKeys(d.config.AuthorityPrefix)
	return &authority{
		driver: d, cluster: o.Cluster, ttl: ttl, prefix: k.cluster(o.Cluster), records: k.records(o.Cluster), life: grants.NewLifetime(),
	}, nil
}

// authority grants mastership by a lock on one key. DESIGN.md has the argument:
//
//   - A grant is the transaction that locks the key. It also writes the term, and
//     fails if the key or the term were written since they were read.
//   - The lock hangs on a pulse (pulse.go), which ends a TTL after its last beat, or
//     earlier if somebody meddles. A lock whose holder did not give it back is taken
//     at once only where the catalog shows that it ended by the former, and
//     otherwise a whole TTL after it was first seen free.
type authority struct {
	driver  *Driver
	cluster string
	ttl     time.Duration
	prefix  string // of the keys of the cluster
	records string // of the records
	life    *grants.Lifetime
	given   grants.Last[token]

	mu sync.Mutex
	// orphan is the lock that was found free and not given back, and since when.
	orphan struct {
		index uint64
		since clock.Instant
	}
}

var (
	_ driver.Authority = (*authority)(nil)
	_ driver.Store     = (*authority)(nil)

	_ driver.ClaimRehearser = (*authority)(nil)
)

// token is what Grant.Token holds.
type token struct {
	pulse *pulse
	lock  uint64 // the LockIndex of the key: how often it was locked
}

// Acquire reads, starts a pulse, and locks if nothing has changed since the read.
func (a *authority) Acquire(ctx context.Context, c driver.Claim) (driver.Grant, error) {
	if c.Holder.InstanceID == "" {
		return driver.Grant{}, fmt.Errorf("consul: %w: claim without an instance id", driver.ErrInvalid)
	}
	ctx, cancel, err := a.call(ctx)
	if err != nil {
		return driver.Grant{}, err
	}
	defer cancel()
	s, _, err := a.read(ctx, 0)
	if err != nil {
		return driver.Grant{}, err
	}
	if c.Known && s.ID != "" && s.ID != c.ClusterID {
		return driver.Grant{}, fmt.Errorf("consul: %w: Consul records cluster id %q below %s, this node's cluster has %q",
			driver.ErrClusterMismatch, s.ID, a.prefix, c.ClusterID)
	}
	if s.held() && s.Master.InstanceID != c.Holder.InstanceID {
		return driver.Grant{}, fmt.Errorf("consul: %w: %s is master with term %d", driver.ErrConflict, s.Master.NodeID, s.Master.Term)
	}
	if g, ok := a.standing(s); ok && g.Term > c.MinTerm {
		return a.again(ctx, g)
	}
	if s.held() {
		if s, err = a.reclaim(ctx, s); err != nil {
			return driver.Grant{}, err
		}
	}
	if err := a.mayTake(ctx, s, c); err != nil {
		return driver.Grant{}, err
	}
	p, err := a.driver.startPulse(ctx, a.service(), a.cluster, a.ttl)
	if err != nil {
		return driver.Grant{}, err
	}
	g, err := a.lock(ctx, c, s, p)
	if err != nil {
		// A transaction that may still come through must find no session. If it
		// does nevertheless, the lock is found at the next Acquire, or expires.
		a.stopLater(p)
		return driver.Grant{}, err
	}
	a.given.Give(g)
	if old := s.hold.Pulse; old.CheckID != "" {
		a.sweepLater(old)
	}
	return g, nil
}

// standing returns the grant given here before, if its lock is still in place.
func (a *authority) standing(s state) (driver.Grant, bool) {
	g, t, ok := a.given.Get()
	return g, ok && s.lockedBy(t)
}

func (a *authority) again(ctx context.Context, g driver.Grant) (driver.Grant, error) {
	again, err := a.Renew(ctx, g)
	if errors.Is(err, driver.ErrSessionLost) {
		return driver.Grant{}, fmt.Errorf("consul: acquire: %w: the grant of term %d has just ended", driver.ErrUnavailable, g.Term)
	}
	return again, err
}

// reclaim ends a lock in this instance's own name that nobody here holds: the answer
// to an earlier claim was lost, or it was released in vain.
func (a *authority) reclaim(ctx context.Context, s state) (state, error) {
	if _, err := a.driver.client.Session().Destroy(s.session, (&api.WriteOptions{}).WithContext(ctx)); err != nil {
		return state{}, a.driver.failed(ctx, "end session "+s.session+" of an earlier claim", err)
	}
	s, _, err := a.read(ctx, 0)
	if err == nil && s.held() {
		err = fmt.Errorf("consul: acquire: %w: %s is master with term %d", driver.ErrConflict, s.Master.NodeID, s.Master.Term)
	}
	return s, err
}

// mayTake says why a lock that is free may not be taken yet.
func (a *authority) mayTake(ctx context.Context, s state, c driver.Claim) error {
	if s.Master == nil || s.hold.Released || s.Master.InstanceID == c.Holder.InstanceID {
		return nil
	}
	seen := clock.Now() // after the read that found it free
	expired, err := a.driver.expired(ctx, s.hold.Pulse)
	if err != nil {
		return err
	}
	if expired {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.orphan.index != s.indices[grants.MasterKey] {
		a.orphan.index, a.orphan.since = s.indices[grants.MasterKey], seen
	}
	// A little more, as the clock of the holder may be slow.
	ttl := max(s.hold.TTL, minTTL)
	free := a.orphan.since.Add(ttl + ttl/50)
	if left := free.Sub(clock.Now()); left > 0 {
		return fmt.Errorf("consul: %w: the lock of %s, term %d, ended before its time, and what it was granted runs for up to %v",
			driver.ErrConflict, s.Master.NodeID, s.Master.Term, left.Round(time.Millisecond))
	}
	return nil
}

// lock makes the transaction.
func (a *authority) lock(ctx context.Context, c driver.Claim, s state, p *pulse) (driver.Grant, error) {
	term, err := s.Next(c.MinTerm)
	if err != nil {
		return driver.Grant{}, fmt.Errorf("consul: acquire: %w", err)
	}
	g := driver.Grant{Term: term, ClusterID: s.ID, ValidFor: a.ttl}
	ops := s.unchanged(a.prefix)
	ops = append(ops,
		a.op(api.KVLock, grants.MasterKey, master{grants.Master{Holder: c.Holder, Term: term}, hold{TTL: a.ttl, Pulse: p.id}}.encode(), p.session),
		a.op(api.KVSet, grants.TermKey, fmt.Appendf(nil, "%d", term), ""))
	if s.ID == "" && c.ClusterID != "" {
		g.ClusterID = c.ClusterID
		ops = append(ops, a.op(api.KVSet, grants.IDKey, []byte(c.ClusterID), ""))
	}
	results, err := a.driver.commit(ctx, "acquire", ops)
	if err != nil {
		return driver.Grant{}, err
	}
	for _, r := range results {
		if r.KV != nil && r.KV.Key == a.prefix+grants.MasterKey && r.KV.Session == p.session {
			g.Token = token{p, r.KV.LockIndex}
			return g, nil
		}
	}
	return driver.Grant{}, fmt.Errorf("consul: acquire: %w: the answer does not tell of the lock", driver.ErrUnavailable)
}

func (a *authority) op(verb api.KVOp, key string, value []byte, session string) *api.KVTxnOp {
	return &api.KVTxnOp{Verb: verb, Key: a.prefix + key, Value: value, Session: session}
}

// commit makes a transaction, and returns ErrConflict if it did not come about.
func (d *Driver) commit(ctx context.Context, what string, kv []*api.KVTxnOp) (api.TxnResults, error) {
	ops := make(api.TxnOps, len(kv))
	for i, op := range kv {
		ops[i] = &api.TxnOp{KV: op}
	}
	return d.transact(ctx, what, "", ops)
}

// Renew beats the pulse and reads the key, in a reading for which the leader asks a
// majority. The beat alone would not show that the lock still stands, nor the lock
// that the pulse goes on.
func (a *authority) Renew(ctx context.Context, g driver.Grant) (driver.Grant, error) {
	t, err := tokenOf(g)
	if err != nil {
		return driver.Grant{}, err
	}
	ctx, cancel, err := a.call(ctx)
	if err != nil {
		return driver.Grant{}, err
	}
	defer cancel()
	beat := make(chan error, 1)
	go func() { beat <- t.pulse.beat(ctx) }()
	s, _, err := a.read(ctx, 0)
	if beatErr := <-beat; beatErr != nil {
		return driver.Grant{}, beatErr
	}
	if err != nil {
		return driver.Grant{}, err
	}
	if !s.lockedBy(t) {
		return driver.Grant{}, fmt.Errorf("consul: %w: %s is not locked by session %s any more", driver.ErrSessionLost, a.prefix+grants.MasterKey, t.pulse.session)
	}
	g.ValidFor = a.ttl
	return g, nil
}

// Release unlocks the key and marks it as given back, in one step.
func (a *authority) Release(ctx context.Context, g driver.Grant) error {
	t, err := tokenOf(g)
	if err != nil {
		return err
	}
	a.given.Take(t)
	ctx, cancel, err := a.call(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	s, _, err := a.read(ctx, 0)
	if err != nil {
		return err
	}
	if s.lockedBy(t) {
		m := master{*s.Master, s.hold}
		m.Released = true
		_, err = a.driver.commit(ctx, "release", []*api.KVTxnOp{a.op(api.KVUnlock, grants.MasterKey, m.encode(), t.pulse.session)})
		if err != nil && !errors.Is(err, driver.ErrConflict) { // another's by now
			return err
		}
	}
	a.stopLater(t.pulse)
	return nil
}

func tokenOf(g driver.Grant) (token, error) {
	t, ok := g.Token.(token)
	if !ok {
		return token{}, fmt.Errorf("consul: %w: a grant that Consul did not give", driver.ErrInvalid)
	}
	return t, nil
}

// observeWait is how long a reading of the master waits for a change, and silentFor
// how much longer its answer may take: a connection may have gone silent.
const (
	observeWait = time.Minute
	silentFor   = 10 * time.Second
)

// Observe reads, and reads again at each change: at once where the last was one for us
// or came after a quiet time, so that a vacancy is not found late. But the index may
// move although nothing has changed below the prefix. Consul's is that of the whole
// store while nothing stands there. Then there are pauses, as in a watch.
func (a *authority) Observe(ctx context.Context) iter.Seq2[driver.Mastership, error] {
	return func(yield func(driver.Mastership, error) bool) {
		inner, cancel, err := a.call(ctx)
		if err != nil {
			yield(driver.Mastership{}, err)
			return
		}
		defer cancel()
		index := uint64(0)
		var last *driver.Mastership
		var p pace
		for {
			began := time.Now()
			s, next, err := a.await(inner, index)
			took := time.Since(began)
			switch {
			case ctx.Err() != nil:
				return
			case a.life.Over():
				yield(driver.Mastership{}, a.errClosed())
				return
			case err != nil:
				yield(driver.Mastership{}, err)
				return
			case next < index:
				next = 0 // restored from a backup: begin anew
			}
			index = next
			now := s.Mastership(s.held())
			switch {
			case last == nil || !reflect.DeepEqual(now, *last):
				last, p = &now, pace{}
				if !yield(now, nil) {
					return
				}
			case took > quiet:
				p = pace{}
			default:
				p.pause(inner, took, 0) // if inner ends, the next reading tells why
			}
		}
	}
}

func (a *authority) await(ctx context.Context, index uint64) (state, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, observeWait+observeWait/16+silentFor)
	defer cancel()
	return a.read(ctx, index)
}

// Close gives up what is left to be cleaned up, which then expires.
func (a *authority) Close(ctx context.Context) error {
	if err := a.life.Close(ctx); err != nil {
		return fmt.Errorf("consul: close: %w", err)
	}
	return nil
}

// call returns the context of one call, which ends with the authority, too.
func (a *authority) call(ctx context.Context) (context.Context, context.CancelFunc, error) {
	if a.life.Over() {
		return nil, nil, a.errClosed()
	}
	ctx, cancelCall := a.driver.call(ctx)
	ctx, cancel := a.life.Bind(ctx)
	return ctx, func() { cancel(); cancelCall() }, nil
}

// later does what the caller, whose context may have ended, cannot wait for.
func (a *authority) later(do func(context.Context)) { a.life.Later(max(a.ttl, 2*time.Second), do) }

func (a *authority) stopLater(p *pulse) { a.later(p.stop) }

// sweepLater removes what a master that is gone has left in the catalog, where the
// agent that would do so is alive: the one here, for a master that ran beside it.
func (a *authority) sweepLater(old pulseID) {
	a.later(func(ctx context.Context) {
		_ = a.driver.client.Agent().ServiceDeregisterOpts(old.ServiceID, (&api.QueryOptions{}).WithContext(ctx))
	})
}

// service is the name of the service whose check is the pulse of the master.
func (a *authority) service() string {
	return strings.ReplaceAll(a.driver.config.AuthorityPrefix, "/", "-") + "-master"
}

func (a *authority) errClosed() error {
	return fmt.Errorf("consul: %w: the authority of %s is closed", driver.ErrInvalid, a.prefix)
}

package casauthority

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/internal/within"
)

// Authority is a driver.Authority and a driver.Store over a Store. Its methods make as
// many calls to the store as they say, and it starts no goroutine.
type Authority struct {
	c       Config
	records string        // the prefix of the records
	rarely  time.Duration // pollRarely, but in tests

	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	mu              sync.Mutex
	m               *machine
	masterConfirmed bool          // other evidence shows that the master is alive: the record is read rarely
	changed         chan struct{} // closed and replaced when there is news for Observe
}

var (
	_ driver.Authority    = (*Authority)(nil)
	_ driver.Store        = (*Authority)(nil)
	_ driver.StoreWatcher = (*Authority)(nil)
	_ driver.Suspecter    = (*Authority)(nil)
	_ driver.Learner      = (*Authority)(nil)
	_ driver.Resetter     = (*Authority)(nil)
)

// New returns the authority of one election. It makes no call.
func New(c Config) (*Authority, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	cluster, election := url.PathEscape(c.Cluster), "mastership"
	if c.Election != "" {
		election = "elections/" + url.PathEscape(c.Election)
	}
	a := &Authority{c: c, records: c.Prefix + "records/" + cluster + "/", rarely: pollRarely, changed: make(chan struct{})}
	a.m = newMachine(params{
		name: c.Name, key: c.Prefix + "clusters/" + cluster + "/" + election, ceiling: c.Prefix + "clusters/" + cluster + "/longest-ttl/" + election,
		bounds: bounds{c.MinTTL, c.MaxTTL}, nonce: rand.Text,
	}, rulesInForce(), c.TTL)
	a.ctx, a.cancel = context.WithCancel(context.Background())
	return a, nil
}

// Key returns the key of the record.
func (a *Authority) Key() string { return a.m.p.key }

// SetTTL changes the TTL of the terms that are acquired from now on. A term keeps the
// one that it was acquired with. The error wraps driver.ErrInvalid.
func (a *Authority) SetTTL(ttl time.Duration) error {
	if err := a.c.checkTTL(ttl); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.m.ttl = ttl
	return nil
}

// Suspect sets whether the master that is observed may have failed: then Observe reads the record
// often, as it does from the start.
func (a *Authority) Suspect(suspected bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.masterConfirmed == suspected {
		a.masterConfirmed = !suspected
		a.notify()
	}
}

// Learn notes a proof that another node has announced. A holder that fails is then counted as
// silent since its last announcement, and not only since the first read.
func (a *Authority) Learn(proof string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.m.learn(clock.Now(), proof)
}

// notify wakes Observe. The caller holds the lock.
func (a *Authority) notify() {
	close(a.changed)
	a.changed = make(chan struct{})
}

// Acquire makes two reads and a write, or two.
func (a *Authority) Acquire(ctx context.Context, c driver.Claim) (driver.Grant, error) {
	return a.run(ctx, &acquiring{m: a.m, claim: c})
}

// Renew makes a write, and a read and another write where the record was changed since
// the last one.
func (a *Authority) Renew(ctx context.Context, g driver.Grant) (driver.Grant, error) {
	return a.run(ctx, &renewing{m: a.m, g: g})
}

// Release makes calls like Renew.
func (a *Authority) Release(ctx context.Context, g driver.Grant) error {
	_, err := a.run(ctx, &releasing{m: a.m, g: g})
	return err
}

// Reset makes a read and a write.
func (a *Authority) Reset(ctx context.Context, o driver.ResetOptions) (driver.Recorded, error) {
	t := &resetting{m: a.m, o: o}
	_, err := a.run(ctx, t)
	return t.recorded, err
}

// run makes the calls that an attempt asks for.
func (a *Authority) run(ctx context.Context, t attempt) (driver.Grant, error) {
	ctx, cancel, err := a.bind(ctx)
	if err != nil {
		return driver.Grant{}, err
	}
	defer cancel()
	for c := a.start(t); ; {
		if c.op == done {
			return c.grant, c.err
		}
		if err := a.ended(ctx); err != nil {
			return driver.Grant{}, err
		}
		answer := answer{sent: clock.Now()}
		switch c.op {
		case read:
			answer.value, answer.err = a.c.Store.Read(ctx, cmp.Or(c.key, a.m.p.key))
		case write:
			answer.value, answer.err = a.c.Store.CompareAndSet(ctx, cmp.Or(c.key, a.m.p.key), c.data, c.prev)
		}
		answer.at = clock.Now()
		c = a.step(t, answer)
	}
}

func (a *Authority) start(t attempt) command {
	a.mu.Lock()
	defer a.mu.Unlock()
	return t.start(clock.Now())
}

func (a *Authority) step(t attempt, answer answer) command {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := a.m.value
	c := t.step(answer)
	if a.m.value.Revision != before.Revision || a.m.value.Incarnation != before.Incarnation {
		a.notify()
	}
	return c
}

// bind returns the context of one call, which ends with the authority, too.
func (a *Authority) bind(ctx context.Context) (context.Context, context.CancelFunc, error) {
	if err := a.ended(ctx); err != nil {
		return nil, nil, err
	}
	ctx, cancel := within.Both(ctx, a.ctx)
	return ctx, cancel, nil
}

// ended says why no call can be made any more.
func (a *Authority) ended(ctx context.Context) error {
	switch {
	case a.ctx.Err() != nil:
		return fmt.Errorf("%s: the authority of %s is %w", a.c.Name, a.m.p.key, driver.ErrClosed)
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w: %w", a.c.Name, driver.ErrUnavailable, ctx.Err())
	}
	return nil
}

// Close makes no call.
func (a *Authority) Close(context.Context) error {
	a.cancel()
	return nil
}

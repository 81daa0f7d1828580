package mastership

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/internal/testing/wait"
)

// fakeClock is a boot clock that can jump, as it does from the point of view of a
// process that was stopped.
type fakeClock struct {
	start time.Time
	ahead atomic.Int64
}

func newFakeClock() *fakeClock { return &fakeClock{start: time.Now()} }

func (c *fakeClock) now() clock.Instant {
	return clock.Instant(time.Hour + time.Since(c.start) + time.Duration(c.ahead.Load()))
}

func (c *fakeClock) jump(d time.Duration) { c.ahead.Add(int64(d)) }

// fakeStore grants leases on a clock of its own.
type fakeStore struct {
	clock    *fakeClock
	validFor time.Duration

	mu      sync.Mutex
	state   driver.Mastership
	expiry  clock.Instant
	leases  int
	changed chan struct{}
}

func newFakeStore(c *fakeClock, validFor time.Duration) *fakeStore {
	return &fakeStore{clock: c, validFor: validFor, changed: make(chan struct{})}
}

func (s *fakeStore) update(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *fakeStore) expire() {
	s.update(func() {
		if s.state.Holder != nil && s.clock.now() >= s.expiry {
			s.state.Holder = nil
		}
	})
}

func (s *fakeStore) read() (driver.Mastership, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state, s.changed
}

// lease starts the lease afresh. The caller holds the lock.
func (s *fakeStore) lease() driver.Grant {
	s.expiry = s.clock.now().Add(s.validFor)
	time.AfterFunc(s.validFor, s.expire)
	s.leases++
	return driver.Grant{Term: s.state.Term, ClusterID: s.state.ClusterID, ValidFor: s.validFor, Proof: fmt.Sprintf("lease-%d", s.leases)}
}

// fakeAuthority is one node's way to the store.
type fakeAuthority struct {
	s  *fakeStore
	id string

	mu sync.Mutex
	// before and after hold up a call by its name: the request and the answer.
	before, after func(ctx context.Context, op string) error
}

func (a *fakeAuthority) hooks(before, after func(ctx context.Context, op string) error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.before, a.after = before, after
}

func (a *fakeAuthority) do(ctx context.Context, op string, f func() error) error {
	a.mu.Lock()
	before, after := a.before, a.after
	a.mu.Unlock()
	if before != nil {
		if err := before(ctx, op); err != nil {
			return err
		}
	}
	a.s.expire()
	var err error
	a.s.update(func() { err = f() })
	if after != nil {
		if e := after(ctx, op); e != nil {
			return e
		}
	}
	return err
}

func (a *fakeAuthority) mine() bool {
	return a.s.state.Holder != nil && a.s.state.Holder.InstanceID == a.id
}

func (a *fakeAuthority) Acquire(ctx context.Context, c driver.Claim) (g driver.Grant, err error) {
	err = a.do(ctx, "acquire", func() error {
		s := a.s
		switch {
		case c.Known && s.state.ClusterID != "" && s.state.ClusterID != c.ClusterID:
			return driver.ErrClusterMismatch
		case s.state.Holder != nil && !a.mine():
			return driver.ErrConflict
		case !a.mine():
			s.state.Term = max(s.state.Term, c.MinTerm) + 1
			s.state.Holder = &c.Holder
			if s.state.ClusterID == "" {
				s.state.ClusterID = c.ClusterID
			}
		}
		g = s.lease()
		return nil
	})
	return g, err
}

func (a *fakeAuthority) Renew(ctx context.Context, old driver.Grant) (g driver.Grant, err error) {
	err = a.do(ctx, "renew", func() error {
		if !a.mine() || a.s.state.Term != old.Term {
			return driver.ErrSessionLost
		}
		g = a.s.lease()
		return nil
	})
	return g, err
}

func (a *fakeAuthority) Release(ctx context.Context, g driver.Grant) error {
	return a.do(ctx, "release", func() error {
		if a.mine() && a.s.state.Term == g.Term {
			a.s.state.Holder = nil
		}
		return nil
	})
}

func (a *fakeAuthority) Observe(ctx context.Context) iter.Seq2[driver.Mastership, error] {
	return func(yield func(driver.Mastership, error) bool) {
		for {
			a.mu.Lock()
			before := a.before
			a.mu.Unlock()
			if before != nil {
				if err := before(ctx, "observe"); err != nil {
					yield(driver.Mastership{}, err)
					return
				}
			}
			m, changed := a.s.read()
			if !yield(m, nil) {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}
}

func (a *fakeAuthority) Close(context.Context) error { return nil }

// candidate is an Elector that runs until the test ends.
type candidate struct {
	*Elector
	auth *fakeAuthority
	stop func() error

	mu     sync.Mutex
	events []Event // beginnings and ends
}

// observed returns the beginnings and ends so far.
func (c *candidate) observed() []Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.events)
}

func (c *candidate) observe(e Event) {
	if e.Kind == Extended {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, e)
}

// lastEvent returns the last beginning or end.
func (c *candidate) lastEvent(t *testing.T) Event {
	t.Helper()
	events := c.observed()
	if len(events) == 0 {
		t.Fatal("no event was observed")
	}
	return events[len(events)-1]
}

var ready = Conditions{Eligible: true, Ready: true, Formation: Decision{Allowed: true}}

// run starts an elector on the store that may become master at once.
func run(t *testing.T, s *fakeStore, id string, adjust ...func(*Config)) *candidate {
	t.Helper()
	c := start(t, s, id, adjust...)
	c.SetConditions(ready)
	return c
}

// start starts an elector on the store, in a synctest bubble, without conditions.
func start(t *testing.T, s *fakeStore, id string, adjust ...func(*Config)) *candidate {
	t.Helper()
	auth := &fakeAuthority{s: s, id: id}
	c := &candidate{auth: auth}
	cfg := Config{
		Observer:  c.observe,
		Authority: auth,
		Holder:    driver.Holder{NodeID: "node-" + id, InstanceID: id, Addr: "10.0.0.1:7946", AppAddrs: map[string]string{"http": "10.0.0.1:80"}},
		Clock:     func() time.Duration { return time.Duration(s.clock.now()) },
	}
	for _, f := range adjust {
		f(&cfg)
	}
	var err error
	if c.Elector, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	c.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() { _ = c.stop() })
	return c
}

// awaitTerm waits until c is master again, in that term.
func (c *candidate) awaitTerm(t *testing.T, want driver.Term) {
	t.Helper()
	wait.Virtual(t, "master again", time.Second, c.IsMaster)
	if token, _ := c.Check(); token.Term != want {
		t.Errorf("term %d, want %d", token.Term, want)
	}
}

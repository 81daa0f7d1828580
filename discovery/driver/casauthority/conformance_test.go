package casauthority_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery/discoverytest"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/driver/casauthority"
)

// TestConformance holds the example to the contract of package driver.
func TestConformance(t *testing.T) {
	discoverytest.RunAuthority(t, func(t testing.TB) discoverytest.Harness {
		m, all := &memory{values: make(map[string]casauthority.Value)}, &faults{}
		return discoverytest.Harness{
			Open:  func(testing.TB) driver.Driver { return client{m, all, &faults{}} },
			Stop:  func(testing.TB) { all.stop(true) },
			Start: func(testing.TB) { all.stop(false) },
			OpenFaulty: func(testing.TB) (driver.Driver, discoverytest.Faults) {
				own := &faults{}
				return client{m, all, own}, discoverytest.Faults{Hold: own.holdBack, Lose: own.lose, Restore: own.restore}
			},
			Except:   map[string]string{"authority/closed_driver": "a client of this test has nothing to close"},
			GrantTTL: 600 * time.Millisecond,
			Patience: 10 * time.Second,
		}
	})
}

// client is one client of the provider, with what the suite does to it.
type client struct {
	m        *memory
	all, own *faults
}

func (c client) Close() error { return nil }

func (c client) List(context.Context, driver.Query) (driver.Snapshot, error) {
	return driver.Snapshot{}, errors.ErrUnsupported
}

func (c client) OpenAuthority(_ context.Context, o driver.AuthorityOptions) (driver.Authority, error) {
	return casauthority.New(casauthority.Config{Store: store{c.m, c}, Cluster: o.Cluster, TTL: o.TTL})
}

// store is the one of a client, with the faults.
type store struct {
	*memory
	c client
}

func (s store) Read(ctx context.Context, key string) (casauthority.Value, error) {
	return s.answer(ctx, false, func() (casauthority.Value, error) { return s.memory.Read(ctx, key) })
}

func (s store) CompareAndSet(ctx context.Context, key string, data []byte, prev driver.Revision) (casauthority.Value, error) {
	return s.answer(ctx, true, func() (casauthority.Value, error) { return s.memory.CompareAndSet(ctx, key, data, prev) })
}

func (s store) answer(ctx context.Context, changes bool, call func() (casauthority.Value, error)) (casauthority.Value, error) {
	if s.c.all.stopped() {
		return casauthority.Value{}, driver.ErrUnavailable
	}
	v, err := call()
	if s.c.own.arrives(ctx, changes) != nil {
		return casauthority.Value{}, driver.ErrUnavailable
	}
	return v, err
}

// faults are those of a provider, or of the way to it.
type faults struct {
	mu    sync.Mutex
	off   bool
	lost  bool
	by    time.Duration
	held  chan struct{} // closed when an answer is held back
	freed chan struct{} // closed by restore
}

func (f *faults) stop(off bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.off = off
}

func (f *faults) stopped() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.off
}

func (f *faults) lose() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lost = true
}

func (f *faults) holdBack(by time.Duration) func(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	held := make(chan struct{})
	f.by, f.held, f.freed = by, held, make(chan struct{})
	return func(ctx context.Context) error {
		select {
		case <-held:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *faults) restore() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lost, f.by = false, 0
	if f.freed != nil {
		close(f.freed)
		f.freed = nil
	}
}

// arrives returns when an answer does, or why it does not.
func (f *faults) arrives(ctx context.Context, changes bool) error {
	f.mu.Lock()
	lost, by, held, freed := f.lost && changes, f.by, f.held, f.freed
	if by > 0 && held != nil {
		close(held)
		f.held = nil
	}
	f.mu.Unlock()
	switch {
	case lost:
		<-ctx.Done()
	case by > 0:
		select {
		case <-time.After(by):
		case <-freed:
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

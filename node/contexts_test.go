package node_test

import (
	"context"
	"errors"
	"iter"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/memory"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/registrar/advertise"
)

// deaf is a driver whose calls block, whatever becomes of their contexts, from shut until
// open.
type deaf struct {
	driver.Driver
	mu    sync.Mutex
	until chan struct{} // nil: it answers
}

func (d *deaf) shut() { d.mu.Lock(); defer d.mu.Unlock(); d.until = make(chan struct{}) }

func (d *deaf) open() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.until != nil {
		close(d.until)
		d.until = nil
	}
}

func (d *deaf) wait() {
	d.mu.Lock()
	until := d.until
	d.mu.Unlock()
	if until != nil {
		<-until
	}
}

func (d *deaf) List(ctx context.Context, q driver.Query) (driver.Snapshot, error) {
	d.wait()
	return d.Driver.List(ctx, q)
}

func (d *deaf) OpenSession(ctx context.Context, o driver.SessionOptions) (driver.Session, error) {
	d.wait()
	s, err := d.Driver.(driver.Registrar).OpenSession(ctx, o)
	return deafSession{s, d}, err
}

func (d *deaf) OpenAuthority(ctx context.Context, o driver.AuthorityOptions) (driver.Authority, error) {
	d.wait()
	a, err := d.Driver.(driver.Authorizer).OpenAuthority(ctx, o)
	return deafAuthority{a, d}, err
}

type deafSession struct {
	driver.Session
	*deaf
}

func (s deafSession) Renew(ctx context.Context) error { s.wait(); return s.Session.Renew(ctx) }
func (s deafSession) Close(ctx context.Context) error { s.wait(); return s.Session.Close(ctx) }
func (s deafSession) Register(ctx context.Context, i driver.Instance) error {
	s.wait()
	return s.Session.Register(ctx, i)
}

type deafAuthority struct {
	driver.Authority
	*deaf
}

func (a deafAuthority) Acquire(ctx context.Context, c driver.Claim) (driver.Grant, error) {
	a.wait()
	return a.Authority.Acquire(ctx, c)
}

func (a deafAuthority) Renew(ctx context.Context, g driver.Grant) (driver.Grant, error) {
	a.wait()
	return a.Authority.Renew(ctx, g)
}

func (a deafAuthority) Release(ctx context.Context, g driver.Grant) error {
	a.wait()
	return a.Authority.Release(ctx, g)
}

func (a deafAuthority) Observe(ctx context.Context) iter.Seq2[driver.Mastership, error] {
	return func(yield func(driver.Mastership, error) bool) {
		for m, err := range a.Authority.Observe(ctx) {
			a.wait()
			if !yield(m, err) {
				return
			}
		}
	}
}

func (a deafAuthority) Close(ctx context.Context) error { a.wait(); return a.Authority.Close(ctx) }

// soon is how long a call may take that was given 100 ms, on a machine that has other work. One
// that does not end with its context does not end before its test.
const soon = wait.Patience / 3

// withinContext fails the test if f takes longer than a context of 100 ms, and returns what f
// does.
func withinContext(t *testing.T, what string, f func(context.Context) error) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	begun := time.Now()
	err := f(ctx)
	if took := time.Since(begun); took > soon {
		t.Errorf("%s took %v where 100 ms were given", what, took)
	}
	return err
}

// Every exported call of a node that blocks returns with its context, whatever a provider
// makes of the contexts that it is given; and the node's end frees the port.
func TestCallsEndWithTheirContext(t *testing.T) {
	d := &deaf{Driver: memory.New().Driver()}
	registry := discovery.New("memory", d, discovery.Options{PollInterval: 50 * time.Millisecond})
	n, err := node.Start(t.Context(), node.Config{Cluster: "orders", NodeID: "a", Bind: "127.0.0.1:0", Registries: []*discovery.Registry{registry}})
	if err != nil {
		t.Fatal(err)
	}
	wait.For(t, "the node is master", n.IsMaster)
	working := make(chan error, 1)
	go func() {
		working <- n.WhileMaster(context.Background(), func(ctx context.Context, _ node.Term) error { <-ctx.Done(); return nil })
	}()
	d.shut()
	defer d.open()
	for what, f := range map[string]func(context.Context) error{
		"Resign": n.Resign,
		"WhileMaster": func(ctx context.Context) error {
			return n.WhileMaster(ctx, func(ctx context.Context, _ node.Term) error { <-ctx.Done(); return nil })
		},
	} {
		if err := withinContext(t, what, f); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v, want the end of its context", what, err)
		}
	}
	_ = withinContext(t, "Views", func(ctx context.Context) error {
		for range n.Views(ctx) {
		}
		return nil
	})
	_ = withinContext(t, "Events", func(ctx context.Context) error {
		for range n.Events(ctx) {
		}
		return nil
	})
	// The first one leaves, the second does not wait for longer than it was told.
	left := make(chan error, 1)
	go func() { left <- withinContext(t, "Leave", n.Leave) }()
	if err := withinContext(t, "a second Leave", n.Leave); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second Leave: %v, want the end of its context", err)
	}
	if err := <-left; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Leave: %v, want the end of its context", err)
	}
	select {
	case <-n.Done():
	case <-time.After(wait.Patience):
		t.Fatal("the node does not end while its provider hangs")
	}
	if err := <-working; err == nil {
		t.Error("WhileMaster goes on without the node")
	}
	if err := n.Leave(context.Background()); err != nil {
		t.Errorf("Leave of a node that has ended: %v", err)
	}
	d.open()
	if err := registry.Close(); err != nil {
		t.Error(err)
	}
	wait.For(t, "what was left behind ends when the provider answers", func() bool {
		stacks := make([]byte, 1<<20)
		return !strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "(*Elector).Run")
	})
}

// deafDetector blocks until its channel is closed.
type deafDetector chan struct{}

func (deafDetector) Name() string { return "deaf" }
func (d deafDetector) Detect(context.Context, netip.AddrPort) (advertise.Address, error) {
	<-d
	return advertise.Address{}, advertise.ErrNotApplicable
}

// LookupNetIP is that of a resolver as deaf as the detector.
func (d deafDetector) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	<-d
	return nil, errors.New("deaf")
}

// A detector of the user's, or a resolver, that ignores its context keeps neither a start
// nor a leave.
func TestStartEndsWithItsContext(t *testing.T) {
	t.Parallel()
	until := make(deafDetector)
	defer close(until)
	for name, change := range map[string]func(*node.Config){
		"a detector": func(c *node.Config) { c.Detectors = []advertise.Detector{until}; c.Advertise = "deaf" },
		"a resolver": func(c *node.Config) {
			c.Advertise = "there.example:7946"
			c.SetAddress(advertise.Options{Resolver: until}, time.Minute)
		},
	} {
		registry := discovery.New("memory", memory.New().Driver(), discovery.Options{})
		cfg := node.Config{Cluster: "orders", NodeID: "a", Bind: "127.0.0.1:0", Registries: []*discovery.Registry{registry}}
		change(&cfg)
		err := withinContext(t, "Start with "+name, func(ctx context.Context) error {
			n, err := node.Start(ctx, cfg)
			if err == nil {
				_ = n.Leave(ctx)
			}
			return err
		})
		if err == nil {
			t.Errorf("%s: started without an address", name)
		}
		if err := registry.Close(); err != nil {
			t.Error(err)
		}
	}
}

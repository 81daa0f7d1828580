package discovery_test

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/memory"
	"github.com/musterhq/muster/internal/testing/snapshot"
	"github.com/musterhq/muster/internal/within"
)

// hanging is a driver that ignores every context: what is set hangs until it is let go.
type hanging struct {
	driver.Driver
	mu     sync.Mutex
	hangs  map[string]chan struct{}
	inside atomic.Int64

	opened, closed atomic.Int64 // sessions and authorities
}

func newHanging() *hanging {
	return &hanging{Driver: memory.New().Driver(), hangs: make(map[string]chan struct{})}
}

func (h *hanging) hang(calls ...string) (release func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	until := make(chan struct{})
	for _, call := range calls {
		h.hangs[call] = until
	}
	return sync.OnceFunc(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, call := range calls {
			delete(h.hangs, call)
		}
		close(until)
	})
}

func (h *hanging) wait(call string) {
	h.mu.Lock()
	until := h.hangs[call]
	h.mu.Unlock()
	if until != nil {
		h.inside.Add(1)
		defer h.inside.Add(-1)
		<-until
	}
}

func (h *hanging) List(ctx context.Context, q driver.Query) (driver.Snapshot, error) {
	h.wait("list")
	return h.Driver.List(context.WithoutCancel(ctx), q)
}

func (h *hanging) Services(ctx context.Context) ([]string, error) {
	h.wait("services")
	return h.Driver.(driver.Cataloger).Services(context.WithoutCancel(ctx))
}

func (h *hanging) Watch(ctx context.Context, q driver.Query, since driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
	return func(yield func(driver.Snapshot, error) bool) {
		h.wait("watch")
		for s, err := range h.Driver.(driver.Watcher).Watch(ctx, q, since) {
			if !yield(s, err) {
				break
			}
		}
		h.wait("end of watch")
	}
}

func (h *hanging) Reclaim(context.Context, func(driver.Instance) bool) ([]driver.Instance, error) {
	h.wait("reclaim")
	return nil, nil
}

func (h *hanging) OpenSession(ctx context.Context, o driver.SessionOptions) (driver.Session, error) {
	h.wait("open session")
	s, err := h.Driver.(driver.Registrar).OpenSession(context.WithoutCancel(ctx), o)
	if err != nil {
		return nil, err
	}
	h.opened.Add(1)
	return &hangingSession{s, h}, nil
}

func (h *hanging) OpenAuthority(ctx context.Context, o driver.AuthorityOptions) (driver.Authority, error) {
	h.wait("open authority")
	a, err := h.Driver.(driver.Authorizer).OpenAuthority(context.WithoutCancel(ctx), o)
	if err != nil {
		return nil, err
	}
	h.opened.Add(1)
	return &hangingAuthority{a, h}, nil
}

func (h *hanging) Close() error {
	h.wait("close")
	return h.Driver.Close()
}

type hangingSession struct {
	driver.Session
	h *hanging
}

func (s *hangingSession) Close(ctx context.Context) error {
	s.h.closed.Add(1)
	return s.Session.Close(ctx)
}

type hangingAuthority struct {
	driver.Authority
	h *hanging
}

func (a *hangingAuthority) Close(ctx context.Context) error {
	a.h.closed.Add(1)
	return a.Authority.Close(ctx)
}

// lockedBuffer takes a log that is read while it is written.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// took runs f and returns how long that took.
func took(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

const callTimeout = 3 * time.Second

// Whatever a driver does, calls end with their bound or with their context, and Close ends
// them all.
func TestDriverThatHangs(t *testing.T) {
	calls := map[string]func(ctx context.Context, r *discovery.Registry) error{
		"list":     func(ctx context.Context, r *discovery.Registry) error { _, err := r.List(ctx, orders); return err },
		"services": func(ctx context.Context, r *discovery.Registry) error { _, err := r.Services(ctx); return err },
		"reclaim": func(ctx context.Context, r *discovery.Registry) error {
			_, err := r.Reclaim(ctx, func(discovery.Instance) bool { return false })
			return err
		},
		"open session": func(ctx context.Context, r *discovery.Registry) error {
			_, err := r.OpenSession(ctx, driver.SessionOptions{})
			return err
		},
		"open authority": func(ctx context.Context, r *discovery.Registry) error {
			_, err := r.OpenAuthority(ctx, driver.AuthorityOptions{Cluster: "c"})
			return err
		},
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHanging()
				r := discovery.New("test", h, discovery.Options{CallTimeout: callTimeout})
				release := h.hang(name)
				// By the context of the call.
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				var err error
				if d := took(func() { err = call(ctx, r) }); d > time.Second+within.Grace || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("with 1 s it returned %v after %v", err, d)
				}
				// By its own bound, but for List, which tries again.
				if name != "list" {
					d := took(func() { err = call(t.Context(), r) })
					if d > callTimeout+within.Grace || err == nil || name != "reclaim" && !errors.Is(err, driver.ErrUnavailable) {
						t.Errorf("without a deadline it returned %v after %v", err, d)
					}
				}
				// What is opened too late is closed.
				release()
				synctest.Wait()
				if opened, closed := h.opened.Load(), h.closed.Load(); closed != opened || strings.HasPrefix(name, "open ") && opened == 0 {
					t.Errorf("%d were opened, and %d closed", opened, closed)
				}
				release = h.hang(name)
				defer func() { release() }()
				// By Close.
				closed := make(chan error, 1)
				time.AfterFunc(time.Second, func() { closed <- r.Close() })
				if d := took(func() { err = call(t.Context(), r) }); d > time.Second+within.Grace || err == nil {
					t.Errorf("closed after 1 s it returned %v after %v", err, d)
				}
				if d := took(func() { err = <-closed }); d > within.Grace || err != nil {
					t.Errorf("Close returned %v, %v later", err, d)
				}
				if n := h.inside.Load(); n != 1 {
					t.Errorf("%d calls hang", n)
				}
			})
		})
	}
}

// A watch of the driver that hangs, or does not end when it should, holds up nobody: the
// consumer goes, or sees what List finds, and Close returns.
func TestWatchThatHangs(t *testing.T) {
	for name, hangs := range map[string][]string{
		"at its begin": {"watch"}, "at its end": {"end of watch"}, "with List": {"list", "watch"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHanging()
				var logs lockedBuffer
				r := discovery.New("test", h, discovery.Options{
					CallTimeout: callTimeout, ResyncInterval: 10 * time.Second, Logger: slog.New(slog.NewTextHandler(&logs, nil)),
				})
				release := h.hang(hangs...)
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				s, err := h.Driver.(driver.Registrar).OpenSession(ctx, driver.SessionOptions{TTL: 24 * time.Hour})
				if err != nil {
					t.Fatal(err)
				}
				time.AfterFunc(time.Minute/2, func() {
					if err := s.Register(ctx, instance(1)); err != nil {
						t.Error(err)
					}
				})
				var last discovery.Snapshot
				d := took(func() {
					for last = range r.Watch(ctx, orders) {
					}
				})
				if d > time.Hour+within.Grace {
					t.Errorf("the watch ended %v after its context", d-time.Hour)
				}
				switch listed := len(snapshot.Instances(last)) == 1; {
				case name == "with List" && (last.Known || !errors.Is(last.Err, driver.ErrUnavailable)):
					t.Errorf("the last snapshot is %+v, want it to be unknown", last)
				case name != "with List" && !listed:
					t.Errorf("the last snapshot is %+v, want what List finds", last)
				}
				// As many hang as are given, and no more are begun.
				if n := h.inside.Load(); n < 2 || n > 20 {
					t.Errorf("%d calls hang after an hour, want some and not many", n)
				}
				watching := make(chan struct{})
				go func() {
					defer close(watching)
					for range r.Watch(t.Context(), orders) {
					}
				}()
				synctest.Wait()
				if d := took(func() { err = r.Close() }); d > 2*within.Grace || err != nil {
					t.Errorf("Close returned %v after %v", err, d)
				}
				if d := took(func() { <-watching }); d > within.Grace {
					t.Errorf("the watch ended %v after Close", d)
				}
				release()
				_ = s.Close(t.Context())
			})
		})
	}
}

// A driver that works again is called again.
func TestDriverThatHangsForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHanging()
		r := registry(t, h, discovery.Options{CallTimeout: callTimeout})
		release := h.hang("list")
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if _, err := r.List(ctx, orders); !errors.Is(err, driver.ErrUnavailable) {
			t.Errorf("List of a driver that hangs: %v", err)
		}
		if n := h.inside.Load(); n > 20 {
			t.Errorf("%d calls hang after an hour", n)
		}
		release()
		synctest.Wait()
		if _, err := r.List(t.Context(), orders); err != nil {
			t.Errorf("List of a driver that works again: %v", err)
		}
	})
}

// A driver that does not close is not waited for without end.
func TestCloseOfADriverThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHanging()
		r := discovery.New("test", h, discovery.Options{CallTimeout: callTimeout})
		release := h.hang("close")
		for range 2 {
			var err error
			if d := took(func() { err = r.Close() }); d > callTimeout+within.Grace || !errors.Is(err, driver.ErrUnavailable) {
				t.Errorf("Close returned %v after %v", err, d)
			}
		}
		release()
	})
}

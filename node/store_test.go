package node_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
)

// unreporting is a driver whose authority keeps records and does not report their changes.
type unreporting struct {
	driver.Driver
	driver.Registrar
	driver.Authorizer
}

func (u unreporting) OpenAuthority(ctx context.Context, o driver.AuthorityOptions) (driver.Authority, error) {
	a, err := u.Authorizer.OpenAuthority(ctx, o)
	if err != nil {
		return nil, err
	}
	return struct {
		driver.Authority
		driver.Store
	}{a, a.(driver.Store)}, nil
}

// withoutWatch makes the provider of a node one that does not report changes.
func withoutWatch(t testing.TB, c *cluster) func(*node.Config) {
	return func(cfg *node.Config) {
		d := c.memory.Driver()
		r := discovery.New("memory", unreporting{d, d.(driver.Registrar), d.(driver.Authorizer)}, discovery.Options{})
		t.Cleanup(func() { r.Close() })
		cfg.Registries = []*discovery.Registry{r}
	}
}

// What one node writes all of them see, whether or not the provider reports changes.
func TestStoreIsShared(t *testing.T) {
	t.Parallel()
	for name, polled := range map[string]bool{"reported": false, "polled": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			var change []func(*node.Config)
			if polled {
				change = append(change, withoutWatch(t, c))
			}
			one, two := c.start("one", change...), c.start("two", change...)
			c.waitMaster(0, one, two)
			ctx, cancel := context.WithCancel(t.Context())
			seen := make(chan string)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				for records, err := range two.Store().Watch(ctx, "job/") {
					var all []string
					for _, r := range records {
						all = append(all, r.Key+"="+string(r.Value))
					}
					if err != nil {
						all = []string{err.Error()}
					}
					select {
					case seen <- strings.Join(all, " "):
					case <-ctx.Done():
					}
				}
			}()
			defer func() { cancel(); <-ended }()
			next := func(want string) {
				t.Helper()
				select {
				case got := <-seen:
					if got != want {
						t.Fatalf("watched %q, want %q", got, want)
					}
				case <-time.After(wait.Patience):
					t.Fatalf("not within %v: %q", wait.Patience, want)
				}
			}
			next("")
			wrote := time.Now()
			revision, err := one.Store().Set(t.Context(), "job/a", []byte("1"), 0)
			if err != nil {
				t.Fatal(err)
			}
			next("job/a=1")
			t.Logf("seen after %v", time.Since(wrote))
			if _, err := two.Store().Set(t.Context(), "job/a", []byte("2"), 0); !errors.Is(err, discovery.ErrConflict) {
				t.Errorf("Set of what is there: %v", err)
			}
			if _, err := two.Store().Set(t.Context(), "job/a", []byte("2"), revision); err != nil {
				t.Fatal(err)
			}
			next("job/a=2")
			r, err := one.Store().Get(t.Context(), "job/a")
			if err != nil || string(r.Value) != "2" {
				t.Fatalf("Get: %q, %v", r.Value, err)
			}
			if err := one.Store().Delete(t.Context(), "job/a", r.Revision); err != nil {
				t.Fatal(err)
			}
			next("")
			if _, err := one.Store().Get(t.Context(), "job/a"); !errors.Is(err, discovery.ErrNotFound) {
				t.Errorf("Get of what was deleted: %v", err)
			}
		})
	}
}

// A failing provider is no empty set, and a Watch goes on after it.
func TestStoreWatchSurvivesAnOutage(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	one := c.start("one", withoutWatch(t, c))
	c.waitMaster(0, one)
	if _, err := one.Store().Set(t.Context(), "k", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	step := 0
	ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
	defer cancel()
	for records, err := range one.Store().Watch(ctx, "") {
		switch {
		case step == 0 && len(records) == 1:
			c.memory.Fail(errDown)
			one.Prompt()
			step = 1
		case step == 1 && err != nil && records == nil:
			c.memory.Fail(nil)
			step = 2
		case step == 2 && len(records) == 1: // the outage is over, and nothing has changed
			if _, err := one.Store().Set(t.Context(), "l", nil, 0); err != nil {
				t.Fatal(err)
			}
			step = 3
		case step == 3 && len(records) == 2:
			return
		case err == nil:
			t.Fatalf("step %d: %v", step, records)
		}
	}
	t.Fatalf("ended at step %d", step)
}

// A node says why it has no records, and that some keys are not the user's.
func TestStoreRefuses(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	one := c.start("one")
	c.waitMaster(0, one)
	store := one.Store()
	for _, key := range []string{"", "muster/x", "/a", "a/", "a//b", "http://a", "a/./b", ".."} {
		if _, err := store.Set(t.Context(), key, nil, 0); !errors.Is(err, discovery.ErrInvalid) {
			t.Errorf("Set of key %q: %v", key, err)
		}
	}
	none := newCluster(t).start("none", func(c *node.Config) { c.Mastership.Authority = []string{node.AuthorityNone} })
	if _, err := none.Store().Get(t.Context(), "k"); !errors.Is(err, discovery.ErrUnsupported) || !errors.Is(err, node.ErrNoAuthority) {
		t.Errorf("Get without an authority: %v", err)
	}
	for _, err := range none.Store().Watch(t.Context(), "") {
		if !errors.Is(err, discovery.ErrUnsupported) {
			t.Errorf("Watch without an authority: %v", err)
		}
	}
	wait.Leave(t, one.Leave)
	if _, err := store.Get(t.Context(), "k"); !errors.Is(err, node.ErrStopped) {
		t.Errorf("Get after Leave: %v", err)
	}
	for _, err := range store.Watch(t.Context(), "") {
		if !errors.Is(err, node.ErrStopped) {
			t.Errorf("Watch after Leave: %v", err)
		}
	}
}

// What writes at the same time by compare-and-set loses none.
func TestStoreCompareAndSet(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := []*node.Node{c.start("one"), c.start("two")}
	c.waitMaster(0, nodes...)
	const each = 20
	done := make(chan error)
	for _, n := range nodes {
		go func() {
			for range each {
				if err := increment(t.Context(), n.Store()); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range nodes {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	r, err := nodes[0].Store().Get(t.Context(), "count")
	if want := fmt.Sprint(each * len(nodes)); err != nil || string(r.Value) != want {
		t.Errorf("count is %q, want %s: %v", r.Value, want, err)
	}
}

func increment(ctx context.Context, s node.Store) error {
	for {
		r, err := s.Get(ctx, "count")
		if err != nil && !errors.Is(err, discovery.ErrNotFound) {
			return err
		}
		count := 0
		fmt.Sscan(string(r.Value), &count)
		_, err = s.Set(ctx, "count", fmt.Append(nil, count+1), r.Revision)
		if !errors.Is(err, discovery.ErrConflict) {
			return err
		}
	}
}

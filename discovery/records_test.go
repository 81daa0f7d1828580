package discovery_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/memory"
)

// plain is a store that does not report changes.
type plain struct{ driver.Store }

// reporting is one that does, or says that it cannot.
type reporting struct {
	driver.Store
	watch func(ctx context.Context, prefix string) iter.Seq2[[]driver.Record, error]
}

func (r reporting) WatchRecords(ctx context.Context, prefix string) iter.Seq2[[]driver.Record, error] {
	return r.watch(ctx, prefix)
}

// Each change of a record is seen within a second, whether the store reports it or not,
// and an outage in between is an error and no empty set.
func TestWatchRecords(t *testing.T) {
	for name, wrap := range map[string]func(driver.Store) driver.Store{
		"polled": func(s driver.Store) driver.Store { return plain{s} },
		"unsupported": func(s driver.Store) driver.Store {
			return reporting{s, func(context.Context, string) iter.Seq2[[]driver.Record, error] {
				return func(yield func([]driver.Record, error) bool) { yield(nil, driver.ErrUnsupported) }
			}}
		},
		"reported": func(s driver.Store) driver.Store {
			return reporting{s, func(ctx context.Context, prefix string) iter.Seq2[[]driver.Record, error] {
				return func(yield func([]driver.Record, error) bool) {
					for ctx.Err() == nil {
						records, err := s.Records(ctx, prefix)
						if !yield(records, err) || err != nil {
							return
						}
						time.Sleep(10 * time.Millisecond)
					}
				}
			}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := memory.New()
				authority, err := m.Driver().(driver.Authorizer).OpenAuthority(t.Context(), driver.AuthorityOptions{Cluster: "c"})
				if err != nil {
					t.Fatal(err)
				}
				store := authority.(driver.Store)
				ctx, cancel := context.WithCancel(t.Context())
				type news struct {
					records string
					err     error
				}
				seen := make(chan news, 100)
				done := make(chan struct{})
				go func() {
					defer close(done)
					for records, err := range discovery.WatchRecords(ctx, wrap(store), "job/") {
						text := ""
						for _, r := range records {
							text += fmt.Sprintf("%s=%s ", r.Key, r.Value)
						}
						seen <- news{text, err}
					}
				}()
				next := func(want string) {
					t.Helper()
					began := time.Now()
					for {
						n := <-seen
						if n.err == nil && n.records != want {
							t.Fatalf("yielded %q, want %q", n.records, want)
						}
						if n.err == nil {
							break
						}
					}
					if took := time.Since(began); took > time.Second {
						t.Errorf("%q was yielded after %v", want, took)
					}
				}
				next("")
				one, err := store.Set(t.Context(), "job/1", []byte("a"), 0)
				if err != nil {
					t.Fatal(err)
				}
				next("job/1=a ")
				if _, err := store.Set(t.Context(), "other", []byte("a"), 0); err != nil {
					t.Fatal(err)
				}
				m.Fail(driver.ErrUnavailable)
				if n := <-seen; n.records != "" || !errors.Is(n.err, driver.ErrUnavailable) {
					t.Errorf("in an outage %+v is yielded", n)
				}
				m.Fail(nil)
				if _, err := store.Set(t.Context(), "job/1", []byte("b"), one); err != nil {
					t.Fatal(err)
				}
				next("job/1=b ")
				cancel()
				<-done
			})
		})
	}
}

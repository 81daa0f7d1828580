package memory

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/discovery/discoverytest"
	"github.com/musterhq/muster/discovery/driver"
)

// recorder is a testing.TB that keeps to itself what a clause reports.
type recorder struct {
	testing.TB
	ctx context.Context

	mu       sync.Mutex
	failed   bool
	skipped  bool
	said     []string
	cleanups []func()
}

func (r *recorder) say(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said = append(r.said, s)
}

func (r *recorder) Fail() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = true
}

func (r *recorder) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

func (r *recorder) Cleanup(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleanups = append(r.cleanups, f)
}

func (r *recorder) Context() context.Context          { return r.ctx }
func (r *recorder) Helper()                           {}
func (r *recorder) Log(args ...any)                   {}
func (r *recorder) Logf(format string, args ...any)   {}
func (r *recorder) Error(args ...any)                 { r.say(fmt.Sprint(args...)); r.Fail() }
func (r *recorder) Errorf(format string, args ...any) { r.Error(fmt.Sprintf(format, args...)) }
func (r *recorder) FailNow()                          { r.Fail(); runtime.Goexit() }
func (r *recorder) Fatal(args ...any)                 { r.Error(args...); runtime.Goexit() }
func (r *recorder) Fatalf(format string, args ...any) { r.Fatal(fmt.Sprintf(format, args...)) }
func (r *recorder) SkipNow()                          { r.skipped = true; runtime.Goexit() }
func (r *recorder) Skip(args ...any)                  { r.say(fmt.Sprint(args...)); r.SkipNow() }
func (r *recorder) Skipf(format string, args ...any)  { r.Skip(fmt.Sprintf(format, args...)) }

// tryClause runs one clause and returns what it reported.
func tryClause(t *testing.T, name string, newHarness func(testing.TB) discoverytest.Harness) *recorder {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &recorder{TB: t, ctx: ctx}
	var done sync.WaitGroup
	done.Go(func() { clauseNamed(t, name).Run(r, newHarness) })
	done.Wait()
	cancel()
	for f := r.lastCleanup(); f != nil; f = r.lastCleanup() {
		f()
	}
	return r
}

func (r *recorder) lastCleanup() func() {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.cleanups) - 1
	if n < 0 {
		return nil
	}
	f := r.cleanups[n]
	r.cleanups = r.cleanups[:n]
	return f
}

func clauseNamed(t *testing.T, name string) discoverytest.Clause {
	t.Helper()
	for _, c := range discoverytest.Clauses() {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no clause %q", name)
	return discoverytest.Clause{}
}

// bad is a client of a Server with one fault of its own.
type bad struct {
	*client
	list            func(d *client, ctx context.Context, q driver.Query) (driver.Snapshot, error)
	services        func(d *client, ctx context.Context) ([]string, error)
	watch           func(d *client, ctx context.Context, q driver.Query, since driver.Snapshot) iter.Seq2[driver.Snapshot, error]
	session         func(s *session) driver.Session
	checkPermission func(d *client, ctx context.Context, service string) error
	author          func(a *authority) driver.Authority
}

func (b *bad) List(ctx context.Context, q driver.Query) (driver.Snapshot, error) {
	if b.list == nil {
		return b.client.List(ctx, q)
	}
	return b.list(b.client, ctx, q)
}

func (b *bad) Services(ctx context.Context) ([]string, error) {
	if b.services == nil {
		return b.client.Services(ctx)
	}
	return b.services(b.client, ctx)
}

func (b *bad) Watch(ctx context.Context, q driver.Query, since driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
	if b.watch == nil {
		return b.client.Watch(ctx, q, since)
	}
	return b.watch(b.client, ctx, q, since)
}

func (b *bad) OpenSession(ctx context.Context, o driver.SessionOptions) (driver.Session, error) {
	s, err := b.client.OpenSession(ctx, o)
	if err != nil || b.session == nil {
		return s, err
	}
	return b.session(s.(*session)), nil
}

func (b *bad) CheckPermission(ctx context.Context, service string) error {
	if b.checkPermission == nil {
		return b.client.CheckPermission(ctx, service)
	}
	return b.checkPermission(b.client, ctx, service)
}

func (b *bad) OpenAuthority(ctx context.Context, o driver.AuthorityOptions) (driver.Authority, error) {
	a, err := b.client.OpenAuthority(ctx, o)
	if err != nil || b.author == nil {
		return a, err
	}
	return b.author(a.(*authority)), nil
}

// badSession forwards to a session, but for what the fault replaces.
type badSession struct {
	*session
	register   func(context.Context, driver.Instance) error
	deregister func(context.Context, driver.Instance) error
	renew      func(context.Context) error
	close      func(context.Context) error
}

func (s *badSession) Register(ctx context.Context, i driver.Instance) error {
	if s.register == nil {
		return s.session.Register(ctx, i)
	}
	return s.register(ctx, i)
}

func (s *badSession) Deregister(ctx context.Context, i driver.Instance) error {
	if s.deregister == nil {
		return s.session.Deregister(ctx, i)
	}
	return s.deregister(ctx, i)
}

func (s *badSession) Renew(ctx context.Context) error {
	if s.renew == nil {
		return s.session.Renew(ctx)
	}
	return s.renew(ctx)
}

func (s *badSession) Close(ctx context.Context) error {
	if s.close == nil {
		return s.session.Close(ctx)
	}
	return s.close(ctx)
}

// badAuthority forwards to an authority, but for what the fault replaces.
type badAuthority struct {
	*authority
	acquire         func(context.Context, driver.Claim) (driver.Grant, error)
	checkPermission func(context.Context) error
	renew           func(context.Context, driver.Grant) (driver.Grant, error)
	release         func(context.Context, driver.Grant) error
	observe         func(context.Context) iter.Seq2[driver.Mastership, error]
	close           func(context.Context) error
	set             func(context.Context, string, []byte, driver.Revision) (driver.Revision, error)
	records         func(context.Context, string) iter.Seq2[[]driver.Record, error]
}

func (a *badAuthority) WatchRecords(ctx context.Context, prefix string) iter.Seq2[[]driver.Record, error] {
	if a.records == nil {
		return a.authority.WatchRecords(ctx, prefix)
	}
	return a.records(ctx, prefix)
}

func (a *badAuthority) Acquire(ctx context.Context, c driver.Claim) (driver.Grant, error) {
	if a.acquire == nil {
		return a.authority.Acquire(ctx, c)
	}
	return a.acquire(ctx, c)
}

func (a *badAuthority) CheckClaimPermission(ctx context.Context) error {
	if a.checkPermission == nil {
		return a.authority.CheckClaimPermission(ctx)
	}
	return a.checkPermission(ctx)
}

func (a *badAuthority) Renew(ctx context.Context, g driver.Grant) (driver.Grant, error) {
	if a.renew == nil {
		return a.authority.Renew(ctx, g)
	}
	return a.renew(ctx, g)
}

func (a *badAuthority) Release(ctx context.Context, g driver.Grant) error {
	if a.release == nil {
		return a.authority.Release(ctx, g)
	}
	return a.release(ctx, g)
}

func (a *badAuthority) Observe(ctx context.Context) iter.Seq2[driver.Mastership, error] {
	if a.observe == nil {
		return a.authority.Observe(ctx)
	}
	return a.observe(ctx)
}

func (a *badAuthority) Close(ctx context.Context) error {
	if a.close == nil {
		return a.authority.Close(ctx)
	}
	return a.close(ctx)
}

func (a *badAuthority) Set(ctx context.Context, key string, value []byte, prev driver.Revision) (driver.Revision, error) {
	if a.set == nil {
		return a.authority.Set(ctx, key, value, prev)
	}
	return a.set(ctx, key, value, prev)
}

// service is what the suite registers, and instance an instance of it.
const service = "suite"

func instance(service string, n int) driver.Instance {
	return driver.Instance{
		Service:      service,
		NodeID:       fmt.Sprintf("node-%d", n),
		InstanceID:   fmt.Sprintf("%032x", n+1),
		Addr:         fmt.Sprintf("10.1.%d.%d:7946", n/250, n%250+1),
		RegisteredAt: time.Unix(1_700_000_000+int64(n), 0).UTC(),
	}
}

// change makes a change to the provider behind everyone's back.
func (m *Server) change(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
	m.touch(nil)
}

// defects are what drivers get wrong, and the clause that must notice.
var defects = []struct {
	name   string
	clause string
	driver func(*client) *bad
}{
	{"an error is an empty set", "list/error_is_not_empty", lists(func(d *client, ctx context.Context, q driver.Query) (driver.Snapshot, error) {
		s, err := d.List(ctx, q)
		if err != nil && ctx.Err() == nil {
			return driver.Snapshot{}, nil
		}
		return s, err
	})},
	{"a part of the set with an error", "list/error_is_not_empty", lists(func(d *client, ctx context.Context, q driver.Query) (driver.Snapshot, error) {
		s, err := d.List(ctx, q)
		if err != nil {
			s.Instances = []driver.Instance{instance(service, 0)}
		}
		return s, err
	})},
	{"only the first page", "list/many", lists(func(d *client, ctx context.Context, q driver.Query) (driver.Snapshot, error) {
		s, err := d.List(ctx, q)
		s.Instances = s.Instances[:min(len(s.Instances), 100)]
		return s, err
	})},
	{"a prefix without its slash", "list/prefix", lists(func(d *client, ctx context.Context, q driver.Query) (driver.Snapshot, error) {
		all, err := d.List(ctx, q)
		for _, other := range []string{"foo", "foobar", "foo/bar"} {
			if other != q.Service && strings.HasPrefix(other, q.Service) {
				s, _ := d.List(ctx, driver.Query{Service: other})
				all.Instances = append(all.Instances, s.Instances...)
			}
		}
		return all, err
	})},
	{"garbage is not named", "list/malformed_neighbour", lists(func(d *client, ctx context.Context, q driver.Query) (driver.Snapshot, error) {
		s, err := d.List(ctx, q)
		s.Skipped = nil
		return s, err
	})},
	{"garbage costs its neighbours", "list/malformed_neighbour", lists(func(d *client, ctx context.Context, q driver.Query) (driver.Snapshot, error) {
		s, err := d.List(ctx, q)
		if len(s.Skipped) > 0 {
			s.Instances = s.Instances[:1]
		}
		return s, err
	})},
	{"a field is forgotten", "list/whole_instance", lists(func(d *client, ctx context.Context, q driver.Query) (driver.Snapshot, error) {
		s, err := d.List(ctx, q)
		for n := range s.Instances {
			s.Instances[n].AppAddrs = nil
		}
		return s, err
	})},
	{"services are cut at a dot", "list/services", catalogs(func(d *client, ctx context.Context) ([]string, error) {
		names, err := d.Services(ctx)
		for n := range names {
			names[n], _, _ = strings.Cut(names[n], ".")
		}
		return slices.Compact(names), err
	})},
	{"services are named in small letters", "list/services", catalogs(func(d *client, ctx context.Context) ([]string, error) {
		names, err := d.Services(ctx)
		for n := range names {
			names[n] = strings.ToLower(names[n])
		}
		return names, err
	})},
	{"a service is left out whose name starts like another's", "list/services", catalogs(func(d *client, ctx context.Context) ([]string, error) {
		names, err := d.Services(ctx)
		return slices.DeleteFunc(names, func(name string) bool { return name == "foobar" }), err
	})},
	{"a service is named for each of its instances", "list/services", catalogs(func(d *client, ctx context.Context) ([]string, error) {
		names, err := d.Services(ctx)
		return append(names, names...), err
	})},
	{"an error is no services", "list/services", catalogs(func(d *client, ctx context.Context) ([]string, error) {
		names, err := d.Services(ctx)
		if err != nil && ctx.Err() == nil {
			return nil, nil
		}
		return names, err
	})},
	{"an outage of the services is for good", "list/services", catalogs(func(d *client, ctx context.Context) ([]string, error) {
		names, err := d.Services(ctx)
		if err != nil && ctx.Err() == nil {
			err = driver.ErrInvalid
		}
		return names, err
	})},
	{"the context is not honoured", "list/cancelled", deaf},
	{"the context is not honoured", "list/slow", deaf},
	{"the watch begins now", "watch/from_the_list", watches(func(d *client, ctx context.Context, q driver.Query, _ driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
		since, _ := d.List(ctx, q)
		return d.Watch(ctx, q, since)
	})},
	{"the last change is not told", "watch/no_event_lost", watches(func(d *client, ctx context.Context, q driver.Query, since driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
		return func(yield func(driver.Snapshot, error) bool) {
			for s, err := range d.Watch(ctx, q, since) {
				if len(s.Instances) == 20 {
					continue
				}
				if !yield(s, err) {
					return
				}
			}
		}
	})},
	{"a watch yields what was added", "watch/whole_sets_in_order", watches(func(d *client, ctx context.Context, q driver.Query, since driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
		return func(yield func(driver.Snapshot, error) bool) {
			for s, err := range d.Watch(ctx, q, since) {
				if n := len(s.Instances); n > 1 {
					s.Instances = s.Instances[n-1:]
				}
				if !yield(s, err) {
					return
				}
			}
		}
	})},
	{"revisions stand still", "watch/whole_sets_in_order", func(d *client) *bad {
		return &bad{client: d,
			list: func(d *client, ctx context.Context, q driver.Query) (driver.Snapshot, error) {
				s, err := d.List(ctx, q)
				s.Revision = 7
				return s, err
			},
			watch: func(d *client, ctx context.Context, q driver.Query, since driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
				since.Revision = 0
				return func(yield func(driver.Snapshot, error) bool) {
					for s, err := range d.Watch(ctx, q, since) {
						s.Revision = 7
						if !yield(s, err) {
							return
						}
					}
				}
			}}
	}},
	{"compaction is passed over", "watch/compacted", watches(func(d *client, ctx context.Context, q driver.Query, _ driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
		now, _ := d.List(ctx, q)
		return d.Watch(ctx, q, now)
	})},
	{"an outage empties the watched set", "watch/outage", watches(func(d *client, ctx context.Context, q driver.Query, since driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
		return func(yield func(driver.Snapshot, error) bool) {
			for s, err := range d.Watch(ctx, q, since) {
				if !yield(s, nil) || err != nil {
					return
				}
			}
		}
	})},
	{"the watch outlives its context", "watch/cancelled", watches(func(d *client, ctx context.Context, q driver.Query, since driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
		return func(func(driver.Snapshot, error) bool) {
			<-ctx.Done()
			time.Sleep(time.Minute)
		}
	})},
	{"a registration is written each time", "register/unchanged", sessions(func(s *session) *badSession {
		return &badSession{session: s, register: func(ctx context.Context, i driver.Instance) error {
			err := s.Register(ctx, i)
			s.d.m.change(func() {})
			return err
		}}
	})},
	{"a registration is written once only", "register/deleted_key", onceOnly},
	{"a registration is written once only", "register/update", onceOnly},
	{"a registration is written once only", "register/taken_back", onceOnly},
	{"registrations have no TTL", "register/ttl", sessions(func(s *session) *badSession {
		return &badSession{session: s, register: func(ctx context.Context, i driver.Instance) error {
			s.d.m.Put(i)
			return nil
		}}
	})},
	{"Renew does nothing", "register/renew", sessions(func(s *session) *badSession {
		return &badSession{session: s, renew: func(context.Context) error { return nil }}
	})},
	{"a lost session is not told", "register/lost_session", sessions(func(s *session) *badSession {
		return &badSession{session: s, renew: func(ctx context.Context) error {
			if err := s.Renew(ctx); err != nil {
				return driver.ErrUnavailable
			}
			return nil
		}}
	})},
	{"Close leaves the registrations", "register/close", sessions(func(s *session) *badSession {
		return &badSession{session: s, close: func(context.Context) error { return nil }}
	})},
	{"an outage counts as a lost session", "register/outage", sessions(func(s *session) *badSession {
		return &badSession{session: s, renew: func(ctx context.Context) error {
			if err := s.Renew(ctx); err != nil {
				return driver.ErrSessionLost
			}
			return nil
		}}
	})},
	{"Deregister removes the successor's", "register/successor_deregister", sessions(func(s *session) *badSession {
		return &badSession{session: s, deregister: func(_ context.Context, i driver.Instance) error {
			s.d.m.Remove(i)
			return nil
		}}
	})},
	{"Close removes the successor's", "register/successor_close", sessions(func(s *session) *badSession {
		return &badSession{session: s, close: func(context.Context) error {
			s.d.m.Remove(instance(service, 0))
			return nil
		}}
	})},
	{"a registration stays on its first session", "register/successor_expiry", sessions(func(s *session) *badSession {
		return &badSession{session: s, register: func(ctx context.Context, i driver.Instance) error {
			if have, _ := s.d.List(ctx, driver.Query{Service: i.Service}); len(have.Instances) > 0 {
				return nil
			}
			return s.Register(ctx, i)
		}}
	})},
	{"everyone is granted", "authority/conflict", overbearing},
	{"everyone is granted", "authority/one_master", overbearing},
	{"a term is given twice", "authority/terms_rise", reused},
	{"MinTerm is not heeded", "authority/min_term", authorities(func(a *authority) *badAuthority {
		return &badAuthority{authority: a, acquire: func(ctx context.Context, c driver.Claim) (driver.Grant, error) {
			c.MinTerm = 0
			return a.Acquire(ctx, c)
		}}
	})},
	{"a new term for a holder of one", "authority/found_again", authorities(func(a *authority) *badAuthority {
		return &badAuthority{authority: a, acquire: func(ctx context.Context, c driver.Claim) (driver.Grant, error) {
			c.MinTerm = a.d.m.term(a.o.Cluster)
			return a.Acquire(ctx, c)
		}}
	})},
	{"its own grant is another's", "authority/found_again", authorities(func(a *authority) *badAuthority {
		var n int
		return &badAuthority{authority: a, acquire: func(ctx context.Context, c driver.Claim) (driver.Grant, error) {
			n++
			c.Holder.InstanceID += fmt.Sprint(n)
			return a.Acquire(ctx, c)
		}}
	})},
	{"the grant is valid for longer than it stands", "authority/expiry", authorities(func(a *authority) *badAuthority {
		return &badAuthority{authority: a, renew: func(ctx context.Context, g driver.Grant) (driver.Grant, error) {
			g, err := a.Renew(ctx, g)
			g.ValidFor *= 2
			return g, err
		}}
	})},
	{"a grant never ends", "authority/expiry", authorities(func(a *authority) *badAuthority {
		return &badAuthority{authority: a, renew: func(ctx context.Context, g driver.Grant) (driver.Grant, error) {
			a.o.TTL = time.Hour
			g, err := a.Renew(ctx, g)
			g.ValidFor = 400 * time.Millisecond
			return g, err
		}}
	})},
	{"a renewal of a grant does nothing", "authority/renew", idle},
	{"a renewal of a grant does nothing", "authority/renew_after_loss", idle},
	{"Release waits for the TTL", "authority/release", authorities(func(a *authority) *badAuthority {
		return &badAuthority{authority: a, release: func(context.Context, driver.Grant) error { return nil }}
	})},
	{"a late Release ends the successor", "authority/late_release", authorities(func(a *authority) *badAuthority {
		return &badAuthority{authority: a, release: func(context.Context, driver.Grant) error {
			a.d.m.ExpireMastership(a.o.Cluster)
			return nil
		}}
	})},
	{"the first List shows more", "list/repeatable", func(d *client) *bad {
		first := true
		return lists(func(d *client, ctx context.Context, q driver.Query) (driver.Snapshot, error) {
			s, err := d.List(ctx, q)
			if first {
				s.Failing = append(s.Failing, instance(service, 9))
			}
			first = false
			return s, err
		})(d)
	}},
	{"the second List shows less", "list/repeatable", func(d *client) *bad {
		n := 0
		return lists(func(d *client, ctx context.Context, q driver.Query) (driver.Snapshot, error) {
			s, err := d.List(ctx, q)
			if n++; n > 1 && err == nil && len(s.Instances) > 1 {
				s.Instances = s.Instances[:1]
			}
			return s, err
		})(d)
	}},
	{"to read removes", "list/repeatable", func(d *client) *bad {
		n := 0
		return lists(func(d *client, ctx context.Context, q driver.Query) (driver.Snapshot, error) {
			s, err := d.List(ctx, q)
			if n++; n == 3 && len(s.Instances) > 0 {
				d.m.Remove(s.Instances[0])
			}
			return s, err
		})(d)
	}},
	{"to read removes what cannot be read", "list/no_effect", lists(func(d *client, ctx context.Context, q driver.Query) (driver.Snapshot, error) {
		s, err := d.List(ctx, q)
		if len(s.Skipped) > 0 {
			d.m.change(func() { d.m.service(q.Service).garbage = nil })
		}
		return s, err
	})},
	{"to read a service that is not there makes it", "list/no_effect", lists(func(d *client, ctx context.Context, q driver.Query) (driver.Snapshot, error) {
		s, err := d.List(ctx, q)
		if err == nil && len(s.Instances) == 0 {
			d.m.Put(instance(q.Service+"-readers", 0))
		}
		return s, err
	})},
	{"the services are noted where they stand", "list/no_effect", catalogs(func(d *client, ctx context.Context) ([]string, error) {
		names, err := d.Services(ctx)
		d.m.Put(instance("services", len(names)))
		return names, err
	})},
	{"a watch registers itself", "list/no_effect", watches(func(d *client, ctx context.Context, q driver.Query, since driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
		d.m.Put(instance("watchers", 0))
		return d.Watch(ctx, q, since)
	})},
	{"List goes on after Close", "list/closed", lists(func(d *client, ctx context.Context, q driver.Query) (driver.Snapshot, error) {
		s, err := d.List(ctx, q)
		if errors.Is(err, driver.ErrClosed) {
			return driver.Snapshot{}, nil
		}
		return s, err
	})},
	{"a closed driver is tried again", "list/closed", lists(func(d *client, ctx context.Context, q driver.Query) (driver.Snapshot, error) {
		s, err := d.List(ctx, q)
		return s, ofKind(err, driver.ErrUnavailable)
	})},
	{"the watch of a closed driver ends in silence", "list/closed", watches(func(d *client, ctx context.Context, q driver.Query, since driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
		return func(yield func(driver.Snapshot, error) bool) {
			for s, err := range d.Watch(ctx, q, since) {
				if errors.Is(err, driver.ErrClosed) || !yield(s, err) {
					return
				}
			}
		}
	})},
	{"the services of a closed driver are a wrong question", "list/closed", catalogs(func(d *client, ctx context.Context) ([]string, error) {
		names, err := d.Services(ctx)
		return names, ofKind(err, driver.ErrInvalid)
	})},
	{"a check of a permission of a closed driver goes well", "list/closed", permissionChecks(func(d *client, ctx context.Context, service string) error {
		return ofKind(d.CheckPermission(ctx, service), nil)
	})},
	{"a closed session is lost", "register/closed", sessions(func(s *session) *badSession {
		return &badSession{session: s, renew: func(ctx context.Context) error { return ofKind(s.Renew(ctx), driver.ErrSessionLost) }}
	})},
	{"to register on a closed session is tried again", "register/closed", sessions(func(s *session) *badSession {
		return &badSession{session: s, register: func(ctx context.Context, i driver.Instance) error {
			return ofKind(s.Register(ctx, i), driver.ErrUnavailable)
		}}
	})},
	{"to deregister on a closed session goes well", "register/closed", sessions(func(s *session) *badSession {
		return &badSession{session: s, deregister: func(ctx context.Context, i driver.Instance) error { return ofKind(s.Deregister(ctx, i), nil) }}
	})},
	{"a closed authority is asked the wrong question", "authority/closed", authorities(func(a *authority) *badAuthority {
		return &badAuthority{authority: a, acquire: func(ctx context.Context, c driver.Claim) (driver.Grant, error) {
			g, err := a.Acquire(ctx, c)
			return g, ofKind(err, driver.ErrInvalid)
		}}
	})},
	{"the grant of a closed authority is lost", "authority/closed", authorities(func(a *authority) *badAuthority {
		return &badAuthority{authority: a, renew: func(ctx context.Context, g driver.Grant) (driver.Grant, error) {
			g, err := a.Renew(ctx, g)
			return g, ofKind(err, driver.ErrSessionLost)
		}}
	})},
	{"an authority outlives its driver", "authority/closed_driver", authorities(func(a *authority) *badAuthority {
		a.parent = &client{m: a.d.m, closed: make(chan struct{})}
		return &badAuthority{authority: a}
	})},
	{"a closed authority releases", "authority/closed", authorities(func(a *authority) *badAuthority {
		return &badAuthority{authority: a, release: func(ctx context.Context, g driver.Grant) error { return ofKind(a.Release(ctx, g), nil) }}
	})},
	{"a closed authority observes nothing", "authority/closed", authorities(func(a *authority) *badAuthority {
		return &badAuthority{authority: a, observe: func(ctx context.Context) iter.Seq2[driver.Mastership, error] {
			return func(yield func(driver.Mastership, error) bool) {
				for m, err := range a.Observe(ctx) {
					if errors.Is(err, driver.ErrClosed) || !yield(m, err) {
						return
					}
				}
			}
		}}
	})},
	{"a closed store is tried again", "authority/closed", authorities(func(a *authority) *badAuthority {
		return &badAuthority{authority: a, set: func(ctx context.Context, key string, value []byte, prev driver.Revision) (driver.Revision, error) {
			revision, err := a.Set(ctx, key, value, prev)
			return revision, ofKind(err, driver.ErrUnavailable)
		}}
	})},
	{"a late Release ends the mastership of another", "authority/later_release", authorities(func(a *authority) *badAuthority {
		return &badAuthority{authority: a, release: func(ctx context.Context, g driver.Grant) error {
			a.d.m.ExpireMastership(a.o.Cluster)
			return nil
		}}
	})},
	{"a grant is told by its holder alone", "authority/later_release", byHolder},
	{"a grant is told by its holder alone", "authority/renumbered", byHolder},
	{"a late Release frees a grant of the same holder without a word", "authority/renumbered", authorities(func(a *authority) *badAuthority {
		return &badAuthority{authority: a, release: func(ctx context.Context, g driver.Grant) error {
			a.d.m.change(func() {
				if now := a.d.m.cluster(a.o.Cluster).grant; now != nil && now.holder.InstanceID == a.o.Self.InstanceID {
					now.expires = time.Now()
				}
			})
			return nil
		}}
	})},
	{"a grant goes by an old reading", "authority/old_reading", twoSteps(false)},
	{"a grant over another goes by an old reading", "authority/old_reading", twoSteps(true)},
	{"a candidate waits its own TTL", "authority/mixed_ttls", authorities(func(a *authority) *badAuthority {
		return &badAuthority{authority: a, acquire: func(ctx context.Context, c driver.Claim) (driver.Grant, error) {
			a.d.m.change(func() {
				cluster := a.d.m.cluster(a.o.Cluster)
				if g := cluster.standing(); g != nil && g.holder.InstanceID != c.Holder.InstanceID {
					g.expires = g.expires.Add(a.o.TTL - g.ttl)
					cluster.standing()
				}
			})
			return a.Acquire(ctx, c)
		}}
	})},
	{"a candidate waits at least its own TTL", "authority/mixed_ttls", authorities(func(a *authority) *badAuthority {
		var conflict time.Time
		return &badAuthority{authority: a, acquire: func(ctx context.Context, c driver.Claim) (driver.Grant, error) {
			g, err := a.Acquire(ctx, c)
			switch {
			case errors.Is(err, driver.ErrConflict):
				conflict = time.Now()
			case err == nil && !conflict.IsZero() && time.Since(conflict) < 20*a.o.TTL:
				_ = a.Release(ctx, g)
				return driver.Grant{}, driver.ErrConflict
			}
			return g, err
		}}
	})},
	{"an early end lets others in", "authority/early_end", early(1)},
	{"a second early end lets others in", "authority/early_end", early(2)},
	{"a third early end lets others in", "authority/early_end", early(3)},
	{"a found grant counts from the start again though nobody renewed it", "authority/found_validity", finding},
	{"a found grant counts from the start again though nobody renewed it", "authority/lost_answer", finding},
	{"Close gives the grant back", "authority/close", authorities(func(a *authority) *badAuthority {
		return &badAuthority{authority: a, close: func(ctx context.Context) error {
			a.d.m.ExpireMastership(a.o.Cluster)
			return a.Close(ctx)
		}}
	})},
	{"each claim brings its cluster id", "authority/cluster_id", authorities(func(a *authority) *badAuthority {
		return &badAuthority{authority: a, acquire: func(ctx context.Context, c driver.Claim) (driver.Grant, error) {
			g, err := a.Acquire(ctx, c)
			g.ClusterID = c.ClusterID
			return g, err
		}}
	})},
	{"a mismatch is let in", "authority/cluster_mismatch", authorities(func(a *authority) *badAuthority {
		return &badAuthority{authority: a, acquire: func(ctx context.Context, c driver.Claim) (driver.Grant, error) {
			c.Known = false
			return a.Acquire(ctx, c)
		}}
	})},
	{"a vacancy is not seen", "authority/observe", authorities(func(a *authority) *badAuthority {
		return &badAuthority{authority: a, observe: func(ctx context.Context) iter.Seq2[driver.Mastership, error] {
			return func(yield func(driver.Mastership, error) bool) {
				for m, err := range a.Observe(ctx) {
					if m.Holder == nil && m.Term > 0 {
						continue
					}
					if !yield(m, err) {
						return
					}
				}
			}
		}}
	})},
	{"every term is shown as partial", "authority/whole", authorities(func(a *authority) *badAuthority {
		return &badAuthority{authority: a, observe: func(ctx context.Context) iter.Seq2[driver.Mastership, error] {
			return func(yield func(driver.Mastership, error) bool) {
				for m, err := range a.Observe(ctx) {
					m.Partial = err == nil
					if !yield(m, err) {
						return
					}
				}
			}
		}}
	})},
	{"a proof that is learned ends the grant", "authority/learned", learners(func(a *authority, l *learner) {
		l.learn = func(string) { a.d.m.ExpireMastership(a.o.Cluster) }
	})},
	{"as long as proofs are learned nobody is granted", "authority/learned", learners(func(_ *authority, l *learner) {
		var at atomic.Int64
		l.learn = func(string) { at.Store(time.Now().UnixNano()) }
		acquire := l.acquire
		l.acquire = func(ctx context.Context, c driver.Claim) (driver.Grant, error) {
			if time.Since(time.Unix(0, at.Load())) < l.o.TTL {
				return driver.Grant{}, driver.ErrConflict
			}
			return acquire(ctx, c)
		}
	})},
	{"the proof is always the same", "authority/learned", learners(func(_ *authority, l *learner) {
		l.proof = func() string { return "the proof" }
	})},
	{"one mastership for all clusters", "authority/clusters", authorities(func(a *authority) *badAuthority {
		a.o.Cluster = "the one"
		return &badAuthority{authority: a}
	})},
	{"an outage counts as a lost grant", "authority/outage", authorities(func(a *authority) *badAuthority {
		return &badAuthority{authority: a, renew: func(ctx context.Context, g driver.Grant) (driver.Grant, error) {
			g, err := a.Renew(ctx, g)
			if err != nil {
				err = driver.ErrSessionLost
			}
			return g, err
		}}
	})},
	{"a blind write", "store/compare_and_set", blind},
	{"a watch of records that misses deletions", "store/watch", authorities(func(a *authority) *badAuthority {
		return &badAuthority{authority: a, records: func(ctx context.Context, prefix string) iter.Seq2[[]driver.Record, error] {
			return func(yield func([]driver.Record, error) bool) {
				most := 0
				for records, err := range a.WatchRecords(ctx, prefix) {
					if err == nil && len(records) < most {
						continue
					}
					most = len(records)
					if !yield(records, err) {
						return
					}
				}
			}
		}}
	})},
	{"a watch of records that shows those of others", "store/watch", authorities(func(a *authority) *badAuthority {
		return &badAuthority{authority: a, records: func(ctx context.Context, prefix string) iter.Seq2[[]driver.Record, error] {
			return a.WatchRecords(ctx, strings.TrimSuffix(prefix, "/"))
		}}
	})},
	{"a watch of records that yields once", "store/watch", authorities(func(a *authority) *badAuthority {
		return &badAuthority{authority: a, records: func(ctx context.Context, prefix string) iter.Seq2[[]driver.Record, error] {
			return func(yield func([]driver.Record, error) bool) {
				records, err := a.Records(ctx, prefix)
				if yield(records, err) {
					<-ctx.Done()
				}
			}
		}}
	})},
	{"a watch of records that takes an outage for no records", "store/watch_outage", authorities(func(a *authority) *badAuthority {
		return &badAuthority{authority: a, records: func(ctx context.Context, prefix string) iter.Seq2[[]driver.Record, error] {
			return func(yield func([]driver.Record, error) bool) {
				records, err := a.Records(ctx, prefix)
				if err != nil && ctx.Err() == nil {
					yield(nil, nil)
					return
				}
				yield(records, err)
			}
		}}
	})},
	{"a blind write", "store/counter", blind},
	{"a check of a permission leaves what it tried", "permission/registration", permissionChecks(func(d *client, ctx context.Context, service string) error {
		_, err := tryToRegister(d, ctx, service)
		return err
	})},
	{"a check of a permission is seen for a moment", "permission/registration", permissionChecks(func(d *client, ctx context.Context, service string) error {
		s, err := tryToRegister(d, ctx, service)
		if err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
		return s.Close(ctx)
	})},
	{"every check of a permission goes well", "permission/registration_denied", sanguine},
	{"every check of a permission goes well", "permission/registration_outage", sanguine},
	{"a check of a permission without an answer is denied", "permission/registration_outage", permissionChecks(func(d *client, ctx context.Context, service string) error {
		if err := d.CheckPermission(ctx, service); err != nil {
			return fmt.Errorf("%w: %w", driver.ErrDenied, err)
		}
		return nil
	})},
	{"a claim that is checked is granted", "permission/claim", claimChecks(func(a *authority, ctx context.Context) error {
		_, err := a.Acquire(ctx, driver.Claim{Holder: a.o.Self})
		return err
	})},
	{"a claim that is checked takes a term", "permission/claim", claimChecks(func(a *authority, ctx context.Context) error {
		g, err := a.Acquire(ctx, driver.Claim{Holder: a.o.Self})
		if err != nil {
			return nil // another is master
		}
		return a.Release(ctx, g)
	})},
	{"every check of a claim goes well", "permission/claim_denied", sanguineClaim},
	{"every check of a claim goes well", "permission/claim_outage", sanguineClaim},
}

func lists(list func(*client, context.Context, driver.Query) (driver.Snapshot, error)) func(*client) *bad {
	return func(d *client) *bad { return &bad{client: d, list: list} }
}

func catalogs(services func(*client, context.Context) ([]string, error)) func(*client) *bad {
	return func(d *client) *bad { return &bad{client: d, services: services} }
}

func permissionChecks(checkPermission func(*client, context.Context, string) error) func(*client) *bad {
	return func(d *client) *bad { return &bad{client: d, checkPermission: checkPermission} }
}

func watches(watch func(*client, context.Context, driver.Query, driver.Snapshot) iter.Seq2[driver.Snapshot, error]) func(*client) *bad {
	return func(d *client) *bad { return &bad{client: d, watch: watch} }
}

func sessions(wrap func(*session) *badSession) func(*client) *bad {
	return func(d *client) *bad {
		return &bad{client: d, session: func(s *session) driver.Session { return wrap(s) }}
	}
}

func authorities(wrap func(*authority) *badAuthority) func(*client) *bad {
	return func(d *client) *bad {
		return &bad{client: d, author: func(a *authority) driver.Authority { return wrap(a) }}
	}
}

// learner is an authority that gives proofs, and ignores those that it is handed: the memory
// sees at once who holds a grant.
type learner struct {
	*badAuthority
	proof func() string
	learn func(proof string)
}

func (l *learner) Learn(proof string) { l.learn(proof) }

func learners(spoil func(*authority, *learner)) func(*client) *bad {
	return func(d *client) *bad {
		return &bad{client: d, author: func(a *authority) driver.Authority {
			l := &learner{proof: rand.Text, learn: func(string) {}}
			proven := func(g driver.Grant, err error) (driver.Grant, error) {
				g.Proof = l.proof()
				return g, err
			}
			l.badAuthority = &badAuthority{authority: a,
				acquire: func(ctx context.Context, c driver.Claim) (driver.Grant, error) { return proven(a.Acquire(ctx, c)) },
				renew:   func(ctx context.Context, g driver.Grant) (driver.Grant, error) { return proven(a.Renew(ctx, g)) },
			}
			spoil(a, l)
			return l
		}}
	}
}

func claimChecks(checkPermission func(*authority, context.Context) error) func(*client) *bad {
	return authorities(func(a *authority) *badAuthority {
		return &badAuthority{authority: a, checkPermission: func(ctx context.Context) error { return checkPermission(a, ctx) }}
	})
}

// deaf lists whatever becomes of the context.
func deaf(d *client) *bad {
	return lists(func(d *client, _ context.Context, q driver.Query) (driver.Snapshot, error) {
		return d.List(context.Background(), q)
	})(d)
}

// onceOnly does not look after what it has written.
func onceOnly(d *client) *bad {
	return sessions(func(s *session) *badSession {
		done := make(map[string]bool)
		return &badSession{session: s, register: func(ctx context.Context, i driver.Instance) error {
			if done[i.Key()] {
				return nil
			}
			done[i.Key()] = true
			return s.Register(ctx, i)
		}}
	})(d)
}

// idle renews a grant without asking.
func idle(d *client) *bad {
	return authorities(func(a *authority) *badAuthority {
		return &badAuthority{authority: a, renew: func(_ context.Context, g driver.Grant) (driver.Grant, error) { return g, nil }}
	})(d)
}

// ofKind makes another kind of ErrClosed.
func ofKind(err, kind error) error {
	if errors.Is(err, driver.ErrClosed) {
		return kind
	}
	return err
}

// byHolder tells a grant from another by who has it.
func byHolder(d *client) *bad {
	return authorities(func(a *authority) *badAuthority {
		current := func(g driver.Grant) driver.Grant {
			a.d.m.change(func() {
				cluster := a.d.m.cluster(a.o.Cluster)
				if now := cluster.standing(); now != nil && now.holder.InstanceID == a.o.Self.InstanceID {
					g.Token, g.Term = now, cluster.term
				}
			})
			return g
		}
		return &badAuthority{authority: a,
			renew:   func(ctx context.Context, g driver.Grant) (driver.Grant, error) { return a.Renew(ctx, current(g)) },
			release: func(ctx context.Context, g driver.Grant) error { return a.Release(ctx, current(g)) },
		}
	})(d)
}

// twoSteps reads, and grants by what it read: unless there is a holder now, or
// whether there is one or not.
func twoSteps(blind bool) func(d *client) *bad {
	return authorities(func(a *authority) *badAuthority {
		return &badAuthority{authority: a, acquire: func(ctx context.Context, c driver.Claim) (driver.Grant, error) {
			m := a.d.m
			var free bool
			var term driver.Term
			m.change(func() {
				cluster := m.cluster(a.o.Cluster)
				free, term = cluster.standing() == nil, cluster.term
			})
			if !free {
				return a.Acquire(ctx, c)
			}
			if err := a.d.enter(ctx); err != nil { // where it is held up
				return driver.Grant{}, err
			}
			cluster := m.cluster(a.o.Cluster)
			if cluster.standing() != nil && !blind {
				m.mu.Unlock()
				return driver.Grant{}, driver.ErrConflict
			}
			cluster.vacate()
			if !blind {
				cluster.term = term
			}
			m.mu.Unlock()
			return a.Acquire(context.WithoutCancel(ctx), c)
		}}
	})
}

// early lets others in at the n-th end before its time.
func early(n int) func(d *client) *bad {
	return authorities(func(a *authority) *badAuthority {
		return &badAuthority{authority: a, acquire: func(ctx context.Context, c driver.Claim) (driver.Grant, error) {
			a.d.m.change(func() {
				cluster := a.d.m.cluster(a.o.Cluster)
				if cluster.grant != nil && cluster.grant.ended && cluster.ends == n {
					cluster.vacate()
				}
			})
			return a.Acquire(ctx, c)
		}}
	})
}

// finding finds a grant without a renewal.
func finding(d *client) *bad {
	return authorities(func(a *authority) *badAuthority {
		return &badAuthority{authority: a, acquire: func(ctx context.Context, c driver.Claim) (driver.Grant, error) {
			cluster, err := a.enter(ctx)
			if err != nil {
				return driver.Grant{}, err
			}
			if g := cluster.standing(); g != nil && g.holder.InstanceID == c.Holder.InstanceID && cluster.term > c.MinTerm {
				defer a.d.m.mu.Unlock()
				return a.granted(cluster, g), nil
			}
			a.d.m.mu.Unlock()
			return a.Acquire(ctx, c)
		}}
	})(d)
}

// overbearing takes mastership from any holder.
func overbearing(d *client) *bad {
	return authorities(func(a *authority) *badAuthority {
		return &badAuthority{authority: a, acquire: func(ctx context.Context, c driver.Claim) (driver.Grant, error) {
			a.d.m.ExpireMastership(a.o.Cluster)
			return a.Acquire(ctx, c)
		}}
	})(d)
}

// reused forgets the term with the holder.
func reused(d *client) *bad {
	return authorities(func(a *authority) *badAuthority {
		return &badAuthority{authority: a, release: func(ctx context.Context, g driver.Grant) error {
			err := a.Release(ctx, g)
			a.d.m.change(func() { a.d.m.cluster(a.o.Cluster).term-- })
			return err
		}}
	})(d)
}

// blind sets a record whatever its revision is.
func blind(d *client) *bad {
	return authorities(func(a *authority) *badAuthority {
		return &badAuthority{authority: a, set: func(ctx context.Context, key string, value []byte, _ driver.Revision) (driver.Revision, error) {
			for {
				r, _ := a.Get(ctx, key)
				runtime.Gosched()
				if revision, err := a.Set(ctx, key, value, r.Revision); err == nil {
					return revision, nil
				}
			}
		}}
	})(d)
}

// sanguine and sanguineClaim say that all is permitted, without asking.
func sanguine(d *client) *bad {
	return permissionChecks(func(_ *client, ctx context.Context, _ string) error { return ctx.Err() })(d)
}

func sanguineClaim(d *client) *bad {
	return claimChecks(func(_ *authority, ctx context.Context) error { return ctx.Err() })(d)
}

// tryToRegister is no way to check a permission.
func tryToRegister(d *client, ctx context.Context, service string) (driver.Session, error) {
	s, err := d.OpenSession(ctx, driver.SessionOptions{})
	if err != nil {
		return nil, err
	}
	return s, s.Register(ctx, instance(service, 99))
}

func (m *Server) term(cluster string) driver.Term {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cluster(cluster).term
}

func harnessOver(m *Server, wrap func(*client) driver.Driver) discoverytest.Harness {
	n := 0
	return discoverytest.Harness{
		Open: func(testing.TB) driver.Driver { return wrap(m.Driver().(*client)) },
		OpenDenied: func(testing.TB) driver.Driver {
			closed := New()
			closed.Fail(driver.ErrDenied)
			return wrap(closed.Driver().(*client))
		},
		OpenFaulty: func(testing.TB) (driver.Driver, discoverytest.Faults) {
			d, way := m.FaultyDriver()
			return wrap(d.(*client)), discoverytest.Faults{Hold: way.Hold, Lose: way.Lose, Restore: way.Restore}
		},
		EndGrant: func(_ testing.TB, cluster string) { m.EndMastership(cluster) },
		AddGarbage: func(_ testing.TB, service string) {
			n++
			m.AddGarbage(service, fmt.Sprint("garbage-", n))
		},
		Dump:               func(testing.TB) map[string]string { return m.Dump() },
		RemoveRegistration: func(_ testing.TB, i driver.Instance) { m.Remove(i) },
		ExpireSession: func(_ testing.TB, s driver.Session) {
			if b, ok := s.(*badSession); ok {
				s = b.session
			}
			m.ExpireSession(s)
		},
		Stop:       func(testing.TB) { m.Fail(driver.ErrUnavailable) },
		Start:      func(testing.TB) { m.Fail(nil) },
		Delay:      func(_ testing.TB, d time.Duration) { m.Delay(d) },
		Compact:    func(testing.TB) { m.Compact() },
		SessionTTL: 400 * time.Millisecond,
		GrantTTL:   400 * time.Millisecond,
	}
}

// A suite that everything passes proves nothing. Each defect must be noticed by the
// clause that is about it, and the failure must say which clause and what it wants.
func TestSuiteNoticesDefects(t *testing.T) {
	for _, defect := range defects {
		t.Run(strings.ReplaceAll(defect.name, " ", "_")+"/"+defect.clause, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := tryClause(t, defect.clause, func(testing.TB) discoverytest.Harness {
					return harnessOver(New(), func(d *client) driver.Driver { return defect.driver(d) })
				})
				if !r.failed {
					t.Fatalf("clause %q did not notice: %s; it said %q", defect.clause, defect.name, r.said)
				}
				all := strings.Join(r.said, "\n")
				if !strings.Contains(all, fmt.Sprintf("clause %q is broken", defect.clause)) || !strings.Contains(all, clauseNamed(t, defect.clause).Says) {
					t.Fatalf("the failure does not explain the clause: %s", all)
				}
				t.Log(all)
				time.Sleep(time.Hour) // for what a defect leaves behind
			})
		})
	}
}

// The same harness without a defect passes every clause, in virtual time: what the
// test above sees is owed to the defects.
func TestSuitePassesInVirtualTime(t *testing.T) {
	for _, c := range discoverytest.Clauses() {
		t.Run(c.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := tryClause(t, c.Name, func(testing.TB) discoverytest.Harness {
					return harnessOver(New(), func(d *client) driver.Driver { return learners(func(*authority, *learner) {})(d) })
				})
				if r.failed || r.skipped {
					t.Fatalf("failed %v, skipped %v: %s", r.failed, r.skipped, strings.Join(r.said, "\n"))
				}
			})
		})
	}
}

// plainDriver has no ability but to list.
type plainDriver struct{ driver.Driver }

// A provider that publishes nothing runs what it can, and skips the rest with the
// reason.
func TestSuiteOverASeededProvider(t *testing.T) {
	ran := 0
	for _, c := range discoverytest.Clauses() {
		synctest.Test(t, func(t *testing.T) {
			m := New()
			r := tryClause(t, c.Name, func(testing.TB) discoverytest.Harness {
				return discoverytest.Harness{
					Open: func(testing.TB) driver.Driver { return plainDriver{m.Driver()} },
					Seed: func(_ testing.TB, service string, is []driver.Instance) []driver.Instance {
						shown := make([]driver.Instance, len(is))
						for n, i := range is {
							shown[n] = driver.Instance{Service: service, Addr: i.Addr}
							m.Put(shown[n])
						}
						return shown
					},
					Stop:  func(testing.TB) { m.Fail(driver.ErrUnavailable) },
					Start: func(testing.TB) { m.Fail(nil) },
				}
			})
			switch {
			case r.failed:
				t.Errorf("%s: %s", c.Name, strings.Join(r.said, "\n"))
			case r.skipped && (len(r.said) == 0 || r.said[0] == ""):
				t.Errorf("%s was skipped without a reason", c.Name)
			case !r.skipped:
				ran++
			}
		})
	}
	if ran < 8 {
		t.Errorf("only %d clauses ran", ran)
	}
}

package discoverytest

import (
	"context"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

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
func tryClause(t *testing.T, name string, newHarness func(testing.TB) Harness) *recorder {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &recorder{TB: t, ctx: ctx}
	var done sync.WaitGroup
	done.Go(func() { runClause(r, clauseNamed(t, name), newHarness) })
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

func allClauses() []clause { return slices.Concat(discoverySuite(), authoritySuite()) }

func clauseNamed(t *testing.T, name string) clause {
	t.Helper()
	for _, c := range allClauses() {
		if c.name == name {
			return c
		}
	}
	t.Fatalf("no clause %q", name)
	return clause{}
}

// bad is a client of a Memory with one fault of its own.
type bad struct {
	*memoryDriver
	list     func(d *memoryDriver, ctx context.Context, q driver.Query) (driver.Snapshot, error)
	services func(d *memoryDriver, ctx context.Context) ([]string, error)
	watch    func(d *memoryDriver, ctx context.Context, q driver.Query, since driver.Snapshot) iter.Seq2[driver.Snapshot, error]
	session  func(s *memorySession) driver.Session
	rehearse func(d *memoryDriver, ctx context.Context, service string) error
	author   func(a *memoryAuthority) driver.Authority
}

func (b *bad) List(ctx context.Context, q driver.Query) (driver.Snapshot, error) {
	if b.list == nil {
		return b.memoryDriver.List(ctx, q)
	}
	return b.list(b.memoryDriver, ctx, q)
}

func (b *bad) Services(ctx context.Context) ([]string, error) {
	if b.services == nil {
		return b.memoryDriver.Services(ctx)
	}
	return b.services(b.memoryDriver, ctx)
}

func (b *bad) Watch(ctx context.Context, q driver.Query, since driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
	if b.watch == nil {
		return b.memoryDriver.Watch(ctx, q, since)
	}
	return b.watch(b.memoryDriver, ctx, q, since)
}

func (b *bad) OpenSession(ctx context.Context, o driver.SessionOptions) (driver.Session, error) {
	s, err := b.memoryDriver.OpenSession(ctx, o)
	if err != nil || b.session == nil {
		return s, err
	}
	return b.session(s.(*memorySession)), nil
}

func (b *bad) Rehearse(ctx context.Context, service string) error {
	if b.rehearse == nil {
		return b.memoryDriver.Rehearse(ctx, service)
	}
	return b.rehearse(b.memoryDriver, ctx, service)
}

func (b *bad) OpenAuthority(ctx context.Context, o driver.AuthorityOptions) (driver.Authority, error) {
	a, err := b.memoryDriver.OpenAuthority(ctx, o)
	if err != nil || b.author == nil {
		return a, err
	}
	return b.author(a.(*memoryAuthority)), nil
}

// badSession forwards to a session, but for what the fault replaces.
type badSession struct {
	*memorySession
	register   func(context.Context, driver.Instance) error
	deregister func(context.Context, driver.Instance) error
	renew      func(context.Context) error
	close      func(context.Context) error
}

func (s *badSession) Register(ctx context.Context, i driver.Instance) error {
	if s.register == nil {
		return s.memorySession.Register(ctx, i)
	}
	return s.register(ctx, i)
}

func (s *badSession) Deregister(ctx context.Context, i driver.Instance) error {
	if s.deregister == nil {
		return s.memorySession.Deregister(ctx, i)
	}
	return s.deregister(ctx, i)
}

func (s *badSession) Renew(ctx context.Context) error {
	if s.renew == nil {
		return s.memorySession.Renew(ctx)
	}
	return s.renew(ctx)
}

func (s *badSession) Close(ctx context.Context) error {
	if s.close == nil {
		return s.memorySession.Close(ctx)
	}
	return s.close(ctx)
}

// badAuthority forwards to an authority, but for what the fault replaces.
type badAuthority struct {
	*memoryAuthority
	acquire  func(context.Context, driver.Claim) (driver.Grant, error)
	rehearse func(context.Context) error
	renew    func(context.Context, driver.Grant) (driver.Grant, error)
	release  func(context.Context, driver.Grant) error
	observe  func(context.Context) iter.Seq2[driver.Mastership, error]
	close    func(context.Context) error
	set      func(context.Context, string, []byte, driver.Revision) (driver.Revision, error)
}

func (a *badAuthority) Acquire(ctx context.Context, c driver.Claim) (driver.Grant, error) {
	if a.acquire == nil {
		return a.memoryAuthority.Acquire(ctx, c)
	}
	return a.acquire(ctx, c)
}

func (a *badAuthority) RehearseClaim(ctx context.Context) error {
	if a.rehearse == nil {
		return a.memoryAuthority.RehearseClaim(ctx)
	}
	return a.rehearse(ctx)
}

func (a *badAuthority) Renew(ctx context.Context, g driver.Grant) (driver.Grant, error) {
	if a.renew == nil {
		return a.memoryAuthority.Renew(ctx, g)
	}
	return a.renew(ctx, g)
}

func (a *badAuthority) Release(ctx context.Context, g driver.Grant) error {
	if a.release == nil {
		return a.memoryAuthority.Release(ctx, g)
	}
	return a.release(ctx, g)
}

func (a *badAuthority) Observe(ctx context.Context) iter.Seq2[driver.Mastership, error] {
	if a.observe == nil {
		return a.memoryAuthority.Observe(ctx)
	}
	return a.observe(ctx)
}

func (a *badAuthority) Close(ctx context.Context) error {
	if a.close == nil {
		return a.memoryAuthority.Close(ctx)
	}
	return a.close(ctx)
}

func (a *badAuthority) Set(ctx context.Context, key string, value []byte, prev driver.Revision) (driver.Revision, error) {
	if a.set == nil {
		return a.memoryAuthority.Set(ctx, key, value, prev)
	}
	return a.set(ctx, key, value, prev)
}

// change makes a change to the provider behind everyone's back.
func (m *Memory) change(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
	m.touch(nil)
}

// defects are what drivers get wrong, and the clause that must notice.
var defects = []struct {
	name   string
	clause string
	driver func(*memoryDriver) *bad
}{
	{"an error is an empty set", "list/error_is_not_empty", lists(func(d *memoryDriver, ctx context.Context, q driver.Query) (driver.Snapshot, error) {
		s, err := d.List(ctx, q)
		if err != nil && ctx.Err() == nil {
			return driver.Snapshot{}, nil
		}
		return s, err
	})},
	{"a part of the set with an error", "list/error_is_not_empty", lists(func(d *memoryDriver, ctx context.Context, q driver.Query) (driver.Snapshot, error) {
		s, err := d.List(ctx, q)
		if err != nil {
			s.Instances = []driver.Instance{instance(service, 0)}
		}
		return s, err
	})},
	{"only the first page", "list/many", lists(func(d *memoryDriver, ctx context.Context, q driver.Query) (driver.Snapshot, error) {
		s, err := d.List(ctx, q)
		s.Instances = s.Instances[:min(len(s.Instances), 100)]
		return s, err
	})},
	{"a prefix without its slash", "list/prefix", lists(func(d *memoryDriver, ctx context.Context, q driver.Query) (driver.Snapshot, error) {
		all, err := d.List(ctx, q)
		for _, other := range []string{"foo", "foobar", "foo/bar"} {
			if other != q.Service && strings.HasPrefix(other, q.Service) {
				s, _ := d.List(ctx, driver.Query{Service: other})
				all.Instances = append(all.Instances, s.Instances...)
			}
		}
		return all, err
	})},
	{"garbage is not named", "list/malformed_neighbour", lists(func(d *memoryDriver, ctx context.Context, q driver.Query) (driver.Snapshot, error) {
		s, err := d.List(ctx, q)
		s.Skipped = nil
		return s, err
	})},
	{"garbage costs its neighbours", "list/malformed_neighbour", lists(func(d *memoryDriver, ctx context.Context, q driver.Query) (driver.Snapshot, error) {
		s, err := d.List(ctx, q)
		if len(s.Skipped) > 0 {
			s.Instances = s.Instances[:1]
		}
		return s, err
	})},
	{"a field is forgotten", "list/whole_instance", lists(func(d *memoryDriver, ctx context.Context, q driver.Query) (driver.Snapshot, error) {
		s, err := d.List(ctx, q)
		for n := range s.Instances {
			s.Instances[n].AppAddrs = nil
		}
		return s, err
	})},
	{"services are cut at a dot", "list/services", catalogs(func(d *memoryDriver, ctx context.Context) ([]string, error) {
		names, err := d.Services(ctx)
		for n := range names {
			names[n], _, _ = strings.Cut(names[n], ".")
		}
		return slices.Compact(names), err
	})},
	{"services are named in small letters", "list/services", catalogs(func(d *memoryDriver, ctx context.Context) ([]string, error) {
		names, err := d.Services(ctx)
		for n := range names {
			names[n] = strings.ToLower(names[n])
		}
		return names, err
	})},
	{"a service is left out whose name starts like another's", "list/services", catalogs(func(d *memoryDriver, ctx context.Context) ([]string, error) {
		names, err := d.Services(ctx)
		return slices.DeleteFunc(names, func(name string) bool { return name == "foobar" }), err
	})},
	{"a service is named for each of its instances", "list/services", catalogs(func(d *memoryDriver, ctx context.Context) ([]string, error) {
		names, err := d.Services(ctx)
		return append(names, names...), err
	})},
	{"an error is no services", "list/services", catalogs(func(d *memoryDriver, ctx context.Context) ([]string, error) {
		names, err := d.Services(ctx)
		if err != nil && ctx.Err() == nil {
			return nil, nil
		}
		return names, err
	})},
	{"an outage of the services is for good", "list/services", catalogs(func(d *memoryDriver, ctx context.Context) ([]string, error) {
		names, err := d.Services(ctx)
		if err != nil && ctx.Err() == nil {
			err = driver.ErrInvalid
		}
		return names, err
	})},
	{"the context is not honoured", "list/cancelled", deaf},
	{"the context is not honoured", "list/slow", deaf},
	{"the watch begins now", "watch/from_the_list", watches(func(d *memoryDriver, ctx context.Context, q driver.Query, _ driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
		since, _ := d.List(ctx, q)
		return d.Watch(ctx, q, since)
	})},
	{"the last change is not told", "watch/no_event_lost", watches(func(d *memoryDriver, ctx context.Context, q driver.Query, since driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
		return func(yield func(driver.Snapshot, error) bool) {
			for s, err := range d.Watch(ctx, q, since) {
				if len(s.Instances) == historySize/2 {
					continue
				}
				if !yield(s, err) {
					return
				}
			}
		}
	})},
	{"a watch yields what was added", "watch/whole_sets_in_order", watches(func(d *memoryDriver, ctx context.Context, q driver.Query, since driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
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
	{"revisions stand still", "watch/whole_sets_in_order", func(d *memoryDriver) *bad {
		return &bad{memoryDriver: d,
			list: func(d *memoryDriver, ctx context.Context, q driver.Query) (driver.Snapshot, error) {
				s, err := d.List(ctx, q)
				s.Revision = 7
				return s, err
			},
			watch: func(d *memoryDriver, ctx context.Context, q driver.Query, since driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
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
	{"compaction is passed over", "watch/compacted", watches(func(d *memoryDriver, ctx context.Context, q driver.Query, _ driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
		now, _ := d.List(ctx, q)
		return d.Watch(ctx, q, now)
	})},
	{"an outage empties the watched set", "watch/outage", watches(func(d *memoryDriver, ctx context.Context, q driver.Query, since driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
		return func(yield func(driver.Snapshot, error) bool) {
			for s, err := range d.Watch(ctx, q, since) {
				if !yield(s, nil) || err != nil {
					return
				}
			}
		}
	})},
	{"the watch outlives its context", "watch/cancelled", watches(func(d *memoryDriver, ctx context.Context, q driver.Query, since driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
		return func(func(driver.Snapshot, error) bool) {
			<-ctx.Done()
			time.Sleep(time.Minute)
		}
	})},
	{"a registration is written once only", "register/deleted_key", onceOnly},
	{"a registration is written once only", "register/update", onceOnly},
	{"registrations have no TTL", "register/ttl", sessions(func(s *memorySession) *badSession {
		return &badSession{memorySession: s, register: func(ctx context.Context, i driver.Instance) error {
			s.d.m.Put(i)
			return nil
		}}
	})},
	{"Renew does nothing", "register/renew", sessions(func(s *memorySession) *badSession {
		return &badSession{memorySession: s, renew: func(context.Context) error { return nil }}
	})},
	{"a lost session is not told", "register/lost_session", sessions(func(s *memorySession) *badSession {
		return &badSession{memorySession: s, renew: func(ctx context.Context) error {
			if err := s.Renew(ctx); err != nil {
				return driver.ErrUnavailable
			}
			return nil
		}}
	})},
	{"Close leaves the registrations", "register/close", sessions(func(s *memorySession) *badSession {
		return &badSession{memorySession: s, close: func(context.Context) error { return nil }}
	})},
	{"an outage counts as a lost session", "register/outage", sessions(func(s *memorySession) *badSession {
		return &badSession{memorySession: s, renew: func(ctx context.Context) error {
			if err := s.Renew(ctx); err != nil {
				return driver.ErrSessionLost
			}
			return nil
		}}
	})},
	{"Deregister removes the successor's", "register/successor_deregister", sessions(func(s *memorySession) *badSession {
		return &badSession{memorySession: s, deregister: func(_ context.Context, i driver.Instance) error {
			s.d.m.Remove(i)
			return nil
		}}
	})},
	{"Close removes the successor's", "register/successor_close", sessions(func(s *memorySession) *badSession {
		return &badSession{memorySession: s, close: func(context.Context) error {
			s.d.m.Remove(instance(service, 0))
			return nil
		}}
	})},
	{"a registration stays on its first session", "register/successor_expiry", sessions(func(s *memorySession) *badSession {
		return &badSession{memorySession: s, register: func(ctx context.Context, i driver.Instance) error {
			if have, _ := s.d.List(ctx, driver.Query{Service: i.Service}); len(have.Instances) > 0 {
				return nil
			}
			return s.Register(ctx, i)
		}}
	})},
	{"everyone is granted", "authority/conflict", overbearing},
	{"everyone is granted", "authority/one_master", overbearing},
	{"a term is given twice", "authority/terms_rise", reused},
	{"MinTerm is not heeded", "authority/min_term", authorities(func(a *memoryAuthority) *badAuthority {
		return &badAuthority{memoryAuthority: a, acquire: func(ctx context.Context, c driver.Claim) (driver.Grant, error) {
			c.MinTerm = 0
			return a.Acquire(ctx, c)
		}}
	})},
	{"a new term for whom already holds one", "authority/found_again", authorities(func(a *memoryAuthority) *badAuthority {
		return &badAuthority{memoryAuthority: a, acquire: func(ctx context.Context, c driver.Claim) (driver.Grant, error) {
			c.MinTerm = a.d.m.term(a.o.Cluster)
			return a.Acquire(ctx, c)
		}}
	})},
	{"its own grant is another's", "authority/found_again", authorities(func(a *memoryAuthority) *badAuthority {
		var n int
		return &badAuthority{memoryAuthority: a, acquire: func(ctx context.Context, c driver.Claim) (driver.Grant, error) {
			n++
			c.Holder.InstanceID += fmt.Sprint(n)
			return a.Acquire(ctx, c)
		}}
	})},
	{"the grant is valid for longer than it stands", "authority/expiry", authorities(func(a *memoryAuthority) *badAuthority {
		return &badAuthority{memoryAuthority: a, renew: func(ctx context.Context, g driver.Grant) (driver.Grant, error) {
			g, err := a.Renew(ctx, g)
			g.ValidFor *= 2
			return g, err
		}}
	})},
	{"a grant never ends", "authority/expiry", authorities(func(a *memoryAuthority) *badAuthority {
		return &badAuthority{memoryAuthority: a, renew: func(ctx context.Context, g driver.Grant) (driver.Grant, error) {
			a.o.TTL = time.Hour
			g, err := a.Renew(ctx, g)
			g.ValidFor = 400 * time.Millisecond
			return g, err
		}}
	})},
	{"a renewal of a grant does nothing", "authority/renew", idle},
	{"a renewal of a grant does nothing", "authority/renew_after_loss", idle},
	{"Release waits for the TTL", "authority/release", authorities(func(a *memoryAuthority) *badAuthority {
		return &badAuthority{memoryAuthority: a, release: func(context.Context, driver.Grant) error { return nil }}
	})},
	{"a late Release ends the successor", "authority/late_release", authorities(func(a *memoryAuthority) *badAuthority {
		return &badAuthority{memoryAuthority: a, release: func(context.Context, driver.Grant) error {
			a.d.m.ExpireMastership(a.o.Cluster)
			return nil
		}}
	})},
	{"Close gives the grant back", "authority/close", authorities(func(a *memoryAuthority) *badAuthority {
		return &badAuthority{memoryAuthority: a, close: func(ctx context.Context) error {
			a.d.m.ExpireMastership(a.o.Cluster)
			return a.Close(ctx)
		}}
	})},
	{"each claim brings its cluster id", "authority/cluster_id", authorities(func(a *memoryAuthority) *badAuthority {
		return &badAuthority{memoryAuthority: a, acquire: func(ctx context.Context, c driver.Claim) (driver.Grant, error) {
			g, err := a.Acquire(ctx, c)
			g.ClusterID = c.ClusterID
			return g, err
		}}
	})},
	{"a mismatch is let in", "authority/cluster_mismatch", authorities(func(a *memoryAuthority) *badAuthority {
		return &badAuthority{memoryAuthority: a, acquire: func(ctx context.Context, c driver.Claim) (driver.Grant, error) {
			c.Known = false
			return a.Acquire(ctx, c)
		}}
	})},
	{"a vacancy is not seen", "authority/observe", authorities(func(a *memoryAuthority) *badAuthority {
		return &badAuthority{memoryAuthority: a, observe: func(ctx context.Context) iter.Seq2[driver.Mastership, error] {
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
	{"one mastership for all clusters", "authority/clusters", authorities(func(a *memoryAuthority) *badAuthority {
		a.o.Cluster = "the one"
		return &badAuthority{memoryAuthority: a}
	})},
	{"an outage counts as a lost grant", "authority/outage", authorities(func(a *memoryAuthority) *badAuthority {
		return &badAuthority{memoryAuthority: a, renew: func(ctx context.Context, g driver.Grant) (driver.Grant, error) {
			g, err := a.Renew(ctx, g)
			if err != nil {
				err = driver.ErrSessionLost
			}
			return g, err
		}}
	})},
	{"a blind write", "store/compare_and_set", blind},
	{"a blind write", "store/counter", blind},
	{"a rehearsal leaves what it tried", "rehearse/registration", rehearsals(func(d *memoryDriver, ctx context.Context, service string) error {
		_, err := tryToRegister(d, ctx, service)
		return err
	})},
	{"a rehearsal is seen for a moment", "rehearse/registration", rehearsals(func(d *memoryDriver, ctx context.Context, service string) error {
		s, err := tryToRegister(d, ctx, service)
		if err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
		return s.Close(ctx)
	})},
	{"every rehearsal goes well", "rehearse/registration_denied", sanguine},
	{"every rehearsal goes well", "rehearse/registration_outage", sanguine},
	{"a rehearsal without an answer is denied", "rehearse/registration_outage", rehearsals(func(d *memoryDriver, ctx context.Context, service string) error {
		if err := d.Rehearse(ctx, service); err != nil {
			return fmt.Errorf("%w: %w", driver.ErrDenied, err)
		}
		return nil
	})},
	{"a rehearsed claim is granted", "rehearse/claim", claimRehearsals(func(a *memoryAuthority, ctx context.Context) error {
		_, err := a.Acquire(ctx, driver.Claim{Holder: a.o.Self})
		return err
	})},
	{"a rehearsed claim takes a term", "rehearse/claim", claimRehearsals(func(a *memoryAuthority, ctx context.Context) error {
		g, err := a.Acquire(ctx, driver.Claim{Holder: a.o.Self})
		if err != nil {
			return nil // another is master
		}
		return a.Release(ctx, g)
	})},
	{"every rehearsed claim goes well", "rehearse/claim_denied", sanguineClaim},
	{"every rehearsed claim goes well", "rehearse/claim_outage", sanguineClaim},
}

func lists(list func(*memoryDriver, context.Context, driver.Query) (driver.Snapshot, error)) func(*memoryDriver) *bad {
	return func(d *memoryDriver) *bad { return &bad{memoryDriver: d, list: list} }
}

func catalogs(services func(*memoryDriver, context.Context) ([]string, error)) func(*memoryDriver) *bad {
	return func(d *memoryDriver) *bad { return &bad{memoryDriver: d, services: services} }
}

func rehearsals(rehearse func(*memoryDriver, context.Context, string) error) func(*memoryDriver) *bad {
	return func(d *memoryDriver) *bad { return &bad{memoryDriver: d, rehearse: rehearse} }
}

func watches(watch func(*memoryDriver, context.Context, driver.Query, driver.Snapshot) iter.Seq2[driver.Snapshot, error]) func(*memoryDriver) *bad {
	return func(d *memoryDriver) *bad { return &bad{memoryDriver: d, watch: watch} }
}

func sessions(wrap func(*memorySession) *badSession) func(*memoryDriver) *bad {
	return func(d *memoryDriver) *bad {
		return &bad{memoryDriver: d, session: func(s *memorySession) driver.Session { return wrap(s) }}
	}
}

func authorities(wrap func(*memoryAuthority) *badAuthority) func(*memoryDriver) *bad {
	return func(d *memoryDriver) *bad {
		return &bad{memoryDriver: d, author: func(a *memoryAuthority) driver.Authority { return wrap(a) }}
	}
}

func claimRehearsals(rehearse func(*memoryAuthority, context.Context) error) func(*memoryDriver) *bad {
	return authorities(func(a *memoryAuthority) *badAuthority {
		return &badAuthority{memoryAuthority: a, rehearse: func(ctx context.Context) error { return rehearse(a, ctx) }}
	})
}

// deaf lists whatever becomes of the context.
func deaf(d *memoryDriver) *bad {
	return lists(func(d *memoryDriver, _ context.Context, q driver.Query) (driver.Snapshot, error) {
		return d.List(context.Background(), q)
	})(d)
}

// onceOnly does not look after what it has written.
func onceOnly(d *memoryDriver) *bad {
	return sessions(func(s *memorySession) *badSession {
		done := make(map[string]bool)
		return &badSession{memorySession: s, register: func(ctx context.Context, i driver.Instance) error {
			if done[i.Key()] {
				return nil
			}
			done[i.Key()] = true
			return s.Register(ctx, i)
		}}
	})(d)
}

// idle renews a grant without asking.
func idle(d *memoryDriver) *bad {
	return authorities(func(a *memoryAuthority) *badAuthority {
		return &badAuthority{memoryAuthority: a, renew: func(_ context.Context, g driver.Grant) (driver.Grant, error) { return g, nil }}
	})(d)
}

// overbearing takes mastership from whoever has it.
func overbearing(d *memoryDriver) *bad {
	return authorities(func(a *memoryAuthority) *badAuthority {
		return &badAuthority{memoryAuthority: a, acquire: func(ctx context.Context, c driver.Claim) (driver.Grant, error) {
			a.d.m.ExpireMastership(a.o.Cluster)
			return a.Acquire(ctx, c)
		}}
	})(d)
}

// reused forgets the term with the holder.
func reused(d *memoryDriver) *bad {
	return authorities(func(a *memoryAuthority) *badAuthority {
		return &badAuthority{memoryAuthority: a, release: func(ctx context.Context, g driver.Grant) error {
			err := a.Release(ctx, g)
			a.d.m.change(func() { a.d.m.cluster(a.o.Cluster).term-- })
			return err
		}}
	})(d)
}

// blind sets a record whatever its revision is.
func blind(d *memoryDriver) *bad {
	return authorities(func(a *memoryAuthority) *badAuthority {
		return &badAuthority{memoryAuthority: a, set: func(ctx context.Context, key string, value []byte, _ driver.Revision) (driver.Revision, error) {
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
func sanguine(d *memoryDriver) *bad {
	return rehearsals(func(_ *memoryDriver, ctx context.Context, _ string) error { return ctx.Err() })(d)
}

func sanguineClaim(d *memoryDriver) *bad {
	return claimRehearsals(func(_ *memoryAuthority, ctx context.Context) error { return ctx.Err() })(d)
}

// tryToRegister is no way to rehearse.
func tryToRegister(d *memoryDriver, ctx context.Context, service string) (driver.Session, error) {
	s, err := d.OpenSession(ctx, driver.SessionOptions{})
	if err != nil {
		return nil, err
	}
	return s, s.Register(ctx, instance(service, 99))
}

func (m *Memory) term(cluster string) driver.Term {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cluster(cluster).term
}

func harnessOver(m *Memory, wrap func(*memoryDriver) driver.Driver) Harness {
	n := 0
	return Harness{
		Open: func(testing.TB) driver.Driver { return wrap(m.Driver().(*memoryDriver)) },
		OpenDenied: func(testing.TB) driver.Driver {
			closed := NewMemory()
			closed.Fail(driver.ErrDenied)
			return wrap(closed.Driver().(*memoryDriver))
		},
		AddGarbage: func(_ testing.TB, service string) {
			n++
			m.AddGarbage(service, fmt.Sprint("garbage-", n))
		},
		RemoveRegistration: func(_ testing.TB, i driver.Instance) { m.Remove(i) },
		ExpireSession: func(_ testing.TB, s driver.Session) {
			if b, ok := s.(*badSession); ok {
				s = b.memorySession
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
				r := tryClause(t, defect.clause, func(testing.TB) Harness {
					return harnessOver(NewMemory(), func(d *memoryDriver) driver.Driver { return defect.driver(d) })
				})
				if !r.failed {
					t.Fatalf("clause %q did not notice: %s; it said %q", defect.clause, defect.name, r.said)
				}
				all := strings.Join(r.said, "\n")
				if !strings.Contains(all, fmt.Sprintf("clause %q is broken", defect.clause)) || !strings.Contains(all, clauseNamed(t, defect.clause).says) {
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
	for _, c := range allClauses() {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := tryClause(t, c.name, func(testing.TB) Harness {
					return harnessOver(NewMemory(), func(d *memoryDriver) driver.Driver { return &bad{memoryDriver: d} })
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
	for _, c := range allClauses() {
		synctest.Test(t, func(t *testing.T) {
			m := NewMemory()
			r := tryClause(t, c.name, func(testing.TB) Harness {
				return Harness{
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
				t.Errorf("%s: %s", c.name, strings.Join(r.said, "\n"))
			case r.skipped && (len(r.said) == 0 || r.said[0] == ""):
				t.Errorf("%s was skipped without a reason", c.name)
			case !r.skipped:
				ran++
			}
		})
	}
	if ran < 8 {
		t.Errorf("only %d clauses ran", ran)
	}
}

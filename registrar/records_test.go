package registrar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/memory"
	"github.com/musterhq/muster/internal/testing/snapshot"
)

// crowded is a provider in memory that has one place for each id, whatever the service, as an
// agent of Consul has. It counts the registrations.
type crowded struct {
	addresses
	registrations *atomic.Int64 // several at a time
}

func (crowded) Normalize(i driver.Instance) driver.Instance { return i }
func (crowded) RecordKey(i driver.Instance) string          { return i.InstanceID }
func (crowded) Review(i driver.Instance) error {
	if i.Service == strings.ToLower(i.Service) {
		return nil
	}
	return errors.New("nobody finds " + i.Service)
}

func (c crowded) OpenSession(ctx context.Context, o driver.SessionOptions) (driver.Session, error) {
	s, err := c.Driver.(driver.Registrar).OpenSession(ctx, o)
	return crowdedSession{s, c}, err
}

type crowdedSession struct {
	driver.Session
	c crowded
}

func (s crowdedSession) Register(ctx context.Context, i driver.Instance) error {
	s.c.registrations.Add(1)
	return s.Session.Register(ctx, i)
}

func of(service, id string, port int) discovery.Instance {
	i := instance(id, port)
	i.Service = service
	return i
}

// standsOf is what is registered of some services, as "service id".
func standsOf(t *testing.T, r *discovery.Registry, services ...string) string {
	t.Helper()
	synctest.Wait()
	var all []string
	for _, service := range services {
		s, err := r.List(t.Context(), discovery.Query{Service: service})
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range snapshot.Instances(s) {
			all = append(all, i.Service+" "+i.InstanceID)
		}
	}
	return strings.Join(all, ", ")
}

// Of those that have one place the first is registered, and stays when one comes that is
// before it. Each says which the others are; when the one that stands goes, another takes its
// place.
func TestOnePlaceForTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		registry := discovery.New("memory", crowded{addresses{memory.New().Driver()}, &calls}, discovery.Options{})
		defer registry.Close()
		r := New(Config{Registry: registry, TTL: ttl})
		defer r.Stop(context.Background())
		alpha, beta, gamma := of("alpha", "same", 1), of("beta", "same", 2), of("gamma", "same", 3)
		stands := func(want string) { // and nothing else, for a long time
			t.Helper()
			if got := standsOf(t, registry, "alpha", "beta", "gamma", "delta"); got != want {
				t.Fatalf("there is %q, want %q: %+v", got, want, r.Status())
			}
			synctest.Wait()
			before := r.Status().Counters
			after(5 * ttl)
			if got := standsOf(t, registry, "alpha", "beta", "gamma", "delta"); got != want {
				t.Fatalf("later there is %q, want %q", got, want)
			}
			if now := r.Status().Counters; now.Repairs != before.Repairs || now.Registrations != before.Registrations {
				t.Errorf("they replace each other: %+v, before %+v", now, before)
			}
		}
		set := func(all ...discovery.Instance) {
			t.Helper()
			if err := r.Set(all...); err != nil {
				t.Fatal(err)
			}
		}
		set(gamma, beta)
		stands("beta same")
		set(alpha, beta, gamma)
		stands("beta same")
		s := r.Status()
		if s.Registered() {
			t.Errorf("all are registered: %+v", s)
		}
		for n, want := range []string{
			"service beta with id same (registered) and service gamma with id same (left out)",
			"service alpha with id same (left out) and service gamma with id same (left out)",
			"service alpha with id same (left out) and service beta with id same (registered)",
		} {
			i := s.Instances[n]
			if !strings.Contains(i.Conflict, want) || i.Registered != (n == 1) || i.Yields == i.Registered || (i.Err == nil) != i.Registered {
				t.Errorf("%s: conflict %q, registered %v, yields %v, error %v; want %s", i.Instance.Service, i.Conflict, i.Registered, i.Yields, i.Err, want)
			}
			if i.Err != nil && !errors.Is(i.Err, driver.ErrConflict) {
				t.Errorf("%s: %v is no conflict", i.Instance.Service, i.Err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := r.Wait(ctx); !errors.Is(err, driver.ErrConflict) {
			t.Errorf("Wait = %v, want the conflict", err)
		}
		gamma.Tags = []string{"new"} // a change of one that is left out
		set(alpha, beta, gamma)
		if i := r.Status().Instances[2]; i.Err == nil || !i.Yields {
			t.Errorf("gamma, changed: %+v", i)
		}
		stands("beta same")
		set(alpha, gamma)
		stands("alpha same")
		gamma.InstanceID = "own"
		set(alpha, gamma)
		stands("alpha same, gamma own")
		if s := r.Status(); !s.Registered() || s.Instances[0].Conflict != "" || s.Instances[0].Yields {
			t.Errorf("when it is solved: %+v", s)
		}
		set()
		stands("")
	})
}

// What is listed under another name in the place of what is desired is not evicted: that
// would take the place away.
func TestEvictSparesTheOwnPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		registry := discovery.New("memory", crowded{addresses{memory.New().Driver()}, &calls}, discovery.Options{})
		defer registry.Close()
		r := New(Config{Registry: registry, TTL: ttl})
		defer r.Stop(context.Background())
		if err := r.Set(of("new", "same", 1)); err != nil {
			t.Fatal(err)
		}
		after(0)
		if err := r.Evict(of("old", "same", 1)); err != nil {
			t.Fatal(err)
		}
		after(ttl)
		if calls.Load() > 3 {
			t.Errorf("%d registrations", calls.Load())
		}
		if s := r.Status(); len(s.Instances) != 1 || !s.Registered() {
			t.Errorf("status %+v", s)
		}
	})
}

func TestReviewIsShownAndLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		var logs strings.Builder
		registry := discovery.New("memory", crowded{addresses{memory.New().Driver()}, &calls}, discovery.Options{})
		defer registry.Close()
		r := New(Config{Registry: registry, TTL: ttl, Logger: slog.New(slog.NewTextHandler(&logs, nil))})
		defer r.Stop(context.Background())
		all := []discovery.Instance{of("Web", "a", 1), of("web", "b", 2), of("API", "c", 3)}
		for range 3 {
			if err := r.Set(all...); err != nil {
				t.Fatal(err)
			}
			after(ttl)
		}
		s := r.Status()
		if !s.Registered() || s.Instances[0].Warning != "nobody finds API" || s.Instances[1].Warning != "nobody finds Web" || s.Instances[2].Warning != "" {
			t.Errorf("status %+v", s.Instances)
		}
		if got := logs.String(); strings.Count(got, "not all readers find") != 1 || !strings.Contains(got, `instances=2 warning="nobody finds API"`) {
			t.Errorf("logs:\n%s", got)
		}
		all[0].Service = "web"
		if err := r.Set(all...); err != nil {
			t.Fatal(err)
		}
		after(0)
		if s := r.Status(); s.Instances[1].Warning != "" {
			t.Errorf("after it was renamed: %+v", s.Instances)
		}
	})
}

// Names from wherever they come obey the rules of those that are configured.
func TestNamesThatAreNotPublished(t *testing.T) {
	virtual(t, Config{}, func(l *lab) {
		good := instance("good", 1)
		for n, name := range []string{"a b", "a\tb", "a\n", "\x00", "a\x7f", "a\u00a0b", "a\u200bb", "a\u202eb", "a\x1b[31m", "\xff", " ", "a\u2028b"} {
			for _, bad := range []discovery.Instance{of(name, "x", 1), instance(name, 2), func() discovery.Instance { i := instance("x", 3); i.NodeID = name; return i }()} {
				err := l.Set(good, bad)
				if !errors.Is(err, driver.ErrInvalid) || !strings.Contains(err.Error(), "white space or control characters") || strings.ContainsAny(err.Error(), "\x00\n\x1b") {
					l.Errorf("%d: %q: %v", n, name, err)
				}
			}
		}
		l.holds(good)
		for _, name := range []string{"büro", "team/web", "web.1", "a:b", "日本"} {
			if err := Validate(of(name, name, 1)); err != nil {
				l.Errorf("%s: %v", name, err)
			}
		}
	})
}

// rivalsOver are two registrars that register the same id at two addresses, the first one at
// the lower.
func rivalsOver(t *testing.T, test func(memory *memory.Server, one, two *Registrar)) {
	synctest.Test(t, func(t *testing.T) {
		memory := memory.New()
		var both []*Registrar
		for port := range 2 {
			registry := discovery.New("memory", memory.Driver(), discovery.Options{})
			defer registry.Close()
			r := New(Config{Registry: registry, TTL: ttl})
			defer r.Stop(context.Background())
			if err := r.Set(instance("same", port+1)); err != nil {
				t.Fatal(err)
			}
			both = append(both, r)
		}
		test(memory, both[0], both[1])
	})
}

// Two that register one id do not replace each other without end: one of them yields, both say
// so, and the one that yielded is there when the other goes.
func TestContestEnds(t *testing.T) {
	rivalsOver(t, func(memory *memory.Server, one, two *Registrar) {
		after(time.Minute)
		repairs := func() uint64 { return one.Status().Counters.Repairs + two.Status().Counters.Repairs }
		before := repairs()
		after(30 * time.Minute)
		if n := repairs() - before; n > 2*30/5+2 {
			t.Errorf("%d repairs in half an hour after one has yielded", n)
		}
		a, b := one.Status().Instances[0], two.Status().Instances[0]
		if !a.Registered || a.Yields || !a.Contested || a.Rival != instance("same", 2).Addr {
			t.Errorf("the one that stays: %+v", a)
		}
		if b.Registered || !b.Yields || !b.Contested || b.Rival != instance("same", 1).Addr || !errors.Is(b.Err, driver.ErrConflict) || !strings.Contains(b.Err.Error(), a.Instance.Addr) {
			t.Errorf("the one that yields: %+v", b)
		}
		if err := one.Stop(context.Background()); err != nil {
			t.Fatal(err)
		}
		after(time.Second)
		if s := two.Status(); !s.Registered() || s.Instances[0].Yields || s.Instances[0].Err != nil {
			t.Errorf("when the other has gone: %+v", s)
		}
		after(10 * time.Minute)
		if s := two.Status(); s.Instances[0].Contested {
			t.Errorf("long after the other has gone: %+v", s)
		}
	})
}

// A session that is lost does not end the yielding, and a new address does.
func TestYieldingOutlivesTheSession(t *testing.T) {
	rivalsOver(t, func(memory *memory.Server, one, two *Registrar) {
		after(time.Minute)
		if !two.Status().Instances[0].Yields {
			t.Fatalf("status %+v", two.Status())
		}
		before := one.Status().Counters.Repairs
		for _, outage := range []time.Duration{ttl / 2, 2 * ttl} { // the session outlives the first one
			memory.Fail(driver.ErrUnavailable)
			after(outage)
			memory.Fail(nil)
			after(ttl / 4)
			for range 8 {
				after(ttl / 4)
				if a, b := one.Status().Instances[0], two.Status().Instances[0]; outage < ttl && (!b.Yields || !a.Registered) {
					t.Fatalf("after %v: %+v and %+v", outage, a, b)
				}
			}
		}
		after(time.Minute)
		if n := one.Status().Counters.Repairs - before; n > 2 || one.Status().Instances[0].Yields == two.Status().Instances[0].Yields {
			t.Errorf("after an outage: %+v and %+v, %d repairs", one.Status().Instances[0], two.Status().Instances[0], n)
		}
		if err := two.Set(instance("another", 2)); err != nil {
			t.Fatal(err)
		}
		after(time.Second)
		if s := two.Status(); !s.Registered() {
			t.Errorf("with an id of its own: %+v", s)
		}
	})
}

// A rival that never yields, and is at the higher address, is left alone in the end, and one
// that has died and left its record behind is replaced.
func TestContestWithOneThatNeverYields(t *testing.T) {
	virtual(t, Config{}, func(l *lab) {
		foreign := instance("same", 9)
		l.set(instance("same", 1))
		for range 600 { // for ten minutes, each second
			l.memory.Put(foreign)
			after(time.Second)
		}
		s := l.Status()
		if n := s.Counters.Repairs; n > 12 {
			l.Errorf("%d repairs in ten minutes", n)
		}
		if i := s.Instances[0]; !i.Yields || i.Registered || i.Rival != foreign.Addr {
			l.Errorf("status %+v", i)
		}
		after(6 * time.Minute)
		l.holds(instance("same", 1))
		if i := l.Status().Instances[0]; i.Yields || !i.Registered {
			l.Errorf("after the rival has died: %+v", i)
		}
	})
}

func TestRankSeesWhatReadersSee(t *testing.T) {
	a := instance("same", 1)
	b := a
	b.RegisteredAt = time.Now()
	b.Tags = []string{a.Tags[1], a.Tags[0], a.Tags[1]}
	if rank(a) != rank(b) {
		t.Errorf("%s and %s differ", rank(a), rank(b))
	}
	b.Meta = map[string]string{"version": "2"}
	if rank(a) == rank(b) {
		t.Error("two forms at one address have one rank")
	}
	if got := fmt.Sprint(rank(instance("same", 1)) < rank(instance("same", 2))); got != "true" {
		t.Error("the lower address does not come first")
	}
}

// occupiedSession has another service in each place, and calls asked when it is asked for it.
type occupiedSession struct {
	driver.Session
	asked func()
}

func (s occupiedSession) Occupant(_ context.Context, i driver.Instance) (driver.Instance, bool, error) {
	s.asked()
	return of("other", i.InstanceID, 9), true, nil
}

// What is no longer desired when its occupant is found has no alarm, which nothing would clear.
func TestOccupantOfWhatIsForgotten(t *testing.T) {
	closed := func(_ *memory.Server, tap *tap) { tap.on("open", unavailable) }
	virtualFrom(t, Config{}, closed, func(l *lab) {
		a := instance("a", 1) // it is never sent, and so forgotten at once
		if err := l.Set(a); err != nil {
			l.Fatal(err)
		}
		l.Registrar.mu.Lock()
		e := l.entries.all[keyOf(a)]
		l.Registrar.mu.Unlock()
		if !l.look(l.Context(), occupiedSession{asked: func() {}}, e, a) || len(l.alarms.Raised(contested)) != 1 {
			l.Fatal("an occupant is no alarm")
		}
		forget := func() {
			if err := l.Set(); err != nil {
				l.Error(err)
			}
		}
		if l.look(l.Context(), occupiedSession{asked: forget}, e, a) || len(l.alarms.Raised(contested)) != 0 {
			l.Errorf("raised is %q", l.alarms.Raised(contested))
		}
	})
}

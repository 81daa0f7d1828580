package discoverytest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// check is one run of one clause.
type check struct {
	testing.TB
	Harness
	clause clause
	seeded map[string][]driver.Instance // by service, where Seed stands in for a Registrar
}

// broken ends the clause with what was seen.
func (k *check) broken(format string, args ...any) {
	k.Helper()
	k.Fatalf("clause %q is broken.\n\tThe contract: %s\n\tSeen: %s", k.clause.name, k.clause.says, fmt.Sprintf(format, args...))
}

// Polling is frequent, and prompt is what even a loaded machine keeps to.
const (
	pollEvery = 20 * time.Millisecond
	prompt    = 5 * time.Second
)

// service is the name that most clauses use.
const service = "suite"

// open opens one more client.
func (k *check) open() driver.Driver {
	k.Helper()
	return k.opened(k.Open(k))
}

// openDenied opens a client that may change nothing, or skips the clause.
func (k *check) openDenied() driver.Driver {
	k.Helper()
	k.needs("OpenDenied", k.OpenDenied != nil)
	return k.opened(k.OpenDenied(k))
}

// opened has d closed when the clause ends.
func (k *check) opened(d driver.Driver) driver.Driver {
	k.Cleanup(func() {
		if err := d.Close(); err != nil {
			k.Errorf("Close of the driver: %v", err)
		}
	})
	return d
}

// ctx bounds a step by Patience.
func (k *check) ctx() context.Context {
	ctx, cancel := context.WithTimeout(k.Context(), k.Patience)
	k.Cleanup(cancel)
	return ctx
}

// unavailable reports whether err says that the provider could not be reached,
// which a real one may be for a moment.
func unavailable(err error) bool {
	for _, kind := range []error{driver.ErrDenied, driver.ErrInvalid, driver.ErrNotFound, driver.ErrConflict, driver.ErrClosed, driver.ErrUnsupported} {
		if errors.Is(err, kind) {
			return false
		}
	}
	return err != nil
}

// must makes one step of a clause that is not what the clause is about: it tries
// again while the provider is unavailable.
func (k *check) must(what string, step func(ctx context.Context) error) {
	k.Helper()
	ctx, cancel := context.WithTimeout(k.Context(), k.Patience)
	defer cancel()
	for {
		err := step(ctx)
		if err == nil {
			return
		}
		if k.Context().Err() != nil {
			runtime.Goexit() // the clause is over, and this a goroutine of it
		}
		if !unavailable(err) || ctx.Err() != nil {
			k.Fatalf("clause %q: %s: %v", k.clause.name, what, err)
		}
		k.sleep(pollEvery)
	}
}

// answer makes a call again while the provider is unavailable, and returns its
// answer.
func (k *check) answer(what string, call func(ctx context.Context) error) error {
	k.Helper()
	var err error
	k.must(what, func(ctx context.Context) error {
		if err = call(ctx); unavailable(err) {
			return err
		}
		return nil
	})
	return err
}

func (k *check) sleep(d time.Duration) {
	select {
	case <-time.After(d):
	case <-k.Context().Done():
	}
}

func (k *check) list(d driver.Driver, service string) driver.Snapshot {
	k.Helper()
	var s driver.Snapshot
	k.must("List", func(ctx context.Context) (err error) {
		s, err = d.List(ctx, driver.Query{Service: service})
		return err
	})
	return s
}

// eventually lists until the set is the one that is wanted.
func (k *check) eventually(d driver.Driver, service, why string, want ...driver.Instance) {
	k.Helper()
	k.eventuallyWithin(k.Patience, d, service, why, want...)
}

func (k *check) eventuallyWithin(bound time.Duration, d driver.Driver, service, why string, want ...driver.Instance) {
	k.Helper()
	deadline := time.Now().Add(bound)
	for {
		diff := diffSets(want, k.list(d, service).Instances)
		if diff == "" {
			return
		}
		if time.Now().After(deadline) {
			k.broken("%v after %s, List is still not what it should be: %s", bound, why, diff)
		}
		k.sleep(pollEvery)
	}
}

// stays lists for a while and wants the set never to be another.
func (k *check) stays(bound time.Duration, d driver.Driver, service, why string, want ...driver.Instance) {
	k.Helper()
	for start := time.Now(); ; k.sleep(pollEvery) {
		if diff := diffSets(want, k.list(d, service).Instances); diff != "" {
			k.broken("%v after %s: %s", time.Since(start).Round(time.Millisecond), why, diff)
		}
		if time.Since(start) >= bound {
			return
		}
	}
}

// registrar returns d's ability to register, or skips the clause.
func (k *check) registrar(d driver.Driver) driver.Registrar {
	k.Helper()
	r, ok := d.(driver.Registrar)
	if !ok {
		k.Skipf("%T is no driver.Registrar", d)
	}
	return r
}

func (k *check) watcher(d driver.Driver) driver.Watcher {
	k.Helper()
	w, ok := d.(driver.Watcher)
	if !ok {
		k.Skipf("%T is no driver.Watcher", d)
	}
	return w
}

// needs skips the clause where the harness lacks an ability.
func (k *check) needs(name string, have bool) {
	k.Helper()
	if !have {
		k.Skipf("the harness has no %s", name)
	}
}

// session opens a session that is not renewed.
func (k *check) session(d driver.Driver) driver.Session {
	k.Helper()
	return k.sessionOf(d, k.SessionTTL)
}

func (k *check) sessionOf(d driver.Driver, ttl time.Duration) driver.Session {
	k.Helper()
	r := k.registrar(d)
	var s driver.Session
	k.must("OpenSession", func(ctx context.Context) (err error) {
		s, err = r.OpenSession(ctx, driver.SessionOptions{TTL: ttl})
		return err
	})
	if s.TTL() <= 0 {
		k.broken("the session's TTL is %v", s.TTL())
	}
	k.Cleanup(func() {
		// What a clause does to its session may make this fail, and a session that
		// cannot be closed expires.
		ctx, cancel := context.WithTimeout(context.Background(), prompt)
		defer cancel()
		s.Close(ctx)
	})
	return s
}

// liveSession opens a session that is renewed until the clause ends. It lasts long: no clause waits
// for its end, and a machine that is slow to renew it breaks no promise.
func (k *check) liveSession(d driver.Driver) driver.Session {
	k.Helper()
	s := k.sessionOf(d, max(k.SessionTTL, 30*time.Second))
	k.keepAlive(s.TTL(), func(ctx context.Context) { s.Renew(ctx) })
	return s
}

// keepAlive calls renew four times in a TTL until stop is called or the clause
// ends.
func (k *check) keepAlive(ttl time.Duration, renew func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(k.Context())
	var done sync.WaitGroup
	done.Go(func() {
		ticker := time.NewTicker(ttl / 4)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				call, cancel := context.WithTimeout(ctx, ttl)
				renew(call)
				cancel()
			case <-ctx.Done():
				return
			}
		}
	})
	stop = func() { cancel(); done.Wait() }
	k.Cleanup(stop)
	return stop
}

func (k *check) register(s driver.Session, instances ...driver.Instance) {
	k.Helper()
	for _, i := range instances {
		k.must("Register", func(ctx context.Context) error { return s.Register(ctx, i) })
	}
}

// publisher adds and removes instances by the driver where it is a Registrar, and
// else by the harness.
type publisher struct {
	k *check
	s driver.Session
}

// publisher returns the way to change what d lists. Instances that were put are
// returned as List is to show them.
func (k *check) publisher(d driver.Driver) *publisher {
	k.Helper()
	if _, ok := d.(driver.Registrar); ok {
		return &publisher{k: k, s: k.liveSession(d)}
	}
	k.needs("Seed, and the driver is no driver.Registrar", k.Seed != nil)
	return &publisher{k: k}
}

func (p *publisher) put(instances ...driver.Instance) []driver.Instance {
	p.k.Helper()
	if p.s != nil {
		p.k.register(p.s, instances...)
		return instances
	}
	if p.k.seeded == nil {
		p.k.seeded = make(map[string][]driver.Instance)
	}
	of := instances[0].Service
	before := len(p.k.seeded[of])
	p.k.seeded[of] = append(p.k.seeded[of], instances...)
	shown := p.k.Seed(p.k, of, slices.Clone(p.k.seeded[of]))
	if len(shown) != before+len(instances) {
		p.k.Fatalf("Seed of %d instances says that List is to show %d", before+len(instances), len(shown))
	}
	return shown[before:]
}

func (p *publisher) remove(i driver.Instance) {
	p.k.Helper()
	if p.s != nil {
		p.k.must("Deregister", func(ctx context.Context) error { return p.s.Deregister(ctx, i) })
		return
	}
	left := slices.DeleteFunc(slices.Clone(p.k.seeded[i.Service]), func(j driver.Instance) bool { return i.Addr == j.Addr })
	p.k.seeded[i.Service] = left
	p.k.Seed(p.k, i.Service, slices.Clone(left))
}

// place publishes instances of one service before the returned driver is opened,
// where it has to be, and returns them as List is to show them.
func (k *check) place(instances ...driver.Instance) (driver.Driver, []driver.Instance) {
	k.Helper()
	if k.Seed != nil {
		probe := k.Open(k)
		_, registers := probe.(driver.Registrar)
		if err := probe.Close(); err != nil {
			k.Fatalf("Close of the driver: %v", err)
		}
		if !registers {
			shown := (&publisher{k: k}).put(instances...)
			return k.open(), shown
		}
	}
	d := k.open()
	shown := k.publisher(d).put(instances...)
	return k.open(), shown
}

// instance returns the n-th instance of a service.
func instance(service string, n int) driver.Instance {
	return driver.Instance{
		Service:      service,
		NodeID:       fmt.Sprintf("node-%d", n),
		InstanceID:   fmt.Sprintf("%032x", n+1),
		Addr:         fmt.Sprintf("10.1.%d.%d:7946", n/250, n%250+1),
		RegisteredAt: time.Unix(1_700_000_000+int64(n), 0).UTC(),
	}
}

// diffSets says how have differs from want, or nothing. The order is free.
func diffSets(want, have []driver.Instance) string {
	rest := make(map[string]driver.Instance, len(want))
	for _, i := range want {
		rest[i.Key()] = i
	}
	var said []string
	for _, i := range have {
		w, ok := rest[i.Key()]
		switch {
		case !ok:
			said = append(said, fmt.Sprintf("%s is there and should not be, or is there twice", show(i)))
		case !w.SameAs(i):
			said = append(said, fmt.Sprintf("%s differs: want %+v, have %+v", show(i), w, i))
		}
		delete(rest, i.Key())
	}
	for _, key := range slices.Sorted(maps.Keys(rest)) {
		said = append(said, show(rest[key])+" is missing")
	}
	if n := len(said); n > 5 {
		said = append(said[:5], fmt.Sprintf("and %d more", n-5))
	}
	return strings.Join(said, "; ")
}

func show(i driver.Instance) string { return fmt.Sprintf("%s %s at %s", i.Service, i.Key(), i.Addr) }

// keys identifies a set.
func keys(instances []driver.Instance) string {
	all := make([]string, 0, len(instances))
	for _, i := range instances {
		all = append(all, i.Key())
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

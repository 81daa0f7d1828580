package casauthority_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/driver/casauthority"
)

// counting counts the reads of the record.
type counting struct {
	*memory
	reads atomic.Int64
}

func (c *counting) Read(ctx context.Context, key string) (casauthority.Value, error) {
	c.reads.Add(1)
	return c.memory.Read(ctx, key)
}

func newMemory() *memory { return &memory{values: make(map[string]casauthority.Value)} }

func opened(t *testing.T, c casauthority.Config) *casauthority.Authority {
	t.Helper()
	if c.Cluster == "" {
		c.Cluster = "orders"
	}
	a, err := casauthority.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close(context.Background()) })
	return a
}

func claim(node string) driver.Claim {
	return driver.Claim{Holder: driver.Holder{NodeID: node, InstanceID: node + "-1", Addr: "10.0.0.1:7946"}, ClusterID: "c1"}
}

func acquired(t *testing.T, a *casauthority.Authority, c driver.Claim) driver.Grant {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		g, err := a.Acquire(t.Context(), c)
		if err == nil {
			return g
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// While the master is vouched for the record is hardly read. When that stops, it is looked
// at once, and the master has expired a TTL after that.
func TestSuspect(t *testing.T) {
	t.Parallel()
	const ttl = 500 * time.Millisecond
	m := newMemory()
	acquired(t, opened(t, casauthority.Config{Store: m, TTL: ttl}), claim("a"))
	store := &counting{memory: m}
	b := opened(t, casauthority.Config{Store: store, TTL: ttl})
	seen := make(chan driver.Mastership, 100)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	b.Suspect(false)
	go func() {
		for m := range b.Observe(ctx) {
			seen <- m
		}
	}()
	if m := <-seen; m.Holder == nil || m.Term != 1 {
		t.Fatalf("at first there is %+v", m)
	}
	select {
	case m := <-seen:
		t.Errorf("while the master is vouched for, %+v is observed", m)
	case <-time.After(3 * ttl):
	}
	if n := store.reads.Load(); n != 1 {
		t.Errorf("%d reads in 3 TTLs, want 1", n)
	}
	began := time.Now()
	b.Suspect(true)
	select {
	case m := <-seen:
		if took := time.Since(began); m.Holder != nil || took < ttl || took > 2*ttl {
			t.Errorf("after %v %+v is observed, want the vacancy after %v", took, m, ttl)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no vacancy is observed")
	}
}

// A master makes three writes in a TTL, and reads nothing.
func TestMasterReadsNothing(t *testing.T) {
	t.Parallel()
	store := &counting{memory: newMemory()}
	a := opened(t, casauthority.Config{Store: store, TTL: 600 * time.Millisecond})
	g := acquired(t, a, claim("a"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for range a.Observe(ctx) {
		}
	}()
	before := store.reads.Load()
	for range 10 {
		time.Sleep(100 * time.Millisecond) // the interval is what is tested
		var err error
		if g, err = a.Renew(t.Context(), g); err != nil {
			t.Fatal(err)
		}
	}
	if n := store.reads.Load() - before; n != 0 {
		t.Errorf("%d reads beside 10 renewals", n)
	}
}

// Elections of one cluster have a holder and a term each.
func TestElections(t *testing.T) {
	t.Parallel()
	m := newMemory()
	var grants []driver.Grant
	for _, election := range []string{"", "shard-1", "shard/2"} {
		a := opened(t, casauthority.Config{Store: m, Election: election, TTL: 500 * time.Millisecond})
		grants = append(grants, acquired(t, a, claim("a"+election)))
	}
	for n, g := range grants {
		if g.Term != 1 {
			t.Errorf("grant %d has term %d", n, g.Term)
		}
	}
	records, ceilings := 0, 0
	for key := range m.values {
		if strings.Contains(key, "/longest-ttl/") {
			ceilings++
		} else {
			records++
		}
	}
	if records != 3 || ceilings != 3 {
		t.Errorf("there are %d records and %d ceilings, want 3 of each", records, ceilings)
	}
}

// A TTL that is reloaded counts from the next term on.
func TestSetTTL(t *testing.T) {
	t.Parallel()
	a := opened(t, casauthority.Config{Store: newMemory(), TTL: 500 * time.Millisecond})
	g := acquired(t, a, claim("a"))
	if err := a.SetTTL(time.Minute); !errors.Is(err, driver.ErrInvalid) {
		t.Errorf("a TTL that is too long: %v", err)
	}
	if err := a.SetTTL(20 * time.Second); err != nil {
		t.Fatal(err)
	}
	if g, err := a.Renew(t.Context(), g); err != nil || g.ValidFor != 500*time.Millisecond {
		t.Errorf("renewed: %+v, %v", g, err)
	}
	if err := a.Release(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	if g := acquired(t, a, claim("a")); g.ValidFor != 20*time.Second {
		t.Errorf("the next grant is valid for %v", g.ValidFor)
	}
}

// A record that was deleted by hand may have had a holder with a longer TTL than that of who
// knows of no cluster. What was written beside it says so.
func TestDeletedRecord(t *testing.T) {
	t.Parallel()
	const long, short = 2 * time.Second, 500 * time.Millisecond
	for name, change := range map[string]struct {
		before, after time.Duration // the TTL of who was master before, and of the holder
		edit          func(m *memory, key string)
		least         time.Duration // nobody is granted before
	}{
		"a longer ttl":              {0, long, nil, long},
		"a ttl that became longer":  {short, long, nil, long},
		"a ttl that became shorter": {long, short, nil, long},
		"one ttl for all":           {0, short, nil, short},
		"a ceiling that says nothing": {0, short, func(m *memory, key string) {
			v := m.values[key]
			m.revision++
			v.Data, v.Revision = []byte("by hand"), m.revision
			m.values[key] = v
		}, 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMemory()
			c := casauthority.Config{Store: m, TTL: change.after, MaxTTL: 3 * time.Second}
			if change.before != 0 {
				first := c
				first.TTL = change.before
				a := opened(t, first)
				if err := a.Release(t.Context(), acquired(t, a, claim("first"))); err != nil {
					t.Fatal(err)
				}
			}
			holder := opened(t, c)
			acquired(t, holder, claim("holder"))
			granted := time.Now()
			m.mu.Lock()
			delete(m.values, holder.Key())
			if change.edit != nil {
				for key := range m.values {
					change.edit(m, key)
				}
			}
			m.mu.Unlock()
			stranger := c
			stranger.TTL = short
			g := acquired(t, opened(t, stranger), claim("stranger"))
			if took := time.Since(granted); took < change.least {
				t.Errorf("granted term %d %v after the holder was, want %v at least", g.Term, took, change.least)
			} else if took > change.least+2*time.Second {
				t.Errorf("granted only after %v, want hardly more than %v", took, change.least)
			}
		})
	}
}

// What is configured wrong is refused, and a closed authority makes no call.
func TestRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]casauthority.Config{
		"no store": {Cluster: "c"}, "no cluster": {Store: newMemory()},
		"too short": {Store: newMemory(), Cluster: "c", TTL: time.Millisecond},
		"too long":  {Store: newMemory(), Cluster: "c", TTL: time.Hour},
	} {
		if _, err := casauthority.New(c); !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	a := opened(t, casauthority.Config{Store: newMemory()})
	if _, err := a.Acquire(t.Context(), driver.Claim{ClusterID: "c"}); !errors.Is(err, driver.ErrInvalid) {
		t.Errorf("a claim of nobody: %v", err)
	}
	if err := a.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Acquire(t.Context(), claim("a")); err == nil || errors.Is(err, driver.ErrConflict) {
		t.Errorf("Acquire after Close: %v", err)
	}
	observed := func(ctx context.Context) (all []error) {
		for _, err := range a.Observe(ctx) {
			all = append(all, err)
		}
		return all
	}
	if all := observed(t.Context()); len(all) != 1 || !errors.Is(all[0], driver.ErrClosed) {
		t.Errorf("Observe after Close yields %v, want ErrClosed", all)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if all := observed(ended); len(all) != 0 {
		t.Errorf("Observe after Close with a context that has ended yields %v", all)
	}
}

// waiting is a store whose reports of changes a test makes.
type waiting struct {
	*memory
	wait func(ctx context.Context) error
}

func (w *waiting) Wait(ctx context.Context, _ string, mark uint64) (uint64, error) {
	if mark == 0 {
		return 1, nil
	}
	return mark + 1, w.wait(ctx)
}

// A watch of records ends with what ends it: the error of the store, as it is, the end of its
// context, in silence, or that of the authority.
func TestEndOfAWatch(t *testing.T) {
	t.Parallel()
	until := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for name, v := range map[string]struct {
		wait func(context.Context) error
		end  func(cancel context.CancelFunc, a *casauthority.Authority)
		want error
	}{
		"denied":  {func(context.Context) error { return driver.ErrDenied }, nil, driver.ErrDenied},
		"away":    {func(context.Context) error { return driver.ErrUnavailable }, nil, driver.ErrUnavailable},
		"context": {until, func(cancel context.CancelFunc, _ *casauthority.Authority) { cancel() }, nil},
		"closed":  {until, func(_ context.CancelFunc, a *casauthority.Authority) { _ = a.Close(context.Background()) }, driver.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := opened(t, casauthority.Config{Store: &waiting{newMemory(), v.wait}})
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			var last error
			yields := 0
			for records, err := range a.WatchRecords(ctx, "") {
				if yields++; yields == 1 {
					if err != nil || len(records) != 0 {
						t.Errorf("at first it yields %v, %v", records, err)
					}
					if v.end != nil {
						go v.end(cancel, a)
					}
					continue
				}
				if last != nil {
					t.Errorf("after %v it yields %v, %v", last, records, err)
				}
				last = err
			}
			if (last == nil) != (v.want == nil) || !errors.Is(last, v.want) {
				t.Errorf("it ended with %v, want %v", last, v.want)
			}
			if v.want == driver.ErrDenied && errors.Is(last, driver.ErrClosed) {
				t.Errorf("an authority that is not closed says %v", last)
			}
			if v.want != nil && ctx.Err() != nil {
				t.Error("its context has ended, too")
			}
		})
	}
}

package discovery_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/memory"
	"github.com/musterhq/muster/internal/testing/snapshot"
)

// pair is a union of the registries "a" and "b", each over a provider in memory.
func pair(t *testing.T) (u *discovery.Union, a, b *memory.Server) {
	t.Helper()
	a, b = memory.New(), memory.New()
	u = discovery.NewUnion(
		discovery.New("a", a.Driver(), discovery.Options{}),
		discovery.New("b", b.Driver(), discovery.Options{}))
	t.Cleanup(func() {
		if err := u.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return u, a, b
}

// newest is the last that a watch of a union yielded.
type newest struct {
	t      *testing.T
	states chan discovery.UnionSnapshot
	last   discovery.UnionSnapshot
}

func watchUnion(t *testing.T, u *discovery.Union) *newest {
	t.Helper()
	n := &newest{t: t, states: make(chan discovery.UnionSnapshot)}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(n.states)
		for s := range u.Watch(ctx, orders) {
			select {
			case n.states <- s:
			case <-ctx.Done():
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		for range n.states {
		}
	})
	return n
}

// want lets everything happen that can, and compares the last state in short form:
// the keys with the providers that list each, or ? where nothing is known; and who
// is not up to date, by what is said of it.
func (n *newest) want(want, why string) {
	n.t.Helper()
	for settled := false; !settled; {
		synctest.Wait()
		select {
		case s, ok := <-n.states:
			if !ok {
				n.t.Fatalf("%s: the watch has ended", why)
			}
			n.last = s
		default:
			settled = true
		}
	}
	if got := inShort(n.last); got != want {
		n.t.Fatalf("%s: the last state is %q, want %q", why, got, want)
	}
}

func inShort(s discovery.UnionSnapshot) string {
	var words []string
	if !s.Known {
		words = append(words, "?")
	}
	for _, i := range snapshot.Instances(s) {
		words = append(words, i.Key()+"("+strings.Join(s.Providers(i), "")+")")
	}
	for _, p := range s.Parts {
		switch {
		case !p.Known && p.Err == nil:
			words = append(words, p.Provider+" pending")
		case p.Err != nil:
			words = append(words, p.Provider+" "+discovery.Kind(p.Err))
		}
		if p.Err != nil && !strings.Contains(s.Err.Error(), p.Err.Error()) {
			words = append(words, "<the error does not tell>")
		}
	}
	if s.Stale != (s.Known && s.Err != nil) {
		words = append(words, fmt.Sprintf("<stale %v, error %v>", s.Stale, s.Err))
	}
	return strings.Join(words, " ")
}

// One provider that fails makes the union stale, and never smaller. What the other
// says goes on counting.
func TestUnionDegrades(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		u, a, b := pair(t)
		a.Put(instance(1), instance(2))
		b.Put(instance(2), instance(3))
		b.Fail(errDown)
		w := watchUnion(t, u)
		w.want("i1(a) i2(a) b unavailable", "b was down from the start")
		b.Fail(nil)
		time.Sleep(10 * time.Second)
		w.want("i1(a) i2(ab) i3(b)", "b came")
		a.Fail(driver.ErrDenied)
		time.Sleep(10 * time.Second)
		w.want("i1(a) i2(ab) i3(b) a denied", "a failed: its last good set stays")
		b.Remove(instance(3))
		b.Put(instance(4))
		time.Sleep(10 * time.Second)
		w.want("i1(a) i2(ab) i4(b) a denied", "b goes on")
		b.Fail(errDown)
		time.Sleep(time.Minute)
		w.want("i1(a) i2(ab) i4(b) a denied b unavailable", "both fail")
		a.Wipe()
		a.Fail(nil)
		time.Sleep(10 * time.Second)
		w.want("i2(b) i4(b) b unavailable", "a is back and empty")
	})
}

// A provider that hangs holds up nobody who waits for the other, and can be told
// from one that has nothing.
func TestUnionDoesNotWaitForTheSlow(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		u, a, b := pair(t)
		a.Put(instance(1))
		b.Put(instance(2))
		b.Delay(3 * time.Second)
		start := time.Now()
		w := watchUnion(t, u)
		w.want("i1(a) b pending", "nothing was heard from b")
		if w.last.Settled() || !w.last.Stale || !strings.Contains(w.last.Err.Error(), "provider b: ") {
			t.Errorf("settled %v, stale %v, error %v: b is not reported", w.last.Settled(), w.last.Stale, w.last.Err)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("it took %v", took)
		}
		time.Sleep(4 * time.Second)
		w.want("i1(a) i2(b)", "b has answered")
		if !w.last.Settled() {
			t.Error("not settled")
		}
	})
}

func TestUnionMerges(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		u, a, b := pair(t)
		byAddr := func(addr string) discovery.Instance { return discovery.Instance{Service: "orders", Addr: addr} }
		// A list of addresses comes first, and still gives way to who says more.
		a.Put(byAddr("10.0.0.1:7946"), byAddr("[::ffff:10.0.0.2]:7946"), byAddr("Host-9.:7946"))
		later := instance(3)
		later.RegisteredAt = time.Now()
		later.Zone = "b"
		earlier := instance(3)
		earlier.Zone = "a"
		a.Put(earlier)
		restarted := instance(5)
		restarted.Addr = instance(2).Addr // on the port of one that is still listed
		b.Put(instance(2), later, restarted, byAddr("host-9:7946"), byAddr("10.0.0.4:7946"))
		a.AddGarbage("orders", "z")
		b.AddGarbage("orders", "y")
		s, err := u.List(t.Context(), orders)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff("10.0.0.1:7946(a) 10.0.0.4:7946(b) Host-9.:7946(ab) i2(ab) i3(ab) i5(ab)", inShort(s)); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		if got := snapshot.Instances(s)[4]; got.Zone != "a" {
			t.Errorf("of two entries for i3 the one of %q was chosen, want that of the first registry", got.Zone)
		}
		if len(s.Skipped) != 2 || s.Revision != 0 || s.At.IsZero() || s.Stale {
			t.Errorf("skipped %v, revision %d, at %v, stale %v", s.Skipped, s.Revision, s.At, s.Stale)
		}
		for n, want := range []int{4, 5} {
			if got := len(snapshot.Instances(s.Parts[n])); got != want || s.Parts[n].Revision == 0 {
				t.Errorf("part %d has %d instances, want %d, at revision %d", n, got, want, s.Parts[n].Revision)
			}
		}
	})
}

// A union of one registry says what the registry says.
func TestUnionOfOne(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		m := memory.New()
		m.Put(instance(1), instance(2), discovery.Instance{Service: "orders", Addr: "10.0.0.9:1"})
		m.AddGarbage("orders", "junk")
		r := registry(t, m.Driver(), discovery.Options{})
		want, err := r.List(t.Context(), orders)
		if err != nil {
			t.Fatal(err)
		}
		got, err := discovery.NewUnion(r).List(t.Context(), orders)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got.Snapshot, cmp.AllowUnexported(discovery.Snapshot{}), cmp.Comparer(func(a, b error) bool { return errors.Is(a, b) || a.Error() == b.Error() })); diff != "" {
			t.Errorf("-registry +union:\n%s", diff)
		}
	})
}

func TestUnionList(t *testing.T) {
	t.Run("one is down", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			u, a, b := pair(t)
			a.Put(instance(1))
			b.Fail(errDown)
			s, err := u.List(t.Context(), orders)
			if got := inShort(s); err != nil || got != "i1(a) b unavailable" {
				t.Errorf("List = %q, %v", got, err)
			}
		})
	})
	t.Run("one hangs", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			u, a, b := pair(t)
			a.Put(instance(1))
			b.Delay(time.Hour)
			start := time.Now()
			s, err := u.List(t.Context(), orders)
			if got := inShort(s); err != nil || got != "i1(a) b unavailable" {
				t.Errorf("List = %q, %v", got, err)
			}
			if took := time.Since(start); took != 5*time.Second {
				t.Errorf("it took %v, want one call timeout", took)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if s, err = u.List(ctx, orders); err != nil || inShort(s) != "i1(a) b pending" {
				t.Errorf("with a deadline before the call's: %q, %v", inShort(s), err)
			}
		})
	})
	t.Run("all are down for a while", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			u, a, b := pair(t)
			a.Put(instance(1))
			a.Fail(errDown)
			b.Fail(driver.ErrDenied)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			s, err := u.List(ctx, orders)
			if s.Known || !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, driver.ErrDenied) || !errors.Is(err, errDown) {
				t.Errorf("List = %q, %v, want all reasons", inShort(s), err)
			}
			time.AfterFunc(time.Minute, func() { a.Fail(nil) })
			if s, err = u.List(t.Context(), orders); err != nil || inShort(s) != "i1(a) b denied" {
				t.Errorf("List = %q, %v, want it to have waited", inShort(s), err)
			}
		})
	})
	t.Run("nothing can be fixed by waiting", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			u, a, b := pair(t)
			a.Fail(driver.ErrInvalid)
			b.Fail(driver.ErrDenied)
			start := time.Now()
			_, err := u.List(t.Context(), orders)
			if !errors.Is(err, driver.ErrInvalid) || !errors.Is(err, driver.ErrDenied) || time.Since(start) != 0 {
				t.Errorf("List = %v after %v", err, time.Since(start))
			}
		})
	})
	t.Run("of nothing", func(t *testing.T) {
		if _, err := discovery.NewUnion().List(t.Context(), orders); !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("List = %v", err)
		}
	})
}

// The end of one registry leaves the others; the end of all ends the watch, also
// where its own body closes them.
func TestUnionClose(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		u, a, b := pair(t)
		a.Put(instance(1))
		b.Put(instance(2))
		w := watchUnion(t, u)
		w.want("i1(a) i2(b)", "both are well")
		if err := u.Registries()[0].Close(); err != nil {
			t.Error(err)
		}
		w.want("i1(a) i2(b) a closed", "a was closed")
		if !errors.Is(w.last.Err, discovery.ErrClosed) {
			t.Errorf("error %v", w.last.Err)
		}
		if err := u.Close(); err != nil {
			t.Error(err)
		}
		for s := range w.states {
			if !s.Known {
				t.Errorf("the end emptied the set: %+v", s)
			}
		}
		if _, err := u.List(t.Context(), orders); !errors.Is(err, discovery.ErrClosed) {
			t.Errorf("List of a closed union: %v", err)
		}
	})
	inBubble(t, func(t *testing.T) {
		u, _, _ := pair(t)
		for range u.Watch(t.Context(), orders) {
			if err := u.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestUnionRaisesPanics(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		bad := &watching{
			fake: &fake{list: func(context.Context, int) (driver.Snapshot, error) { return driver.Snapshot{}, nil }},
			watch: func(context.Context, driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
				panic("out of cheese")
			},
		}
		u := discovery.NewUnion(
			registry(t, memory.New().Driver(), discovery.Options{}),
			registry(t, bad, discovery.Options{}))
		defer func() {
			if p := recover(); p == nil || !strings.Contains(fmt.Sprint(p), "out of cheese") {
				t.Errorf("recovered %v", p)
			}
		}()
		for range u.Watch(t.Context(), orders) {
		}
	})
}

package discovery_test

import (
	"context"
	"errors"
	"fmt"
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
)

// follow collects in the background what a watch yields.
type follow struct {
	mu   sync.Mutex
	seen []discovery.Snapshot
}

func watch(t *testing.T, r *discovery.Registry) *follow {
	t.Helper()
	f := &follow{}
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		for s := range r.Watch(ctx, orders) {
			f.mu.Lock()
			f.seen = append(f.seen, s)
			f.mu.Unlock()
		}
	})
	t.Cleanup(func() { cancel(); done.Wait() })
	return f
}

// take returns what was yielded since the last take, in short form: the keys, or
// ? where nothing is known, and ! with the kind of the error if there is one.
func (f *follow) take() string {
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for _, s := range f.seen {
		short := "?"
		if s.Known {
			short = "["
			for _, i := range snapshot.Instances(s) {
				short += i.Key()
			}
			short += "]"
		}
		if s.Stale != (s.Known && s.Err != nil) {
			short += fmt.Sprintf("<stale %v, error %v>", s.Stale, s.Err)
		}
		if s.Err != nil {
			short += "!" + discovery.Kind(s.Err)
		}
		all = append(all, short)
	}
	f.seen = nil
	return strings.Join(all, " ")
}

func (f *follow) want(t *testing.T, want, why string) {
	t.Helper()
	if got := f.take(); got != want {
		t.Fatalf("%s: the watch yielded %q, want %q", why, got, want)
	}
}

// pollOnly hides every ability but to list.
type pollOnly struct{ driver.Driver }

// Whatever way the changes come, the consumer sees the same.
func TestWatch(t *testing.T) {
	for name, over := range map[string]func(*memory.Server) driver.Driver{
		"watching": func(m *memory.Server) driver.Driver { return m.Driver() },
		"polling":  func(m *memory.Server) driver.Driver { return pollOnly{m.Driver()} },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				m := memory.New()
				m.Fail(errDown)
				f := watch(t, registry(t, over(m), discovery.Options{}))
				f.want(t, "?!unavailable", "the provider is down at the start")
				time.Sleep(time.Minute)
				f.want(t, "", "it stays down")
				m.Fail(driver.ErrDenied)
				time.Sleep(10 * time.Second)
				f.want(t, "?!denied", "the reason is another")
				m.Fail(nil)
				time.Sleep(10 * time.Second)
				f.want(t, "[]", "it answers, and nothing is registered")
				m.Put(instance(1))
				time.Sleep(10 * time.Second)
				f.want(t, "[i1]", "an instance came")
				m.Put(instance(2))
				time.Sleep(10 * time.Second)
				f.want(t, "[i1i2]", "another came")
				m.Put(instance(2))
				m.Put(discovery.Instance{Service: "other", InstanceID: "x", Addr: "10.0.0.1:1"})
				time.Sleep(10 * time.Second)
				f.want(t, "", "nothing changed in the set")
				m.AddGarbage("orders", "junk")
				time.Sleep(10 * time.Second)
				f.want(t, "[i1i2]", "an entry that cannot be read came")
				time.Sleep(10 * time.Minute)
				f.want(t, "", "and is news but once")
				m.Fail(errDown)
				time.Sleep(3 * time.Minute)
				f.want(t, "[i1i2]!unavailable", "the provider went down: stale, not smaller")
				m.Remove(instance(1))
				time.Sleep(time.Minute)
				f.want(t, "", "and stays down")
				m.Fail(nil)
				time.Sleep(10 * time.Second)
				f.want(t, "[i2]", "it is back, and fresh")
				m.Fail(errDown)
				time.Sleep(time.Minute)
				m.Fail(nil)
				time.Sleep(10 * time.Second)
				f.want(t, "[i2]!unavailable [i2]", "an outage over which nothing changed")
				changed := instance(2)
				changed.Meta = map[string]string{"version": "2"}
				m.Put(changed)
				time.Sleep(10 * time.Second)
				f.want(t, "[i2]", "an instance changed")
			})
		})
	}
}

func TestWatchIsAtOnceWhereTheDriverWatches(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		m := memory.New()
		f := watch(t, registry(t, m.Driver(), discovery.Options{}))
		f.want(t, "[]", "the start")
		m.Put(instance(1))
		f.want(t, "[i1]", "an instance came, and no time passed")
		// Half an hour of looks on a timer brings nothing new, and is no restart.
		time.Sleep(30 * time.Minute)
		f.want(t, "", "nothing changed")
	})
}

func TestWatchListsAgainAfterCompaction(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		starts := 0
		w := &watching{
			fake: &fake{list: func(_ context.Context, n int) (driver.Snapshot, error) {
				return driver.Snapshot{Instances: []discovery.Instance{instance(n)}}, nil
			}},
			watch: func(ctx context.Context, _ driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
				return func(yield func(driver.Snapshot, error) bool) {
					if starts++; starts == 1 {
						yield(driver.Snapshot{}, driver.ErrCompacted)
						return
					}
					<-ctx.Done()
				}
			},
		}
		r := registry(t, w, discovery.Options{})
		start := time.Now()
		var got []string
		for s := range r.Watch(t.Context(), orders) {
			if s.Err != nil {
				t.Errorf("a compaction made the set %+v", s)
			}
			got = append(got, snapshot.Instances(s)[0].Key())
			if snapshot.Instances(s)[0].Key() == "i2" {
				break
			}
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("it took %v to list again, want none; yielded %v", took, got)
		}
		if n := r.Stats().WatchRestarts; n != 1 {
			t.Errorf("WatchRestarts = %d, want 1", n)
		}
	})
}

// A provider that always says compacted, or whose watch ends at once, must not be
// called in a tight loop.
func TestWatchNeverBusyLoops(t *testing.T) {
	for name, end := range map[string]func(yield func(driver.Snapshot, error) bool){
		"compacted":        func(yield func(driver.Snapshot, error) bool) { yield(driver.Snapshot{}, driver.ErrCompacted) },
		"ends silently":    func(func(driver.Snapshot, error) bool) {},
		"breaks each time": func(yield func(driver.Snapshot, error) bool) { yield(driver.Snapshot{}, errDown) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := &watching{
					fake: &fake{list: func(context.Context, int) (driver.Snapshot, error) {
						return driver.Snapshot{Instances: []discovery.Instance{instance(1)}}, nil
					}},
					watch: func(context.Context, driver.Snapshot) iter.Seq2[driver.Snapshot, error] { return end },
				}
				f := watch(t, registry(t, w, discovery.Options{}))
				time.Sleep(10 * time.Minute)
				if n := w.calls(); n < 60 || n > 600 {
					t.Fatalf("%d lists in 10 min, want one in about 2.5 s", n)
				}
				if got := f.take(); !strings.HasPrefix(got, "[i1]") || strings.Contains(got, "[]") || strings.Contains(got, "?") {
					t.Fatalf("yielded %q", got)
				}
			})
		})
	}
}

// A watch that loses an event is put right by the look on a timer.
func TestWatchIsLevelTriggered(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		m := memory.New()
		m.Put(instance(1))
		d := m.Driver()
		deaf := &watching{
			fake: &fake{list: func(ctx context.Context, _ int) (driver.Snapshot, error) { return d.List(ctx, orders) }},
			watch: func(ctx context.Context, _ driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
				return func(func(driver.Snapshot, error) bool) { <-ctx.Done() }
			},
		}
		r := registry(t, deaf, discovery.Options{})
		f := watch(t, r)
		f.want(t, "[i1]", "the start")
		m.Put(instance(2))
		time.Sleep(40 * time.Second)
		f.want(t, "", "the watch is deaf")
		time.Sleep(35 * time.Second)
		f.want(t, "[i1i2]", "after a look on the timer")
		if st := r.Stats(); st.WatchRestarts != 0 || len(st.Errors) != 0 {
			t.Fatalf("a look on the timer counts as a failure: %+v", st)
		}
	})
}

func TestWatchPollsWhereWatchingIsUnsupported(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := &watching{
			fake: &fake{list: func(_ context.Context, n int) (driver.Snapshot, error) {
				return driver.Snapshot{Instances: []discovery.Instance{instance(min(n, 3))}}, nil
			}},
			watch: func(context.Context, driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
				return func(yield func(driver.Snapshot, error) bool) { yield(driver.Snapshot{}, driver.ErrUnsupported) }
			},
		}
		f := watch(t, registry(t, w, discovery.Options{}))
		time.Sleep(30 * time.Second)
		// The first list is at once followed by the second: there is no watch to wait for.
		if got := f.take(); !strings.HasSuffix(got, "[i3]") || strings.Contains(got, "!") {
			t.Fatalf("yielded %q", got)
		}
	})
}

func TestPollingIsSpread(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var times []time.Time
		f := &fake{list: func(context.Context, int) (driver.Snapshot, error) {
			times = append(times, time.Now())
			return driver.Snapshot{}, nil
		}}
		watch(t, registry(t, f, discovery.Options{PollInterval: 10 * time.Second}))
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		different := make(map[time.Duration]bool)
		for n := range times[1:] {
			gap := times[n+1].Sub(times[n])
			different[gap] = true
			if gap < 8*time.Second || gap > 12*time.Second {
				t.Fatalf("%v between two polls, want 10 s give or take 2 s", gap)
			}
		}
		if len(times) < 50 || len(different) < 30 {
			t.Fatalf("%d polls at %d different intervals", len(times), len(different))
		}
	})
}

func TestSlowConsumerSeesTheNewestAndHoldsUpNobody(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		m := memory.New()
		r := registry(t, m.Driver(), discovery.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var sizes []int
		for s := range r.Watch(ctx, orders) {
			sizes = append(sizes, len(snapshot.Instances(s)))
			if len(sizes) == 1 {
				for n := range 100 {
					m.Put(instance(n))
					synctest.Wait() // the registry has taken it
				}
				continue
			}
			cancel()
		}
		if len(sizes) != 2 || sizes[1] != 100 {
			t.Fatalf("yielded sets of %v, want 0 and then 100", sizes)
		}
	})
}

// What came and went while the consumer was busy is no news.
func TestSetThatChangedBackIsNotYieldedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		m := memory.New()
		m.Put(instance(1))
		r := registry(t, m.Driver(), discovery.Options{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		yields := 0
		for range r.Watch(ctx, orders) {
			yields++
			m.Put(instance(2))
			synctest.Wait()
			m.Remove(instance(2))
			synctest.Wait()
		}
		if yields != 1 {
			t.Fatalf("yielded %d times, want once", yields)
		}
	})
}

func TestConsumerMayReorderItsSnapshot(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		m := memory.New()
		m.Put(instance(1), instance(2))
		r := registry(t, m.Driver(), discovery.Options{})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		yields := 0
		for s := range r.Watch(ctx, orders) {
			yields++
			snapshot.Instances(s)[0], snapshot.Instances(s)[1] = snapshot.Instances(s)[1], discovery.Instance{}
		}
		if yields != 1 {
			t.Fatalf("yielded %d times, want once: a consumer changed what the registry compares with", yields)
		}
	})
}

func TestPanicOfADriverIsNotSwallowed(t *testing.T) {
	panics := func(what func()) (p any) {
		defer func() { p = recover() }()
		what()
		return nil
	}
	r := registry(t, &fake{list: func(context.Context, int) (driver.Snapshot, error) { panic("a bug") }}, discovery.Options{})
	isTheBug := func(p any) bool {
		s := fmt.Sprint(p)
		return strings.Contains(s, "a bug") && strings.Contains(s, "watch_test.go")
	}
	if p := panics(func() { r.List(t.Context(), orders) }); !isTheBug(p) {
		t.Errorf("List panicked with %v, want the bug and where it is", p)
	}
	p := panics(func() {
		for range r.Watch(t.Context(), orders) {
		}
	})
	if !isTheBug(p) {
		t.Errorf("Watch panicked with %v, want the bug and where it is", p)
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		m := memory.New()
		m.Delay(time.Hour)
		r := registry(t, m.Driver(), discovery.Options{CallTimeout: 2 * time.Hour})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		for s := range r.Watch(ctx, orders) {
			t.Errorf("yielded %+v", s)
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("ended after %v", took)
		}
		if st := r.Stats(); len(st.Errors) != 0 {
			t.Errorf("a consumer that leaves counts as an error: %+v", st)
		}
	})
}

// The first state is soon there, even from a provider that swallows requests.
func TestWatchSaysSoonThatNothingIsKnown(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		m := memory.New()
		m.Delay(time.Hour)
		r := registry(t, m.Driver(), discovery.Options{})
		start := time.Now()
		for s := range r.Watch(t.Context(), orders) {
			if s.Known || snapshot.Instances(s) != nil || !errors.Is(s.Err, driver.ErrUnavailable) {
				t.Errorf("yielded %+v", s)
			}
			break
		}
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("the first state took %v, want the call timeout", took)
		}
	})
}

// All who watch the same share one watch, which ends with the last of them.
func TestWatchIsShared(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		m := memory.New()
		counting := &counting{Driver: m.Driver()}
		r := registry(t, counting, discovery.Options{PollInterval: time.Minute})
		first := watch(t, r)
		first.want(t, "[]", "the first")
		second := watch(t, r)
		second.want(t, "[]", "another, who is told at once")
		other, leave := context.WithCancel(t.Context())
		var done sync.WaitGroup
		done.Go(func() {
			for range r.Watch(other, discovery.Query{Service: "orders", Zone: "eu-1"}) {
			}
		})
		synctest.Wait()
		if n := counting.lists.Load(); n != 2 {
			t.Errorf("read %d times, want once for two who watch the same and once for one who does not", n)
		}
		m.Put(instance(1))
		time.Sleep(2 * time.Minute)
		first.want(t, "[i1]", "the first, of a change")
		second.want(t, "[i1]", "the other")
		leave()
		done.Wait()
	})
}

// counting is a driver that only lists.
type counting struct {
	driver.Driver
	lists atomic.Int64
}

func (c *counting) List(ctx context.Context, q driver.Query) (driver.Snapshot, error) {
	c.lists.Add(1)
	return c.Driver.List(ctx, q)
}

// A failure is reported once, by its name, and so is its end.
func TestFailureAndItsEndAreReported(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var logs lockedBuffer
		m := memory.New()
		r := registry(t, m.Driver(), discovery.Options{Logger: slog.New(slog.NewTextHandler(&logs, nil))})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		go func() {
			for range r.Watch(ctx, orders) {
			}
		}()
		count := func(what string) int { return strings.Count(logs.String(), what) }
		wants := func(when string, failures, ends int) {
			t.Helper()
			synctest.Wait()
			if f, e := count(`"provider fails"`), count(`"provider answers again"`); f != failures || e != ends {
				t.Errorf("%s: %d failures and %d ends are reported, want %d and %d:\n%s", when, f, e, failures, ends, logs.String())
			}
		}
		time.Sleep(time.Minute)
		wants("all is well", 0, 0)
		m.Fail(errDown)
		time.Sleep(time.Minute)
		wants("it fails", 1, 0)
		m.Fail(nil)
		time.Sleep(time.Minute)
		wants("it answers again", 1, 1)
		m.Fail(errDown)
		time.Sleep(time.Minute)
		wants("it fails again", 2, 1)
	})
}

// An entry that is skipped is reported once, also one for which the driver gives no reason.
func TestSkippedWithoutAReason(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var logs lockedBuffer
		skipped := []driver.Skipped{{Key: "orders/a"}}
		r := registry(t, &fake{list: func(context.Context, int) (driver.Snapshot, error) {
			return driver.Snapshot{Skipped: skipped}, nil
		}}, discovery.Options{Logger: slog.New(slog.NewTextHandler(&logs, nil))})
		list := func(want int) {
			t.Helper()
			if _, err := r.List(t.Context(), orders); err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(logs.String(), `"entry skipped"`); n != want {
				t.Errorf("reported %d times, want %d:\n%s", n, want, logs.String())
			}
		}
		list(1)
		list(1)
		skipped = append(skipped, driver.Skipped{Key: "orders/b", Reason: errors.New("not an instance")})
		list(2)
		list(2)
		if n := strings.Count(logs.String(), "no longer skipped"); n != 0 {
			t.Errorf("an end is reported %d times of what is skipped", n)
		}
		skipped = skipped[:1]
		list(2)
		if n := strings.Count(logs.String(), `"entry no longer skipped"`); n != 1 {
			t.Errorf("the end of one is reported %d times:\n%s", n, logs.String())
		}
	})
}

// A watch yields when the entries change that are skipped, or why, also where no reason is
// given.
func TestWatchOfWhatIsSkipped(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var before []driver.Skipped
		for _, step := range []struct {
			skipped []driver.Skipped
			yields  bool
		}{
			{[]driver.Skipped{{Key: "orders/a"}}, true},
			{[]driver.Skipped{{Key: "orders/a"}}, false},
			{[]driver.Skipped{{Key: "orders/a", Reason: errors.New("no address")}}, true},
			{[]driver.Skipped{{Key: "orders/a", Reason: errors.New("no address")}}, false},
			{[]driver.Skipped{{Key: "orders/a", Reason: errors.New("no port")}}, true},
			{[]driver.Skipped{{Key: "orders/b", Reason: errors.New("no port")}}, true},
			{nil, true},
		} {
			var now atomic.Pointer[[]driver.Skipped]
			now.Store(&before)
			r := discovery.New("test", &fake{list: func(context.Context, int) (driver.Snapshot, error) {
				return driver.Snapshot{Skipped: *now.Load()}, nil
			}}, discovery.Options{PollInterval: time.Second})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			yields := 0
			for range r.Watch(ctx, orders) {
				yields++
				now.Store(&step.skipped)
			}
			cancel()
			_ = r.Close()
			want := 1
			if step.yields {
				want = 2
			}
			if yields != want {
				t.Errorf("from %v to %v: yielded %d times, want %d", before, step.skipped, yields, want)
			}
			before = step.skipped
		}
	})
}

package cron_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/memory"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/cron"
	"github.com/musterhq/muster/node/mastership"
)

// store is what a node makes of a provider's records.
type store struct{ driver.Store }

func (s store) Watch(ctx context.Context, prefix string) iter.Seq2[[]driver.Record, error] {
	return discovery.WatchRecords(ctx, s.Store, prefix)
}

func openStore(t testing.TB) store {
	t.Helper()
	a, err := memory.New().Driver().(driver.Authorizer).OpenAuthority(t.Context(), driver.AuthorityOptions{
		Cluster: "test", Self: driver.Holder{NodeID: "a", InstanceID: "a1", Addr: "127.0.0.1:1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(context.Background()) })
	return store{a.(driver.Store)}
}

// member is a node that is master when a test says so.
type member struct {
	id     string
	terms  chan node.Term // 0 ends the last one
	inside atomic.Int32   // functions that have not returned
}

func newMember(id string) *member { return &member{id: id, terms: make(chan node.Term)} }

func (m *member) ID() string         { return m.id }
func (m *member) InstanceID() string { return m.id + "-1" }

func (m *member) WhileMaster(ctx context.Context, fn func(context.Context, node.Term) error, _ ...mastership.WhileMasterOption) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		select {
		case <-ctx.Done():
		case term := <-m.terms:
			if term == 0 {
				continue
			}
			mine, end := context.WithCancel(ctx)
			returned := make(chan struct{})
			m.inside.Add(1)
			go func() { fn(mine, term); m.inside.Add(-1); close(returned) }()
			select {
			case <-m.terms:
			case <-ctx.Done():
			}
			end()
			<-returned
		}
	}
}

// journal is what has run.
type journal struct {
	mu    sync.Mutex
	fires []cron.Fire
}

func (j *journal) run(_ context.Context, f cron.Fire) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.fires = append(j.fires, f)
	return nil
}

func (j *journal) times(layout string, loc *time.Location) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var all []string
	for _, f := range j.fires {
		all = append(all, f.Scheduled.In(loc).Format(layout))
	}
	return all
}

// world is a scheduler in virtual time.
type world struct {
	t    *testing.T
	s    store
	jump atomic.Int64 // how wrong the wall clock is, in nanoseconds
}

func inWorld(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, &world{t: t, s: openStore(t)}) })
}

func (w *world) start(n cron.Node, jobs ...cron.Job) (stop func()) { return w.startOn(w.s, n, jobs...) }

// startOn starts a scheduler with a store that may be out of order.
func (w *world) startOn(on cron.Store, n cron.Node, jobs ...cron.Job) (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	s := &cron.Scheduler{Node: n, Store: on, Logger: slog.New(slog.NewTextHandler(w.t.Output(), nil)),
		Now: func() time.Time { return time.Now().Add(time.Duration(w.jump.Load())) }}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := s.Run(ctx, jobs...); !errors.Is(err, context.Canceled) {
			w.t.Errorf("Run: %v", err)
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-ended })
	w.t.Cleanup(stop)
	synctest.Wait()
	return stop
}

// sleep lets virtual time go by.
func (w *world) sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (w *world) status(name string) cron.JobStatus {
	w.t.Helper()
	all, err := cron.List(w.t.Context(), w.s)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, j := range all {
		if j.Name == name {
			return j
		}
	}
	return cron.JobStatus{}
}

func (w *world) want(what string, got []string, want ...string) {
	w.t.Helper()
	if !slices.Equal(got, want) {
		w.t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

const clock = "15:04:05"

// Virtual time begins at midnight UTC of 1 January 2000.
func TestJobRunsWhenItsScheduleSaysSo(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		loc := zone(t, "Europe/Berlin")
		s, err := cron.Parse("30 2 * * *", loc)
		if err != nil {
			t.Fatal(err)
		}
		var j journal
		w.start(nil, cron.Job{Name: "nightly", Schedule: s, Run: j.run})
		w.sleep(100 * 24 * time.Hour) // over the last Sunday of March
		got := j.times("01-02 15:04 MST", loc)
		if len(got) != 100 || !slices.Contains(got, "03-26 03:00 CEST") || !slices.Contains(got, "03-27 02:30 CEST") {
			t.Errorf("%d fires: %q", len(got), got)
		}
		if st := w.status("nightly"); len(st.Runs) != 20 || st.Runs[0].State != cron.Done || st.Runs[0].Seq != 100 {
			t.Errorf("%d runs are kept, the last one %+v", len(st.Runs), st.Runs[0])
		}
	})
}

// A fire falls between two masters. Both count from the record.
func TestMissedFires(t *testing.T) {
	for _, c := range []struct {
		name   string
		missed cron.Missed
		window time.Duration
		gap    time.Duration
		want   []string
	}{
		{"on time after a short gap", cron.Skip, 0, 5 * time.Second, []string{"01:00:00", "02:00:00", "03:00:00"}},
		{"skipped", cron.Skip, 0, 10 * time.Minute, []string{"01:00:00", "03:00:00"}},
		{"caught up with", cron.Once, 0, 10 * time.Minute, []string{"01:00:00", "02:00:00", "03:00:00"}},
		{"too late", cron.Once, 5 * time.Minute, 10 * time.Minute, []string{"01:00:00", "03:00:00"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				var j journal
				a, b := newMember("a"), newMember("b")
				job := cron.Job{Name: "hourly", Schedule: cron.Every(time.Hour), Run: j.run, Missed: c.missed, Window: c.window}
				w.start(a, job)
				w.start(b, job)
				a.terms <- 1
				w.sleep(2*time.Hour - time.Second)
				a.terms <- 0
				w.sleep(time.Second + c.gap)
				b.terms <- 2
				w.sleep(time.Hour)
				w.want("fires", j.times(clock, time.UTC), c.want...)
			})
		})
	}
}

// The master changes in the middle of a run, which says so, and runs again if the job wants that.
func TestInterruptedRun(t *testing.T) {
	for _, missed := range []cron.Missed{cron.Skip, cron.Once} {
		t.Run(string(missed), func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				var terms []node.Term
				a, b := newMember("a"), newMember("b")
				job := cron.Job{Name: "hourly", Schedule: cron.Every(time.Hour), Missed: missed,
					Run: func(ctx context.Context, f cron.Fire) error {
						terms = append(terms, f.Term)
						if f.Term == 1 {
							<-ctx.Done()
							return ctx.Err()
						}
						return nil
					}}
				w.start(a, job)
				w.start(b, job)
				a.terms <- 1
				w.sleep(time.Hour + time.Minute)
				a.terms <- 0
				synctest.Wait()
				if st := w.status("hourly"); st.Runs[0].State != cron.Interrupted || st.Runs[0].NodeID != "a" {
					t.Errorf("the run: %+v", st.Runs[0])
				}
				b.terms <- 2
				w.sleep(time.Minute)
				want := []node.Term{1}
				if missed == cron.Once {
					want = append(want, 2)
				}
				if !slices.Equal(terms, want) {
					t.Errorf("it ran in terms %v, want %v", terms, want)
				}
			})
		})
	}
}

// A run that was stopped while the mastership goes on is no failure.
func TestInterruptedWhileTheMastershipGoesOn(t *testing.T) {
	for missed, want := range map[cron.Missed][]cron.RunState{
		cron.Skip: {cron.Interrupted},
		cron.Once: {cron.Done},
	} {
		inWorld(t, func(t *testing.T, w *world) {
			runs, a := 0, newMember("a")
			w.start(a, cron.Job{Name: "hourly", Schedule: cron.Every(time.Hour), Missed: missed,
				Run: func(context.Context, cron.Fire) error {
					if runs++; runs == 1 {
						return fmt.Errorf("%w: not renewed", cron.ErrInterrupted)
					}
					return nil
				}})
			a.terms <- 1
			w.sleep(time.Hour + time.Minute)
			var got []cron.RunState
			for _, r := range w.status("hourly").Runs[:1] {
				got = append(got, r.State)
			}
			if again := missed == cron.Once; !slices.Equal(got, want) || again != (runs == 2) {
				t.Errorf("%s: it ran %d times, the last one %v; want %v", missed, runs, got, want)
			}
		})
	}
}

// A master that is gone without a word left a run behind: the next one says what became of it.
func TestRunOfANodeThatCrashed(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		value := `{"what":"2000-01-01T00:00:00.000000000Z","state":"running","term":1,"node_id":"gone","token":"x","data":{"since":"1999-12-31T00:00:00Z","schedule":"@every 1h0m0s"}}`
		if _, err := w.s.Set(t.Context(), "cron/runs/hourly", []byte(value), 0); err != nil {
			t.Fatal(err)
		}
		var j journal
		b := newMember("b")
		w.start(b, cron.Job{Name: "hourly", Schedule: cron.Every(time.Hour), Run: j.run})
		b.terms <- 2
		w.sleep(time.Minute)
		if st := w.status("hourly"); len(st.Runs) != 1 || st.Runs[0].State != cron.Interrupted || st.Runs[0].NodeID != "gone" {
			t.Errorf("the runs: %+v", st.Runs)
		}
		w.sleep(time.Hour)
		st := w.status("hourly")
		if len(st.Runs) != 2 || st.Runs[0].State != cron.Done || st.Runs[1].State != cron.Interrupted {
			t.Errorf("the runs: %+v", st.Runs)
		}
	})
}

// A run that takes longer than the interval is not joined by a second one.
func TestNoOverlap(t *testing.T) {
	for missed, want := range map[cron.Missed][]string{
		cron.Skip: {"00:01:00", "00:04:00", "00:07:00"},
		cron.Once: {"00:01:00", "00:03:00", "00:06:00"}, // each time the latest that came due
	} {
		t.Run(string(missed), func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				var j journal
				running := 0
				w.start(nil, cron.Job{Name: "slow", Schedule: cron.Every(time.Minute), Missed: missed, Window: time.Hour,
					Run: func(ctx context.Context, f cron.Fire) error {
						if running++; running > 1 {
							t.Error("two at once")
						}
						defer func() { running-- }()
						time.Sleep(2*time.Minute + 30*time.Second)
						return j.run(ctx, f)
					}})
				w.sleep(9*time.Minute + 45*time.Second)
				got := j.times(clock, time.UTC)
				w.want("fires", got, want...)
			})
		})
	}
}

// The clock is set back, and ahead; and one of another host was in 2036.
func TestWallClock(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var j journal
		w.start(nil, cron.Job{Name: "hourly", Schedule: cron.Every(time.Hour), Run: j.run})
		w.sleep(2*time.Hour + time.Minute)
		w.jump.Store(int64(-90 * time.Minute)) // 00:31
		w.sleep(time.Hour + 30*time.Minute)
		w.want("set back", j.times(clock, time.UTC), "01:00:00", "02:00:00")
		w.sleep(time.Hour) // 03:01
		w.want("and come up with", j.times(clock, time.UTC), "01:00:00", "02:00:00", "03:00:00")
		w.jump.Add(int64(5 * time.Hour)) // 08:01
		w.sleep(time.Hour)
		w.want("set ahead", j.times(clock, time.UTC), "01:00:00", "02:00:00", "03:00:00", "09:00:00")
		far := int64(36 * 365 * 24 * time.Hour)
		w.jump.Add(far) // 09:01 of a day in 2035
		w.sleep(9 * time.Minute)
		w.jump.Add(-far) // 09:10
		w.sleep(time.Hour)
		w.want("in 2035 for a moment", j.times(clock, time.UTC), "01:00:00", "02:00:00", "03:00:00", "09:00:00", "10:00:00")
	})
	inWorld(t, func(t *testing.T, w *world) {
		value := `{"what":"2036-02-07T06:28:15.000000000Z","state":"done","term":1,"cluster_id":"c","node_id":"future","data":{"since":"2036-01-01T00:00:00Z","last":"2036-02-07T06:28:15Z","schedule":"@every 1h0m0s"}}`
		if _, err := w.s.Set(t.Context(), "cron/runs/hourly", []byte(value), 0); err != nil {
			t.Fatal(err)
		}
		var j journal
		w.start(nil, cron.Job{Name: "hourly", Schedule: cron.Every(time.Hour), Run: j.run})
		w.sleep(2*time.Hour + time.Minute)
		w.want("after a claim of 2036", j.times(clock, time.UTC), "01:00:00", "02:00:00")
	})
}

// A clock was wrong from the start, or is for long, and is set right: the jobs go on ten minutes
// later, and nothing runs again that has run before.
func TestWallClockIsSetRight(t *testing.T) {
	const far = 36 * 365 * 24 * time.Hour
	for name, wrong := range map[string]time.Duration{"ahead": far, "behind": -far} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				var j, each, volatile journal
				w.jump.Store(int64(wrong))
				w.start(nil, cron.Job{Name: "hourly", Schedule: cron.Every(time.Hour), Run: j.run},
					cron.Job{Name: "each", Schedule: cron.Every(time.Hour), Run: each.run, EachNode: true},
					cron.Job{Name: "volatile", Schedule: cron.Every(time.Hour), Run: volatile.run, Volatile: true})
				w.sleep(90 * time.Minute)
				w.jump.Store(0) // 01:30
				w.sleep(9*time.Minute + 50*time.Second)
				before := len(j.times(clock, time.UTC))
				w.sleep(2*time.Hour - 5*time.Minute) // 03:35
				for what, j := range map[string]*journal{"hourly": &j, "each": &each, "volatile": &volatile} {
					got := j.times("2006 15:04", time.UTC)
					w.want(what, got[min(before, len(got)):], "2000 02:00", "2000 03:00")
				}
			})
		})
	}
}

// A master whose clock is in 2036 has claimed on top of a fire that was on time: that does not run
// again.
func TestNothingRunsAgainAfter2036(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.put("cron/runs/hourly", `{"what":"2036-02-07T06:28:15.000000000Z","state":"done","token":"x","node_id":"future",`+
			`"data":{"since":"1999-12-31T00:00:00Z","last":"2036-02-07T06:28:15Z","schedule":"@every 1h0m0s",`+
			`"history":[{"scheduled":"2000-01-01T01:00:00Z","state":"done","term":1}]}}`)
		w.sleep(time.Hour + 5*time.Second)
		var j journal
		w.start(nil, cron.Job{Name: "hourly", Schedule: cron.Every(time.Hour), Run: j.run, Missed: cron.Once})
		w.sleep(time.Hour)
		w.want("fires", j.times(clock, time.UTC), "02:00:00")
	})
}

// What is recorded and cannot be read keeps no job from running.
func TestUnreadableRecords(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		for _, key := range []string{"cron/runs/hourly", "cron/jobs/hourly", "cron/jobs/other"} {
			if _, err := w.s.Set(t.Context(), key, []byte("{"), 0); err != nil {
				t.Fatal(err)
			}
		}
		var j journal
		w.start(nil, cron.Job{Name: "hourly", Schedule: cron.Every(time.Hour), Run: j.run})
		w.sleep(2*time.Hour + time.Minute)
		w.want("fires", j.times(clock, time.UTC), "01:00:00", "02:00:00")
	})
}

func TestPauseResumeTrigger(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var j journal
		a := newMember("a")
		w.start(a, cron.Job{Name: "hourly", Schedule: cron.Every(time.Hour), Run: j.run, Missed: cron.Once})
		a.terms <- 1
		ok := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			w.sleep(time.Second)
		}
		ok(cron.Pause(t.Context(), w.s, "hourly"))
		w.sleep(90 * time.Minute)
		w.want("paused", j.times(clock, time.UTC))
		ok(cron.Trigger(t.Context(), w.s, "hourly"))
		w.want("triggered", j.times(clock, time.UTC), "01:30:01")
		ok(cron.Resume(t.Context(), w.s, "hourly"))
		a.terms <- 0
		a.terms <- 2
		w.sleep(time.Hour)
		w.want("resumed", j.times(clock, time.UTC), "01:30:01", "02:00:00")
		if st := w.status("hourly"); len(st.Runs) != 2 || !st.Runs[1].Triggered || st.Runs[0].Triggered {
			t.Errorf("runs: %+v", st.Runs)
		}
	})
}

func TestJobsAtRunTime(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		var j journal
		s := &cron.Scheduler{Store: w.s, Handlers: map[string]func(context.Context, cron.Fire) error{
			"print": func(ctx context.Context, f cron.Fire) error {
				fmt.Fprintf(f.Output, "%s", strings.Join(f.Args, " "))
				return j.run(ctx, f)
			},
		}}
		run, stop := context.WithCancel(ctx)
		ended := make(chan struct{})
		go func() { s.Run(run); close(ended) }()
		synctest.Wait()

		spec := cron.Spec{Name: "report", Schedule: "0 * * * *", Handler: "print", Args: []string{"hello", "world"}}
		if err := cron.Update(ctx, w.s, spec); !errors.Is(err, driver.ErrNotFound) {
			t.Errorf("an update of none: %v", err)
		}
		if err := cron.Add(ctx, w.s, spec); err != nil {
			t.Fatal(err)
		}
		if err := cron.Add(ctx, w.s, spec); !errors.Is(err, driver.ErrConflict) {
			t.Errorf("added twice: %v", err)
		}
		if err := cron.Add(ctx, w.s, cron.Spec{Name: "other", Schedule: "@daily", Handler: "none"}); err != nil {
			t.Fatal(err)
		}
		w.sleep(time.Hour + time.Minute)
		spec.Schedule = "30 * * * *"
		if err := cron.Update(ctx, w.s, spec); err != nil {
			t.Fatal(err)
		}
		w.sleep(time.Hour)
		w.want("fires", j.times(clock, time.UTC), "01:00:00", "01:30:00")
		if out, err := cron.Output(ctx, w.s, "report", 2); err != nil || string(out) != "hello world" {
			t.Errorf("output %q, %v", out, err)
		}
		if p := s.Problems(); len(p) != 1 || !strings.Contains(p["other"], "no handler") {
			t.Errorf("problems: %v", p)
		}
		if err := cron.Remove(ctx, w.s, "report"); err != nil {
			t.Fatal(err)
		}
		w.sleep(2 * time.Hour)
		if n := len(j.times(clock, time.UTC)); n != 2 {
			t.Errorf("%d fires after it was removed", n)
		}
		if records, _ := w.s.Records(ctx, "cron/"); len(records) != 1 {
			t.Errorf("left: %v", records)
		}
		for _, bad := range []cron.Spec{
			{Name: "a/b", Schedule: "@daily", Handler: "x"}, {Name: "a", Schedule: "x", Handler: "x"}, {Name: "a", Schedule: "@daily"},
			{Name: "a", Schedule: "@daily", Zone: "Nowhere/At_All", Handler: "x"}, {Name: "a", Schedule: "@daily", Handler: "x", Missed: "twice"},
		} {
			if err := cron.Add(ctx, w.s, bad); !errors.Is(err, driver.ErrInvalid) {
				t.Errorf("%+v: %v", bad, err)
			}
		}
		stop()
		<-ended
	})
}

func TestEachNodeTimeoutAndPanic(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var each, master journal
		jobs := []cron.Job{
			{Name: "each", Schedule: cron.Every(time.Hour), Run: each.run, EachNode: true},
			{Name: "long", Schedule: cron.Every(time.Hour), Timeout: time.Minute, Run: func(ctx context.Context, f cron.Fire) error {
				master.run(ctx, f)
				<-ctx.Done()
				return ctx.Err()
			}},
			{Name: "panics", Schedule: cron.Every(time.Hour), Run: func(context.Context, cron.Fire) error { panic("bang") }},
		}
		a, b := newMember("a"), newMember("b")
		w.start(a, jobs...)
		w.start(b, jobs...)
		a.terms <- 1
		w.sleep(time.Hour + 10*time.Minute)
		w.want("each node", each.times(clock, time.UTC), "01:00:00", "01:00:00")
		w.want("master", master.times(clock, time.UTC), "01:00:00")
		if st := w.status("long"); st.Runs[0].State != cron.Failed || !strings.Contains(st.Runs[0].Error, "more than 1m0s") {
			t.Errorf("long: %+v", st.Runs)
		}
		if st := w.status("panics"); st.Runs[0].State != cron.Failed || !strings.Contains(st.Runs[0].Error, "bang") {
			t.Errorf("panics: %+v", st.Runs)
		}
	})
}

func TestWhatCannotBe(t *testing.T) {
	run := func(context.Context, cron.Fire) error { return nil }
	for _, jobs := range [][]cron.Job{
		{{Name: "", Schedule: cron.Every(time.Hour), Run: run}},
		{{Name: strings.Repeat("a", cron.MaxName+1), Schedule: cron.Every(time.Hour), Run: run}},
		{{Name: "a", Run: run}},
		{{Name: "a", Schedule: cron.Every(time.Hour)}},
		{{Name: "a", Schedule: cron.Every(time.Hour), Run: run, Timeout: -1}},
		{{Name: "a", Schedule: cron.Every(time.Hour), Run: run}, {Name: "a", Schedule: cron.Every(time.Hour), Run: run}},
	} {
		if err := (&cron.Scheduler{}).Run(t.Context(), jobs...); !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("%+v: %v", jobs, err)
		}
	}
}

package cron_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node/cron"
)

// put writes value at key, whatever is there.
func (w *world) put(key, value string) {
	w.t.Helper()
	r, err := w.s.Get(w.t.Context(), key)
	if err != nil && !errors.Is(err, driver.ErrNotFound) {
		w.t.Fatal(err)
	}
	if _, err := w.s.Set(w.t.Context(), key, []byte(value), r.Revision); err != nil {
		w.t.Fatal(err)
	}
}

// A trigger is written where the clock is ahead: the job runs now, and goes on by its schedule.
func TestTriggerOfAClockThatIsAhead(t *testing.T) {
	for name, job := range map[string]cron.Job{"recorded": {}, "volatile": {Volatile: true}, "each node": {EachNode: true}, "once": {Missed: cron.Once}} {
		for _, at := range []string{"2000-01-01T02:00:00Z", "2036-01-01T00:00:00Z", "0001-01-01T00:00:00Z"} {
			t.Run(name+" "+at, func(t *testing.T) {
				inWorld(t, func(t *testing.T, w *world) {
					var j journal
					job := job
					job.Name, job.Schedule, job.Run = "often", cron.Every(10*time.Minute), j.run
					stop := w.start(nil, job)
					w.sleep(15 * time.Minute)
					w.put("cron/jobs/often", fmt.Sprintf(`{"trigger":{"id":"x","at":%q}}`, at))
					w.sleep(10 * time.Minute)
					w.want("fires", j.times("15:04", time.UTC), "00:10", "00:15", "00:20")
					stop()
					w.start(nil, job)
					w.sleep(10 * time.Minute)
					w.want("of the next", j.times("15:04", time.UTC), "00:10", "00:15", "00:20", "00:30")
				})
			})
		}
	}
}

// A master whose clock was in 2036 has died in the middle of a run.
func TestInterruptedIn2036(t *testing.T) {
	for _, missed := range []cron.Missed{cron.Skip, cron.Once} {
		inWorld(t, func(t *testing.T, w *world) {
			w.put("cron/runs/hourly", `{"what":"2036-02-07T06:00:00.000000000Z","state":"running","cluster_id":"c","term":1,"node_id":"future","token":"x",`+
				`"data":{"since":"2036-01-01T00:00:00Z","last":"2036-02-07T06:00:00Z","schedule":"@every 1h0m0s"}}`)
			var j journal
			w.start(nil, cron.Job{Name: "hourly", Schedule: cron.Every(time.Hour), Run: j.run, Missed: missed})
			w.sleep(2*time.Hour + time.Minute)
			w.want(string(missed), j.times(clock, time.UTC), "01:00:00", "02:00:00")
		})
	}
}

// A record names a term that no master has, or is as large as a record can be.
func TestRunRecordsOfNoMaster(t *testing.T) {
	const head = `{"what":"2000-01-01T00:00:00.000000000Z","token":"x","node_id":"bad",`
	known := `"data":{"since":"1999-12-31T00:00:00Z","schedule":"@every 1h0m0s"`
	long := strings.Repeat("<", 80000)
	fill := strings.Repeat("n", driver.MaxRecordSize-1000)
	for name, record := range map[string]string{
		"term":      head + `"state":"done","term":9223372036854775808,` + known + `}}`,
		"running":   head + `"state":"running","term":9223372036854775808,` + known + `}}`,
		"errors":    head + `"state":"failed","error":"` + long + `",` + known + `,"history":[{"error":"` + long + `"}]}}`,
		"node":      head + `"state":"done","instance_id":"` + fill + `",` + known + `}}`,
		"node runs": head + `"state":"running","instance_id":"` + fill + strings.Repeat("n", 700) + `",` + known + `}}`,
		"trigger":   head + `"state":"done","data":{"trigger":"` + fill + `","schedule":"@every 1h0m0s"}}`,
		"schedule":  head + `"state":"done","data":{"schedule":"` + fill + `"}}`,
		"history":   head + `"state":"done","data":{"schedule":"@every 1h0m0s","history":[{"node_id":"` + fill + `"}]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				var j journal
				w.put("cron/runs/hourly", record)
				w.put("cron/jobs/hourly", `{"trigger":{"id":"`+strings.Repeat("t", 400000)+`"}}`)
				a := newMember("a")
				w.start(a, cron.Job{Name: "hourly", Schedule: cron.Every(time.Hour), Run: j.run})
				a.terms <- 3
				w.sleep(2*time.Hour + time.Minute)
				w.want("fires", j.times(clock, time.UTC), "01:00:00", "02:00:00")
				r, err := w.s.Get(t.Context(), "cron/runs/hourly")
				if err != nil || len(r.Value) > 256<<10 {
					t.Errorf("the record has %d bytes, %v", len(r.Value), err)
				}
			})
		})
	}
}

// A newer master has claimed: the one before writes nothing over that, whatever it meets first.
func TestMeetsAClaimOfALaterTerm(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		const record = `{"what":"2000-01-01T00:00:00.000000000Z","state":"done","term":5,"token":"x","data":{"schedule":"another"}}`
		w.put("cron/runs/hourly", record)
		var j journal
		a := newMember("a")
		w.start(a, cron.Job{Name: "hourly", Schedule: cron.Every(time.Hour), Run: j.run})
		a.terms <- 3
		w.sleep(2 * time.Hour)
		if r, err := w.s.Get(t.Context(), "cron/runs/hourly"); err != nil || string(r.Value) != record {
			t.Errorf("the record is %s, %v", r.Value, err)
		}
		a.terms <- 0
		a.terms <- 6
		w.sleep(time.Hour + time.Minute)
		w.want("fires", j.times(clock, time.UTC), "03:00:00")
	})
}

// faulty is a store whose writes of claims fail at will.
type faulty struct {
	store
	fail func(key string) bool
	with error
}

func (f faulty) Set(ctx context.Context, key string, value []byte, prev driver.Revision) (driver.Revision, error) {
	if f.fail(key) {
		return 0, fmt.Errorf("refused: %w", f.with)
	}
	return f.store.Set(ctx, key, value, prev)
}

// A claim fails: the trigger is not lost by it, and does not run twice.
func TestTriggerOutlastsAClaimThatFails(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var j journal
		var failing atomic.Bool
		s := &cron.Scheduler{Store: faulty{w.s, func(key string) bool { return failing.Load() && key == "cron/runs/daily" }, driver.ErrUnsupported}}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s.Run(ctx, cron.Job{Name: "daily", Schedule: cron.Every(24 * time.Hour), Run: j.run})
		}()
		w.sleep(time.Minute)
		failing.Store(true)
		if err := cron.Trigger(ctx, w.s, "daily"); err != nil {
			t.Fatal(err)
		}
		w.sleep(time.Minute)
		w.want("while claims fail", j.times(clock, time.UTC))
		failing.Store(false)
		w.sleep(time.Hour)
		w.want("afterwards", j.times(clock, time.UTC), "00:01:00")
		cancel()
		<-ended
	})
}

// broken is a schedule that panics from some time on.
type broken struct{ from time.Time }

func (b broken) Next(t time.Time) time.Time {
	if !t.Before(b.from) {
		panic("no such time")
	}
	return cron.Every(time.Hour).Next(t)
}

// What is wrong with one job, its schedule, or a run that ends its goroutine, stops no other one.
func TestJobsThatBreak(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var j, some, each journal
		began := time.Now()
		stop := w.start(nil,
			cron.Job{Name: "good", Schedule: cron.Every(time.Hour), Run: j.run},
			cron.Job{Name: "never", Schedule: broken{}, Run: some.run, Missed: cron.Once},
			cron.Job{Name: "some", Schedule: broken{began.Add(90 * time.Minute)}, Run: some.run},
			cron.Job{Name: "ends", Schedule: cron.Every(time.Hour), Run: func(context.Context, cron.Fire) error { runtime.Goexit(); return nil }},
			cron.Job{Name: "each", EachNode: true, Schedule: cron.Every(time.Hour), Run: func(ctx context.Context, f cron.Fire) error {
				each.run(ctx, f)
				runtime.Goexit()
				return nil
			}})
		w.sleep(3*time.Hour + time.Minute)
		w.want("good", j.times(clock, time.UTC), "01:00:00", "02:00:00", "03:00:00")
		w.want("some", some.times(clock, time.UTC), "01:00:00")
		w.want("each", each.times(clock, time.UTC), "01:00:00", "02:00:00", "03:00:00")
		if st := w.status("ends"); len(st.Runs) != 3 || st.Runs[0].State != cron.Failed || !strings.Contains(st.Runs[0].Error, "Goexit") {
			t.Errorf("the run that ends its goroutine: %+v", st.Runs)
		}
		stop() // and Run returns
	})
}

// stuck is a schedule that blocks from some time on.
type stuck struct {
	from time.Time
	free <-chan struct{}
}

func (s stuck) Next(t time.Time) time.Time {
	if !t.Before(s.from) {
		<-s.free
	}
	return cron.Every(time.Hour).Next(t)
}

// named is a schedule that blocks when it is asked what it is.
type named struct {
	cron.Schedule
	free <-chan struct{}
}

func (n named) String() string { <-n.free; return "named" }

// A schedule that blocks stops no other job, and not the end of the scheduler. Once it answers, its
// job goes on.
func TestScheduleThatBlocks(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var j, some, nameless journal
		began, free, never := time.Now(), make(chan struct{}), make(chan struct{})
		stop := w.start(nil,
			cron.Job{Name: "good", Schedule: cron.Every(time.Hour), Run: j.run},
			cron.Job{Name: "never", Schedule: stuck{free: never}, Run: some.run, Missed: cron.Once},
			cron.Job{Name: "each", Schedule: stuck{free: never}, Run: some.run, EachNode: true},
			cron.Job{Name: "nameless", Schedule: named{cron.Every(time.Hour), never}, Run: nameless.run},
			cron.Job{Name: "some", Schedule: stuck{began.Add(90 * time.Minute), free}, Run: some.run})
		w.sleep(2*time.Hour + time.Minute)
		w.want("good", j.times(clock, time.UTC), "01:00:00", "02:00:00")
		w.want("some", some.times(clock, time.UTC), "01:00:00")
		close(free)
		w.sleep(time.Hour)
		w.want("good", j.times(clock, time.UTC), "01:00:00", "02:00:00", "03:00:00")
		w.want("some", some.times(clock, time.UTC), "01:00:00", "03:00:00")
		w.want("nameless", nameless.times(clock, time.UTC))
		stop() // and Run returns
		close(never)
	})
}

// counted counts how often a schedule is asked.
type counted struct {
	cron.Schedule
	calls *int
}

func (c counted) Next(t time.Time) time.Time { *c.calls++; return c.Schedule.Next(t) }
func (c counted) String() string             { return "counted" }

// A year of seconds was missed: the latest one is found without a look at each.
func TestAYearOfMissedFires(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.put("cron/runs/slow", `{"what":"1999-02-01T00:00:00.000000000Z","state":"done","cluster_id":"c","term":1,"token":"x",`+
			`"data":{"since":"1999-01-31T00:00:00Z","last":"1999-02-01T00:00:00Z","schedule":"counted"}}`)
		var j journal
		calls := 0
		job := cron.Job{Name: "slow", Schedule: counted{cron.Every(time.Second), &calls}, Missed: cron.Once, Window: cron.MaxWindow,
			Run: func(ctx context.Context, f cron.Fire) error { j.run(ctx, f); <-ctx.Done(); return nil }}
		s := w.run(&cron.Scheduler{}, job)
		synctest.Wait()
		w.want("the latest", j.times(clock, time.UTC), "00:00:00")
		if calls > 300 {
			t.Errorf("%d looks at the schedule", calls)
		}
		if got := jobNamed(t, s, "slow"); got.Missed != 1 {
			t.Errorf("%d times in a row were missed, want one", got.Missed)
		}
		job.Window++
		if err := (&cron.Scheduler{}).Run(t.Context(), job); !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("a longer window: %v", err)
		}
	})
}

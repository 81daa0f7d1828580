package cron_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/backoff"
	"github.com/musterhq/muster/internal/testing/alarmlog"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/cron"
)

// logged is what a scheduler has logged.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// open are the warnings that are not over.
func (l *logged) open(t *testing.T) string {
	t.Helper()
	open, err := alarmlog.Open(strings.NewReader(l.String()), "")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(open, "\n")
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewJSONHandler(l, nil)) }

// deaf is a store that records a claim, and does not answer before the caller gives up.
type deaf struct{ store }

func (d deaf) Set(ctx context.Context, key string, value []byte, prev driver.Revision) (driver.Revision, error) {
	rev, err := d.store.Set(ctx, key, value, prev)
	if bytes.Contains(value, []byte(`"state":"running"`)) {
		<-ctx.Done()
	}
	return rev, err
}

// The answer to a claim comes when the mastership has ended: what was claimed has not begun, and
// the next master runs it.
func TestClaimThatIsGivenBackIsNotLost(t *testing.T) {
	for _, missed := range []cron.Missed{cron.Skip, cron.Once} {
		for _, triggered := range []bool{false, true} {
			t.Run(fmt.Sprint(missed, " ", triggered), func(t *testing.T) {
				inWorld(t, func(t *testing.T, w *world) {
					var j journal
					a, b := newMember("a"), newMember("b")
					job := cron.Job{Name: "daily", Schedule: cron.Every(24 * time.Hour), Missed: missed, Run: j.run}
					w.startOn(deaf{w.s}, a, job)
					w.startOn(w.s, b, job)
					a.terms <- 1
					want := "00:00:00"
					if triggered {
						want = "12:00:00"
						w.sleep(12 * time.Hour)
						if err := cron.Trigger(t.Context(), w.s, "daily"); err != nil {
							t.Fatal(err)
						}
					} else {
						w.sleep(24 * time.Hour)
					}
					w.sleep(time.Millisecond)
					a.terms <- 0
					w.sleep(2 * time.Second)
					w.want("of the first master", j.times(clock, time.UTC))
					b.terms <- 2
					w.sleep(time.Minute)
					w.want("fires", j.times(clock, time.UTC), want)
					runs := w.status("daily").Runs
					if len(runs) != 1 || runs[0].State != cron.Done || runs[0].NodeID != "b" || runs[0].Seq != 1 {
						t.Errorf("the runs: %+v", runs)
					}
				})
			})
		}
	}
}

// lagging is a store whose changes are reported once it goes on.
type lagging struct {
	store
	on func() <-chan struct{}
}

func (l lagging) Watch(ctx context.Context, prefix string) iter.Seq2[[]driver.Record, error] {
	return func(yield func([]driver.Record, error) bool) {
		for records, err := range l.store.Watch(ctx, prefix) {
			select {
			case <-l.on():
			case <-ctx.Done():
			}
			if !yield(records, err) {
				return
			}
		}
	}
}

// A master takes over whose table is that of a while ago: the trigger in it has run, and so has the
// one that it does not know.
func TestTriggerOfAnOldTable(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var j journal
		var on atomic.Pointer[chan struct{}]
		open, stalled := make(chan struct{}), make(chan struct{})
		close(open)
		on.Store(&open)
		a, b := newMember("a"), newMember("b")
		job := cron.Job{Name: "daily", Schedule: cron.Every(24 * time.Hour), Run: j.run}
		w.startOn(w.s, a, job)
		w.startOn(lagging{w.s, func() <-chan struct{} { return *on.Load() }}, b, job)
		trigger := func() {
			t.Helper()
			w.sleep(10 * time.Minute)
			if err := cron.Trigger(t.Context(), w.s, "daily"); err != nil {
				t.Fatal(err)
			}
			w.sleep(time.Second)
		}
		a.terms <- 1
		trigger()
		on.Store(&stalled)
		trigger()
		w.want("of the first master", j.times("15:04", time.UTC), "00:10", "00:20")
		a.terms <- 0
		b.terms <- 2
		w.sleep(time.Minute)
		w.want("with an old table", j.times("15:04", time.UTC), "00:10", "00:20")
		close(stalled)
		w.sleep(time.Minute)
		w.want("with a new one", j.times("15:04", time.UTC), "00:10", "00:20")
		trigger()
		w.want("triggered again", j.times("15:04", time.UTC), "00:10", "00:20", "00:32")
	})
}

// Claims cannot be written for half an hour, while the mastership goes on: what was due is not run
// when that is too late, nor when the job is paused or edited by then, and an alarm lasts as long.
func TestClaimsThatCannotBeWritten(t *testing.T) {
	for _, c := range []struct {
		name   string
		missed cron.Missed
		window time.Duration
		change func(context.Context, cron.Store) error
		want   []string
	}{
		{"skip", cron.Skip, 0, nil, []string{"02:00:00"}},
		{"in its window", cron.Once, time.Hour, nil, []string{"01:00:00", "02:00:00"}},
		{"beyond its window", cron.Once, 20 * time.Minute, nil, []string{"02:00:00"}},
		{"paused", cron.Once, time.Hour, func(ctx context.Context, s cron.Store) error { return cron.Pause(ctx, s, "hourly") }, nil},
		{"removed", cron.Once, time.Hour, func(ctx context.Context, s cron.Store) error { return cron.Remove(ctx, s, "hourly") }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				var j journal
				var log logged
				var full atomic.Bool
				a := newMember("a")
				s := w.run(&cron.Scheduler{Node: a, Logger: log.logger(), Handlers: map[string]func(context.Context, cron.Fire) error{"run": j.run},
					Store: faulty{w.s, func(key string) bool { return full.Load() && strings.HasPrefix(key, "cron/runs/") }, driver.ErrUnavailable}})
				spec := cron.Spec{Name: "hourly", Schedule: "@hourly", Handler: "run", Missed: c.missed, Window: c.window}
				if err := cron.Add(t.Context(), w.s, spec); err != nil {
					t.Fatal(err)
				}
				w.sleep(time.Second)
				a.terms <- 1
				w.sleep(50 * time.Minute)
				full.Store(true)
				w.sleep(20 * time.Minute)
				if open := log.open(t); !strings.Contains(open, "job_unrecorded") {
					t.Errorf("while it fails: %s", open)
				}
				if c.change != nil {
					if err := c.change(t.Context(), w.s); err != nil {
						t.Fatal(err)
					}
				}
				w.sleep(20 * time.Minute)
				w.want("while it fails", j.times(clock, time.UTC))
				full.Store(false)
				w.sleep(time.Minute)
				if open := log.open(t); open != "" {
					t.Errorf("afterwards: %s", open)
				}
				w.sleep(time.Hour)
				w.want("fires", j.times(clock, time.UTC), c.want...)
				if c.change == nil {
					if got, want := jobNamed(t, s, "hourly").Missed, uint64(2-len(c.want)); got != want {
						t.Errorf("%d were missed, want %d", got, want)
					}
				}
			})
		})
	}
}

// What is left out is counted, once for what is so in a row: for want of a master, and while the
// job runs.
func TestMissedFiresAreCounted(t *testing.T) {
	for _, missed := range []cron.Missed{cron.Skip, cron.Once} {
		inWorld(t, func(t *testing.T, w *world) {
			var log logged
			a, b := newMember("a"), newMember("b")
			job := cron.Job{Name: "often", Schedule: cron.Every(time.Minute), Missed: missed, Run: func(context.Context, cron.Fire) error { return nil }}
			w.run(&cron.Scheduler{Node: a}, job)
			s := w.run(&cron.Scheduler{Node: b, Logger: log.logger()}, job)
			a.terms <- 1
			w.sleep(90 * time.Second)
			a.terms <- 0
			w.sleep(10 * time.Minute)
			b.terms <- 2
			w.sleep(10 * time.Minute)
			if got := jobNamed(t, s, "often"); got.Missed != 1 || got.Done < 9 {
				t.Errorf("%s: %d were missed, want 1; %d ran", missed, got.Missed, got.Done)
			}
			if !strings.Contains(log.String(), `"msg":"job missed"`) {
				t.Errorf("%s: it is not logged", missed)
			}
		})
	}
	inWorld(t, func(t *testing.T, w *world) {
		s := w.run(&cron.Scheduler{}, cron.Job{Name: "slow", Schedule: cron.Every(time.Minute), Run: func(context.Context, cron.Fire) error {
			time.Sleep(2*time.Minute + 30*time.Second)
			return nil
		}})
		w.sleep(9*time.Minute + 45*time.Second)
		if got := jobNamed(t, s, "slow"); got.Missed != 3 || got.Done != 3 {
			t.Errorf("of a slow job %d were missed, and %d ran; want 3 and 3", got.Missed, got.Done)
		}
	})
}

// A trigger waits for what is due.
func TestTriggerTakesNoFire(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var j journal
		a, b := newMember("a"), newMember("b")
		job := cron.Job{Name: "hourly", Schedule: cron.Every(time.Hour), Run: j.run}
		w.start(a, job)
		w.start(b, job)
		a.terms <- 1
		w.sleep(time.Hour - time.Minute)
		a.terms <- 0
		w.sleep(30 * time.Second)
		if err := cron.Trigger(t.Context(), w.s, "hourly"); err != nil {
			t.Fatal(err)
		}
		w.sleep(35 * time.Second)
		b.terms <- 2
		w.sleep(time.Minute)
		w.want("fires", j.times(clock, time.UTC), "01:00:00", "01:00:00")
		runs := w.status("hourly").Runs
		if len(runs) != 2 || !runs[0].Triggered || runs[1].Triggered {
			t.Errorf("the runs: %+v", runs)
		}
	})
}

// A job is added where the clock is 6 h ahead: it counts from when the master sees it, and that is
// known to the next one.
func TestEditOfAClockThatIsAhead(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var j journal
		handlers := map[string]func(context.Context, cron.Fire) error{"run": j.run}
		a, b := newMember("a"), newMember("b")
		w.run(&cron.Scheduler{Node: a, Handlers: handlers})
		w.run(&cron.Scheduler{Node: b, Handlers: handlers})
		a.terms <- 1
		w.sleep(10 * time.Minute)
		w.put("cron/jobs/hourly", `{"spec":{"name":"hourly","schedule":"@hourly","handler":"run"},"edited":"2000-01-01T06:10:00Z"}`)
		w.sleep(time.Hour)
		w.want("of the first master", j.times(clock, time.UTC), "01:00:00")
		w.put("cron/jobs/hourly", `{"spec":{"name":"hourly","schedule":"30 * * * *","handler":"run"},"edited":"2000-01-01T07:10:00Z"}`)
		w.sleep(19*time.Minute + 58*time.Second)
		a.terms <- 0
		w.sleep(5 * time.Second)
		b.terms <- 2
		w.sleep(time.Minute)
		w.want("of the next one", j.times(clock, time.UTC), "01:00:00", "01:30:00")
	})
}

// slow is a store whose reads of runs take a second.
type slow struct{ store }

func (s slow) Get(ctx context.Context, key string) (driver.Record, error) {
	record, err := s.store.Get(ctx, key)
	if strings.HasPrefix(key, "cron/runs/") {
		time.Sleep(time.Second)
	}
	return record, err
}

// A job is resumed while a new master reads its record: what would have been due before is not run.
func TestResumedWhileItIsRead(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var j journal
		a, b := newMember("a"), newMember("b")
		job := cron.Job{Name: "hourly", Schedule: cron.Every(time.Hour), Missed: cron.Once, Run: j.run}
		w.startOn(w.s, a, job)
		w.startOn(slow{w.s}, b, job)
		a.terms <- 1
		w.sleep(time.Minute)
		a.terms <- 0
		if err := cron.Pause(t.Context(), w.s, "hourly"); err != nil {
			t.Fatal(err)
		}
		w.sleep(90 * time.Minute)
		b.terms <- 2
		w.sleep(500 * time.Millisecond)
		if err := cron.Resume(t.Context(), w.s, "hourly"); err != nil {
			t.Fatal(err)
		}
		w.sleep(time.Hour)
		w.want("fires", j.times(clock, time.UTC), "02:00:00")
	})
}

// standing is a schedule that names the time that it is asked about.
type standing struct {
	from  time.Time
	calls *int
}

func (s standing) Next(t time.Time) time.Time {
	if *s.calls++; t.Before(s.from) || *s.calls > 10_000 {
		return cron.Every(time.Hour).Next(t)
	}
	return t
}

// A schedule that does not go on has its own job fail, and keeps no core busy.
func TestScheduleThatStandsStill(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var j, some journal
		var log logged
		calls := 0
		w.run(&cron.Scheduler{Logger: log.logger()},
			cron.Job{Name: "good", Schedule: cron.Every(time.Hour), Run: j.run},
			cron.Job{Name: "stands", Schedule: standing{time.Now().Add(90 * time.Minute), &calls}, Run: some.run})
		w.sleep(3*time.Hour + time.Second)
		w.want("good", j.times(clock, time.UTC), "01:00:00", "02:00:00", "03:00:00")
		w.want("stands", some.times(clock, time.UTC), "01:00:00")
		if open := log.open(t); calls > 5_000 || !strings.Contains(open, "job_schedule_fails") {
			t.Errorf("asked %d times; warnings: %s", calls, open)
		}
	})
}

// A job becomes one of each node while it runs: it still does not overlap itself.
func TestNoOverlapWhenAJobMoves(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var j journal
		var running atomic.Int32
		a := newMember("a")
		s := w.run(&cron.Scheduler{Node: a, Handlers: map[string]func(context.Context, cron.Fire) error{
			"slow": func(ctx context.Context, f cron.Fire) error {
				if running.Add(1) > 1 {
					t.Error("two at once")
				}
				defer running.Add(-1)
				j.run(ctx, f)
				time.Sleep(2*time.Minute + 30*time.Second)
				return nil
			},
		}})
		spec := cron.Spec{Name: "slow", Schedule: "* * * * *", Handler: "slow"}
		if err := cron.Add(t.Context(), w.s, spec); err != nil {
			t.Fatal(err)
		}
		a.terms <- 1
		for i := range 4 {
			w.sleep(90 * time.Second)
			spec.EachNode = i%2 == 0
			if err := cron.Update(t.Context(), w.s, spec); err != nil {
				t.Fatal(err)
			}
			w.sleep(2*time.Minute + 30*time.Second)
			if got := jobNamed(t, s, "slow"); got.Running != 1 {
				t.Errorf("%d run", got.Running)
			}
		}
		terms := make(map[node.Term]int)
		j.mu.Lock()
		for _, f := range j.fires {
			terms[f.Term]++
		}
		j.mu.Unlock()
		if terms[0] < 2 || terms[1] < 2 {
			t.Errorf("runs by term: %v", terms)
		}
	})
}

// A job ignores its context. The grant is not released before it has ended, but when this node is
// master again the other jobs go on, that one does not overlap itself, and a warning names it.
func TestRunThatIgnoresItsContext(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var j, deafs journal
		var log logged
		free := make(chan struct{})
		a := newMember("a")
		s := w.run(&cron.Scheduler{Node: a, Logger: log.logger()},
			cron.Job{Name: "good", Schedule: cron.Every(time.Hour), Run: j.run},
			cron.Job{Name: "deaf", Schedule: cron.Every(time.Hour), Missed: cron.Once, Run: func(ctx context.Context, f cron.Fire) error {
				deafs.run(ctx, f)
				<-free
				return nil
			}})
		a.terms <- 1
		w.sleep(time.Hour + time.Minute)
		a.terms <- 0
		w.sleep(time.Second)
		if n := a.inside.Load(); n != 1 {
			t.Errorf("%d functions run, want that of the first term", n)
		}
		select {
		case a.terms <- 2:
		case <-time.After(time.Minute):
			close(free)
			t.Fatal("it takes no other term")
		}
		w.sleep(29 * time.Minute)
		if open := log.open(t); !strings.Contains(open, "job_goes_on") || !strings.Contains(open, "deaf") {
			t.Errorf("warnings: %s", open)
		}
		a.terms <- 0
		a.terms <- 3
		w.sleep(time.Hour)
		w.want("good", j.times(clock, time.UTC), "01:00:00", "02:00:00")
		w.want("deaf", deafs.times(clock, time.UTC), "01:00:00")
		if got := jobNamed(t, s, "deaf"); got.Running != 1 || a.inside.Load() != 2 {
			t.Errorf("%d run, in %d functions", got.Running, a.inside.Load())
		}
		close(free) // 02:31
		w.sleep(time.Second)
		w.want("deaf", deafs.times(clock, time.UTC), "01:00:00", "02:00:00")
		runs := w.status("deaf").Runs
		if len(runs) != 2 || runs[0].State != cron.Done || runs[0].Term != 3 || runs[1].State != cron.Done || runs[1].Term != 1 {
			t.Errorf("the runs: %+v", runs)
		}
		if open := log.open(t); open != "" || a.inside.Load() != 1 {
			t.Errorf("in the end: %s; %d functions", open, a.inside.Load())
		}
	})
}

// remote is a store to which each call takes its time, and so does each answer.
type remote struct {
	store
	mu  *sync.Mutex
	rng *rand.Rand
	// lost counts the claims whose caller gave up before the answer came.
	lost *atomic.Int32
}

func (r remote) way(ctx context.Context) error {
	r.mu.Lock()
	d := time.Duration(r.rng.IntN(100)) * time.Millisecond
	r.mu.Unlock()
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (r remote) Get(ctx context.Context, key string) (driver.Record, error) {
	if err := r.way(ctx); err != nil {
		return driver.Record{}, err
	}
	record, err := r.store.Get(ctx, key)
	if err := r.way(ctx); err != nil {
		return driver.Record{}, err
	}
	return record, err
}

func (r remote) Set(ctx context.Context, key string, value []byte, prev driver.Revision) (driver.Revision, error) {
	if err := r.way(ctx); err != nil {
		return 0, err
	}
	rev, err := r.store.Set(ctx, key, value, prev)
	if way := r.way(ctx); way != nil {
		if err == nil && bytes.Contains(value, []byte(`"state":"running"`)) {
			r.lost.Add(1)
		}
		return 0, way
	}
	return rev, err
}

// Hundreds of masters follow one another, each within Grace of the one before, and end at any
// moment of a claim: each scheduled time is run exactly once.
func TestNoFireIsLost(t *testing.T) {
	seeds := uint64(10)
	if testing.Short() {
		seeds = 2
	}
	var lost atomic.Int32
	for seed := range seeds {
		for _, missed := range []cron.Missed{cron.Skip, cron.Once} {
			inWorld(t, func(t *testing.T, w *world) {
				rng := rand.New(rand.NewPCG(seed, 18))
				s := remote{w.s, new(sync.Mutex), rand.New(rand.NewPCG(seed, 19)), &lost}
				var j journal
				const interval = 20 * time.Second
				job := cron.Job{Name: "often", Schedule: cron.Every(interval), Missed: missed, Run: j.run}
				var members []*member
				for _, id := range []string{"a", "b", "c"} {
					m := newMember(id)
					members = append(members, m)
					w.startOn(s, m, job)
				}
				began := time.Now()
				for term := range node.Term(200) {
					m := members[rng.IntN(len(members))]
					m.terms <- term + 1
					// Until a moment at which something is due, or is being claimed.
					next := cron.Every(interval).Next(time.Now().Add(time.Second))
					w.sleep(time.Until(next) + time.Duration(rng.IntN(500))*time.Millisecond)
					m.terms <- 0
					w.sleep(time.Second + time.Duration(rng.IntN(4000))*time.Millisecond)
				}
				members[0].terms <- 201
				w.sleep(interval / 2)
				last := began
				for _, f := range j.fires {
					if gap := f.Scheduled.Sub(last); gap != interval {
						t.Errorf("seed %d, %s: a gap of %v after %v, in term %d", seed, missed, gap, last, f.Term)
					}
					last = f.Scheduled
				}
				if missing := time.Since(last); missing > interval {
					t.Errorf("seed %d, %s: nothing for %v", seed, missed, missing)
				}
			})
		}
	}
	if lost.Load() == 0 {
		t.Error("no claim was without an answer")
	}
}

// What is left out is said of the job, and of nothing that is run.
func TestJobsWithoutGapsMissNothing(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		jobs := []cron.Job{
			{Name: "skip", Schedule: cron.Every(time.Minute)},
			{Name: "once", Schedule: cron.Every(time.Minute), Missed: cron.Once},
			{Name: "each", Schedule: cron.Every(time.Minute), EachNode: true},
			{Name: "volatile", Schedule: cron.Every(time.Minute), Volatile: true},
		}
		for i := range jobs {
			jobs[i].Run = func(context.Context, cron.Fire) error { return nil }
		}
		s := w.run(&cron.Scheduler{}, jobs...)
		w.sleep(time.Hour + time.Second)
		for _, name := range []string{"skip", "once", "each", "volatile"} {
			if got := jobNamed(t, s, name); got.Missed != 0 || got.Done != 60 {
				t.Errorf("%s: %d were missed, %d ran", name, got.Missed, got.Done)
			}
		}
		if err := cron.Pause(t.Context(), w.s, "skip"); err != nil {
			t.Fatal(err)
		}
		w.sleep(10 * time.Minute)
		if err := cron.Resume(t.Context(), w.s, "skip"); err != nil {
			t.Fatal(err)
		}
		w.sleep(10 * time.Minute)
		if got := jobNamed(t, s, "skip"); got.Missed != 0 || got.Done < 69 {
			t.Errorf("paused for a while: %d were missed, %d ran", got.Missed, got.Done)
		}
	})
}

// A record of a term that no master will have is said to be in the way, for as long as it is, and
// Resume is the way out, also where the run has no end.
func TestRecordOfATermThatIsNone(t *testing.T) {
	for _, state := range []string{"done", "interrupted", "running"} {
		t.Run(state, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				var j journal
				var log logged
				a := newMember("a")
				w.put("cron/runs/hourly", fmt.Sprintf(`{"what":"1999-12-31T23:00:00Z","state":%q,"term":1000000,"runs":1}`, state))
				w.run(&cron.Scheduler{Node: a, Logger: log.logger()}, cron.Job{Name: "hourly", Schedule: cron.Every(time.Hour), Run: j.run})
				a.terms <- 1
				w.sleep(2*time.Hour + time.Minute)
				w.want("while it is in the way", j.times(clock, time.UTC))
				if open := log.open(t); !strings.Contains(open, "job_unrecorded") {
					t.Errorf("while it is in the way: %s", open)
				}
				if err := cron.Resume(t.Context(), w.s, "hourly"); err != nil {
					t.Fatal(err)
				}
				w.sleep(2 * time.Hour)
				if len(j.fires) == 0 || log.open(t) != "" {
					t.Errorf("afterwards: %d fires, %s", len(j.fires), log.open(t))
				}
			})
		})
	}
}

// unread is a store whose records cannot be watched.
type unread struct{ store }

func (unread) Watch(context.Context, string) iter.Seq2[[]driver.Record, error] {
	return func(yield func([]driver.Record, error) bool) { yield(nil, driver.ErrDenied) }
}

// That jobs cannot be read is for an operator of a node that could run one.
func TestJobsThatCannotBeRead(t *testing.T) {
	run := func(context.Context, cron.Fire) error { return nil }
	for name, c := range map[string]struct {
		jobs     []cron.Job
		handlers map[string]func(context.Context, cron.Fire) error
		want     bool
	}{
		"none":     {},
		"its own":  {jobs: []cron.Job{{Name: "hourly", Schedule: cron.Every(time.Hour), Run: run}}, want: true},
		"handlers": {handlers: map[string]func(context.Context, cron.Fire) error{"run": run}, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				var log logged
				s := &cron.Scheduler{Store: unread{w.s}, Handlers: c.handlers, Logger: log.logger()}
				ctx, stop := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- s.Run(ctx, c.jobs...) }()
				w.sleep(time.Minute)
				if open := log.open(t); strings.Contains(open, "jobs_unread") != c.want {
					t.Errorf("open: %s", open)
				}
				stop()
				<-ended
			})
		})
	}
}

// Resume does not end a run that goes on.
func TestResumedWhileItRuns(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := newMember("a")
		w.start(a, cron.Job{Name: "hourly", Schedule: cron.Every(time.Hour), Missed: cron.Once, Run: func(ctx context.Context, f cron.Fire) error {
			return backoff.Sleep(ctx, 90*time.Second)
		}})
		a.terms <- 2
		w.sleep(time.Hour + time.Minute)
		if err := cron.Resume(t.Context(), w.s, "hourly"); err != nil {
			t.Fatal(err)
		}
		w.sleep(time.Minute)
		all, err := cron.List(t.Context(), w.s)
		if err != nil || len(all) != 1 || len(all[0].Runs) != 1 || all[0].Runs[0].State != cron.Done || all[0].Runs[0].Term != 2 {
			t.Errorf("it is recorded as %+v, %v", all, err)
		}
	})
}

// A job that is removed while it runs leaves no output behind.
func TestOutputOfARemovedJob(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		handler := func(_ context.Context, f cron.Fire) error {
			fmt.Fprintln(f.Output, "of the first")
			return cron.Remove(t.Context(), w.s, "hourly")
		}
		w.run(&cron.Scheduler{Handlers: map[string]func(context.Context, cron.Fire) error{"run": handler}})
		if err := cron.Add(t.Context(), w.s, cron.Spec{Name: "hourly", Schedule: "@hourly", Handler: "run"}); err != nil {
			t.Fatal(err)
		}
		w.sleep(2 * time.Hour)
		if _, err := cron.Output(t.Context(), w.s, "hourly", 1); !errors.Is(err, driver.ErrNotFound) {
			t.Errorf("its output: %v", err)
		}
	})
}

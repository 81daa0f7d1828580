package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/internal/testing/checker"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/cron"
	"github.com/musterhq/muster/node/upgrade"
)

// upgradeName is what the steps upgrade. Its versions are 1, 2 and so on, one after another for as
// long as the program runs.
const upgradeName = "schema"

// onceWork is what a cluster does once: steps, at whose gates each node waits, and jobs.
type onceWork struct {
	app   *application
	store *heldStore
	steps int
	// stepTime is how long a step takes, jobTime how long a job, and jobEvery how often the one
	// is due that skips what is missed.
	stepTime, jobTime, jobEvery time.Duration
	// restartable has each second step be one that may run again.
	restartable bool
	// decides has this node decide as an operator.
	decides bool
	// deaf has steps go on to their end when they are told to stop.
	deaf bool
	// wall is a file with what is added to the wall clock, or empty.
	wall string
	// zone is that of a job with a schedule in a time zone, or empty.
	zone, schedule string
	log            *slog.Logger

	mu     sync.Mutex
	failed bool
}

func (w *onceWork) start(ctx context.Context) error {
	jobs, err := w.jobs()
	if err != nil {
		return err
	}
	w.app.done.Go(func() {
		r := upgrade.Runner{Node: w.app.node, Ledger: w.store.ofSteps(), Steps: w.allSteps(), Logger: w.log}
		if err := r.Run(ctx); ctx.Err() == nil {
			w.log.Info("steps have ended", "err", err)
		}
	})
	w.app.done.Go(func() {
		s := cron.Scheduler{Node: w.app.node, Store: w.store, Logger: w.log}
		if w.wall != "" {
			s.Now = w.now
		}
		if err := s.Run(ctx, jobs...); ctx.Err() == nil {
			w.log.Info("jobs have ended", "err", err)
		}
	})
	w.app.done.Go(func() { w.gates(ctx) })
	return nil
}

// now is the wall clock as a host shows it on which somebody has set it.
func (w *onceWork) now() time.Time {
	text, err := os.ReadFile(w.wall)
	if err != nil {
		return time.Now()
	}
	d, err := time.ParseDuration(strings.TrimSpace(string(text)))
	if err != nil {
		return time.Now()
	}
	return time.Now().Round(0).Add(d)
}

// failsAt is the version whose first run fails on each node.
const failsAt = 3

func (w *onceWork) allSteps() (steps []upgrade.Step) {
	for v := 1; v <= w.steps; v++ {
		steps = append(steps, upgrade.Step{
			Name: upgradeName, Version: upgrade.Version(strconv.Itoa(v)), Restartable: w.again(v),
			Run: func(ctx context.Context, term node.Term) error { return w.step(ctx, term, v) },
		})
	}
	return steps
}

// again says which versions may run again.
func (w *onceWork) again(version int) bool { return w.restartable && version%2 == 1 }

func (w *onceWork) step(ctx context.Context, term node.Term, version int) (err error) {
	n := checker.Note{Name: upgradeName, Version: version, Term: uint64(term), Again: w.again(version)}
	n.Kind, n.BootNS = checker.StepBegin, now()
	w.app.note(n)
	w.store.hold("running", "upgrade/steps/"+upgradeName)
	w.mu.Lock()
	if version == failsAt && !w.failed {
		w.failed, err = true, errors.New("it is to fail")
	}
	w.mu.Unlock()
	if err == nil {
		err = w.last(ctx, w.stepTime)
	}
	n.Kind, n.BootNS, n.OK = checker.StepEnd, now(), err == nil
	w.app.note(n)
	return err
}

// last takes so long, unless it is told to stop.
func (w *onceWork) last(ctx context.Context, d time.Duration) error {
	stop := ctx.Done()
	if w.deaf {
		stop = nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-stop:
		return context.Cause(ctx)
	}
}

func (w *onceWork) jobs() ([]cron.Job, error) {
	jobs := []cron.Job{
		{Name: "skip", Schedule: cron.Every(w.jobEvery), Run: func(ctx context.Context, f cron.Fire) error { return w.fire(ctx, f, false) }},
		{Name: "again", Schedule: cron.Every(2 * w.jobEvery), Missed: cron.Once, Run: func(ctx context.Context, f cron.Fire) error { return w.fire(ctx, f, true) }},
	}
	if w.schedule != "" {
		zone, err := time.LoadLocation(w.zone)
		if err != nil {
			return nil, err
		}
		s, err := cron.Parse(w.schedule, zone)
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, cron.Job{Name: "daily", Schedule: s, Run: func(ctx context.Context, f cron.Fire) error { return w.fire(ctx, f, false) }})
	}
	return jobs, nil
}

func (w *onceWork) fire(ctx context.Context, f cron.Fire, again bool) error {
	n := checker.Note{Name: f.Job, Scheduled: f.Scheduled.UnixNano(), Term: uint64(f.Term), Again: again}
	n.Kind, n.BootNS = checker.JobBegin, now()
	w.app.note(n)
	w.store.hold("running", "cron/runs/"+f.Job)
	err := w.last(ctx, w.jobTime)
	n.Kind, n.BootNS, n.OK = checker.JobEnd, now(), err == nil
	w.app.note(n)
	return err
}

// gates waits for one version after another, from the one that is done last as the node starts. Of
// those that failed it decides as an operator: that they run again, or that they are done.
func (w *onceWork) gates(ctx context.Context) {
	ledger := w.store.ofGates()
	version := 0
	for version == 0 && ctx.Err() == nil {
		switch all, err := upgrade.Statuses(ctx, w.store, upgradeName); {
		case err != nil:
			w.pause(ctx)
		case len(all) == 0:
			version = 1
		default:
			latest, _ := strconv.Atoi(string(all[0].Version))
			version = max(1, latest-1)
		}
	}
	for version <= w.steps && ctx.Err() == nil {
		v := upgrade.Version(strconv.Itoa(version))
		n := checker.Note{Kind: checker.GateOpen, AskedNS: now(), Name: upgradeName, Version: version}
		err := upgrade.Wait(ctx, ledger, upgradeName, v)
		n.BootNS = now()
		failed := (*upgrade.FailedError)(nil)
		switch {
		case err == nil:
			n.Term = w.termOf(ctx, v)
			w.app.note(n)
			version++
		case errors.As(err, &failed):
			n.Kind, n.Term = checker.GateFailed, uint64(failed.Term)
			if failed.Version == v {
				w.app.note(n)
			}
			if !w.decides {
				<-ctx.Done()
				return
			}
			w.decide(ctx, failed)
		default:
			w.pause(ctx)
		}
	}
}

func (w *onceWork) pause(ctx context.Context) {
	select {
	case <-time.After(200 * time.Millisecond):
	case <-ctx.Done():
	}
}

// termOf is the term of the run that is recorded for a version that is done, 0 if another one is
// recorded by now.
func (w *onceWork) termOf(ctx context.Context, v upgrade.Version) uint64 {
	all, err := upgrade.Statuses(ctx, w.store, upgradeName)
	if err != nil || len(all) == 0 || all[0].Version != v || all[0].State != upgrade.Done {
		return 0
	}
	return uint64(all[0].Term)
}

// decide has a step that failed run again, and takes each fourth that was interrupted for done.
func (w *onceWork) decide(ctx context.Context, failed *upgrade.FailedError) {
	version, _ := strconv.Atoi(string(failed.Version))
	n := checker.Note{Kind: checker.Retried, BootNS: now(), Name: upgradeName, Version: version}
	do := upgrade.Retry
	if version%4 == 0 {
		n.Kind, do = checker.Resolved, upgrade.Resolve
	}
	w.app.note(n)
	if err := do(ctx, w.store, upgradeName, failed.Version); err != nil {
		w.log.Info("operator", "err", err)
		w.pause(ctx)
	}
}

// workVariable breaks what the records promise: "claim-after-run" or "gate-by-event".
const workVariable = "MUSTER_FAULT_WORK"

// heldStore is the store of the node, which the test can have wait: while the file says
// "PHASE PREFIX", the first one that gets to the phase, of a record whose key has the prefix,
// stays there until the file is gone. The phases are "claimed", where the claim is recorded and
// this node does not know yet; "running"; and "ended", before the end is recorded.
type heldStore struct {
	node.Store
	file string
}

func (s *heldStore) Set(ctx context.Context, key string, value []byte, prev node.Revision) (node.Revision, error) {
	var record struct{ State string }
	_ = json.Unmarshal(value, &record) // what is none has no state
	if record.State == "done" || record.State == "failed" {
		s.hold("ended", key)
	}
	rev, err := s.Store.Set(ctx, key, value, prev)
	if err == nil && record.State == "running" {
		s.hold("claimed", key)
	}
	return rev, err
}

// heldSuffix is that of the file that says where this node waits.
const heldSuffix = ".held"

func (s *heldStore) hold(phase, key string) {
	text, err := os.ReadFile(s.file)
	if err != nil {
		return
	}
	want, prefix, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	if phase != want || !strings.HasPrefix(key, prefix) || os.Rename(s.file, s.file+heldSuffix) != nil {
		return
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for err == nil {
		<-tick.C
		_, err = os.Stat(s.file + heldSuffix)
	}
}

func (s *heldStore) ofSteps() upgrade.Ledger {
	if os.Getenv(workVariable) == "claim-after-run" {
		return lateClaims{s}
	}
	return s
}

func (s *heldStore) ofGates() upgrade.Ledger {
	if os.Getenv(workVariable) == "gate-by-event" {
		return &eventOnly{Ledger: s}
	}
	return s
}

// lateClaims does not write claims: what is recorded is the end alone.
type lateClaims struct{ *heldStore }

func (s lateClaims) Set(ctx context.Context, key string, value []byte, prev node.Revision) (node.Revision, error) {
	if strings.HasPrefix(key, "upgrade/steps/") && strings.Contains(string(value), `"state":"running"`) {
		return prev, nil
	}
	return s.heldStore.Set(ctx, key, value, prev)
}

// eventOnly shows a record only if it has changed since it was first asked for.
type eventOnly struct {
	upgrade.Ledger
	first node.Revision
	asked bool
}

func (e *eventOnly) Get(ctx context.Context, key string) (node.Record, error) {
	r, err := e.Ledger.Get(ctx, key)
	if err != nil {
		return r, err
	}
	if !e.asked {
		e.first, e.asked = r.Revision, true
	}
	if r.Revision == e.first {
		return node.Record{}, fmt.Errorf("no event yet: %w", errNoEvent)
	}
	return r, nil
}

var errNoEvent = errors.New("it has not changed")

package cron

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node/internal/claim"
)

const (
	// lookEvery is how often the clock is looked at although nothing is due: it may have been set.
	lookEvery = 10 * time.Second
	// retryEvery is how soon a job is looked at again whose claim failed.
	retryEvery = time.Second
	// lateAfter is when a fire is logged as late.
	lateAfter = time.Second
)

// loop runs the jobs of the master in one term, or those of each node.
type loop struct {
	s     *Scheduler
	owner claim.Owner
	each  bool

	entries map[string]*entry
	ended   chan func()
	running int
}

// entry is one job, as the loop knows it.
type entry struct {
	task
	record claim.Record
	known  bool      // the record was read
	base   time.Time // all that was scheduled up to here has been dealt with
	next   time.Time // nothing is due before, as it was seen at looked
	looked time.Time
	after  time.Time // do nothing before
	skip   time.Time // what came due up to here, while it ran, is left out
	left   time.Time // what came up to here, and was not dealt with, is left out, and counted
	// busy says that it is running, which is being read as well, or that its schedule was asked.
	busy, running bool
	asked         time.Time // the schedule was asked then, and has not answered; zero if it was not
	unwritten     bool      // the last claim could not be written, nor anything since
	era           int       // of the wall clock, in which the rest was found
	text          string    // of a schedule that is not trusted
	// trigger is the ID of the last one that was dealt with.
	trigger string
}

func newLoop(s *Scheduler, owner claim.Owner, each bool) *loop {
	return &loop{s: s, owner: owner, each: each, entries: make(map[string]*entry), ended: make(chan func())}
}

// run returns when ctx has ended, and all runs have returned. In between it calls held, if there
// are any.
func (l *loop) run(ctx context.Context, held func()) {
	timer := time.NewTimer(lookEvery)
	defer timer.Stop()
	for ctx.Err() == nil {
		table, changed := l.s.current()
		if table != nil { // until it was read, a job may be paused
			l.adopt(table)
			timer.Reset(l.turn(ctx, l.s.Now()))
		}
		select {
		case <-changed:
		case <-timer.C:
		case end := <-l.ended:
			end()
			l.endOthers()
		case <-ctx.Done():
		}
	}
	for name, e := range l.entries {
		if e.running {
			l.s.alarms.Raise(jobGoesOn, name, "error", context.Cause(ctx))
		} else {
			l.s.live.forget(name, false)
		}
	}
	if l.running > 0 {
		held()
	}
	for l.running > 0 {
		end := <-l.ended
		end()
	}
}

// endOthers takes what else has ended, so that a thousand ends cost one turn.
func (l *loop) endOthers() {
	for {
		select {
		case end := <-l.ended:
			end()
		default:
			return
		}
	}
}

// adopt makes the entries those of the table. A job that runs stays until its run has ended.
func (l *loop) adopt(table map[string]task) {
	for name, t := range table {
		if t.EachNode != l.each {
			continue
		}
		e, ok := l.entries[name]
		if !ok {
			e = &entry{era: l.s.wall.era()}
			l.entries[name] = e
		}
		if !ok || e.rev != t.rev {
			if !e.def.Edited.Equal(t.def.Edited) {
				e.known = false // it counts from the edit
			}
			e.task, e.next = t, time.Time{}
		}
	}
	for name, e := range l.entries {
		if t, ok := table[name]; (!ok || t.EachNode != l.each) && !e.busy {
			delete(l.entries, name)
			l.s.live.forget(name, !ok)
		}
	}
}

// turn starts what is due, and returns how long nothing else is.
func (l *loop) turn(ctx context.Context, now time.Time) time.Duration {
	era, steady := l.s.wall.judge(now)
	if !steady {
		l.s.alarms.Raise(clockJumped, "", "wait", settleAfter)
		return lookEvery
	}
	l.s.alarms.Clear(clockJumped, "")
	sleep := lookEvery
	for _, e := range l.entries {
		if ctx.Err() != nil {
			break
		}
		if e.busy {
			if !e.asked.IsZero() && time.Since(e.asked) >= lookEvery {
				l.s.alarms.Raise(scheduleFails, e.Name, "error", "its method Next or String does not return")
			}
			continue
		}
		if e.era != era {
			// What was found by a clock that was wrong says nothing.
			*e = entry{task: e.task, text: e.text, era: era}
		}
		if wait := e.after.Sub(now); wait > 0 {
			sleep = min(sleep, wait)
			continue
		}
		l.contain(e, func() { l.consider(ctx, e, now) })
		if !e.busy && !e.next.IsZero() {
			sleep = min(sleep, max(e.next.Sub(now), 0))
		}
	}
	return sleep
}

// contain calls f, which asks the schedule of e: one that panics stops its own job alone.
func (l *loop) contain(e *entry, f func()) {
	defer func() {
		if p := recover(); p != nil {
			l.scheduleFailed(e, fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
		}
	}()
	f()
}

func (l *loop) scheduleFailed(e *entry, err error) {
	e.after, e.next = l.s.Now().Add(lookEvery), time.Time{}
	l.s.alarms.Raise(scheduleFails, e.Name, "error", err)
}

// ask calls f, which asks the schedule of e and returns what the loop calls with the answer, or why
// there is none. A schedule that is not ours may block: then it is asked in the background, and
// stops its own job alone. It is not waited for when ctx ends.
func (l *loop) ask(ctx context.Context, e *entry, f func() (answered func(), err error)) {
	if trusted(e.Schedule) {
		if answered, err := f(); err != nil {
			l.scheduleFailed(e, err)
		} else {
			answered()
		}
		return
	}
	e.busy, e.asked = true, time.Now()
	go func() {
		var answered func()
		err := claim.Contain(func() (err error) { answered, err = f(); return err })
		select {
		case l.ended <- func() {
			e.busy, e.asked = false, time.Time{}
			switch {
			case ctx.Err() != nil: // another node may be master by now
			case err != nil:
				l.scheduleFailed(e, err)
			default:
				l.s.alarms.Clear(scheduleFails, e.Name)
				answered()
			}
		}:
		case <-ctx.Done():
		}
	}()
}

// consider starts whatever one job wants: what is due comes before a trigger.
func (l *loop) consider(ctx context.Context, e *entry, now time.Time) {
	if !e.known {
		l.meet(ctx, e, now)
		return
	}
	if e.def.Paused {
		e.next = time.Time{}
	}
	// Nothing is due yet, and the clock was not set back.
	early := now.Before(e.next) && !now.Before(e.looked)
	if e.def.Paused || early {
		l.trigger(ctx, e, now)
		return
	}
	e.looked, e.next = now, time.Time{}
	job, base, skip, rev, asked := e.Job, e.base, e.skip, e.rev, time.Now()
	if !e.left.After(now) { // or the clock was set back
		base = later(base, e.left)
	}
	l.ask(ctx, e, func() (func(), error) {
		d, err := job.due(base, skip, now)
		return func() {
			if e.rev != rev || time.Since(asked) > Grace {
				return // it is asked again
			}
			l.dueAt(ctx, e, now, d)
		}, err
	})
}

// dueAt does what Job.due has said of e.
func (l *loop) dueAt(ctx context.Context, e *entry, now time.Time, d due) {
	e.next = d.next
	if !d.missed.IsZero() {
		e.left = d.missedTo
		l.s.Logger.Info("job missed", "job", e.Name, "scheduled", d.missed, "until", d.missedTo, "policy", string(e.policy()))
		l.s.live.missed(e.Name)
	}
	if d.at.IsZero() {
		l.trigger(ctx, e, now)
		return
	}
	l.fire(ctx, e, now, d.at, d.until, "")
}

// trigger runs e if it was triggered.
func (l *loop) trigger(ctx context.Context, e *entry, now time.Time) {
	if t := e.def.Trigger; t.wanted(e.trigger) {
		l.fire(ctx, e, now, t.at(now), time.Time{}, t.ID)
	}
}

func (j Job) policy() Missed {
	if j.Missed == "" {
		return Skip
	}
	return j.Missed
}

// recorded reports whether runs of e are claimed.
func (l *loop) recorded(e *entry) bool { return !l.each && !e.Volatile }

// meet reads what is recorded of a job that is not known, or was edited, in the background.
func (l *loop) meet(ctx context.Context, e *entry, now time.Time) {
	if !l.recorded(e) {
		e.known = true
		if e.base.IsZero() {
			e.base, e.trigger = now, e.def.Trigger.ID
		}
		e.base = later(e.base, earlier(e.def.Edited, now))
		l.consider(ctx, e, now)
		return
	}
	schedule := e.Schedule
	l.ask(ctx, e, func() (func(), error) {
		text := scheduleText(schedule)
		return func() {
			e.text = text
			l.read(ctx, e, now)
		}, nil
	})
}

// read is meet of a job whose runs are recorded. It records from when on the job counts, and that
// a run of an earlier term has no end.
func (l *loop) read(ctx context.Context, e *entry, now time.Time) {
	key, schedule, def, unwritten := runsPrefix+e.Name, e.scheduleText(), e.def, e.unwritten
	now = now.UTC().Round(0)
	l.start(ctx, e, func() func() {
		record, _, err := claim.Get(ctx, l.s.Store, key)
		amend := func(readable bool) error {
			return claim.Amend(ctx, l.s.Store, key, func(r claim.Record, found bool) (claim.Record, error) {
				if r.State == claim.Running && r.Term == def.Doubted && r.Term > l.owner.Term {
					r.Term = 0 // there was none such, if this mastership stands now that r was read
				}
				if err := claim.Replaceable(ctx, r, l.owner); err != nil {
					return r, err
				}
				if !readable {
					r, found = claim.Record{Data: runData{Trigger: def.Trigger.ID}.encode()}, false
				}
				if r.State == claim.Running { // not here, where nobody else is at this job
					r = r.Interrupt(l.s.Now())
				}
				d := dataOf(r)
				d.count(schedule, def.Edited, def.Spec != nil, now)
				if !found {
					r.State = claim.Free
				}
				r.Data = d.encode()
				record = r
				return r, nil
			})
		}
		if err == nil && (unwritten || record.State == claim.Running || !dataOf(record).knows(schedule, def.Edited)) {
			err = amend(true)
		}
		if errors.Is(err, driver.ErrInvalid) { // it cannot be read, or is too large
			err = amend(false)
		}
		return func() { l.met(ctx, e, def.Edited, record, err) }
	})
}

// met takes what was read, for the edit that was known then.
func (l *loop) met(ctx context.Context, e *entry, edited time.Time, record claim.Record, err error) {
	now := l.s.Now()
	if err != nil {
		l.failed(e, err)
		return
	}
	e.known, e.unwritten = e.def.Edited.Equal(edited), false
	if claim.Replaceable(ctx, record, l.owner) == nil {
		l.s.alarms.Clear(jobUnrecorded, e.Name)
	} else if ctx.Err() == nil {
		l.s.alarms.Raise(jobUnrecorded, e.Name, "error", fmt.Sprintf("its last run is recorded for term %d, and this one is %d", record.Term, l.owner.Term))
	}
	l.learn(e, record, now)
	d := dataOf(record)
	e.trigger = d.Trigger
	// What was interrupted runs again if the job says so, and it is not too late.
	at, job := parseWhat(record.What), e.Job
	if record.State != claim.Interrupted || e.Missed != Once || e.def.Paused || at.After(now) || !at.After(d.Since) || d.Triggered {
		return
	}
	l.ask(ctx, e, func() (func(), error) {
		window := job.window(now, job.Schedule.Next(now))
		return func() {
			if now.Sub(at) <= window {
				e.base, e.left, e.next = at.Add(-1), time.Time{}, time.Time{}
			}
		}, nil
	})
}

// learn takes what is recorded as dealt with, unless it is of a clock that was wrong.
func (l *loop) learn(e *entry, record claim.Record, now time.Time) {
	e.record = record
	d := dataOf(record)
	if runs := (runData{Triggered: d.Triggered, Seq: d.Seq}).with(record); len(runs) > 0 {
		l.s.live.last(e.Name, runs[0])
	}
	dealt := []time.Time{d.Since, d.Last, parseWhat(record.What)}
	for _, before := range d.History {
		if !before.Triggered {
			dealt = append(dealt, before.Scheduled) // the last one may be of a clock that was wrong
		}
	}
	for _, t := range dealt {
		switch {
		case t.After(now.Add(tooFar)):
			l.s.Logger.Debug("a time far ahead is ignored", "job", e.Name, "recorded", t)
			if e.base.IsZero() {
				e.base = now
			}
		case t.After(e.base):
			e.base = t
		}
	}
	e.next = time.Time{}
}

// start does something about e in the background, unless another loop does: then this one looks
// again when that is ready. finish is called by the loop, before ctx has ended. What work needs of
// e it is given beforehand: the loop may change e meanwhile.
func (l *loop) start(ctx context.Context, e *entry, work func() (finish func())) {
	if !l.s.take(e.Name) {
		e.next = time.Time{}
		return
	}
	e.busy, e.running = true, true
	l.running++
	go func() {
		finish := work()
		l.ended <- func() {
			e.busy, e.running = false, false
			l.running--
			if ctx.Err() == nil {
				l.contain(e, finish)
			} else {
				l.s.alarms.Clear(jobGoesOn, e.Name)
				l.s.live.forget(e.Name, false)
			}
			l.s.ready(e.Name)
		}
	}()
}

func (l *loop) failed(e *entry, err error) {
	e.after = l.s.Now().Add(retryEvery)
	l.s.alarms.Raise(jobUnrecorded, e.Name, "error", err)
}

// Why a run is not claimed any more.
var (
	errLate    = errors.New("cron: it is too late")
	errChanged = errors.New("cron: what was said about the job has changed")
	errOld     = errors.New("cron: another trigger has come since")
)

// fire claims a run and runs it, for a schedule, until when it may be claimed, or, if that is not
// empty, for a trigger.
func (l *loop) fire(ctx context.Context, e *entry, now, at, until time.Time, trigger string) {
	job, key, rev := e.Job, runsPrefix+e.Name, e.rev
	if !l.recorded(e) {
		l.start(ctx, e, func() func() {
			l.late(job.Name, at)
			var out tail
			end := l.s.live.begin(job.Name, l.each, RunStatus{
				Scheduled: at, State: Running, Began: l.s.Now(), NodeID: l.owner.NodeID, InstanceID: l.owner.InstanceID,
				Term: l.owner.Term, Triggered: trigger != "",
			})
			err := claim.Contain(func() error { return l.work(ctx, job, at, &out) })
			end(l.s.Now(), err, interrupted(ctx, err), out.text())
			return func() { l.finished(e, at, trigger, claim.Record{}, err) }
		})
		return
	}
	if last := parseWhat(e.record.What); trigger != "" && !at.After(last) && !last.After(now.Add(tooFar)) {
		at = last.Add(1) // a clock that is behind must not lose it
	}
	attempt := claim.Attempt{
		Ledger: l.s.Store, Key: key, Owner: l.owner, Now: l.s.Now, Logger: l.s.Logger,
		Goal: claim.Goal{
			What: formatWhat(at), Compare: compareAt(now), PassOver: true, Restart: job.Missed == Once,
			OnClaim: onClaim(at, e.scheduleText(), trigger),
		},
		Wanted: func() error {
			switch said, ok := l.s.revision(job.Name); {
			case !ok || said != rev:
				return errChanged
			case trigger == "" && l.s.Now().After(until):
				return errLate
			}
			return nil
		},
		Failing: func(err error) { l.s.alarms.Raise(jobUnrecorded, job.Name, "error", err) },
		Work:    func(ctx context.Context, c claim.Record) error { return l.recordedWork(ctx, job, c) },
	}
	l.start(ctx, e, func() func() {
		l.late(job.Name, at)
		if err := l.stillAsked(ctx, job.Name, trigger); err != nil {
			return func() { l.finished(e, at, trigger, claim.Record{}, err) }
		}
		record, err := claim.Do(ctx, attempt)
		return func() { l.finished(e, at, trigger, record, err) }
	})
}

func (l *loop) late(name string, at time.Time) {
	if late := l.s.Now().Sub(at); late > lateAfter {
		l.s.Logger.Info("job late", "job", name, "scheduled", at, "late", late)
	}
}

// stillAsked returns an error unless trigger, if there is one, is the last one of a job: the table
// may be that of a while ago, and the last master have run one that has come since.
func (l *loop) stillAsked(ctx context.Context, name, trigger string) error {
	if trigger == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, Grace)
	defer cancel()
	r, err := l.s.Store.Get(ctx, jobsPrefix+name)
	if err != nil && !errors.Is(err, driver.ErrNotFound) {
		return err
	}
	var d definition
	if err == nil {
		_ = json.Unmarshal(r.Value, &d) // what cannot be read has none
	}
	if d.Trigger.ID != trigger {
		return errOld
	}
	return nil
}

// onClaim is what a claim records beside itself: the runs before it.
func onClaim(at time.Time, schedule, trigger string) func(claim.Record) json.RawMessage {
	return func(was claim.Record) json.RawMessage {
		d := dataOf(was)
		if was.State == claim.Running {
			was.State = claim.Interrupted
		}
		d.History = d.with(was)
		d.Seq++
		d.Triggered, d.Schedule = trigger != "", schedule
		if d.Triggered {
			d.Trigger = trigger
		} else {
			d.Last = at.UTC()
		}
		return d.encode()
	}
}

// recordedWork is the run of a claim, whose output is kept.
func (l *loop) recordedWork(ctx context.Context, job Job, c claim.Record) error {
	var out tail
	l.s.alarms.Clear(jobUnrecorded, job.Name)
	l.s.Logger.Info("job begins", "job", job.Name, "scheduled", c.What, "term", c.Term)
	end := l.s.live.begin(job.Name, false, RunStatus{
		Scheduled: parseWhat(c.What), State: Running, Began: c.Claimed, NodeID: c.NodeID, InstanceID: c.InstanceID, Term: c.Term,
		Triggered: dataOf(c).Triggered, Seq: dataOf(c).Seq,
	})
	err := claim.Contain(func() error { return l.work(ctx, job, parseWhat(c.What), &out) })
	if text := out.text(); len(text) > 0 {
		call, cancel := context.WithTimeout(context.WithoutCancel(ctx), retryEvery)
		defer cancel()
		// Of a job that was removed meanwhile nothing is to be left.
		now, _, err := claim.Get(call, l.s.Store, runsPrefix+job.Name)
		if err == nil && now.Token == c.Token {
			err = writeOutput(call, l.s.Store, job.Name, dataOf(c).Seq, text)
		}
		if err != nil {
			l.s.Logger.Info("output not kept", "job", job.Name, "error", err)
		}
	}
	end(l.s.Now(), err, interrupted(ctx, err), nil)
	l.s.Logger.Info("job ended", "job", job.Name, "scheduled", c.What, "error", err)
	return err
}

func interrupted(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, ErrInterrupted)
}

func (l *loop) work(ctx context.Context, job Job, at time.Time, out *tail) error {
	if job.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, job.Timeout, fmt.Errorf("it ran for more than %v", job.Timeout))
		defer cancel()
	}
	err := job.Run(ctx, Fire{Job: job.Name, Scheduled: at, Term: l.owner.Term, Output: out})
	if err != nil && errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", err, context.Cause(ctx))
	}
	return err
}

// finished takes what has become of a fire. Where that is not known, the record is read again.
func (l *loop) finished(e *entry, at time.Time, trigger string, record claim.Record, err error) {
	now := l.s.Now()
	if l.recorded(e) {
		if err != nil {
			l.unclaimed(e, err)
			return
		}
		e.unwritten = false
		l.s.alarms.Clear(jobUnrecorded, e.Name)
		l.learn(e, record, now)
	} else {
		l.s.Logger.Debug("job ended", "job", e.Name, "scheduled", at, "error", err)
	}
	switch {
	case trigger == "":
		e.base = later(e.base, at)
	case !l.recorded(e) || record.Owner == l.owner: // or it was not claimed, since something later is
		e.trigger = trigger
	}
	if e.Missed != Once {
		e.skip = now.Round(0)
	}
	e.next = time.Time{}
	if e.Missed == Once && record.State == claim.Interrupted {
		e.known, e.after = false, now.Add(retryEvery) // it is met, and runs again
	}
}

// unclaimed takes why a run was not claimed, or its end not recorded. The record is read again.
func (l *loop) unclaimed(e *entry, err error) {
	e.known, e.next = false, time.Time{}
	switch {
	case errors.Is(err, errLate):
		e.unwritten = true
	case errors.Is(err, errChanged):
	case errors.Is(err, errOld):
		e.after = l.s.Now().Add(retryEvery) // the table follows
	default:
		l.failed(e, err)
	}
}

// scheduleText is the text of its schedule, once read was called.
func (e *entry) scheduleText() string {
	if trusted(e.Schedule) {
		return scheduleText(e.Schedule)
	}
	return e.text
}

func scheduleText(s Schedule) string {
	if text, ok := s.(fmt.Stringer); ok {
		return claim.Cut(text.String(), maxSchedule)
	}
	return fmt.Sprintf("%T", s)
}

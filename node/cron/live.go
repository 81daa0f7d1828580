package cron

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/alarm"
	"github.com/musterhq/muster/internal/crontab"
	"github.com/musterhq/muster/node/internal/claim"
)

// What an operator must know of.
var (
	jobFails = alarm.Kind{Name: "job_fails", Raised: "the last run of a job has failed", Cleared: "the last run of a job was done"}
	// It is not run here, and so perhaps nowhere.
	jobUnrunnable = alarm.Kind{Name: "job_unrunnable", Raised: "job does not run here", Cleared: "job runs here"}
	jobUnrecorded = alarm.Kind{Name: "job_unrecorded", Raised: "job cannot be recorded, and does not run", Cleared: "job can be recorded",
		Patience: 5 * time.Second}
	// The grant is not released before, and no other run of the job begins here.
	jobGoesOn = alarm.Kind{Name: "job_goes_on", Raised: "a job's function has not returned, although its context has ended",
		Cleared: "the job's function has returned", Patience: 30 * time.Second}
	jobsUnread    = alarm.Kind{Name: "jobs_unread", Raised: "jobs cannot be read", Cleared: "jobs can be read", Patience: 5 * time.Second}
	scheduleFails = alarm.Kind{Name: "job_schedule_fails", Raised: "job does not run: its schedule fails", Cleared: "schedule answers again"}
	clockJumped   = alarm.Kind{Name: "clock_jumped", Raised: "no job runs: the wall clock was set by more than a day", Cleared: "jobs run by the wall clock"}
)

// live is what this node knows of its own runs, and of the last one of each job as long as it is
// the one who runs them.
type live struct {
	alarms *alarm.Set

	mu   sync.Mutex
	jobs map[string]*liveJob
}

type liveJob struct {
	running                           int
	last                              *RunStatus
	done, failed, interrupted, missed uint64
	// Of a job of each node, whose runs nothing else records, the last ones, the latest first.
	seq     uint64
	runs    []RunStatus
	outputs [outputSlots]output
}

// with calls f with a job.
func (l *live) with(name string, f func(*liveJob)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.jobs == nil {
		l.jobs = make(map[string]*liveJob)
	}
	if l.jobs[name] == nil {
		l.jobs[name] = &liveJob{}
	}
	f(l.jobs[name])
}

func (l *live) missed(name string) { l.with(name, func(j *liveJob) { j.missed++ }) }

// forget says that this node no longer knows what becomes of a job; gone, that there is none.
func (l *live) forget(name string, gone bool) {
	l.alarms.Forget(jobFails, name)
	l.alarms.Forget(jobUnrecorded, name)
	l.with(name, func(j *liveJob) {
		j.last = nil
		if gone {
			delete(l.jobs, name)
			l.alarms.Forget(scheduleFails, name)
		}
	})
}

// last takes what has become of the last run, here or elsewhere.
func (l *live) last(name string, r RunStatus) {
	l.with(name, func(j *liveJob) { j.last = &r })
	switch r.State {
	case Done:
		l.alarms.Clear(jobFails, name)
	case Failed, Interrupted:
		l.alarms.Raise(jobFails, name, "state", string(r.State), "scheduled", r.Scheduled, "ran_on", r.NodeID, "error", r.Error)
	}
}

// begin says that a run begins. What it returns is called at the end, with what it has written if
// nothing else records the run.
func (l *live) begin(name string, each bool, r RunStatus) (end func(now time.Time, err error, interrupted bool, output []byte)) {
	var j *liveJob // also once it is forgotten
	l.with(name, func(known *liveJob) {
		j = known
		j.running++
		if each {
			j.seq++
			r.Seq = j.seq
			j.runs = append([]RunStatus{r}, j.runs[:min(len(j.runs), maxHistory-1)]...)
		}
	})
	return func(now time.Time, err error, interrupted bool, text []byte) {
		r.State, r.Ended = Done, now
		if err != nil {
			r.State, r.Error = Failed, claim.Cut(strings.TrimPrefix(err.Error(), ErrInterrupted.Error()+": "), maxText)
		}
		if err != nil && interrupted {
			r.State = Interrupted
		}
		l.mu.Lock()
		j.running--
		switch r.State {
		case Failed:
			j.failed++
		case Interrupted:
			j.interrupted++
		default:
			j.done++
		}
		if each {
			if i := slices.IndexFunc(j.runs, func(o RunStatus) bool { return o.Seq == r.Seq }); i >= 0 {
				j.runs[i] = r
			}
			j.outputs[r.Seq%outputSlots] = output{Seq: r.Seq, Text: text}
		}
		l.mu.Unlock()
		if each {
			l.last(name, r)
		}
	}
}

// NodeStatus is a job as one node knows it.
type NodeStatus struct {
	Name string
	// Spec is nil for a job of the program.
	Spec     *Spec
	Schedule string
	EachNode bool
	Paused   bool
	// Next is when it is due next, by the clock of this node, on whatever node it runs; zero if it
	// is never, or paused, or its Schedule is not of this package.
	Next time.Time
	// Problem says why it does not run here.
	Problem string

	// Running is how many runs go on here. Done, Failed and Interrupted are how many have ended,
	// and Missed how often times of the schedule were left out here, several in a row as one, since
	// Run was called.
	Running                           int
	Done, Failed, Interrupted, Missed uint64
	// Last is the last run, if this node runs the job: it is the master, or the job is one of each
	// node. Otherwise nil.
	Last *RunStatus
}

// Jobs returns the jobs that this node knows, by name: those of the program and those that were
// added. It does not block.
func (s *Scheduler) Jobs() []NodeStatus {
	s.mu.Lock()
	table, problems, clock := s.table, s.problems, s.Now
	s.mu.Unlock()
	now := time.Now()
	if clock != nil {
		now = clock()
	}
	all := make(map[string]NodeStatus)
	for name, problem := range problems {
		all[name] = NodeStatus{Name: name, Problem: problem}
	}
	for name, t := range table {
		n := NodeStatus{Name: name, Spec: t.def.Spec, EachNode: t.EachNode, Paused: t.def.Paused}
		if _, ofProgram := s.code[name]; ofProgram {
			n.Spec = nil
		}
		if parsed, ok := crontab.Of(t.Schedule); ok {
			n.Schedule = parsed.String()
			if !n.Paused {
				n.Next = parsed.Next(now)
			}
		}
		all[name] = n
	}
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	for name, j := range s.live.jobs {
		if n, known := all[name]; known {
			n.Running, n.Done, n.Failed, n.Interrupted = j.running, j.done, j.failed, j.interrupted
			n.Missed, n.Last = j.missed, j.last
			all[name] = n
		}
	}
	return slices.SortedFunc(maps.Values(all), func(a, b NodeStatus) int { return strings.Compare(a.Name, b.Name) })
}

// Runs returns the last runs of a job of each node on this one, since Run was called, the latest
// first. It does not block.
func (s *Scheduler) Runs(name string) (runs []RunStatus) {
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	if j := s.live.jobs[name]; j != nil {
		runs = slices.Clone(j.runs)
	}
	return runs
}

// Output returns what such a run has written, by RunStatus.Seq. The error wraps
// discovery.ErrNotFound if that is not known any more, as for the function Output. It does not
// block.
func (s *Scheduler) Output(name string, seq uint64) ([]byte, error) {
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	if j := s.live.jobs[name]; j != nil {
		if o := j.outputs[seq%outputSlots]; o.Seq == seq && len(o.Text) > 0 {
			return o.Text, nil
		}
	}
	return nil, driver.ErrNotFound
}

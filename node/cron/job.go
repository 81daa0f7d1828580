package cron

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/crontab"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/internal/claim"
)

// Missed says what becomes of a fire that was missed: there was no master, or the job still ran.
type Missed string

// The policies.
const (
	// Skip leaves it out, and is the default.
	Skip Missed = "skip"
	// Once runs the latest missed one, if it is no older than the window of the job. It also
	// runs one again that was interrupted.
	Once Missed = "once"
)

// ErrInterrupted is what an error of Job.Run wraps if the run was stopped, or if it is not known
// what became of it, although the mastership goes on: it is an interruption, and no failure.
var ErrInterrupted = claim.ErrInterrupted

// Grace is how late a fire may be claimed and still is on time.
const Grace = 10 * time.Second

// maxWindow is the default of a job's window, if its interval is longer.
const maxWindow = time.Hour

// MaxWindow is the longest Job.Window: a year.
const MaxWindow = 366 * 24 * time.Hour

// Job is something that is run when its schedule says so.
type Job struct {
	// Name has no slash and no spaces, and MaxName bytes at most.
	Name     string
	Schedule Schedule
	// Run does it. Its context ends with the mastership, after Timeout, and with that of
	// Scheduler.Run. An error is recorded.
	Run func(ctx context.Context, f Fire) error
	// Missed is Skip by default, and Window how old the missed one may be that Once runs.
	// 0: the interval of the schedule, an hour at most. It is MaxWindow at most.
	Missed Missed
	Window time.Duration
	// Timeout bounds a run. 0: none.
	Timeout time.Duration
	// EachNode runs the job on each node, and not on the master: without claims or records, and
	// without catching up.
	EachNode bool
	// Volatile keeps no records: a fire may run twice where masters follow one another, and none
	// is caught up with. It is for intervals below a second.
	Volatile bool
}

// Fire is one run of a job.
type Fire struct {
	Job string
	// Scheduled is the time for which it was scheduled, or triggered.
	Scheduled time.Time
	// Term is that of the mastership, 0 for a job of each node.
	Term node.Term
	// Args are those of a Spec.
	Args []string
	// Output takes what is to be kept of the run: the last MaxOutput bytes.
	Output io.Writer
}

// Spec is a job that was added at run time. Its JSON form only ever gains fields.
type Spec struct {
	Name string `json:"name"`
	// Schedule is what Parse reads, in the time zone Zone, such as Europe/Berlin. Empty: UTC. Local
	// is none: it is another one on each node.
	Schedule string `json:"schedule"`
	Zone     string `json:"zone,omitempty"`
	// Handler names what runs: one of Scheduler.Handlers. Args are for it.
	Handler string   `json:"handler"`
	Args    []string `json:"args,omitempty"`

	Missed   Missed        `json:"missed,omitempty"`
	Window   time.Duration `json:"window,omitempty"`
	Timeout  time.Duration `json:"timeout,omitempty"`
	EachNode bool          `json:"each_node,omitempty"`
}

// schedule parses that of the spec.
func (s Spec) schedule() (Schedule, error) {
	loc, err := crontab.Location(s.Zone)
	if err != nil {
		return nil, fmt.Errorf("cron: job %q: zone %q: %w: %w", s.Name, s.Zone, driver.ErrInvalid, err)
	}
	return Parse(s.Schedule, loc)
}

// Validate reports what is wrong with it, as an error that wraps discovery.ErrInvalid.
func (s Spec) Validate() error {
	schedule, err := s.schedule()
	if err != nil {
		return err
	}
	if s.Handler == "" {
		return fmt.Errorf("cron: job %q: %w: it names no handler", s.Name, driver.ErrInvalid)
	}
	return s.job(schedule, func(context.Context, Fire) error { return nil }).validate()
}

func (s Spec) job(schedule Schedule, run func(context.Context, Fire) error) Job {
	return Job{
		Name: s.Name, Schedule: schedule, Run: run,
		Missed: s.Missed, Window: s.Window, Timeout: s.Timeout, EachNode: s.EachNode,
	}
}

func (j Job) validate() error {
	err := validateName(j.Name)
	switch {
	case err != nil:
	case j.Schedule == nil:
		err = errors.New("it has no schedule")
	case j.Run == nil:
		err = errors.New("Run is nil")
	case j.Missed != "" && j.Missed != Skip && j.Missed != Once:
		err = fmt.Errorf("missed %q: want skip or once", j.Missed)
	case j.Window < 0 || j.Timeout < 0:
		err = errors.New("window and timeout are not negative")
	case j.Window > MaxWindow:
		err = fmt.Errorf("window %v: want %v at most", j.Window, MaxWindow)
	}
	if err != nil {
		return fmt.Errorf("cron: job %q: %w: %w", j.Name, driver.ErrInvalid, err)
	}
	return nil
}

// MaxName is how many bytes the name of a job may have.
const MaxName = 256

func validateName(name string) error {
	if len(name) > MaxName {
		return fmt.Errorf("a name of %d bytes: want %d at most", len(name), MaxName)
	}
	if err := driver.ValidateName(name); err != nil {
		return err
	}
	if strings.Contains(name, "/") || strings.Trim(name, ".") == "" {
		return fmt.Errorf("name %q: want one without slashes, and not of dots alone", name)
	}
	return nil
}

// due is what has come due of a job, and what comes next. Each is the zero time if there is none.
type due struct {
	// at is the latest scheduled time that is to be run, and until when it may be claimed.
	at, until time.Time
	// missed is the first time that is left out, of those up to missedTo.
	missed, missedTo time.Time
	// next is the first time after now.
	next time.Time
}

// due decides what is to be run at now, where all up to base have been dealt with, and what came
// up to skip is left out: it came due while the job ran.
func (j Job) due(base, skip, now time.Time) (d due, err error) {
	now = now.Round(0) // schedules are about the wall clock alone
	if d.next, err = j.after(now); err != nil {
		return due{}, err
	}
	window := max(j.window(now, d.next), Grace)
	from := later(skip, now.Add(-window-1))
	if base.IsZero() {
		base = from
	}
	first, err := j.after(base)
	if err != nil || first.IsZero() || first.After(now) {
		return d, err
	}
	switch d.at = latest(j.Schedule, later(base, from), now); {
	case d.at.IsZero():
		d.missed, d.missedTo = first, latest(j.Schedule, base, now)
	case first.Before(d.at):
		d.missed, d.missedTo = first, d.at.Add(-1)
	}
	d.until = d.at.Add(window)
	return d, nil
}

// after is the first time after t, or an error if the schedule says what cannot be.
func (j Job) after(t time.Time) (time.Time, error) {
	next := j.Schedule.Next(t)
	if !next.IsZero() && !next.After(t) {
		return time.Time{}, fmt.Errorf("its method Next says %v when it is asked for a time after %v", next, t)
	}
	return next, nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// maxLooks bounds how often a schedule is asked for one: more is for one that contradicts itself.
const maxLooks = 200

// latest is the last time after base, and not after now, at which s is due; the zero time if there
// is none. It halves the time in which that is, so that a million times that were missed cost some
// dozens of calls.
func latest(s Schedule, base, now time.Time) (at time.Time) {
	due := func(t time.Time) (time.Time, bool) {
		next := s.Next(t)
		return next, next.After(t) && !next.After(now)
	}
	end := now // nothing is due after it
	for range maxLooks {
		next, ok := due(base)
		if !ok {
			return at
		}
		at = next
		if middle := at.Add(end.Sub(at) / 2); middle.After(at) {
			if _, ok := due(middle); ok {
				base = middle
				continue
			}
			end = middle
		}
		base = at
	}
	return at
}

// window is the one that is configured, or the interval of the schedule.
func (j Job) window(now, next time.Time) time.Duration {
	switch {
	case j.Missed != Once:
		return 0
	case j.Window > 0:
		return j.Window
	case next.IsZero():
		return maxWindow
	}
	interval := maxWindow
	if after := j.Schedule.Next(next); !after.IsZero() {
		interval = after.Sub(next)
	}
	return min(interval, maxWindow)
}

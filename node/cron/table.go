package cron

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/backoff"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/internal/claim"
)

// Store is where jobs and their runs are recorded: that of a node, Node.Store.
type Store interface {
	Get(ctx context.Context, key string) (driver.Record, error)
	Set(ctx context.Context, key string, value []byte, prev driver.Revision) (driver.Revision, error)
	Delete(ctx context.Context, key string, prev driver.Revision) error
	Records(ctx context.Context, prefix string) ([]driver.Record, error)
	Watch(ctx context.Context, prefix string) iter.Seq2[[]driver.Record, error]
}

const (
	jobsPrefix   = "cron/jobs/"
	runsPrefix   = "cron/runs/"
	outputPrefix = "cron/output/"
)

// definition is the value of cron/jobs/NAME: what was said about a job at run time.
type definition struct {
	// Spec is nil for a job of the program, of which only the rest is said.
	Spec   *Spec `json:"spec,omitempty"`
	Paused bool  `json:"paused,omitempty"`
	// Edited is when the spec was changed or the job resumed: it counts from then on.
	Edited  time.Time `json:"edited,omitzero"`
	Trigger trigger   `json:"trigger,omitzero"`
	// Doubted is the term of a run without an end that Resume has met. A master of an earlier term,
	// which knows that there was none of that, takes the run for interrupted.
	Doubted node.Term `json:"doubted,omitempty"`
}

// trigger is the last demand for a run. The master runs one whose ID it has not run.
type trigger struct {
	ID string    `json:"id"`
	At time.Time `json:"at"`
}

// wanted reports whether it is to be run, where the last one that was run is known. An ID that is
// too long to be recorded is of no Trigger.
func (t trigger) wanted(last string) bool {
	return t.ID != "" && t.ID != last && len(t.ID) <= maxText
}

// at is when it was asked for: not after now, whatever the clock showed where that was.
func (t trigger) at(now time.Time) time.Time {
	if t.At.IsZero() || t.At.After(now) {
		return now
	}
	return t.At
}

// editTries bounds how often edit meets a definition that was changed meanwhile.
const editTries = 20

// edit changes the definition of a job, by compare-and-set. One that cannot be read is none.
func edit(ctx context.Context, s Store, name string, change func(d *definition, found bool) error) error {
	if err := validateName(name); err != nil {
		return fmt.Errorf("cron: job %q: %w: %w", name, driver.ErrInvalid, err)
	}
	wait := backoff.Backoff{Max: time.Second}
	for try := 1; ; try++ {
		r, err := s.Get(ctx, jobsPrefix+name)
		if err != nil && !errors.Is(err, driver.ErrNotFound) {
			return err
		}
		var d definition
		found := err == nil && json.Unmarshal(r.Value, &d) == nil
		if !found {
			d = definition{}
		}
		if err := change(&d, found); err != nil {
			return err
		}
		value, err := json.Marshal(d)
		if err != nil {
			return err
		}
		if _, err = s.Set(ctx, jobsPrefix+name, value, r.Revision); !errors.Is(err, driver.ErrConflict) || try == editTries {
			return err
		}
		if err := wait.Wait(ctx); err != nil {
			return err
		}
	}
}

// MaxAdded is how many jobs are recorded, added ones and those that were paused or triggered,
// before Add adds no more: each node has all of them in memory.
const MaxAdded = 1000

// Add adds a job. It returns an error that wraps discovery.ErrConflict if there is one of that
// name, or there are MaxAdded, and discovery.ErrInvalid for a spec that cannot be. It blocks until
// that is recorded, as all these do. The nodes follow within a second, or within a minute if the
// message about it is lost.
func Add(ctx context.Context, s Store, spec Spec) error {
	all, err := s.Records(ctx, jobsPrefix)
	if err != nil {
		return err
	}
	if len(all) >= MaxAdded {
		return fmt.Errorf("cron: job %q: %w: there are %d; remove some", spec.Name, driver.ErrConflict, len(all))
	}
	return put(ctx, s, spec, func(d *definition) error {
		if d.Spec != nil {
			return fmt.Errorf("cron: job %q: %w: there is one of that name", spec.Name, driver.ErrConflict)
		}
		return nil
	})
}

// Update replaces a job that was added. It counts from now on.
func Update(ctx context.Context, s Store, spec Spec) error {
	return put(ctx, s, spec, func(d *definition) error {
		if d.Spec == nil {
			return notAdded(spec.Name)
		}
		return nil
	})
}

func notAdded(name string) error {
	return fmt.Errorf("cron: job %q: %w: none of that name was added", name, driver.ErrNotFound)
}

func put(ctx context.Context, s Store, spec Spec, check func(*definition) error) error {
	if err := spec.Validate(); err != nil {
		return err
	}
	return edit(ctx, s, spec.Name, func(d *definition, _ bool) error {
		if err := check(d); err != nil {
			return err
		}
		d.Spec, d.Edited = &spec, time.Now().UTC()
		return nil
	})
}

// Remove removes a job that was added, with the records of its runs. A run that goes on does so
// to its end. Of a job of the program it removes what is recorded: it counts from then on. It
// returns an error that wraps discovery.ErrNotFound if nothing of that name is recorded.
func Remove(ctx context.Context, s Store, name string) error {
	if err := validateName(name); err != nil {
		return fmt.Errorf("cron: job %q: %w: %w", name, driver.ErrInvalid, err)
	}
	keys := []string{jobsPrefix + name, runsPrefix + name}
	for slot := range outputSlots {
		keys = append(keys, outputKey(name, slot))
	}
	found := false
	for i, key := range keys {
		r, err := s.Get(ctx, key)
		if err == nil {
			err = s.Delete(ctx, key, r.Revision)
		}
		switch {
		case err == nil:
			found = true
		case errors.Is(err, driver.ErrNotFound), errors.Is(err, driver.ErrConflict) && i > 0:
		default:
			return err
		}
	}
	if !found {
		return notAdded(name)
	}
	return nil
}

// Trigger has a job run once more, now, also if it is paused: on the master, or, for a job of
// each node, on all that are there. It does not wait for the run. Of several demands that come
// while the job runs, the last one counts.
func Trigger(ctx context.Context, s Store, name string) error {
	return edit(ctx, s, name, func(d *definition, _ bool) error {
		d.Trigger = trigger{ID: rand.Text(), At: time.Now().UTC()}
		return nil
	})
}

// Pause keeps a job from being due. A run that goes on does so to its end.
func Pause(ctx context.Context, s Store, name string) error {
	return edit(ctx, s, name, func(d *definition, _ bool) error {
		d.Paused = true
		return nil
	})
}

// Resume ends a Pause. What would have been due meanwhile is not missed: the job counts from now.
// It is also the way out where the last run is recorded for a term that no master will have, as
// after a store was restored: the term is no longer recorded then. If that run has no end, it is
// for the next master to say that there was no such term.
func Resume(ctx context.Context, s Store, name string) error {
	last, _, err := claim.Get(ctx, s, runsPrefix+name)
	if err != nil && !errors.Is(err, driver.ErrInvalid) { // what cannot be read is replaced anyway
		return err
	}
	err = edit(ctx, s, name, func(d *definition, _ bool) error {
		if d.Paused {
			d.Paused, d.Edited = false, time.Now().UTC()
		}
		d.Doubted = 0
		if last.State == claim.Running {
			d.Doubted = last.Term
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = claim.Amend(ctx, s, runsPrefix+name, func(r claim.Record, found bool) (claim.Record, error) {
		if !found || r.State == claim.Running || r.Term == 0 {
			return r, errNothing
		}
		r.Term = 0
		return r, nil
	})
	if errors.Is(err, errNothing) {
		return nil
	}
	return err
}

var errNothing = errors.New("nothing is to be changed")

// RunState is what has become of a run.
type RunState string

// The states of a run.
const (
	Running     = RunState(claim.Running)
	Done        = RunState(claim.Done)
	Failed      = RunState(claim.Failed)
	Interrupted = RunState(claim.Interrupted)
)

// RunStatus is one run of a job.
type RunStatus struct {
	Scheduled  time.Time `json:"scheduled"`
	State      RunState  `json:"state"`
	Began      time.Time `json:"began"`
	Ended      time.Time `json:"ended,omitzero"`
	NodeID     string    `json:"node_id"`
	InstanceID string    `json:"instance_id,omitempty"`
	Term       node.Term `json:"term"`
	Error      string    `json:"error,omitempty"`
	Triggered  bool      `json:"triggered,omitempty"`
	// Seq numbers the runs of a job, for Output.
	Seq uint64 `json:"seq"`
}

// JobStatus is what is recorded of a job.
type JobStatus struct {
	Name string `json:"name"`
	// Spec is nil for a job of the program.
	Spec   *Spec `json:"spec,omitempty"`
	Paused bool  `json:"paused,omitempty"`
	// Schedule is the text of the schedule, as the last master knew it.
	Schedule string `json:"schedule,omitempty"`
	// Runs are the last ones, the latest first.
	Runs []RunStatus `json:"runs,omitempty"`
}

// List returns what is recorded of all jobs that have run, were added or paused, by name. A record
// that cannot be read is left out.
func List(ctx context.Context, s Store) ([]JobStatus, error) {
	definitions, err := s.Records(ctx, jobsPrefix)
	if err != nil {
		return nil, err
	}
	runs, err := s.Records(ctx, runsPrefix)
	if err != nil {
		return nil, err
	}
	jobs := make(map[string]JobStatus)
	for _, r := range runs {
		name := strings.TrimPrefix(r.Key, runsPrefix)
		if c, err := claim.Parse(r.Key, r.Value); err == nil {
			data := dataOf(c)
			jobs[name] = JobStatus{Name: name, Schedule: data.Schedule, Runs: data.with(c)}
		}
	}
	for _, r := range definitions {
		var d definition
		if json.Unmarshal(r.Value, &d) != nil {
			continue
		}
		name := strings.TrimPrefix(r.Key, jobsPrefix)
		j := jobs[name]
		j.Name, j.Spec, j.Paused = name, d.Spec, d.Paused
		jobs[name] = j
	}
	return sorted(jobs), nil
}

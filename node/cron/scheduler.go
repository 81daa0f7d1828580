package cron

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/alarm"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/internal/claim"
	"github.com/musterhq/muster/node/mastership"
)

// Node is what a Scheduler needs of a node. A *node.Node is one.
type Node interface {
	ID() string
	InstanceID() string
	WhileMaster(ctx context.Context, fn func(context.Context, node.Term) error, o ...mastership.WhileMasterOption) error
}

// Scheduler runs jobs. Its fields are not changed once Run was called.
type Scheduler struct {
	Node  Node // nil: this process is its own master
	Store Store
	// Handlers are what jobs that were added at run time can run.
	Handlers map[string]func(ctx context.Context, f Fire) error
	// Permit says why a job that was added at run time must not run on this node, which has its
	// handler: all who can write to the store can add one. It may change what it is given, to what
	// this version of the program says of the handler, such as its timeout. Nil: each may run.
	Permit func(*Spec) error
	// Logger takes each run, what is late, and what fails. Nil: none.
	Logger *slog.Logger
	// Now is the wall clock. Nil: time.Now.
	Now func() time.Time

	code   map[string]Job
	wall   wall
	live   live
	alarms *alarm.Set

	mu       sync.Mutex
	table    map[string]task
	changed  chan struct{} // closed, and replaced, when a loop is to look again
	problems map[string]string
	// taken are the jobs that a loop reads or runs, so that no other one does. The value says that
	// another one waits.
	taken map[string]bool
}

// task is a job with what was said about it.
type task struct {
	Job
	def definition
	rev driver.Revision
}

// Run runs jobs, and those that were added at run time, until ctx or the node ends, and returns
// the cause of that. It is called once, on every node, with the same jobs in one version of a
// program. Before that it returns an error that wraps discovery.ErrInvalid for jobs that cannot
// be. It returns once all runs have.
func (s *Scheduler) Run(ctx context.Context, jobs ...Job) error {
	s.code = make(map[string]Job)
	for _, j := range jobs {
		if err := j.validate(); err != nil {
			return err
		}
		if _, twice := s.code[j.Name]; twice {
			return fmt.Errorf("cron: job %q: %w: there are two of that name", j.Name, driver.ErrInvalid)
		}
		s.code[j.Name] = j
	}
	if s.Logger == nil {
		s.Logger = slog.New(slog.DiscardHandler)
	}
	s.mu.Lock()
	if s.Now == nil {
		s.Now = time.Now
	}
	s.changed, s.problems, s.taken = make(chan struct{}), make(map[string]string), make(map[string]bool)
	s.alarms = alarm.New(s.Logger)
	defer s.alarms.Close()
	s.live.alarms = s.alarms
	s.mu.Unlock()
	s.wall.start(s.Now())

	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { s.follow(ctx) })
	owner := s.owner()
	wg.Go(func() { newLoop(s, owner, true).run(ctx, func() {}) })
	if s.Node == nil {
		newLoop(s, owner, false).run(ctx, func() {})
		return context.Cause(ctx)
	}
	err := s.whileMaster(ctx)
	if errors.Is(err, node.ErrNoAuthority) {
		// It is never master, and still runs the jobs of each node.
		select {
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-ended(s.Node):
		}
	}
	return err
}

// whileMaster runs the jobs of the master in each term. A run that ignores its context holds the
// call of WhileMaster in which it began, so that the grant is not released before its time. The
// terms that follow are those of another call, so that the other jobs go on.
func (s *Scheduler) whileMaster(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		mine, end := context.WithCancel(ctx)
		held, ended := make(chan struct{}), make(chan error, 1)
		wg.Go(func() {
			defer end()
			ended <- s.Node.WhileMaster(mine, func(ctx context.Context, term node.Term) error {
				owner := s.owner()
				owner.Term = term
				if token, ok := mastership.TokenFrom(ctx); ok {
					owner.ClusterID = token.ClusterID
				}
				newLoop(s, owner, false).run(ctx, func() { end(); close(held) })
				return nil
			})
		})
		select {
		case err := <-ended:
			return err
		case <-held:
		}
	}
}

// ended is closed when a node has ended, if n is one.
func ended(n Node) <-chan struct{} {
	if n, ok := n.(interface{ Done() <-chan struct{} }); ok {
		return n.Done()
	}
	return nil
}

func (s *Scheduler) owner() claim.Owner {
	if s.Node != nil {
		return claim.Owner{NodeID: s.Node.ID(), InstanceID: s.Node.InstanceID()}
	}
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	return claim.Owner{NodeID: host, InstanceID: rand.Text()}
}

// Problems says which jobs do not run on this node, and why, by name: they are added for a
// handler that it lacks, or cannot be read. It does not block.
func (s *Scheduler) Problems() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.problems)
}

// follow keeps the table as it is recorded.
func (s *Scheduler) follow(ctx context.Context) {
	for records, err := range s.Store.Watch(ctx, jobsPrefix) {
		switch {
		case errors.Is(err, discovery.ErrUnsupported):
			s.setTable(nil) // nothing can be said about a job here
		case err != nil:
			if len(s.code)+len(s.Handlers) > 0 { // otherwise none could run here
				s.alarms.Raise(jobsUnread, "", "error", err)
			}
		default:
			s.alarms.Clear(jobsUnread, "")
			s.setTable(records)
		}
	}
}

// setTable makes the jobs of the program and those that are recorded the table.
func (s *Scheduler) setTable(records []driver.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	table, problems := make(map[string]task), make(map[string]string)
	for name, j := range s.code {
		table[name] = task{Job: j}
	}
	for _, r := range records {
		name := strings.TrimPrefix(r.Key, jobsPrefix)
		if had, ok := s.table[name]; ok && had.rev == r.Revision && had.Schedule != nil {
			table[name] = had
			continue
		}
		var d definition
		if err := json.Unmarshal(r.Value, &d); err != nil {
			problems[name] = "its record cannot be read: " + err.Error()
			continue
		}
		j, ok := s.code[name]
		if !ok && d.Spec == nil {
			continue // a job of another version of the program
		}
		if !ok {
			var problem string
			if j, problem = s.jobOf(name, *d.Spec); problem != "" {
				problems[name] = problem
				continue
			}
		}
		table[name] = task{j, d, r.Revision}
	}
	for name := range s.problems {
		if _, is := problems[name]; !is {
			s.alarms.Clear(jobUnrunnable, name)
		}
	}
	for name, problem := range problems {
		problem = claim.Cut(problem, maxText) // it may be all of a record
		problems[name] = problem
		s.alarms.Raise(jobUnrunnable, name, "reason", problem)
	}
	s.table, s.problems = table, problems
	s.wake()
}

// wake has the loops look again. The lock is held.
func (s *Scheduler) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// take reports whether the caller may read or run a job: nobody else on this node does. If not, the
// loops look again when that one is ready.
func (s *Scheduler) take(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.taken[name]; taken {
		s.taken[name] = true
		return false
	}
	s.taken[name] = false
	return true
}

// ready ends a take.
func (s *Scheduler) ready(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken[name] {
		s.wake()
	}
	delete(s.taken, name)
}

// revision is that of what was said about a job, and false if there is none.
func (s *Scheduler) revision(name string) (driver.Revision, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.table[name]
	return t.rev, ok
}

// jobOf is the job that a spec describes, or what is wrong with it. The name is that of its key.
func (s *Scheduler) jobOf(name string, spec Spec) (Job, string) {
	spec.Name = name
	if err := spec.Validate(); err != nil {
		return Job{}, err.Error()
	}
	run, ok := s.Handlers[spec.Handler]
	if !ok {
		return Job{}, fmt.Sprintf("this node has no handler %q", spec.Handler)
	}
	if s.Permit != nil {
		if err := s.Permit(&spec); err != nil {
			return Job{}, err.Error()
		}
	}
	schedule, err := spec.schedule()
	if err != nil {
		return Job{}, err.Error()
	}
	args := slices.Clone(spec.Args)
	return spec.job(schedule, func(ctx context.Context, f Fire) error {
		f.Args = slices.Clone(args)
		return run(ctx, f)
	}), ""
}

func (s *Scheduler) current() (table map[string]task, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.table, s.changed
}

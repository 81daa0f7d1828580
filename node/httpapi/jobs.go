package httpapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/routes"
	"github.com/musterhq/muster/node/cron"
	"github.com/musterhq/muster/node/upgrade"
)

// Job is a job of the cluster, as the agent that was asked knows it and as it is recorded.
type Job struct {
	Name string `json:"name"`
	// Schedule has the time zone behind it. Missing if neither this agent nor the store knows it.
	Schedule string `json:"schedule,omitempty"`
	// Where is master or all.
	Where string `json:"where"`
	// Runs is the job of the configuration whose command a job runs that was added at run time;
	// missing for one of the configuration.
	Runs   string `json:"runs,omitempty"`
	Paused bool   `json:"paused"`
	// Next is when it is due next, by the clock of this agent; missing if it is never, or paused.
	Next time.Time `json:"next,omitzero"`
	// Last is its last run: of a job of each node that of this agent.
	Last *cron.RunStatus `json:"last,omitempty"`
	// Problem says why it does not run on this agent's node.
	Problem string `json:"problem,omitempty"`
}

// Removed is the answer to PathJobRemove.
type Removed struct {
	Name string `json:"name"`
}

// The values of Job.Where.
const (
	jobOnMaster = "master"
	jobOnAll    = "all"
)

// localJobs are those that this agent knows, by name.
func (s *server) localJobs() map[string]cron.NodeStatus {
	byName := make(map[string]cron.NodeStatus)
	if o := s.options.Operator; o != nil && o.Jobs != nil {
		for _, j := range o.Jobs.Jobs() {
			byName[j.Name] = j
		}
	}
	return byName
}

// allJobs returns the jobs that this agent knows and those that are recorded, by name.
func (s *server) allJobs(ctx context.Context) ([]Job, error) {
	recorded, err := cron.List(ctx, s.node.Store())
	if err != nil {
		return nil, err
	}
	local := s.localJobs()
	jobs := []Job{} // an empty array, not null
	for _, r := range recorded {
		j := Job{Name: r.Name, Schedule: r.Schedule, Where: jobOnMaster, Paused: r.Paused, Problem: "no job of this agent: it is not in its configuration, and was not added"}
		if r.Spec != nil {
			j.Problem = ""
			j.Runs, j.Schedule = r.Spec.Handler, r.Spec.Schedule+" "+cmp.Or(r.Spec.Zone, time.UTC.String())
			j.Where = where(r.Spec.EachNode)
		}
		if len(r.Runs) > 0 {
			j.Last = &r.Runs[0]
		}
		if l, known := local[r.Name]; known {
			j = j.with(l)
			delete(local, r.Name)
		}
		jobs = append(jobs, j)
	}
	for name, l := range local {
		jobs = append(jobs, Job{Name: name}.with(l))
	}
	slices.SortFunc(jobs, func(a, b Job) int { return strings.Compare(a.Name, b.Name) })
	return jobs, nil
}

func where(each bool) string {
	if each {
		return jobOnAll
	}
	return jobOnMaster
}

// with is j with what this agent knows of it.
func (j Job) with(l cron.NodeStatus) Job {
	j.Problem, j.Next = l.Problem, l.Next
	if l.Problem == "" {
		j.Schedule, j.Where, j.Paused = l.Schedule, where(l.EachNode), l.Paused
		if l.Spec == nil {
			j.Runs = ""
		}
	}
	if l.EachNode {
		j.Last = l.Last
	}
	if j.Where == "" {
		j.Where = where(l.EachNode)
	}
	return j
}

func (s *server) jobs(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), operationTimeout)
	defer cancel()
	all, err := s.allJobs(ctx)
	if err != nil {
		routes.WriteError(w, statusOfJob(err), err)
		return
	}
	routes.WriteJSON(w, http.StatusOK, all)
}

// job finds a job, of those that this agent knows or that are recorded.
func (s *server) job(ctx context.Context, name string) (Job, error) {
	all, err := s.allJobs(ctx)
	if err != nil {
		return Job{}, err
	}
	for _, j := range all {
		if j.Name == name {
			return j, nil
		}
	}
	return Job{}, fmt.Errorf("name: %q: %w: no job of that name is in the configuration of this agent or recorded", name, driver.ErrNotFound)
}

func statusOfJob(err error) int {
	switch {
	case errors.Is(err, driver.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, driver.ErrConflict):
		return http.StatusConflict
	case errors.Is(err, driver.ErrInvalid):
		return http.StatusBadRequest
	}
	return http.StatusServiceUnavailable
}

// jobRuns answers with the last runs of a job, the latest first: of a job of each node those of
// this agent's.
func (s *server) jobRuns(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), operationTimeout)
	defer cancel()
	name := r.URL.Query().Get("name")
	runs, err := s.runsOf(ctx, name)
	if err != nil {
		routes.WriteError(w, statusOfJob(err), err)
		return
	}
	routes.WriteJSON(w, http.StatusOK, append([]cron.RunStatus{}, runs...))
}

func (s *server) runsOf(ctx context.Context, name string) ([]cron.RunStatus, error) {
	if l, known := s.localJobs()[name]; known && l.EachNode {
		return s.options.Operator.Jobs.Runs(name), nil
	}
	all, err := cron.List(ctx, s.node.Store())
	if err != nil {
		return nil, err
	}
	for _, j := range all {
		if j.Name == name {
			return j.Runs, nil
		}
	}
	_, err = s.job(ctx, name)
	return nil, err
}

// outputType is that of what a run has written, which may be anything.
const outputType = "application/octet-stream"

func (s *server) jobOutput(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), operationTimeout)
	defer cancel()
	query := r.URL.Query()
	name := query.Get("name")
	seq, err := strconv.ParseUint(query.Get("run"), 10, 64)
	if err != nil {
		routes.WriteError(w, http.StatusBadRequest, fmt.Errorf("run: %q: not a number; write the seq of a run", query.Get("run")))
		return
	}
	var text []byte
	if l, known := s.localJobs()[name]; known && l.EachNode {
		text, err = s.options.Operator.Jobs.Output(name, seq)
	} else {
		text, err = cron.Output(ctx, s.node.Store(), name, seq)
	}
	if errors.Is(err, driver.ErrNotFound) {
		err = fmt.Errorf("the output of run %d of %s: %w: it has written nothing, or goes on, or is not one of the last eight", seq, name, err)
	}
	if err != nil {
		routes.WriteError(w, statusOfJob(err), err)
		return
	}
	w.Header().Set("Content-Type", outputType)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(text) // the client may be gone
}

// changeJob serves what changes a job.
func (s *server) changeJob(change func(context.Context, url.Values) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		s.operation(func(ctx context.Context) (any, error) {
			if s.options.Operator.Jobs == nil {
				return nil, fmt.Errorf("%w: this program has no jobs; ask an agent", driver.ErrInvalid)
			}
			return change(ctx, query)
		}, statusOfJob)(w, r)
	}
}

func (s *server) editJob(edit func(context.Context, cron.Store, string) error) func(context.Context, url.Values) (any, error) {
	return func(ctx context.Context, query url.Values) (any, error) {
		// One that nobody knows would leave a record behind.
		if _, err := s.job(ctx, query.Get("name")); err != nil {
			return nil, err
		}
		if err := edit(ctx, s.node.Store(), query.Get("name")); err != nil {
			return nil, err
		}
		return s.job(ctx, query.Get("name"))
	}
}

// addJob schedules a command of the configuration. What it may do is said there.
func (s *server) addJob(ctx context.Context, query url.Values) (any, error) {
	scheduler, runs := s.options.Operator.Jobs, query.Get("runs")
	spec := cron.Spec{
		Name: query.Get("name"), Schedule: query.Get("schedule"), Zone: query.Get("time_zone"), Handler: runs, Missed: cron.Missed(query.Get("missed")),
	}
	if _, known := scheduler.Handlers[runs]; !known {
		return nil, fmt.Errorf("runs: %q: %w: no job of the configuration of this agent; name one, whose command is to run", runs, driver.ErrInvalid)
	}
	if _, known := scheduler.Handlers[spec.Name]; known {
		return nil, fmt.Errorf("name: %q: %w: a job of the configuration of this agent; choose another name", spec.Name, driver.ErrConflict)
	}
	if text := query.Get("window"); text != "" {
		window, err := time.ParseDuration(text)
		if err != nil {
			return nil, fmt.Errorf("window: %q: %w: not a duration; write one such as 2h", text, driver.ErrInvalid)
		}
		spec.Window = window
	}
	if scheduler.Permit != nil {
		if err := scheduler.Permit(&spec); err != nil {
			return nil, fmt.Errorf("%w: %w", driver.ErrInvalid, err)
		}
	}
	switch {
	case spec.EachNode && spec.Missed == cron.Once:
		return nil, fmt.Errorf("missed: %q: %w: %s runs on each node, of which nothing is recorded; leave it out", spec.Missed, driver.ErrInvalid, runs)
	case spec.Window != 0 && spec.Missed != cron.Once:
		return nil, fmt.Errorf("window: %v: %w: it means nothing unless missed is once; set that, or leave it out", spec.Window, driver.ErrInvalid)
	}
	if err := cron.Add(ctx, s.node.Store(), spec); err != nil {
		return nil, err
	}
	return s.job(ctx, spec.Name)
}

func (s *server) removeJob(ctx context.Context, query url.Values) (any, error) {
	name := query.Get("name")
	if _, known := s.options.Operator.Jobs.Handlers[name]; known {
		return nil, fmt.Errorf("name: %q: %w: a job of the configuration of this agent; remove it there, or pause it", name, driver.ErrConflict)
	}
	if err := cron.Remove(ctx, s.node.Store(), name); err != nil {
		return nil, err
	}
	return Removed{Name: name}, nil
}

func (o Options) steps() []upgrade.Status {
	if o.Steps == nil {
		return nil
	}
	return o.Steps()
}

package agent

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/config"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/internal/crontab"
	"github.com/musterhq/muster/internal/supervise"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/cron"
	"github.com/musterhq/muster/node/httpapi"
	"github.com/musterhq/muster/node/mastership"
)

// Main does the work of a process that an agent of this program has started to run the command of a
// job, and reports true, if this process was started as one. A program that embeds an agent with
// jobs calls it first of all in its function main, and exits with the status if it reports true.
// Otherwise Run returns an error for a configuration that has jobs.
func Main() (status int, is bool) { return supervise.Main() }

// jobs are those of the configuration.
type jobs struct {
	node    *node.Node
	cluster string
	byName  map[string]config.Job
	drain   time.Duration
	locks   string // the directory of their locks
	// starts has room for those that start at one time: that takes three processes each, and more
	// would take the time that this one needs to keep its grant.
	starts chan struct{}
}

// checkJobs returns why the jobs of cfg cannot run in this program.
func checkJobs(cfg *config.Config) error {
	if len(cfg.Jobs) == 0 {
		return nil
	}
	err := supervise.Available()
	if err == nil {
		_, err = supervise.RuntimeDir()
	}
	if err != nil {
		return cfg.Locate(&driver.ConfigError{Key: "jobs", Problem: "no command can be run: " + err.Error()})
	}
	return nil
}

// runJobs runs the jobs of the configuration, and those that were added for their commands, until
// the node ends or stop is called.
func runJobs(n *node.Node, cfg *config.Config, o *httpapi.Operator, log *slog.Logger) (stop func()) {
	j := &jobs{node: n, byName: make(map[string]config.Job), drain: cfg.Mastership.DrainTimeout, starts: make(chan struct{}, runtime.NumCPU())}
	if dir, err := supervise.RuntimeDir(); err == nil {
		j.locks = dir
	}
	j.cluster = cfg.Cluster
	o.Jobs = &cron.Scheduler{
		Node: n, Store: n.Store(), Logger: log, Permit: j.permit,
		Handlers: make(map[string]func(context.Context, cron.Fire) error),
	}
	var scheduled []cron.Job
	for _, c := range cfg.Jobs {
		j.byName[c.Name] = c
		run := func(ctx context.Context, f cron.Fire) error { return j.run(ctx, c, f) }
		o.Jobs.Handlers[c.Name] = run
		zone, err := crontab.Location(c.TimeZone)
		if err != nil {
			continue // the configuration was checked
		}
		schedule, err := cron.Parse(cmp.Or(c.Schedule, "@never"), zone)
		if err != nil {
			continue
		}
		scheduled = append(scheduled, cron.Job{
			Name: c.Name, Schedule: schedule, Run: run, Missed: cron.Missed(c.Missed), Window: c.Window,
			EachNode: c.Where == config.OnAll,
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := o.Jobs.Run(ctx, scheduled...); errors.Is(err, driver.ErrInvalid) {
			log.Info("no job runs", "error", err) // otherwise the node has ended
		}
	}()
	return func() {
		cancel()
		select {
		case <-ended:
		case <-time.After(j.drain + stopTimeout): // what goes on then dies with this process
		}
	}
}

// permit has a command run as it is written in the configuration of this node, whatever the store
// says: with its timeout, and there where it is to run.
func (j *jobs) permit(s *cron.Spec) error {
	if len(s.Args) > 0 {
		return errors.New("it has arguments, and no command of this agent takes any")
	}
	c := j.byName[s.Handler]
	s.EachNode, s.Timeout = c.Where == config.OnAll, 0 // the time to wait for others is none of the run
	return nil
}

// run runs the command of a job.
func (j *jobs) run(ctx context.Context, c config.Job, f cron.Fire) error {
	if j.locks == "" {
		return errors.New("there is no directory for its lock")
	}
	ctx, started, end, err := j.begin(ctx, c.Timeout)
	if err != nil {
		return err
	}
	defer end()
	drain := j.drain - min(j.drain/4, recordTime)
	status, err := supervise.RunOnce(ctx, supervise.Once{
		Command: c.Command, LockFile: filepath.Join(j.locks, lockName(j.cluster, j.node.ID(), f.Job)), Env: environment(f),
		Output: cmp.Or[io.Writer](f.Output, io.Discard), Drain: drain, Grants: j.grants(f.Term), Started: started,
	})
	switch {
	case errors.Is(err, supervise.ErrNotRenewed), errors.Is(err, supervise.ErrLost):
		return fmt.Errorf("%w: %s: %w", cron.ErrInterrupted, filepath.Base(c.Command[0]), err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: %w", filepath.Base(c.Command[0]), context.Cause(ctx))
	case err != nil:
		return fmt.Errorf("%s: %w", filepath.Base(c.Command[0]), err)
	case status == 0 && !errors.Is(ctx.Err(), context.DeadlineExceeded): // that of the job
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%w; %s has ended with status %d", context.Cause(ctx), filepath.Base(c.Command[0]), status)
	}
	return fmt.Errorf("%s has ended with status %d", filepath.Base(c.Command[0]), status)
}

// begin waits until a command may start, which no timeout of its job bounds, and returns the
// context of its run, which one does. The caller calls started once the command has, and end at
// the end.
func (j *jobs) begin(ctx context.Context, timeout time.Duration) (run context.Context, started, end func(), err error) {
	select {
	case j.starts <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, nil, fmt.Errorf("%w: it has waited for others to start: %w", cron.ErrInterrupted, context.Cause(ctx))
	}
	cancel := context.CancelFunc(func() {})
	if timeout > 0 {
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, fmt.Errorf("it ran for more than %v", timeout))
	}
	started = sync.OnceFunc(func() { <-j.starts })
	late := time.AfterFunc(startWithin, started)
	return ctx, started, func() { late.Stop(); started(); cancel() }, nil
}

// startWithin is how long one that does not start, as it waits for its lock, keeps others from it.
const startWithin = 2 * time.Second

// lockName is the name of the file whose lock a command has. The names themselves may be too long
// for one, and the same when they are joined.
func lockName(cluster, node, job string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q", cluster, node, job))
	return "job-" + hex.EncodeToString(sum[:16]) + ".lock"
}

// recordTime is what is left of a drain timeout to record the end of a run, a quarter of it at
// most.
const recordTime = 500 * time.Millisecond

// environment is that of a command: without what configures an agent, among which are secrets.
func environment(f cron.Fire) []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "MUSTER_") })
	return append(env, "MUSTER_RUN_JOB="+f.Job, "MUSTER_RUN_SCHEDULED="+f.Scheduled.UTC().Format(time.RFC3339Nano))
}

// noEnd is the deadline of a command that runs on each node: it is bound to no grant.
const noEnd = 50 * 366 * 24 * time.Hour

// grants are those under which a command runs in term, 0 for one that runs on each node.
func (j *jobs) grants(term node.Term) func(context.Context) iter.Seq[supervise.Grant] {
	return func(ctx context.Context) iter.Seq[supervise.Grant] {
		return func(yield func(supervise.Grant) bool) {
			if term == 0 {
				yield(supervise.Grant{Term: supervise.NoTerm, NodeID: j.node.ID(), Deadline: clock.Now().Add(noEnd)})
				return
			}
			for g := range j.node.Grants(ctx) {
				grant := supervise.Grant{NodeID: j.node.ID()}
				if g.Term == term && (g.State == mastership.Active || g.State == mastership.Releasing) {
					grant = supervise.Grant{Term: uint64(g.Term), ClusterID: g.ClusterID, NodeID: j.node.ID(), Deadline: clock.Instant(g.Deadline)}
				}
				if !yield(grant) {
					return
				}
			}
		}
	}
}

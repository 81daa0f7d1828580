//go:build unix

package supervise

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"syscall"
	"time"

	"github.com/musterhq/muster/internal/backoff"
	"github.com/musterhq/muster/internal/clock"
)

const (
	// lockRetry is how often a lock is tried that another process has.
	lockRetry = 50 * time.Millisecond
	// doneTimeout bounds each attempt to say that a command has ended, and leaveTimeout that of a
	// wrapper that ends.
	doneTimeout  = 2 * time.Second
	leaveTimeout = 5 * time.Second
	// maxUnused is how many supervisors may end in a row without having run anything.
	maxUnused = 5
)

// said is the event that the agent was informed of the end of a command, or cannot be.
type said struct{}

// runner carries out what the machine decides.
type runner struct {
	Options
	launcher launcher
	m        machine
	events   chan any
	process  *process // that the next command runs in, or the present one does; nil: none is started
	saying   bool     // the agent is being informed of the end of a command
	running  bool     // it was told to run the command
	waiting  bool     // it was said that it is not
	unused   int      // supervisors in a row that have ended and run nothing
	status   int
	exited   bool
}

// Run runs the command each time that the node is master. It blocks until the command has ended
// and is not to be run again, and returns its status: that of a shell, 128 and the signal for one
// that was killed. An error means that nothing can be run here. If ctx ends, it is as with SIGTERM.
func Run(ctx context.Context, o Options) (status int, err error) {
	o.Restart = cmp.Or(o.Restart, RestartNever)
	spared := descendants()
	adopt()
	events := make(chan any, 16)
	r := &runner{Options: o, events: events}
	r.m = machine{restart: o.Restart, once: o.Once, jitter: func(d time.Duration) time.Duration { return d - rand.N(d/4+1) }}
	if done, status, err := r.takeLock(ctx); done {
		return status, err
	}
	defer r.launcher.lock.Close()
	r.launcher.args, r.launcher.isolations, r.launcher.spared = o.Command, isolations(!o.NoNamespace), spared
	if err := r.prepare(); err != nil {
		return 1, err
	}
	following, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	go r.follow(following)
	err = r.loop(ctx)
	if r.process != nil {
		r.process.close()
	}
	return r.status, err
}

// takeLock waits for the lock. It reports that all is done if it was asked to end meanwhile, or if
// it waits no longer.
func (r *runner) takeLock(ctx context.Context) (done bool, status int, err error) {
	var late <-chan time.Time
	if r.lockWithin != 0 {
		late = time.After(r.lockWithin)
	}
	for logged := false; ; logged = true {
		file, taken, err := Lock(r.LockFile)
		if err != nil {
			return true, 1, err
		}
		if taken {
			r.launcher.lock = file
			r.m.locked = true
			return false, 0, nil
		}
		if !logged {
			r.Logger.Info("waiting for another command to end", "lock", r.LockFile)
		}
		select {
		case s := <-r.Signals:
			if n, ok := s.(syscall.Signal); ok && (n == syscall.SIGTERM || n == syscall.SIGINT) {
				return true, 128 + int(n), nil
			}
		case <-ctx.Done():
			return true, 128 + int(syscall.SIGTERM), nil
		case <-late:
			return true, 1, fmt.Errorf("the lock of %s is taken: what an earlier run has started may still run", r.LockFile)
		case <-time.After(lockRetry):
		}
	}
}

// prepare starts the supervisor of the next command.
func (r *runner) prepare() (err error) {
	r.process, err = r.launcher.start(func(e ended) { r.events <- e })
	if err != nil {
		return fmt.Errorf("the supervisor of %s cannot be started: %w", r.Command[0], err)
	}
	r.running, r.m.lead = false, leadOf(r.process.namespaced)
	return nil
}

// follow hands the grants to the loop, and tries again when the source breaks off.
func (r *runner) follow(ctx context.Context) {
	retry := backoff.Backoff{Min: 50 * time.Millisecond, Max: 2 * time.Second}
	last := ""
	for ctx.Err() == nil {
		err := r.Source.Follow(ctx, func(g Grant) {
			retry.Reset()
			last = ""
			r.post(ctx, granted{g})
		})
		if ctx.Err() != nil {
			return
		}
		r.post(ctx, agentGone{})
		if text := fmt.Sprint(err); text != last {
			last = text
			r.Logger.Info("agent cannot be followed", "error", err)
		}
		_ = retry.Wait(ctx)
	}
}

func (r *runner) post(ctx context.Context, event any) {
	select {
	case r.events <- event:
	case <-ctx.Done():
	}
}

func (r *runner) loop(ctx context.Context) error {
	timer := time.NewTimer(longestWait)
	defer timer.Stop()
	stopped := ctx.Done()
	for !r.exited {
		timer.Reset(r.untilWake())
		var event any = tick{}
		select {
		case event = <-r.events:
		case s := <-r.Signals:
			if n, ok := s.(syscall.Signal); ok {
				event = signaled{n}
			}
		case <-stopped:
			stopped, event = nil, signaled{syscall.SIGTERM}
		case <-timer.C:
		}
		if err := r.step(event); err != nil {
			return err
		}
	}
	return nil
}

// untilWake is how long nothing has to be done. It is short while a command runs, since the timer
// stands still while the machine is suspended.
func (r *runner) untilWake() time.Duration {
	now := clock.Now()
	at, ok := r.m.wakeAt(now)
	if !ok {
		return time.Hour
	}
	return max(min(at.Sub(now), longestWait), time.Millisecond)
}

// step has the machine take in an event, and does what it says.
func (r *runner) step(event any) error {
	if _, ok := event.(said); ok {
		r.saying = false
		return r.prepareUnlessBusy()
	}
	if g, ok := event.(granted); ok && !r.running && r.waiting != (g.grant.Term == 0) {
		if r.waiting = g.grant.Term == 0; r.waiting {
			r.Logger.Info("waiting until this node is master")
		}
	}
	e, isEnd := event.(ended)
	if isEnd && !r.running {
		// The supervisor has ended before it was of use, as one that somebody killed.
		if r.unused++; r.unused > maxUnused {
			return fmt.Errorf("the supervisor of %s ends as soon as it is started", r.Command[0])
		}
		return r.prepare()
	}
	if isEnd {
		if e.unstarted {
			r.Logger.Info("command has not begun after all: its grant was about to end")
		} else {
			r.Logger.Info("command ended", "status", e.status)
		}
		r.running, r.process = false, nil // it is good for one run
		if m := r.m.run; r.Ended != nil && m != nil && !e.unstarted {
			r.Ended(m.term, e.status, !e.expired && !m.asked && !m.killed && !r.m.stopping)
		}
	}
	for _, c := range r.m.step(clock.Now(), event) {
		if c, ok := c.(start); ok {
			if r.process == nil {
				if err := r.prepare(); err != nil {
					return err
				}
			}
			r.start(c.grant)
			continue
		}
		r.do(c)
	}
	return r.prepareUnlessBusy()
}

// prepareUnlessBusy starts the supervisor of the next command if there is none. While the agent is
// being informed that a command has ended it waits: another node is to go on, and the start of a
// process would take time from that.
func (r *runner) prepareUnlessBusy() error {
	if r.process != nil || r.saying || r.exited {
		return nil
	}
	return r.prepare()
}

func (r *runner) start(g Grant) {
	r.running, r.unused = true, 0
	r.Logger.Info("command started", "term", g.Term, "node_id", g.NodeID, "isolation", r.launcher.isolations[0].name)
	r.orKill(r.process.run(g))
	if r.Started != nil {
		r.Started()
	}
}

// orKill kills a supervisor that does not read what it is to do.
func (r *runner) orKill(err error) {
	if err != nil {
		r.Logger.Info("supervisor hangs", "error", err)
		r.process.kill()
	}
}

func (r *runner) do(command any) {
	switch c := command.(type) {
	case done:
		if c.term != 0 {
			r.sayDone(c)
		}
		return
	case exit:
		r.status, r.exited = c.status, true
		return
	}
	if r.process == nil {
		return // the command has ended, just when it was to be asked to
	}
	switch c := command.(type) {
	case extend:
		r.orKill(r.process.extend(c.deadline))
	case pass:
		r.Logger.Info("signal passed on", "signal", c.signal.String())
		r.orKill(r.process.signal(c.signal))
	case kill:
		r.Logger.Info("command killed", "reason", "the grant ends")
		r.process.kill()
	}
}

// sayDone says to the agent that the command has ended. If the wrapper is about to end, it waits
// until the agent has it; otherwise a failure costs time, and no safety: the agent finds out when
// the deadline has passed that it gave.
func (r *runner) sayDone(c done) {
	say := func(timeout time.Duration) {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		if err := r.Source.Done(ctx, c.term, c.leave); err != nil {
			r.Logger.Info("agent does not know that the command has ended", "term", c.term, slog.Any("error", err))
		}
	}
	if c.leave {
		say(leaveTimeout)
		return
	}
	r.saying = true
	go func() {
		say(doneTimeout)
		r.events <- said{}
	}()
}

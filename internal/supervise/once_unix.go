//go:build unix

package supervise

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/internal/clock"
)

// argWrapper is what this program is started as to be the wrapper of one run.
const argWrapper = "wrap-command"

// The files of such a wrapper, beside the standard ones.
const (
	fdGrants  = 3 // grants, as lines of JSON; its end is that of the one who gives them
	fdOutcome = 4 // what has become of the command, as one
)

const (
	// endTimeout bounds the wait for a wrapper beyond the moment at which it has killed the
	// command.
	endTimeout = 2 * time.Second
	// onceLockWithin bounds the wait for what an earlier run has left: longer than a grant, at
	// whose end it is killed, if anybody is left who does that.
	onceLockWithin = 30 * time.Second
)

var isMain atomic.Bool

// Available returns why no command can be run here with RunOnce.
func Available() error {
	if !isMain.Load() {
		return errors.New("this program does not run commands: its function main does not call agent.Main")
	}
	return nil
}

// RunOnce runs a command once, as Run does under one grant, in a wrapper that is a process of its
// own: several may run in this one. It blocks until all that the command has started has ended, and
// returns its status, or an error if it was not run. The error wraps ErrNotRenewed or ErrLost where
// the command has run, and was stopped for another reason than ctx. When ctx ends it gets SIGTERM,
// and SIGKILL after Once.Drain at the latest; soon after it, if this process dies.
func RunOnce(ctx context.Context, o Once) (status int, err error) {
	grants, write, err := os.Pipe()
	if err != nil {
		return 1, err
	}
	defer write.Close()
	read, outcome, err := os.Pipe()
	if err != nil {
		grants.Close()
		return 1, err
	}
	defer read.Close()
	cmd := exec.Command(selfPath())
	cmd.Args = append([]string{os.Args[0], argWrapper, o.LockFile}, o.Command...)
	cmd.Env, cmd.Stdout, cmd.Stderr = o.Env, o.Output, o.Output
	cmd.ExtraFiles = []*os.File{grants, outcome}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // signals of a terminal are for the agent
	cmd.WaitDelay = endTimeout                            // for what has the output open and is out of reach
	err = wrappers.start(cmd)
	grants.Close()
	outcome.Close()
	if err != nil {
		return 1, err
	}
	following, stop := context.WithCancel(context.WithoutCancel(ctx))
	g := giver{to: write}
	var giving sync.WaitGroup
	giving.Go(func() {
		for grant := range o.Grants(following) {
			g.give(grant)
		}
	})
	ended := make(chan onceOutcome, 1)
	go func() {
		var out onceOutcome
		said := json.NewDecoder(io.LimitReader(read, 64<<10))
		for {
			out = onceOutcome{}
			if out.lost = said.Decode(&out) != nil; out.lost || !out.Started {
				break
			}
			if o.Started != nil {
				o.Started()
				o.Started = nil
			}
		}
		_ = cmd.Wait() // what it reports counts
		wrappers.remove(cmd.Process.Pid)
		ended <- out
	}()
	defer giving.Wait()
	defer stop()
	var out onceOutcome
	select {
	case out = <-ended:
	case <-ctx.Done():
		g.end(o.Drain)
		select {
		case out = <-ended:
		case <-time.After(o.Drain + endTimeout):
			_ = cmd.Process.Kill() // it is stopped, or hangs: the supervisor sees its end
			out = <-ended
		}
	}
	switch {
	case out.lost:
		return 1, ErrLost
	case out.Error != "":
		return 1, errors.New(out.Error)
	case out.Stopped && out.Status != 0 && ctx.Err() == nil:
		return out.Status, ErrNotRenewed
	}
	return out.Status, nil
}

// wrappers are those that RunOnce has started and that have not ended: a Run in this process, which
// kills what a command has left, must not kill them.
var wrappers launched

// launched are processes that this one has started.
type launched struct {
	mu   sync.Mutex
	pids map[int]bool
}

// start starts cmd. While it does, has waits.
func (c *launched) start(cmd *exec.Cmd) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := cmd.Start()
	if err == nil {
		if c.pids == nil {
			c.pids = make(map[int]bool)
		}
		c.pids[cmd.Process.Pid] = true
	}
	return err
}

func (c *launched) remove(pid int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pids, pid)
}

func (c *launched) has(pid int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pids[pid]
}

// giver writes grants to a wrapper.
type giver struct {
	mu      sync.Mutex
	to      *os.File
	last    Grant
	drainBy clock.Instant // 0: it has not been asked to end
}

func (g *giver) give(grant Grant) {
	g.mu.Lock()
	defer g.mu.Unlock()
	grant.DrainBy = g.drainBy
	g.last = grant
	g.write(grant)
}

// end asks the command to end, within drain.
func (g *giver) end(drain time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.drainBy = clock.Now().Add(drain)
	g.last.DrainBy = g.drainBy
	g.write(g.last)
}

func (g *giver) write(grant Grant) {
	line, err := json.Marshal(grant)
	if err == nil {
		_ = g.to.SetWriteDeadline(time.Now().Add(controlTimeout))
		_, _ = g.to.Write(append(line, '\n')) // a wrapper that does not read kills at the deadline that it has
	}
}

// onceOutcome is what a wrapper says: first that the command has begun, and then at its end.
type onceOutcome struct {
	// Started says that this is not the end.
	Started bool
	Status  int
	// Stopped says that the command was asked to end, or killed.
	Stopped bool
	// Error says why the command was not run.
	Error string

	lost bool // it has said nothing
}

// wrapOnce is RunOnce in the process of the wrapper.
func wrapOnce(args []string) int {
	runtime.LockOSThread()
	for _, fd := range []int{fdGrants, fdOutcome} {
		unix.CloseOnExec(fd)
	}
	// They are for the agent, which has the command end: a service manager sends them to all.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	out := os.NewFile(fdOutcome, "outcome")
	say := func(o onceOutcome) int {
		_ = json.NewEncoder(out).Encode(o)
		return 0
	}
	if len(args) < 2 {
		return say(onceOutcome{Error: "there is no command"})
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	started, stopped := false, false
	s := &onceSource{grants: make(chan Grant, 1), cancel: cancel}
	go s.read(os.NewFile(fdGrants, "grants"))
	status, err := Run(ctx, Options{
		Command: args[1:], LockFile: args[0], Source: s, Once: true, lockWithin: onceLockWithin, Logger: slog.New(slog.DiscardHandler),
		Started: func() { say(onceOutcome{Started: true}) },
		Ended:   func(_ uint64, _ int, itself bool) { started, stopped = true, !itself },
	})
	switch {
	case err != nil:
		return say(onceOutcome{Error: err.Error()})
	case !started:
		return say(onceOutcome{Error: "it was not started before its time was over"})
	}
	return say(onceOutcome{Status: status, Stopped: stopped})
}

// onceSource has the grants that a wrapper is given.
type onceSource struct {
	grants    chan Grant // the last one
	following atomic.Bool
	cancel    context.CancelFunc
}

// orphanDrain is how long a command has to end whose agent has died.
const orphanDrain = 500 * time.Millisecond

// read reads grants until the one who gives them has died: then the command is to end at once,
// since nobody is left who waits for it.
func (s *onceSource) read(from io.Reader) {
	var last Grant
	for in := bufio.NewScanner(from); in.Scan(); {
		var g Grant
		if json.Unmarshal(in.Bytes(), &g) != nil {
			break
		}
		last = g
		s.put(g)
	}
	last.DrainBy = clock.Now().Add(orphanDrain)
	s.put(last)
}

func (s *onceSource) put(g Grant) {
	if g.DrainBy != 0 && (g.Term == 0 || !s.following.Load()) {
		s.cancel() // nothing runs, or is to
		return
	}
	select {
	case <-s.grants:
	default:
	}
	s.grants <- g
}

// Follow implements Source.
func (s *onceSource) Follow(ctx context.Context, update func(Grant)) error {
	s.following.Store(true)
	for {
		select {
		case g := <-s.grants:
			update(g)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Done implements Source: nothing runs any longer.
func (s *onceSource) Done(context.Context, uint64, bool) error {
	s.cancel()
	return nil
}

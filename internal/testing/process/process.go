// Package process runs the programs of tests: servers, and nodes on hosts of their
// own. A process dies with the test, however that ends.
package process

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"time"
)

// Config says what is run, and where.
type Config struct {
	// Program and Args are the command line.
	Program string
	Args    []string
	// Env is the environment. Nil: that of the test.
	Env []string
	// Log is the file that the output is appended to, so that what is said while the
	// test is busy is not lost.
	Log string
	// Netns is the path of the network namespace to run in, as below /run/netns.
	// Empty: that of the test.
	Netns string
}

// Process is a running program. Its methods are safe for concurrent use.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed once it has ended and was waited for

	mu  sync.Mutex
	err error // why it ended
}

// Start starts a program.
func Start(c Config) (*Process, error) {
	out, err := os.OpenFile(c.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	p := &Process{cmd: exec.Command(c.Program, c.Args...), done: make(chan struct{})}
	p.cmd.Env = c.Env
	p.cmd.Stdout, p.cmd.Stderr = out, out
	dieWithParent(p.cmd)
	started := make(chan error)
	go func() {
		// The kernel counts the thread that started a process as its parent. It
		// is kept until the process has ended, so that it is not killed early.
		runtime.LockOSThread()
		if c.Netns == "" {
			defer runtime.UnlockOSThread()
		} // else the thread ends with this goroutine: nobody else shall have its network
		err := enter(c.Netns)
		if err == nil {
			err = p.cmd.Start()
		}
		out.Close()
		started <- err
		if err != nil {
			return
		}
		err = p.cmd.Wait()
		p.mu.Lock()
		p.err = err
		p.mu.Unlock()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// Ended reports whether the process has ended, and how.
func (p *Process) Ended() (bool, error) {
	select {
	case <-p.done:
		p.mu.Lock()
		defer p.mu.Unlock()
		return true, p.err
	default:
		return false, nil
	}
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// ID is the process id.
func (p *Process) ID() int { return p.cmd.Process.Pid }

// Kill ends the process at once and waits until it has gone.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Stop asks the process to end, and kills it if it has not within the time. It
// reports whether it did not have to.
func (p *Process) Stop(within time.Duration) bool {
	if err := terminate(p.cmd.Process); err != nil {
		p.Kill()
		return false
	}
	select {
	case <-p.done:
		return true
	case <-time.After(within):
		p.Kill()
		return false
	}
}

// Pause stops the process's clock, as SIGSTOP does. On a system that has no such
// signal the error wraps errors.ErrUnsupported.
func (p *Process) Pause() error { return pause(p.cmd.Process) }

// Resume undoes Pause.
func (p *Process) Resume() error { return resume(p.cmd.Process) }

// Tail returns the last lines of a log.
func Tail(log string, lines int) string {
	b, err := os.ReadFile(log)
	if err != nil {
		return fmt.Sprintf("(no log: %v)", err)
	}
	all := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return string(bytes.Join(all, []byte("\n")))
}

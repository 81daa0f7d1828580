package testserver

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"time"
)

// process is a running program. Its output goes to a file, so that what it says
// while the test is busy is not lost.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed once it has ended and was waited for

	mu  sync.Mutex
	err error // why it ended
}

// startProcess starts a program and appends its output to the file at log.
func startProcess(log, program string, args ...string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(program, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	dieWithParent(p.cmd)
	started := make(chan error)
	go func() {
		// The kernel counts the thread that started a process as its parent. It
		// is kept until the process has ended, lest that be killed early.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
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

// ended reports whether the process has ended, and how.
func (p *process) ended() (bool, error) {
	select {
	case <-p.done:
		p.mu.Lock()
		defer p.mu.Unlock()
		return true, p.err
	default:
		return false, nil
	}
}

// kill ends the process at once and waits until it has gone.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// stop asks the process to end, and kills it if it has not within the time.
func (p *process) stop(within time.Duration) {
	if err := terminate(p.cmd.Process); err != nil {
		p.kill()
		return
	}
	select {
	case <-p.done:
	case <-time.After(within):
		p.kill()
	}
}

// tail returns the last lines of a log.
func tail(log string, lines int) string {
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

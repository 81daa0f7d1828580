//go:build unix

package supervise

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/musterhq/muster/internal/clock"
)

// controlTimeout bounds a write to a supervisor: one that does not read hangs.
const controlTimeout = 100 * time.Millisecond

// process is a supervisor as the wrapper has it.
type process struct {
	cmd        *exec.Cmd
	control    *os.File
	namespaced bool
	stage      atomic.Int64 // its process id, 0 until it is known; of the outer namespace or not
}

// launcher starts supervisors.
type launcher struct {
	args []string
	lock *os.File
	// isolations are the ways to try, best first; those that are not permitted are dropped.
	isolations []isolation
	// spared were there before, as the children of a script that has become the wrapper.
	spared processes
}

// isolation is a way to start a supervisor.
type isolation struct {
	name       string
	namespaced bool
	attributes func() *syscall.SysProcAttr
}

// start starts a supervisor with its stage. When it has ended, with all that the command has
// started, atEnd is called, on a goroutine of its own.
func (l *launcher) start(atEnd func(ended)) (*process, error) {
	for {
		p, err := l.startAs(l.isolations[0], atEnd)
		if err == nil || len(l.isolations) == 1 {
			return p, err
		}
		l.isolations = l.isolations[1:]
	}
}

func (l *launcher) startAs(how isolation, atEnd func(ended)) (*process, error) {
	read, control, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer read.Close()
	report, write, err := os.Pipe()
	if err != nil {
		control.Close()
		return nil, err
	}
	defer write.Close()
	p := &process{control: control, namespaced: how.namespaced}
	p.cmd = exec.Command(selfPath())
	p.cmd.Args = append([]string{os.Args[0], argSupervisor}, l.args...)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = standardInput(), os.Stdout, os.Stderr
	p.cmd.ExtraFiles = []*os.File{read, write, l.lock}
	p.cmd.SysProcAttr = how.attributes()
	started := make(chan error)
	go func() {
		// The kernel kills the supervisor when the thread that started it ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err != nil {
			control.Close()
			report.Close()
			return
		}
		outcome := make(chan ended, 1)
		go func() { outcome <- p.readReport(report) }()
		_ = p.cmd.Wait() // what it reports counts
		control.Close()
		e := <-outcome
		if !p.namespaced && e.unseen {
			p.killGroup()
			killOrphans(l.spared)
		}
		atEnd(e)
	}()
	return p, <-started
}

// readReport reads what the supervisor reports, until it has ended. One that says nothing was
// killed: then nobody has seen to it that nothing of the command is left.
func (p *process) readReport(report *os.File) ended {
	defer report.Close()
	e := ended{status: 128 + int(syscall.SIGKILL), unseen: true}
	in := bufio.NewScanner(report)
	for in.Scan() {
		verb, rest, _ := strings.Cut(in.Text(), " ")
		n, _ := strconv.Atoi(rest)
		switch verb {
		case "stage":
			p.stage.Store(int64(n))
		case "ended":
			e.status, e.unseen = n, false
		case "expired":
			e.status, e.expired, e.unseen = n, true, false
		case "unstarted":
			e.unstarted, e.unseen = true, false
		}
	}
	return e
}

// run has the command run under the grant.
func (p *process) run(g Grant) error {
	return p.write(fmt.Sprintf("run %d %d %s %s\n", int64(g.Deadline), g.Term, g.ClusterID, g.NodeID))
}

func (p *process) extend(deadline clock.Instant) error {
	return p.write(fmt.Sprintf("deadline %d\n", int64(deadline)))
}

func (p *process) signal(s syscall.Signal) error { return p.write(fmt.Sprintf("signal %d\n", int(s))) }

func (p *process) write(line string) error {
	_ = p.control.SetWriteDeadline(time.Now().Add(controlTimeout))
	_, err := p.control.WriteString(line)
	return err
}

// kill kills the supervisor and with it the command, also if it is stopped.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	if !p.namespaced {
		p.killGroup()
	}
}

func (p *process) killGroup() {
	if pid := int(p.stage.Load()); pid > 1 {
		_ = syscall.Kill(-pid, syscall.SIGKILL)
	}
}

// close has a supervisor end that runs nothing.
func (p *process) close() { p.control.Close() }

// standardInput is that of the command. One of a terminal is not passed on: the command is in a
// process group of its own, which the terminal would stop when it reads.
func standardInput() *os.File {
	info, err := os.Stdin.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice != 0 {
		return nil // the null device
	}
	return os.Stdin
}

// Lock takes the lock of a file, which it makes if there is none, and reports false if another
// process has it.
func Lock(path string) (file *os.File, taken bool, err error) {
	file, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, false, err
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		file.Close()
		return nil, false, nil
	}
	if err != nil {
		file.Close()
		return nil, false, fmt.Errorf("%s: %w", path, err)
	}
	return file, true, nil
}

// ownedByUs reports whether a file belongs to the user of this process.
func ownedByUs(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}

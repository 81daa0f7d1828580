//go:build unix

package supervise

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/internal/clock"
)

// noTerm is NoTerm as it is written to a stage.
var noTerm = strconv.FormatUint(NoTerm, 10)

// What this program is started as, by its first argument.
const (
	argSupervisor = "supervise-command"
	argStage      = "stage-command"
)

// The files of a supervisor, beside the standard ones, and of a stage.
const (
	fdControl = 3 // what it is to do, as lines; its end is that of the one who says so
	fdReport  = 4 // what has become of it
	fdLock    = 5 // passed on to the command
)

// The statuses of a command that cannot be executed, as those of shells.
const (
	statusNotExecutable = 126
	statusNotFound      = 127
)

// longestWait bounds the wait for a timer: Go's stands still while the machine is suspended, and
// the boot clock does not.
const longestWait = 100 * time.Millisecond

// Main does the work of a supervisor or a stage and reports true, if this process was started as
// one. The program calls it first of all, and exits with the status.
func Main() (status int, is bool) {
	isMain.Store(true)
	if len(os.Args) < 3 {
		return 0, false
	}
	switch os.Args[1] {
	case argWrapper:
		return wrapOnce(os.Args[2:]), true
	case argSupervisor:
		return runSupervisor(os.Args[2:]), true
	case argStage:
		return runStage(os.Args[2:]), true
	}
	return 0, false
}

// leftoverTimeout bounds the wait for what a command that was asked to end leaves behind.
const leftoverTimeout = 10 * time.Second

// supervisor is the process between the wrapper and the command.
type supervisor struct {
	stage    int // the process id of the stage, then of the command, and of its group
	goahead  *os.File
	blocked  *os.File // has something to read if the stage found the deadline passed
	report   *os.File
	deadline clock.Instant // 0: nothing runs yet
	asked    bool          // it was sent a signal to end
	restBy   clock.Instant // what it has left behind is killed then; 0: it has not ended
	status   int
	ended    bool // the command itself
	expired  bool // the deadline has come before
}

// runSupervisor runs one command. When the wrapper dies the kernel kills it, and everything with
// it, if it is the first process of a PID namespace; otherwise the end of a pipe has it kill that.
func runSupervisor(args []string) int {
	runtime.LockOSThread() // the one that starts the stage, which is killed when it ends
	for _, fd := range []int{fdControl, fdReport, fdLock} {
		unix.CloseOnExec(fd)
	}
	prepareSupervisor()
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	// Those of the terminal and of others go to the wrapper, which passes them on.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE)

	s := &supervisor{report: os.NewFile(fdReport, "report")}
	if err := s.startStage(args); err != nil {
		fmt.Fprintf(os.Stderr, "muster: %s: %v\n", args[0], err)
		return 1
	}
	fmt.Fprintf(s.report, "stage %d\n", s.stage)
	lines := make(chan string)
	go func() {
		defer close(lines)
		in := bufio.NewScanner(os.NewFile(fdControl, "control"))
		for in.Scan() {
			lines <- in.Text()
		}
	}()
	s.loop(lines, children)
	s.killAll()
	switch {
	case s.ended && s.wasBlocked():
		fmt.Fprintln(s.report, "unstarted")
	case s.expired: // what is left of a namespace is killed when this process ends
		fmt.Fprintf(s.report, "expired %d\n", 128+int(syscall.SIGKILL))
	case !s.ended:
	default:
		fmt.Fprintf(s.report, "ended %d\n", s.status)
	}
	return 0
}

func (s *supervisor) startStage(args []string) error {
	goahead, write, err := os.Pipe()
	if err != nil {
		return err
	}
	read, blocked, err := os.Pipe()
	if err != nil {
		return err
	}
	defer goahead.Close()
	defer blocked.Close()
	s.goahead, s.blocked = write, read
	s.stage, err = syscall.ForkExec(selfPath(), append([]string{os.Args[0], argStage}, args...), &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2, goahead.Fd(), blocked.Fd(), fdLock},
		Sys:   stageAttributes(),
	})
	return err
}

// loop runs until everything is to be killed.
func (s *supervisor) loop(lines <-chan string, children <-chan os.Signal) {
	timer := time.NewTimer(longestWait)
	defer timer.Stop()
	for {
		wait := time.Hour
		if s.deadline != 0 {
			wait = min(s.deadline.Add(-leadOf(os.Getpid() == 1)).Sub(clock.Now()), longestWait)
		}
		if s.restBy != 0 {
			wait = min(s.restBy.Sub(clock.Now()), wait, longestWait)
		}
		if wait <= 0 {
			s.expired = !s.ended
			return
		}
		timer.Reset(wait)
		select {
		case line, open := <-lines:
			if !open || !s.obey(line) {
				return
			}
		case <-children:
			left := s.reap()
			// What it has left behind may end in order if it was asked to end.
			if s.ended && (!s.asked || !left) {
				return
			}
			if s.ended && s.restBy == 0 {
				s.restBy = clock.Now().Add(leftoverTimeout)
			}
		case <-timer.C:
		}
	}
}

// obey does what a line of the wrapper says, and reports whether to go on.
func (s *supervisor) obey(line string) bool {
	verb, rest, _ := strings.Cut(line, " ")
	switch verb {
	case "run": // DEADLINE TERM CLUSTER NODE
		at, _, _ := strings.Cut(rest, " ")
		s.deadline = instant(at)
		_, err := io.WriteString(s.goahead, rest+"\n")
		return err == nil
	case "deadline":
		s.deadline = max(s.deadline, instant(rest))
	case "signal":
		n, _ := strconv.Atoi(rest)
		sig := syscall.Signal(n)
		s.asked = s.asked || sig == syscall.SIGTERM || sig == syscall.SIGINT
		_ = syscall.Kill(-s.stage, sig) // its group may be gone
	default:
		return false
	}
	return true
}

func instant(text string) clock.Instant {
	n, _ := strconv.ParseInt(text, 10, 64)
	return clock.Instant(n)
}

// reap takes in who has ended, and reports whether anybody is left.
func (s *supervisor) reap() (left bool) {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return err == nil
		}
		if pid == s.stage {
			s.ended, s.status = true, exitStatus(ws)
		}
	}
}

// exitStatus is that of a shell for a process that has ended.
func exitStatus(ws syscall.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

// wasBlocked reports whether the stage found the deadline passed. The command does not inherit
// its end of the pipe.
func (s *supervisor) wasBlocked() bool {
	b := make([]byte, 1)
	_ = s.blocked.SetReadDeadline(time.Now().Add(time.Second))
	n, _ := s.blocked.Read(b)
	return n > 0
}

// runStage waits for the word to go on, looks at the clock, and becomes the command.
func runStage(args []string) int {
	// A thread that executes a program keeps its own death signal, and each thread has one.
	runtime.LockOSThread()
	supervisor := os.Getppid()
	unix.CloseOnExec(fdControl)
	unix.CloseOnExec(fdReport)
	blocked := os.NewFile(fdReport, "blocked")
	line, err := bufio.NewReader(os.NewFile(fdControl, "goahead")).ReadString('\n')
	if err != nil {
		return 0 // nothing is to be run
	}
	f := strings.Split(strings.TrimSuffix(line, "\n"), " ")
	if len(f) != 4 {
		return 1
	}
	path, err := exec.LookPath(args[0])
	if err != nil {
		return complain(args[0], err)
	}
	for i, name := range []string{"MUSTER_RUN_TERM", "MUSTER_RUN_CLUSTER_ID", "MUSTER_RUN_NODE_ID"} {
		if i < 2 && f[1] == noTerm {
			os.Unsetenv(name)
			continue
		}
		os.Setenv(name, f[i+1])
	}
	environment := os.Environ()
	dieWithParent()
	if os.Getppid() != supervisor {
		return 0 // it died before
	}
	// Last of all: this process may have been paused for any time.
	if !clock.Now().Before(instant(f[0]).Add(-leadOf(supervisor == 1))) {
		_, _ = blocked.WriteString("x")
		return 0
	}
	return complain(args[0], syscall.Exec(path, args, environment))
}

// complain says why a command cannot be executed, and returns the status for it.
func complain(name string, err error) int {
	fmt.Fprintf(os.Stderr, "muster: %s: cannot be executed: %v\n", name, err)
	return StatusOf(err)
}

// StatusOf is the status of a command that cannot be executed because of err, as of a shell.
func StatusOf(err error) int {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, exec.ErrNotFound) {
		return statusNotFound
	}
	return statusNotExecutable
}

package supervise

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// selfPath is this program, even if its file has been replaced.
func selfPath() string { return "/proc/self/exe" }

// prepareSupervisor has the supervisor adopt what the command leaves behind. In a PID namespace it
// does so anyway, dies with the wrapper, and shows the processes of that namespace in /proc, so
// that the process ids that programs find there are those that they can use. Elsewhere it has to
// outlive the wrapper, since nobody else would kill all of the command.
func prepareSupervisor() {
	if os.Getpid() != 1 {
		adopt()
		return
	}
	dieWithParent()
	// Where it is not permitted, /proc has the ids of the outer namespace.
	if unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "") == nil {
		_ = unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	}
}

// dieWithParent has the kernel kill this process when the thread that started it ends. It counts
// for the thread that calls it, and what that one executes.
func dieWithParent() { _ = unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0, 0, 0) }

// adopt has this process be the parent of its descendants whose parents have ended.
func adopt() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }

// stageAttributes has the stage, and so the command, die with the supervisor.
func stageAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// killAll kills everything that the command has started. If this is the first process of a
// namespace, the kernel does that when it ends, which it is about to do.
func (s *supervisor) killAll() {
	if os.Getpid() == 1 {
		return
	}
	_ = syscall.Kill(-s.stage, syscall.SIGKILL)
	killDescendants(nil, func(pid int, ws syscall.WaitStatus) {
		if pid == s.stage && !s.ended {
			s.ended, s.status = true, exitStatus(ws)
		}
	})
}

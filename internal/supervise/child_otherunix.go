//go:build unix && !linux

package supervise

import (
	"os"
	"syscall"
)

func selfPath() string {
	path, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return path
}

// prepareSupervisor does nothing: the end of the pipe alone says that the wrapper has died.
func prepareSupervisor() {}

func adopt() {}

func dieWithParent() {}

func stageAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// killAll kills the process group of the command. A process that has left it goes on.
func (s *supervisor) killAll() {
	_ = syscall.Kill(-s.stage, syscall.SIGKILL)
	if s.ended {
		return
	}
	var ws syscall.WaitStatus
	for {
		pid, err := syscall.Wait4(s.stage, &ws, 0, nil)
		if err == syscall.EINTR {
			continue
		}
		if err == nil && pid == s.stage {
			s.ended, s.status = true, exitStatus(ws)
		}
		return
	}
}

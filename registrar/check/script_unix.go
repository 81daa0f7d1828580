//go:build unix

package check

import (
	"os/exec"
	"syscall"
)

// ownGroup has everything killed that the program has started, where it takes too long.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}

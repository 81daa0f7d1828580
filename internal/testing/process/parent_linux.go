package process

import (
	"os/exec"
	"syscall"
)

// dieWithParent lets the kernel kill the process when the test process ends, even
// by a panic, a timeout or kill -9.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

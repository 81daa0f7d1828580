package main

import (
	"os"
	"syscall"
)

// childAttributes has the kernel kill the child when this process dies, so that a
// killed demo leaves nothing behind, and keeps the terminal's interrupt from it: it is
// this process that asks it to leave.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

// resume has a paused process go on.
func resume(p *os.Process) { _ = p.Signal(syscall.SIGCONT) }

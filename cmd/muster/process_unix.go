//go:build unix && !linux

package main

import (
	"os"
	"syscall"
)

// childAttributes keeps the terminal's interrupt from the child: it is this process
// that asks it to leave.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}

// resume has a paused process go on.
func resume(p *os.Process) { _ = p.Signal(syscall.SIGCONT) }

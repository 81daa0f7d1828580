package main

import "syscall"

// childAttributes has the kernel kill the child when this process dies, so that a
// killed demo leaves nothing behind, and keeps the terminal's interrupt from it: it is
// this process that asks it to leave.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

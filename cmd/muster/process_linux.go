package main

import "syscall"

// dieWithParent has the kernel kill the child when this process dies, so that a
// killed demo leaves nothing behind.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

//go:build unix && !linux

package main

import "syscall"

// childAttributes keeps the terminal's interrupt from the child: it is this process
// that asks it to leave.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}

//go:build unix

package main

import (
	"os"
	"syscall"
)

// passedOn are the signals that a command gets that is run while this node is master.
var passedOn = []os.Signal{
	syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH,
}

// endSelf asks this process to end.
func endSelf() { _ = syscall.Kill(os.Getpid(), syscall.SIGTERM) }

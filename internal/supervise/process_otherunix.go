//go:build unix && !linux

package supervise

import "syscall"

// isolations is a process group: other systems have nothing that holds more together.
func isolations(bool) []isolation {
	return []isolation{{"process group", false, func() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }}}
}

// processes are not looked at.
type processes struct{}

func descendants() processes { return processes{} }

func killOrphans(processes) {}

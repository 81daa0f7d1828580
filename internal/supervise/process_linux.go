package supervise

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// isolations are the ways to hold a command together, best first.
func isolations(namespace bool) []isolation {
	group := isolation{"process group", false, func() *syscall.SysProcAttr {
		// The end of its pipe has it kill the command when the wrapper dies: let it go on.
		return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGCONT}
	}}
	if !namespace {
		return []isolation{group}
	}
	const flags = syscall.CLONE_NEWPID | syscall.CLONE_NEWNS
	own := isolation{"pid namespace", true, func() *syscall.SysProcAttr {
		return &syscall.SysProcAttr{Setpgid: true, Cloneflags: flags}
	}}
	if privileged() {
		// In a user namespace the command would lose what it may do in this one.
		return []isolation{own, group}
	}
	user := isolation{"pid namespace of a user namespace", true, func() *syscall.SysProcAttr {
		return &syscall.SysProcAttr{
			Setpgid: true, Cloneflags: flags | syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}},
		}
	}}
	return []isolation{user, group}
}

// privileged reports whether this process may do more than others of its user.
func privileged() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	err := unix.Capget(&header, &data[0])
	return os.Geteuid() == 0 || err != nil || data[0].Permitted|data[1].Permitted != 0
}

// killOrphans kills what a supervisor that was killed has left to this process, and waits for it.
// What was below this process before it started one is spared.
func killOrphans(spared processes) { killDescendants(spared, func(int, syscall.WaitStatus) {}) }

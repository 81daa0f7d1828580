package faults

import "syscall"

// mountSmall mounts a small disk, in memory.
func mountSmall(dir string) error {
	return syscall.Mount("small", dir, "tmpfs", 0, "size=8m")
}

func unmountSmall(dir string) { _ = syscall.Unmount(dir, syscall.MNT_DETACH) }

//go:build unix

package engine

import (
	"os"
	"syscall"
)

// groupOf returns the group that owns a file.
func groupOf(path string) (gid uint32, ok bool) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return stat.Gid, true
}

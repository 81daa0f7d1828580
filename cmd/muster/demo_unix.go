//go:build unix

package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// demoLock is the file in the directory of a demo whose lock the demo and its agents hold: while
// they run, also where the demo was killed and the system does not kill its agents with it.
const demoLock = "demo.lock"

// lockDemo makes the lock of the demo in dir. The file has its name once it is locked, so that
// nobody takes the demo for one that is gone.
func lockDemo(dir string) (*os.File, error) {
	path := filepath.Join(dir, demoLock)
	file, err := os.OpenFile(path+".new", os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// tidyDemos removes what demos of this user have left behind that were killed: directories that
// only a demo makes, whose lock nobody holds. What cannot be removed stays.
func tidyDemos() {
	entries, err := os.ReadDir(os.TempDir())
	if err != nil {
		return
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), demoPrefix) {
			tidyDemo(filepath.Join(os.TempDir(), e.Name()))
		}
	}
}

func tidyDemo(dir string) {
	info, err := os.Lstat(dir)
	if err != nil || info.Mode() != os.ModeDir|0o700 { // a link is none, nor is what others can write to
		return
	}
	if s, ok := info.Sys().(*syscall.Stat_t); !ok || int(s.Uid) != os.Getuid() {
		return
	}
	path := filepath.Join(dir, demoLock)
	file, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer file.Close()
	if syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return
	}
	held, err := file.Stat()
	if err != nil {
		return
	}
	if now, err := os.Lstat(path); err != nil || !os.SameFile(held, now) || !now.Mode().IsRegular() {
		return // somebody else has removed it meanwhile
	}
	_ = os.RemoveAll(dir)
}

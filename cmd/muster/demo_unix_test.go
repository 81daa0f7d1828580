//go:build unix

package main

import (
	"os"
	"path/filepath"
	"testing"
)

// A demo removes what one before it has left that was killed, and nothing else.
func TestDemoTidiesUp(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	dir := func(name string, mode os.FileMode, files ...string) string {
		t.Helper()
		path := filepath.Join(os.TempDir(), name)
		if err := os.Mkdir(path, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if err := os.WriteFile(filepath.Join(path, file), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return path
	}
	there := func(path string) bool { _, err := os.Lstat(path); return err == nil }

	gone := dir(demoPrefix+"1", 0o700, demoLock, "node-1.yaml")
	elsewhere := filepath.Join(t.TempDir(), "data")
	if err := os.Rename(dir("data", 0o700, demoLock), elsewhere); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(os.TempDir(), demoPrefix+"link")
	if err := os.Symlink(elsewhere, link); err != nil {
		t.Fatal(err)
	}
	inside := dir(demoPrefix+"2", 0o700)
	if err := os.Symlink(filepath.Join(elsewhere, demoLock), filepath.Join(inside, demoLock)); err != nil {
		t.Fatal(err)
	}
	stays := []string{
		dir(demoPrefix+"of-an-earlier-version", 0o700, "node-1.yaml"), dir("muster-other", 0o700, demoLock),
		dir(demoPrefix+"for-all", 0o755, demoLock), elsewhere, link, inside,
	}
	c, err := newDemoCluster(3)
	if err != nil {
		t.Fatal(err)
	}
	if there(gone) {
		t.Error("what a demo has left that was killed is still there")
	}
	tidyDemos()
	for _, path := range append(stays, c.files.dir) {
		if !there(path) {
			t.Errorf("%s is gone", path)
		}
	}
	c.files.held.Close() // as when the process is killed
	tidyDemos()
	if there(c.files.dir) {
		t.Error("the directory of a demo is still there, although its process is gone")
	}
}

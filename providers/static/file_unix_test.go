//go:build unix

package static

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A file that is followed and became a pipe does not keep the provider from going on.
func TestFileThatBecamePipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "peers")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, problem, _ := readFile(path); !strings.Contains(problem, "cannot be read: not a regular file") {
		t.Errorf("problem %q", problem)
	}
}

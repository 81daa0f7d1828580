package smallfile

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestRead(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, n int) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, bytes.Repeat([]byte("x"), n), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, n := range map[string]int{"empty": 0, "small": 10, "largest": Max} {
		if data, err := Read(write(name, n)); err != nil || len(data) != n {
			t.Errorf("%s: %d bytes, %v", name, len(data), err)
		}
	}
	var pathErr *fs.PathError
	if _, err := Read(write("larger", Max+1)); !errors.As(err, &pathErr) {
		t.Errorf("a larger one: %v", err)
	}
	if _, err := Read(dir); err == nil {
		t.Error("a directory is read")
	}
	if _, err := Read(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("none: %v", err)
	}
}

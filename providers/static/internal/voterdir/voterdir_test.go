package voterdir

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/musterhq/muster/discovery/driver"
)

func TestDataDir(t *testing.T) {
	t.Parallel()
	log := hclog.NewNullLogger()
	dir := t.TempDir()
	d, err := Open(dir, "x", "a:1", log)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.SaveIdentity(d.Identity); err != nil {
		t.Fatal(err)
	}
	wants := func(what string, err error, kind error, parts ...string) {
		t.Helper()
		if !errors.Is(err, kind) {
			t.Errorf("%s: %v, want %v", what, err, kind)
			return
		}
		for _, p := range append(parts, "node.data_dir") {
			if !strings.Contains(err.Error(), p) {
				t.Errorf("%s: %v does not say %q", what, err, p)
			}
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %q is more than one line", what, err)
		}
	}
	_, err = Open(dir, "x", "a:1", log)
	wants("a second process", err, driver.ErrConflict, dir, "in use by another process", "node.id")
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = Open(dir, "x", "b:1", log)
	wants("another voter", err, driver.ErrInvalid, dir, "belongs to voter a:1")
	_, err = Open(dir, "y", "a:1", log)
	wants("another cluster", err, driver.ErrInvalid, dir, `of cluster "x"`)
	_, err = Open("", "x", "a:1", log)
	wants("no directory", err, driver.ErrInvalid, "is empty")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Open(filepath.Join(file, "dir"), "x", "a:1", log)
	wants("a file in the way", err, driver.ErrInvalid, file, "make it writable or name another")
	if err := os.WriteFile(filepath.Join(dir, IdentityFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Open(dir, "x", "a:1", log)
	wants("a damaged file", err, driver.ErrInvalid, IdentityFile)
	if err := os.WriteFile(filepath.Join(dir, IdentityFile), []byte(`{"version":2}`), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Open(dir, "x", "a:1", log)
	wants("a later version", err, driver.ErrInvalid, "version 2")
}

package quorum

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/musterhq/muster/discovery/driver"
)

func TestDataDir(t *testing.T) {
	t.Parallel()
	log := raftLogger(discard())
	dir := t.TempDir()
	d, err := openDisk(dir, "x", "a:1", log)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.saveIdentity(d.identity); err != nil {
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
	_, err = openDisk(dir, "x", "a:1", log)
	wants("a second process", err, driver.ErrConflict, dir, "in use by another process")
	if err := d.close(); err != nil {
		t.Fatal(err)
	}
	_, err = openDisk(dir, "x", "b:1", log)
	wants("another voter", err, driver.ErrInvalid, dir, "belongs to voter a:1")
	_, err = openDisk(dir, "y", "a:1", log)
	wants("another cluster", err, driver.ErrInvalid, dir, `of cluster "x"`)
	_, err = openDisk("", "x", "a:1", log)
	wants("no directory", err, driver.ErrInvalid, "is empty")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = openDisk(filepath.Join(file, "dir"), "x", "a:1", log)
	wants("a file in the way", err, driver.ErrInvalid, file, "make it writable or name another")
	if err := os.WriteFile(filepath.Join(dir, identityFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = openDisk(dir, "x", "a:1", log)
	wants("a damaged file", err, driver.ErrInvalid, identityFile)
	if err := os.WriteFile(filepath.Join(dir, identityFile), []byte(`{"version":2}`), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = openDisk(dir, "x", "a:1", log)
	wants("a later version", err, driver.ErrInvalid, "version 2")
}

// full is a disk that can be filled.
type full struct {
	raft.StableStore
	is *atomic.Bool
}

func (f full) SetUint64(key []byte, v uint64) error {
	if f.is.Load() {
		return syscall.ENOSPC
	}
	return f.StableStore.SetUint64(key, v)
}

// TestDiskFull is the other half of fault 48: a voter that cannot write does not
// vote, says so, does not take its process down, and comes back when it can.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	var filled atomic.Bool
	victim := c.nodes[0]
	victim.tweak = func(cfg *Config) {
		cfg.wrapStable = func(s raft.StableStore) raft.StableStore { return full{s, &filled} }
	}
	c.start()
	m := c.master()
	c.voting()
	filled.Store(true)
	if m == victim {
		// A renewal writes nothing: the master stays, until another election.
		c.steady(1)
		m.elector.resign()
		m.elector.stop()
		c.masterNot(m)
		m.elector = startElector(m)
	} else {
		m.crash()
		// The one voter that is left cannot win without the victim.
		c.steady(0)
		m.start()
		c.master()
	}
	for range 10 { // elections, until one asks the victim for a vote
		if victim.auth.member.Load() == nil || victim.auth.member.Load().err() != nil {
			break
		}
		if m := c.master(); m != victim {
			m.crash()
			m.start()
		}
		c.master()
	}
	c.eventually("a warning", func() bool {
		ms, err := victim.auth.mastership()
		return err == nil && strings.Contains(ms.Warning, "node.data_dir") && strings.Contains(ms.Warning, "no space left")
	})
	filled.Store(false)
	c.eventually("the voter back", func() bool {
		ms, err := victim.auth.mastership()
		return err == nil && ms.Warning == "" && ms.Holder != nil && victim.auth.member.Load() != nil
	})
}

// TestBoundedLog writes more than a snapshot's worth and looks at the disk.
func TestBoundedLog(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	c.start()
	p := c.master()
	value := bytes.Repeat([]byte("x"), 4<<10)
	var rev driver.Revision
	const writes = 4 * snapshotEvery
	for i := range writes {
		var err error
		if rev, err = p.auth.Set(context.Background(), "k", value, rev); err != nil {
			t.Fatalf("write %d: %v", i, err)
		}
	}
	c.eventually("a short log", func() bool {
		d := p.auth.disk.bolt
		first, err := d.FirstIndex()
		if err != nil {
			t.Fatal(err)
		}
		last, err := d.LastIndex()
		if err != nil {
			t.Fatal(err)
		}
		return last > writes && last-first <= snapshotEvery+keepEntries
	})
	snaps, err := p.auth.disk.snaps.List()
	if err != nil || len(snaps) == 0 || len(snaps) > keepSnapshots {
		t.Errorf("%d snapshots, %v", len(snaps), err)
	}
	p.crash()
	p.start()
	c.master()
	if r, err := p.auth.Get(context.Background(), "k"); err != nil || !bytes.Equal(r.Value, value) || r.Revision != rev {
		t.Errorf("after a restart: revision %d, want %d, %v", r.Revision, rev, err)
	}
}

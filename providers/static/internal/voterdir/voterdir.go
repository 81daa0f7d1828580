// Package voterdir keeps what a voter must not lose: whose directory it is, its Raft log, its vote
// and its snapshots.
package voterdir

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/static/internal/votelease"
)

// The layout of a voter's directory. It is a format that only gains. raft.FileSnapshotStore adds
// the directory "snapshots".
const (
	// IdentityFile is the file of the Identity.
	IdentityFile = "voter.json"
	logFile      = "raft.db"
)

// KeepSnapshots is how many snapshots are kept.
const KeepSnapshots = 2

const (
	identityVersion = 1
	lockTimeout     = 2 * time.Second
)

// Identity says whose directory it is.
type Identity struct {
	Version int    `json:"version"`
	Cluster string `json:"cluster"`
	// Addr is the voter's entry in the list.
	Addr string `json:"addr"`
	// ID is the voter's name in Raft. Empty until it has one.
	ID string `json:"id"`
	// LongestLease is the longest vote lease that the voter may have given since it last kept
	// quiet. After a restart it keeps quiet for as long.
	LongestLease time.Duration `json:"promise_ns"`
	// Founding is that of the log: it distinguishes each founding of the cluster from every other,
	// so that the logs of two never mix.
	Founding string `json:"founding,omitempty"`
	// ClusterID and Term are of the last mastership that the voter saw committed. They are known
	// before a leader is, and the term never falls.
	ClusterID string      `json:"cluster_id,omitempty"`
	Term      driver.Term `json:"term,omitempty"`
}

// Dir is a voter's directory, open and locked.
type Dir struct {
	dir string
	// Log has Raft's log, its term and its vote.
	Log *raftboltdb.BoltStore
	// Snapshots has Raft's snapshots.
	Snapshots *raft.FileSnapshotStore
	// Identity is what is on disk. SaveIdentity changes it.
	Identity
}

// Exists reports whether dir was ever that of a voter.
func Exists(dir string) bool {
	if dir == "" {
		return false
	}
	_, err := os.Stat(filepath.Join(dir, IdentityFile))
	return err == nil
}

// Open opens dir for the voter addr of cluster, and makes it where it is
// missing. It waits for at most two seconds for another process to leave it.
func Open(dir, cluster, addr string, logger hclog.Logger) (*Dir, error) {
	if dir == "" {
		return nil, fmt.Errorf("%w: node.data_dir is empty: a voter needs a directory that survives its restarts", driver.ErrInvalid)
	}
	unusable := func(err error) error {
		return fmt.Errorf("%w: node.data_dir: %q cannot be used: %v; make it writable or name another", driver.ErrInvalid, dir, BareError(err))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, unusable(err)
	}
	bolt, err := raftboltdb.New(raftboltdb.Options{
		Path:        filepath.Join(dir, logFile),
		BoltOptions: &bbolt.Options{Timeout: lockTimeout, NoFreelistSync: true},
	})
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return nil, fmt.Errorf("%w: node.data_dir: %q is in use by another process; stop it, or give each node of this host a node.id of its own, and a directory where you name one", driver.ErrConflict, dir)
	}
	if err != nil {
		return nil, unusable(err)
	}
	d := &Dir{dir: dir, Log: bolt}
	if d.Snapshots, err = raft.NewFileSnapshotStoreWithLogger(dir, KeepSnapshots, logger); err != nil {
		_ = bolt.Close()
		return nil, unusable(err)
	}
	if err := d.readIdentity(cluster, addr); err != nil {
		_ = bolt.Close()
		return nil, err
	}
	return d, nil
}

func (d *Dir) readIdentity(cluster, addr string) error {
	path := filepath.Join(d.dir, IdentityFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		if has, err := d.HasState(); err != nil || has {
			return fmt.Errorf("%w: node.data_dir: %q holds a Raft log but no %s that says whose; restore the file, or empty the directory so that the voter joins again", driver.ErrInvalid, d.dir, IdentityFile)
		}
		d.Identity = Identity{Version: identityVersion, Cluster: cluster, Addr: addr}
		return nil
	}
	if err == nil {
		err = json.Unmarshal(b, &d.Identity)
	}
	switch {
	case err != nil:
		return fmt.Errorf("%w: node.data_dir: %q cannot be read: %v; restore the file, or empty the directory so that the voter joins again", driver.ErrInvalid, path, BareError(err))
	case d.Version != identityVersion:
		return fmt.Errorf("%w: node.data_dir: %q has version %d, and this program reads version %d; use the program that wrote it, or a later one", driver.ErrInvalid, path, d.Version, identityVersion)
	case d.Cluster != cluster || d.Addr != addr:
		return fmt.Errorf("%w: node.data_dir: %q belongs to voter %s of cluster %q and not to %s of %q; give each voter a directory of its own, or empty it so that this one joins again",
			driver.ErrInvalid, d.dir, d.Addr, d.Cluster, addr, cluster)
	}
	return nil
}

// SaveIdentity replaces the file in one step.
func (d *Dir) SaveIdentity(i Identity) error {
	b, err := json.MarshalIndent(i, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(d.dir, IdentityFile)
	f, err := os.CreateTemp(d.dir, IdentityFile+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	syncDir(d.dir)
	d.Identity = i
	return nil
}

// syncDir makes a rename durable, where the system can.
func syncDir(dir string) {
	if f, err := os.Open(dir); err == nil {
		_ = f.Sync()
		_ = f.Close()
	}
}

// HasState reports whether there is anything that the voter must not lose: a vote,
// or an entry of the log. A bootstrap that was cut short leaves term 1 and no
// entry, which is nothing: no election has a term below 2.
func (d *Dir) HasState() (bool, error) {
	term, last, err := d.progress()
	if err != nil || term > 1 || last > 0 {
		return true, err
	}
	snaps, err := d.Snapshots.List()
	return len(snaps) > 0, err
}

// Established reports whether the voter may have taken part in an election: its
// term is past the one that a bootstrap writes.
func (d *Dir) Established() (bool, error) {
	has, err := d.HasState()
	if err != nil || !has {
		return false, err
	}
	term, last, err := d.progress()
	return term > 1 || last != 1, err
}

func (d *Dir) progress() (term, last uint64, err error) {
	term, err = d.Log.GetUint64(votelease.KeyCurrentTerm)
	if err != nil && !errors.Is(err, raftboltdb.ErrKeyNotFound) {
		return 0, 0, err
	}
	last, err = d.Log.LastIndex()
	return term, last, err
}

// Bootstrap writes the first configuration, of which all voters of a new cluster
// write the same.
func (d *Dir) Bootstrap(voters []string) error {
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(d.ID)
	var c raft.Configuration
	for _, v := range voters {
		c.Servers = append(c.Servers, raft.Server{ID: raft.ServerID(v), Address: raft.ServerAddress(v)})
	}
	if term, _, err := d.progress(); err != nil {
		return err
	} else if term > 0 { // of a bootstrap that was cut short
		if err := d.Log.SetUint64(votelease.KeyCurrentTerm, 0); err != nil {
			return err
		}
	}
	// The transport has no part in it since version 3 of Raft's protocol.
	return raft.BootstrapCluster(conf, d.Log, d.Log, d.Snapshots, nil, c)
}

func (d *Dir) Close() error { return d.Log.Close() }

// Discard closes the directory and deletes its log, which is that of a founding that
// came to nothing: no election was ever held under it.
func (d *Dir) Discard() error {
	if err := d.Close(); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(d.dir, logFile)); err != nil {
		return err
	}
	syncDir(d.dir)
	return nil
}

// logStore is the log store that Raft sees.
type logStore struct {
	raft.LogStore
	failed func(error)
}

// NewLogStore returns a store over inner that also calls failed with each failure to write. failed
// must not block.
func NewLogStore(inner raft.LogStore, failed func(error)) raft.LogStore {
	return &logStore{inner, failed}
}

func (s *logStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

func (s *logStore) StoreLogs(l []*raft.Log) error {
	err := s.LogStore.StoreLogs(l)
	if err != nil {
		s.failed(err)
	}
	return err
}

// BareError strips the path that an *os.PathError repeats.
func BareError(err error) error {
	var pathErr *os.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

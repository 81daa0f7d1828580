package quorum

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/musterhq/muster/discovery/driver"
)

// The layout of a voter's directory. It is a format: it only ever gains.
const (
	identityFile = "voter.json"
	logFile      = "raft.db"
	// raft.FileSnapshotStore adds the directory "snapshots".

	identityVersion = 1
	lockTimeout     = 2 * time.Second
	keepSnapshots   = 2
)

// identity says whose directory it is.
type identity struct {
	Version int    `json:"version"`
	Cluster string `json:"cluster"`
	// Addr is the voter's entry in the list.
	Addr string `json:"addr"`
	// ID is the voter's name in Raft. Empty until it has one.
	ID string `json:"id"`
	// Promise is the longest promise that was ever given from this directory: a
	// voter that restarts keeps quiet for as long.
	Promise time.Duration `json:"promise_ns"`
}

// disk is a voter's directory, open and locked.
type disk struct {
	dir   string
	bolt  *raftboltdb.BoltStore
	snaps *raft.FileSnapshotStore
	identity
}

// hasVoterState reports whether dir was ever that of a voter.
func hasVoterState(dir string) bool {
	if dir == "" {
		return false
	}
	_, err := os.Stat(filepath.Join(dir, identityFile))
	return err == nil
}

// openDisk opens dir for the voter addr of cluster, and makes it where it is
// missing. It waits for at most two seconds for another process to leave it.
func openDisk(dir, cluster, addr string, logger hclog.Logger) (*disk, error) {
	if dir == "" {
		return nil, fmt.Errorf("%w: node.data_dir is empty: a voter needs a directory that survives its restarts", driver.ErrInvalid)
	}
	unusable := func(err error) error {
		return fmt.Errorf("%w: node.data_dir: %q cannot be used: %v; make it writable or name another", driver.ErrInvalid, dir, bare(err))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, unusable(err)
	}
	bolt, err := raftboltdb.New(raftboltdb.Options{
		Path:        filepath.Join(dir, logFile),
		BoltOptions: &bbolt.Options{Timeout: lockTimeout, NoFreelistSync: true},
	})
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return nil, fmt.Errorf("%w: node.data_dir: %q is in use by another process; stop it or name another directory", driver.ErrConflict, dir)
	}
	if err != nil {
		return nil, unusable(err)
	}
	d := &disk{dir: dir, bolt: bolt}
	if d.snaps, err = raft.NewFileSnapshotStoreWithLogger(dir, keepSnapshots, logger); err != nil {
		_ = bolt.Close()
		return nil, unusable(err)
	}
	if err := d.readIdentity(cluster, addr); err != nil {
		_ = bolt.Close()
		return nil, err
	}
	return d, nil
}

func (d *disk) readIdentity(cluster, addr string) error {
	path := filepath.Join(d.dir, identityFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		if has, err := d.hasState(); err != nil || has {
			return fmt.Errorf("%w: node.data_dir: %q holds a Raft log but no %s that says whose; restore the file, or empty the directory so that the voter joins anew", driver.ErrInvalid, d.dir, identityFile)
		}
		d.identity = identity{Version: identityVersion, Cluster: cluster, Addr: addr}
		return nil
	}
	if err == nil {
		err = json.Unmarshal(b, &d.identity)
	}
	switch {
	case err != nil:
		return fmt.Errorf("%w: node.data_dir: %q cannot be read: %v; restore the file, or empty the directory so that the voter joins anew", driver.ErrInvalid, path, bare(err))
	case d.Version != identityVersion:
		return fmt.Errorf("%w: node.data_dir: %q has version %d, and this program reads version %d; use the program that wrote it, or a later one", driver.ErrInvalid, path, d.Version, identityVersion)
	case d.Cluster != cluster || d.Addr != addr:
		return fmt.Errorf("%w: node.data_dir: %q belongs to voter %s of cluster %q and not to %s of %q; give each voter a directory of its own, or empty it so that this one joins anew",
			driver.ErrInvalid, d.dir, d.Addr, d.Cluster, addr, cluster)
	}
	return nil
}

// saveIdentity replaces the file in one step.
func (d *disk) saveIdentity(i identity) error {
	b, err := json.MarshalIndent(i, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(d.dir, identityFile)
	f, err := os.CreateTemp(d.dir, identityFile+".*")
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
	d.identity = i
	return nil
}

// syncDir makes a rename durable, where the system can.
func syncDir(dir string) {
	if f, err := os.Open(dir); err == nil {
		_ = f.Sync()
		_ = f.Close()
	}
}

// hasState reports whether there is anything that the voter must not lose: a vote,
// or an entry of the log. A bootstrap that was cut short leaves term 1 and no
// entry, which is nothing: no election has a term below 2.
func (d *disk) hasState() (bool, error) {
	term, last, err := d.progress()
	if err != nil || term > 1 || last > 0 {
		return true, err
	}
	snaps, err := d.snaps.List()
	return len(snaps) > 0, err
}

// established reports whether the voter may have taken part in an election: its
// term is past the one that a bootstrap writes.
func (d *disk) established() (bool, error) {
	has, err := d.hasState()
	if err != nil || !has {
		return false, err
	}
	term, last, err := d.progress()
	return term > 1 || last != 1, err
}

func (d *disk) progress() (term, last uint64, err error) {
	term, err = d.bolt.GetUint64(keyCurrentTerm)
	if err != nil && !errors.Is(err, raftboltdb.ErrKeyNotFound) {
		return 0, 0, err
	}
	last, err = d.bolt.LastIndex()
	return term, last, err
}

// bootstrap writes the first configuration, of which all voters of a new cluster
// write the same.
func (d *disk) bootstrap(voters []string) error {
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(d.ID)
	var c raft.Configuration
	for _, v := range voters {
		c.Servers = append(c.Servers, raft.Server{ID: raft.ServerID(v), Address: raft.ServerAddress(v)})
	}
	if term, _, err := d.progress(); err != nil {
		return err
	} else if term > 0 { // of a bootstrap that was cut short
		if err := d.bolt.SetUint64(keyCurrentTerm, 0); err != nil {
			return err
		}
	}
	// The transport has no part in it since version 3 of Raft's protocol.
	return raft.BootstrapCluster(conf, d.bolt, d.bolt, d.snaps, nil, c)
}

func (d *disk) close() error { return d.bolt.Close() }

// The keys under which Raft keeps its term and its vote. The test
// TestRaftCastsVotesThroughTheStore fails should Raft rename them.
var (
	keyCurrentTerm  = []byte("CurrentTerm")
	keyLastVoteTerm = []byte("LastVoteTerm")
	keyLastVoteCand = []byte("LastVoteCand")
)

// votes is the stable store that Raft sees. Raft casts no vote, for another or
// for itself, without writing it here first: this is the one gate in which a
// promise is kept.
//
// Raft panics where it cannot write its term, which would take the host process
// down. A voter that cannot write must not vote and need do nothing else, so the
// goroutine that failed ends instead; Raft's deferred calls still answer.
type votes struct {
	raft.StableStore
	ledger *ledger
	failed func(error)
	// running is set once Raft's own goroutines are what writes. Before that a
	// failure is NewRaft's to return.
	running atomic.Bool
}

// Set writes whom the vote is for, which Raft does after the term of the vote.
func (v *votes) Set(key, value []byte) error {
	err := v.StableStore.Set(key, value)
	if err != nil && v.running.Load() {
		v.failed(err)
	}
	return err
}

// SetUint64 refuses a vote while a promise runs. Before the term of a vote it wipes
// out whom the last one was for: a crash between the two must not leave a vote that
// was never cast.
func (v *votes) SetUint64(key []byte, value uint64) error {
	if string(key) == string(keyLastVoteTerm) {
		if err := v.ledger.vote(value); err != nil {
			return err
		}
		if err := v.Set(keyLastVoteCand, nil); err != nil {
			return err
		}
	}
	err := v.StableStore.SetUint64(key, value)
	if err != nil && v.running.Load() {
		v.failed(err)
		if string(key) == string(keyCurrentTerm) {
			runtime.Goexit()
		}
	}
	return err
}

// entries is the log store that Raft sees. A failure to write is reported, so
// that the voter is taken out and opened anew.
type entries struct {
	raft.LogStore
	failed func(error)
}

func (e *entries) StoreLog(l *raft.Log) error { return e.StoreLogs([]*raft.Log{l}) }

func (e *entries) StoreLogs(l []*raft.Log) error {
	err := e.LogStore.StoreLogs(l)
	if err != nil {
		e.failed(err)
	}
	return err
}

// bare strips the path that an *os.PathError repeats.
func bare(err error) error {
	var pathErr *os.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

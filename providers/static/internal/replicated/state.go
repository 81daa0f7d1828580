// Package replicated is the state machine that the voters replicate by Raft: who claimed mastership
// in which term, and the records of the store. Every voter applies the same commands in the same
// order, and so has the same state.
//
// Commands and snapshots are JSON. They only gain fields, and golden tests pin them.
package replicated

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/musterhq/muster/discovery/driver"
)

// Version is that of commands and snapshots.
const Version = 1

// Op names a command.
type Op string

// The commands.
const (
	OpClaim   Op = "claim"
	OpRelease Op = "release"
	OpSet     Op = "set"
	OpDelete  Op = "delete"
)

// Command is one entry of the replicated log.
type Command struct {
	// Version is Version.
	Version int `json:"v"`
	Op      Op  `json:"op"`

	// Of a claim and a release: the server of Raft, who claims with what of driver.Claim, and the
	// term that is released.
	Server    string         `json:"server,omitempty"`
	Holder    *driver.Holder `json:"holder,omitempty"`
	MinTerm   driver.Term    `json:"min_term,omitempty"`
	ClusterID string         `json:"cluster_id,omitempty"`
	Known     bool           `json:"known,omitempty"`
	Term      driver.Term    `json:"term,omitempty"`

	// Of a set and a delete: the record, and the revision that it must have.
	Key   string          `json:"key,omitempty"`
	Value []byte          `json:"value,omitempty"`
	Prev  driver.Revision `json:"prev,omitempty"`
}

// Outcome is the result of a command: Err, or the term and cluster id of a claim, or the revision
// of a set. RaftTerm is the term of Raft in which the command was written.
type Outcome struct {
	Err       error
	RaftTerm  uint64
	Term      driver.Term
	ClusterID string
	Revision  driver.Revision
}

// record is a value of the store. Its revision is the index of the log entry that
// wrote it.
type record struct {
	Value    []byte          `json:"value"`
	Revision driver.Revision `json:"revision"`
}

// Mastership is the last claim: who claimed Term, on which server of Raft and in which of its
// terms. It counts only while that server leads that term of Raft. Holder is nil after a release.
type Mastership struct {
	Term      driver.Term    `json:"term"`
	ClusterID string         `json:"cluster_id"`
	Holder    *driver.Holder `json:"holder,omitempty"`
	Server    string         `json:"server,omitempty"`
	RaftTerm  uint64         `json:"raft_term,omitempty"`
}

// State is the state machine, a raft.FSM. It is safe for concurrent use.
type State struct {
	changed func()

	mu         sync.RWMutex
	mastership Mastership
	records    map[string]record
}

// NewState returns an empty state. changed is called after each change of its mastership. It must
// not block.
func NewState(changed func()) *State {
	return &State{changed: changed, records: make(map[string]record)}
}

// Apply implements raft.FSM.
func (s *State) Apply(l *raft.Log) any {
	var c Command
	if err := json.Unmarshal(l.Data, &c); err != nil {
		return Outcome{Err: fmt.Errorf("%w: log entry %d: %v", driver.ErrInvalid, l.Index, err)}
	}
	s.mu.Lock()
	before := s.mastership
	var out Outcome
	switch c.Op {
	case OpClaim:
		out = s.applyClaim(c, l.Term)
	case OpRelease:
		out = s.applyRelease(c)
	case OpSet:
		out = s.applySet(c, driver.Revision(l.Index))
	case OpDelete:
		out = s.applyDelete(c)
	default:
		// Of a later version. Every voter of this version ignores it alike.
		out.Err = fmt.Errorf("%w: log entry %d: unknown command %q; upgrade this voter", driver.ErrInvalid, l.Index, c.Op)
	}
	out.RaftTerm = l.Term
	moved := before.Term != s.mastership.Term || before.RaftTerm != s.mastership.RaftTerm || before.Holder != s.mastership.Holder
	s.mu.Unlock()
	if moved {
		s.changed()
	}
	return out
}

func (s *State) applyClaim(c Command, raftTerm uint64) Outcome {
	if s.mastership.ClusterID != "" && c.Known && c.ClusterID != s.mastership.ClusterID {
		return Outcome{Err: fmt.Errorf("%w: the voters record cluster id %s and not %s", driver.ErrClusterMismatch, s.mastership.ClusterID, c.ClusterID)}
	}
	if c.MinTerm > driver.MaxTerm {
		return Outcome{Err: fmt.Errorf("%w: term %d is out of bounds", driver.ErrInvalid, c.MinTerm)}
	}
	again := s.mastership.Holder != nil && c.Holder != nil &&
		s.mastership.Holder.InstanceID == c.Holder.InstanceID && s.mastership.Server == c.Server &&
		s.mastership.RaftTerm == raftTerm && s.mastership.Term > c.MinTerm
	if !again {
		if s.mastership.ClusterID == "" {
			s.mastership.ClusterID = c.ClusterID
		}
		s.mastership.Term = max(s.mastership.Term, c.MinTerm) + 1
		s.mastership.Holder, s.mastership.Server, s.mastership.RaftTerm = c.Holder, c.Server, raftTerm
	}
	return Outcome{Term: s.mastership.Term, ClusterID: s.mastership.ClusterID}
}

func (s *State) applyRelease(c Command) Outcome {
	if s.mastership.Term == c.Term && s.mastership.Server == c.Server {
		s.mastership.Holder = nil
	}
	return Outcome{}
}

func (s *State) applySet(c Command, revision driver.Revision) Outcome {
	if err := s.expect(c.Key, c.Prev); err != nil {
		return Outcome{Err: err}
	}
	s.records[c.Key] = record{Value: c.Value, Revision: revision}
	return Outcome{Revision: revision}
}

func (s *State) applyDelete(c Command) Outcome {
	if _, ok := s.records[c.Key]; !ok {
		return Outcome{Err: fmt.Errorf("%w: no record %q", driver.ErrNotFound, c.Key)}
	}
	if err := s.expect(c.Key, c.Prev); err != nil {
		return Outcome{Err: err}
	}
	delete(s.records, c.Key)
	return Outcome{}
}

func (s *State) expect(key string, prev driver.Revision) error {
	if now := s.records[key].Revision; now != prev {
		return fmt.Errorf("%w: record %q is at revision %d and not at %d", driver.ErrConflict, key, now, prev)
	}
	return nil
}

// Mastership returns the last claim.
func (s *State) Mastership() Mastership {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.mastership
}

// Get returns the record at key.
func (s *State) Get(key string) (driver.Record, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r, ok := s.records[key]
	if !ok {
		return driver.Record{}, fmt.Errorf("%w: no record %q", driver.ErrNotFound, key)
	}
	return driver.Record{Key: key, Value: slices.Clone(r.Value), Revision: r.Revision}, nil
}

// List returns the records whose keys start with prefix, by key.
func (s *State) List(prefix string) []driver.Record {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var all []driver.Record
	for key, r := range s.records {
		if strings.HasPrefix(key, prefix) {
			all = append(all, driver.Record{Key: key, Value: slices.Clone(r.Value), Revision: r.Revision})
		}
	}
	slices.SortFunc(all, func(a, b driver.Record) int { return strings.Compare(a.Key, b.Key) })
	return all
}

// image is the form of a snapshot.
type image struct {
	Version int               `json:"v"`
	Claim   Mastership        `json:"claim"`
	Records map[string]record `json:"records"`
}

// Snapshot implements raft.FSM. Values are never changed in place, so that a copy
// of the map is a copy of the state.
func (s *State) Snapshot() (raft.FSMSnapshot, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return image{Version: Version, Claim: s.mastership, Records: maps.Clone(s.records)}, nil
}

// Persist implements raft.FSMSnapshot.
func (i image) Persist(sink raft.SnapshotSink) error {
	if err := json.NewEncoder(sink).Encode(i); err != nil {
		_ = sink.Cancel()
		return err
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (i image) Release() {}

// Restore implements raft.FSM.
func (s *State) Restore(from io.ReadCloser) error {
	var i image
	if err := json.NewDecoder(from).Decode(&i); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	if i.Version != Version {
		return fmt.Errorf("%w: snapshot has version %d, and this program reads version %d; upgrade this voter", driver.ErrInvalid, i.Version, Version)
	}
	if i.Records == nil {
		i.Records = make(map[string]record)
	}
	s.mu.Lock()
	s.mastership, s.records = i.Claim, i.Records
	s.mu.Unlock()
	s.changed()
	return nil
}

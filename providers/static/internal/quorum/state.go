package quorum

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

// stateVersion is that of commands and snapshots. Both are JSON that only ever
// gains fields, and are pinned by golden tests.
const stateVersion = 1

// op names a command.
type op string

const (
	opClaim   op = "claim"
	opRelease op = "release"
	opSet     op = "set"
	opDelete  op = "delete"
)

// command is one entry of the replicated log.
type command struct {
	Version int `json:"v"`
	Op      op  `json:"op"`

	// Of a claim and a release.
	Server    string         `json:"server,omitempty"`
	Holder    *driver.Holder `json:"holder,omitempty"`
	MinTerm   driver.Term    `json:"min_term,omitempty"`
	ClusterID string         `json:"cluster_id,omitempty"`
	Known     bool           `json:"known,omitempty"`
	Term      driver.Term    `json:"term,omitempty"`

	// Of a set and a delete.
	Key   string          `json:"key,omitempty"`
	Value []byte          `json:"value,omitempty"`
	Prev  driver.Revision `json:"prev,omitempty"`
}

// outcome is what a command came to.
type outcome struct {
	err       error
	raftTerm  uint64
	term      driver.Term
	clusterID string
	revision  driver.Revision
}

// record is a value of the store. Its revision is the index of the log entry that
// wrote it.
type record struct {
	Value    []byte          `json:"value"`
	Revision driver.Revision `json:"revision"`
}

// claimed is what the state says of mastership: who claimed Term, on which server
// of Raft and in which of its terms. The claim counts only while that server
// leads that Raft term.
type claimed struct {
	Term      driver.Term    `json:"term"`
	ClusterID string         `json:"cluster_id"`
	Holder    *driver.Holder `json:"holder,omitempty"`
	Server    string         `json:"server,omitempty"`
	RaftTerm  uint64         `json:"raft_term,omitempty"`
}

// state is the replicated state machine. Every voter applies the same commands in
// the same order, and so comes to the same state.
type state struct {
	changed func()

	mu      sync.RWMutex
	claim   claimed
	records map[string]record
}

func newState(changed func()) *state {
	return &state{changed: changed, records: make(map[string]record)}
}

// Apply implements raft.FSM.
func (s *state) Apply(l *raft.Log) any {
	var c command
	if err := json.Unmarshal(l.Data, &c); err != nil {
		return outcome{err: fmt.Errorf("%w: log entry %d: %v", driver.ErrInvalid, l.Index, err)}
	}
	s.mu.Lock()
	before := s.claim
	var out outcome
	switch c.Op {
	case opClaim:
		out = s.applyClaim(c, l.Term)
	case opRelease:
		out = s.applyRelease(c)
	case opSet:
		out = s.applySet(c, driver.Revision(l.Index))
	case opDelete:
		out = s.applyDelete(c)
	default:
		// Of a later version. Every voter of this version ignores it alike.
		out.err = fmt.Errorf("%w: log entry %d: unknown command %q; upgrade this voter", driver.ErrInvalid, l.Index, c.Op)
	}
	out.raftTerm = l.Term
	moved := before.Term != s.claim.Term || before.RaftTerm != s.claim.RaftTerm || before.Holder != s.claim.Holder
	s.mu.Unlock()
	if moved {
		s.changed()
	}
	return out
}

func (s *state) applyClaim(c command, raftTerm uint64) outcome {
	if s.claim.ClusterID != "" && c.Known && c.ClusterID != s.claim.ClusterID {
		return outcome{err: fmt.Errorf("%w: the voters record cluster id %s and not %s", driver.ErrClusterMismatch, s.claim.ClusterID, c.ClusterID)}
	}
	if c.MinTerm > driver.MaxTerm {
		return outcome{err: fmt.Errorf("%w: term %d is out of bounds", driver.ErrInvalid, c.MinTerm)}
	}
	again := s.claim.Holder != nil && c.Holder != nil &&
		s.claim.Holder.InstanceID == c.Holder.InstanceID && s.claim.Server == c.Server &&
		s.claim.RaftTerm == raftTerm && s.claim.Term > c.MinTerm
	if !again {
		if s.claim.ClusterID == "" {
			s.claim.ClusterID = c.ClusterID
		}
		s.claim.Term = max(s.claim.Term, c.MinTerm) + 1
		s.claim.Holder, s.claim.Server, s.claim.RaftTerm = c.Holder, c.Server, raftTerm
	}
	return outcome{term: s.claim.Term, clusterID: s.claim.ClusterID}
}

func (s *state) applyRelease(c command) outcome {
	if s.claim.Term == c.Term && s.claim.Server == c.Server {
		s.claim.Holder = nil
	}
	return outcome{}
}

func (s *state) applySet(c command, revision driver.Revision) outcome {
	if err := s.expect(c.Key, c.Prev); err != nil {
		return outcome{err: err}
	}
	s.records[c.Key] = record{Value: c.Value, Revision: revision}
	return outcome{revision: revision}
}

func (s *state) applyDelete(c command) outcome {
	if _, ok := s.records[c.Key]; !ok {
		return outcome{err: fmt.Errorf("%w: no record %q", driver.ErrNotFound, c.Key)}
	}
	if err := s.expect(c.Key, c.Prev); err != nil {
		return outcome{err: err}
	}
	delete(s.records, c.Key)
	return outcome{}
}

func (s *state) expect(key string, prev driver.Revision) error {
	if now := s.records[key].Revision; now != prev {
		return fmt.Errorf("%w: record %q is at revision %d and not at %d", driver.ErrConflict, key, now, prev)
	}
	return nil
}

// current returns what the state says of mastership.
func (s *state) current() claimed {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.claim
}

// get returns the record at key.
func (s *state) get(key string) (driver.Record, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r, ok := s.records[key]
	if !ok {
		return driver.Record{}, fmt.Errorf("%w: no record %q", driver.ErrNotFound, key)
	}
	return driver.Record{Key: key, Value: slices.Clone(r.Value), Revision: r.Revision}, nil
}

// list returns the records whose keys start with prefix, by key.
func (s *state) list(prefix string) []driver.Record {
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
	Claim   claimed           `json:"claim"`
	Records map[string]record `json:"records"`
}

// Snapshot implements raft.FSM. Values are never changed in place, so that a copy
// of the map is a copy of the state.
func (s *state) Snapshot() (raft.FSMSnapshot, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return image{Version: stateVersion, Claim: s.claim, Records: maps.Clone(s.records)}, nil
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
func (s *state) Restore(from io.ReadCloser) error {
	var i image
	if err := json.NewDecoder(from).Decode(&i); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	if i.Version != stateVersion {
		return fmt.Errorf("%w: snapshot has version %d, and this program reads version %d; upgrade this voter", driver.ErrInvalid, i.Version, stateVersion)
	}
	if i.Records == nil {
		i.Records = make(map[string]record)
	}
	s.mu.Lock()
	s.claim, s.records = i.Claim, i.Records
	s.mu.Unlock()
	s.changed()
	return nil
}

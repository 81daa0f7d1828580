package votelease

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// The keys under which Raft keeps its term and its vote. TestRaftCastsVotesThroughTheStore fails
// if Raft renames them.
var (
	// KeyCurrentTerm is that of Raft's current term.
	KeyCurrentTerm  = []byte("CurrentTerm")
	keyLastVoteTerm = []byte("LastVoteTerm")
	keyLastVoteCand = []byte("LastVoteCand")
)

// keyVote is where the Store keeps a vote: eight bytes for its term, then its candidate.
var keyVote = []byte("Vote")

// notFound is the text of the error by which a stable store says that it has no value for a
// key. Raft compares it likewise.
const notFound = "not found"

// Store is the stable store that Raft sees. Raft casts no vote, for another candidate or for
// itself, without writing it here first, so this is the one place where a lease is upheld.
//
// Raft writes the term of a vote and then its candidate. The Store writes both at once, when it has
// the candidate: a crash leaves the whole vote or none, and a voter that waits for its disk delays
// an election.
//
// Raft panics if it cannot write its term, which would end the host process. A voter that cannot
// write must not vote and need do nothing else, so the goroutine that failed ends instead. Raft's
// deferred calls still answer.
type Store struct {
	raft.StableStore
	leases *Table
	failed func(error)
	// running is set once Raft's own goroutines write.
	running atomic.Bool

	mu sync.Mutex
	// voted and candidate are the vote that is written, voting the term of the next one.
	voted, voting uint64
	candidate     []byte
}

// NewStore returns the store over inner, and notes in t the last vote that inner has. After
// ReportFailures, failed is called with each failure to write. It must not block.
func NewStore(inner raft.StableStore, t *Table, failed func(error)) (*Store, error) {
	v := &Store{StableStore: inner, leases: t, failed: failed}
	vote, err := inner.Get(keyVote)
	switch {
	case err != nil && err.Error() != notFound:
		return nil, err
	case len(vote) >= 8:
		v.voted, v.candidate = binary.BigEndian.Uint64(vote), vote[8:]
	case len(vote) > 0:
		return nil, fmt.Errorf("the vote has %d bytes, and at least 8 are needed", len(vote))
	}
	t.hasVoted(v.voted)
	return v, nil
}

// ReportFailures is called when raft.NewRaft has returned, which returns or panics with failures
// of its own.
func (v *Store) ReportFailures() { v.running.Store(true) }

// Get returns a value. The candidate of the last vote is of the vote as a whole.
func (v *Store) Get(key []byte) ([]byte, error) {
	if string(key) != string(keyLastVoteCand) {
		return v.StableStore.Get(key)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.candidate, nil
}

// GetUint64 returns a number. The term of the last vote is of the vote as a whole.
func (v *Store) GetUint64(key []byte) (uint64, error) {
	if string(key) != string(keyLastVoteTerm) {
		return v.StableStore.GetUint64(key)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.voted, nil
}

// Set writes the vote when Raft says which candidate it is for.
func (v *Store) Set(key, value []byte) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	vote := string(key) == string(keyLastVoteCand)
	if vote {
		key, value = keyVote, append(binary.BigEndian.AppendUint64(nil, v.voting), value...)
	}
	err := v.StableStore.Set(key, value)
	switch {
	case err == nil && vote:
		v.voted, v.candidate = v.voting, value[8:]
	case err != nil && v.running.Load():
		v.failed(err)
	}
	return err
}

// SetUint64 rejects the term of a vote with ErrLeased while a lease is running, and keeps it until
// the candidate follows.
func (v *Store) SetUint64(key []byte, value uint64) error {
	if string(key) == string(keyLastVoteTerm) {
		if err := v.leases.vote(value); err != nil {
			return err
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		v.voting = value
		return nil
	}
	err := v.StableStore.SetUint64(key, value)
	if err != nil && v.running.Load() {
		v.failed(err)
		if string(key) == string(KeyCurrentTerm) {
			runtime.Goexit()
		}
	}
	return err
}

package replicated

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"

	"github.com/musterhq/muster/discovery/driver"
)

// entry makes the log entry that a command becomes.
func entry(t *testing.T, index, term uint64, c Command) *raft.Log {
	t.Helper()
	c.Version = Version
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return &raft.Log{Index: index, Term: term, Data: b}
}

func TestClaims(t *testing.T) {
	s := NewState(func() {})
	a := &driver.Holder{NodeID: "a", InstanceID: "a1"}
	b := &driver.Holder{NodeID: "b", InstanceID: "b1"}
	index := uint64(0)
	for _, step := range []struct {
		says     string
		raftTerm uint64
		c        Command
		term     driver.Term
		id       string
		err      error
	}{
		{"the first claim mints the id", 2, Command{Op: OpClaim, Server: "A", Holder: a, ClusterID: "x"}, 1, "x", nil},
		{"the same instance finds its claim", 2, Command{Op: OpClaim, Server: "A", Holder: a, ClusterID: "y"}, 1, "x", nil},
		{"unless a higher term was learned of", 2, Command{Op: OpClaim, Server: "A", Holder: a, MinTerm: 4}, 5, "x", nil},
		{"another id is refused", 3, Command{Op: OpClaim, Server: "B", Holder: b, ClusterID: "y", Known: true}, 0, "", driver.ErrClusterMismatch},
		{"the next leader's claim raises the term", 3, Command{Op: OpClaim, Server: "B", Holder: b, ClusterID: "x", Known: true}, 6, "x", nil},
		{"the same instance in another term of Raft", 4, Command{Op: OpClaim, Server: "B", Holder: b}, 7, "x", nil},
		{"a late release changes nothing", 4, Command{Op: OpRelease, Server: "B", Term: 6}, 0, "", nil},
		{"so the claim still stands", 4, Command{Op: OpClaim, Server: "B", Holder: b}, 7, "x", nil},
		{"a release", 4, Command{Op: OpRelease, Server: "B", Term: 7}, 0, "", nil},
		{"after which the term rises", 4, Command{Op: OpClaim, Server: "B", Holder: b}, 8, "x", nil},
	} {
		index++
		out := s.Apply(entry(t, index, step.raftTerm, step.c)).(Outcome)
		if out.Term != step.term || out.ClusterID != step.id || !errors.Is(out.Err, step.err) || out.RaftTerm != step.raftTerm {
			t.Errorf("%s: got %+v", step.says, out)
		}
	}
}

func TestRecords(t *testing.T) {
	s := NewState(func() {})
	for i, step := range []struct {
		c        Command
		revision driver.Revision
		err      error
	}{
		{Command{Op: OpSet, Key: "k", Value: []byte("1")}, 1, nil},
		{Command{Op: OpSet, Key: "k", Value: []byte("2")}, 0, driver.ErrConflict},
		{Command{Op: OpSet, Key: "k", Value: []byte("2"), Prev: 1}, 3, nil},
		{Command{Op: OpDelete, Key: "k", Prev: 1}, 0, driver.ErrConflict},
		{Command{Op: OpDelete, Key: "none", Prev: 1}, 0, driver.ErrNotFound},
		{Command{Op: OpDelete, Key: "k", Prev: 3}, 0, nil},
		{Command{Op: OpSet, Key: "k", Value: []byte("3"), Prev: 3}, 0, driver.ErrConflict},
		{Command{Op: "later", Key: "k"}, 0, driver.ErrInvalid},
	} {
		out := s.Apply(entry(t, uint64(i+1), 2, step.c)).(Outcome)
		if out.Revision != step.revision || !errors.Is(out.Err, step.err) {
			t.Errorf("%d: got %+v", i, out)
		}
	}
}

// golden is what version 1 writes. Later versions must read it.
const golden = `{"v":1,"claim":{"term":7,"cluster_id":"x","holder":{"node_id":"a","instance_id":"a1","addr":"10.0.0.5:7946"},"server":"10.0.0.5:7946#abc","raft_term":4},"records":{"k":{"value":"dg==","revision":9}}}` + "\n"

func TestSnapshot(t *testing.T) {
	s := NewState(func() {})
	if err := s.Restore(io.NopCloser(strings.NewReader(golden))); err != nil {
		t.Fatal(err)
	}
	snap, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	// What comes after is not part of it.
	s.Apply(entry(t, 10, 4, Command{Op: OpSet, Key: "k", Value: []byte("w"), Prev: 9}))
	var out memorySink
	if err := snap.Persist(&out); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(golden, out.String()); diff != "" {
		t.Error(diff)
	}
	err = s.Restore(io.NopCloser(strings.NewReader(`{"v":2}`)))
	if !errors.Is(err, driver.ErrInvalid) {
		t.Errorf("a snapshot of a later version: %v", err)
	}
	if r, err := s.Get("k"); err != nil || string(r.Value) != "w" {
		t.Errorf("after a failed restore: %+v, %v", r, err)
	}
}

func TestCommandGolden(t *testing.T) {
	claim := entry(t, 1, 2, Command{
		Op: OpClaim, Server: "s", Holder: &driver.Holder{NodeID: "a", InstanceID: "a1", Addr: "h:1"}, MinTerm: 3, ClusterID: "x", Known: true,
	})
	want := `{"v":1,"op":"claim","server":"s","holder":{"node_id":"a","instance_id":"a1","addr":"h:1"},"min_term":3,"cluster_id":"x","known":true}`
	if diff := cmp.Diff(want, string(claim.Data)); diff != "" {
		t.Error(diff)
	}
	set := entry(t, 1, 2, Command{Op: OpSet, Key: "k", Value: []byte("v"), Prev: 4})
	want = `{"v":1,"op":"set","key":"k","value":"dg==","prev":4}`
	if diff := cmp.Diff(want, string(set.Data)); diff != "" {
		t.Error(diff)
	}
}

type memorySink struct{ bytes.Buffer }

func (*memorySink) ID() string    { return "" }
func (*memorySink) Cancel() error { return nil }
func (*memorySink) Close() error  { return nil }

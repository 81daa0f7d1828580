package votelease

import (
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/musterhq/muster/internal/clock"
)

// TestRaftCastsVotesThroughTheStore fails if Raft keeps its votes elsewhere, or votes without
// writing the vote first: vote leases would be worth nothing.
func TestRaftCastsVotesThroughTheStore(t *testing.T) {
	l := NewTable(clock.Now)
	inner := raft.NewInmemStore()
	_, trans := raft.NewInmemTransport("a")
	conf := raft.DefaultConfig()
	conf.LocalID = "a"
	conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = 20*time.Millisecond, 20*time.Millisecond, 20*time.Millisecond
	conf.Logger = hclog.NewNullLogger()
	snaps := raft.NewInmemSnapshotStore()
	servers := raft.Configuration{Servers: []raft.Server{{ID: "a", Address: "a"}}}
	if err := raft.BootstrapCluster(conf, inner, inner, snaps, trans, servers); err != nil {
		t.Fatal(err)
	}
	const leased = 500 * time.Millisecond
	began := clock.Now()
	if !l.give(Leadership{"b", "", 1}, 1, leased, func() uint64 { return 1 }) {
		t.Fatal("no lease")
	}
	stable, err := NewStore(inner, l, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	r, err := raft.NewRaft(conf, noState{}, inner, stable, snaps, trans)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Shutdown().Error() }()
	deadline := time.Now().Add(40 * time.Second)
	for r.State() != raft.Leader {
		if time.Now().After(deadline) {
			t.Fatal("no leader after the lease had ended")
		}
		time.Sleep(time.Millisecond)
	}
	// A voter alone needs nobody else's vote. Only its own stood in the way.
	if took := clock.Now().Sub(began); took < leased {
		t.Errorf("it voted for itself after %v, with a lease of another for %v", took, leased)
	}
	if b, err := inner.Get(keyVote); err != nil || len(b) < 8 || binary.BigEndian.Uint64(b) == 0 || string(b[8:]) != "a" {
		t.Errorf("%s is %q, %v", keyVote, b, err)
	}
	if v, err := inner.GetUint64(KeyCurrentTerm); err != nil || v == 0 {
		t.Errorf("%s is %d, %v", KeyCurrentTerm, v, err)
	}
}

// TestVoteThatWasCutShort: a crash between the term of a vote and its candidate leaves the vote
// before it, and one after the candidate all of the vote.
func TestVoteThatWasCutShort(t *testing.T) {
	t.Parallel()
	inner := raft.NewInmemStore()
	opened := func() *Store {
		v, err := NewStore(inner, NewTable(clock.Now), func(err error) { t.Error(err) })
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	expect := func(v *Store, term uint64, candidate string) {
		t.Helper()
		voted, err := v.GetUint64(keyLastVoteTerm)
		b, err2 := v.Get(keyLastVoteCand)
		if err := errors.Join(err, err2); err != nil || voted != term || string(b) != candidate {
			t.Errorf("the vote is for %q in term %d, %v; want %q in %d", b, voted, err, candidate, term)
		}
		if term > 0 && v.leases.give(Leadership{"c", "", term - 1}, 1, time.Second, func() uint64 { return term - 1 }) {
			t.Errorf("a lease for a term below %d, in which it voted", term)
		}
	}
	v := opened()
	expect(v, 0, "")
	if err := errors.Join(v.SetUint64(keyLastVoteTerm, 5), v.Set(keyLastVoteCand, []byte("b"))); err != nil {
		t.Fatal(err)
	}
	expect(v, 5, "b")
	expect(opened(), 5, "b")
	if err := v.SetUint64(keyLastVoteTerm, 6); err != nil {
		t.Fatal(err)
	}
	expect(opened(), 5, "b")
	if err := v.Set(keyLastVoteCand, []byte("d")); err != nil {
		t.Fatal(err)
	}
	expect(opened(), 6, "d")
	if err := inner.Set(keyVote, []byte("short")); err != nil {
		t.Fatal(err)
	}
	if _, err := NewStore(inner, NewTable(clock.Now), nil); err == nil {
		t.Error("a vote of five bytes was read")
	}
}

// noState is a state machine that keeps nothing.
type noState struct{}

func (noState) Apply(*raft.Log) any                 { return nil }
func (noState) Snapshot() (raft.FSMSnapshot, error) { return nil, errors.ErrUnsupported }
func (noState) Restore(io.ReadCloser) error         { return errors.ErrUnsupported }

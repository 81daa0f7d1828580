package quorum

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/musterhq/muster/internal/clock"
)

// TestLedger holds the ledger to the one thing that grants stand on: a voter that
// promised a leader of a term does not vote in a higher term until the promise has
// ended or was withdrawn, whatever else was asked of it meanwhile.
func TestLedger(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := clock.Instant(time.Hour)
		l := newLedger(func() clock.Instant { return now })
		term := uint64(2)
		type key struct {
			leadership
		}
		until := map[key]clock.Instant{}
		withdrawn := map[key]uint64{}
		rounds := map[key]uint64{}
		voted := uint64(0)
		round := uint64(4)
		// next is a new round, or one that was held up or overtaken on the way.
		next := func(how string) uint64 {
			round++
			return round - uint64(rapid.IntRange(0, 3).Draw(t, how))
		}
		t.Repeat(map[string]func(*rapid.T){
			"give": func(t *rapid.T) {
				k := key{leadership{rapid.SampledFrom([]string{"a", "b"}).Draw(t, "leader"), "", term - uint64(rapid.IntRange(0, 1).Draw(t, "behind"))}}
				r := next("held up")
				d := time.Duration(rapid.IntRange(0, 1000).Draw(t, "ms")) * time.Millisecond
				given := l.give(k.leadership, r, d, func() uint64 { return term })
				rival := false
				for other := range rounds {
					rival = rival || other.term == k.term && other != k
				}
				if want := k.term == term && k.term >= voted && r > withdrawn[k] && !rival; given != want {
					t.Fatalf("give to %+v round %d in term %d, voted in %d, withdrawn %d, rival %v: %v", k, r, term, voted, withdrawn[k], rival, given)
				}
				if given {
					until[k] = max(until[k], now.Add(d))
					rounds[k] = max(rounds[k], r)
				}
			},
			"withdraw": func(t *rapid.T) {
				k := key{leadership{rapid.SampledFrom([]string{"a", "b"}).Draw(t, "leader"), "", term}}
				r := next("overtaken")
				l.withdraw(k.leadership, r)
				withdrawn[k] = max(withdrawn[k], r)
				if rounds[k] <= r {
					until[k] = 0
				}
				rounds[k] += 0 // it is known from now on
			},
			"vote": func(t *rapid.T) {
				in := term + uint64(rapid.IntRange(0, 1).Draw(t, "ahead"))
				if l.vote(in) == nil {
					voted = max(voted, in)
				}
			},
			"time": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 700).Draw(t, "ms")) * time.Millisecond)
			},
			"term": func(t *rapid.T) { term++ },
			"": func(t *rapid.T) {
				var most clock.Instant
				for _, u := range until {
					most = max(most, u)
				}
				if free := !now.Before(most); free != (l.remaining() <= 0) {
					t.Fatalf("at %v with promises until %v there remain %v", now, most, l.remaining())
				}
			},
		})
	})
}

// TestRaftCastsVotesThroughTheStore fails should Raft keep its votes elsewhere, or
// vote without writing them down: the promises would be worth nothing.
func TestRaftCastsVotesThroughTheStore(t *testing.T) {
	l := newLedger(clock.Now)
	inner := raft.NewInmemStore()
	stable := &votes{StableStore: inner, ledger: l, failed: func(error) {}}
	_, trans := raft.NewInmemTransport("a")
	conf := raft.DefaultConfig()
	conf.LocalID = "a"
	conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = 20*time.Millisecond, 20*time.Millisecond, 20*time.Millisecond
	conf.Logger = raftLogger(discard())
	snaps := raft.NewInmemSnapshotStore()
	servers := raft.Configuration{Servers: []raft.Server{{ID: "a", Address: "a"}}}
	if err := raft.BootstrapCluster(conf, inner, inner, snaps, trans, servers); err != nil {
		t.Fatal(err)
	}
	const promised = 500 * time.Millisecond
	began := clock.Now()
	if !l.give(leadership{"b", "", 1}, 1, promised, func() uint64 { return 1 }) {
		t.Fatal("no promise")
	}
	r, err := raft.NewRaft(conf, newState(func() {}), inner, stable, snaps, trans)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Shutdown().Error() }()
	deadline := time.Now().Add(patience)
	for r.State() != raft.Leader {
		if time.Now().After(deadline) {
			t.Fatal("no leader after the promise had ended")
		}
		time.Sleep(time.Millisecond)
	}
	// A voter alone needs nobody else's vote. Only its own stood in the way.
	if took := clock.Now().Sub(began); took < promised {
		t.Errorf("it voted for itself after %v, with a promise to another for %v", took, promised)
	}
	if v, err := inner.GetUint64(keyLastVoteTerm); err != nil || v == 0 {
		t.Errorf("%s is %d, %v", keyLastVoteTerm, v, err)
	}
	if v, err := inner.GetUint64(keyCurrentTerm); err != nil || v == 0 {
		t.Errorf("%s is %d, %v", keyCurrentTerm, v, err)
	}
}

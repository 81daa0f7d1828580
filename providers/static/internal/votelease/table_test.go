package votelease

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/musterhq/muster/internal/clock"
)

// TestTable holds the table to what the proof needs: a voter that gave a lease in a term does not
// vote in a higher term until the lease has ended or was revoked, whatever else happened meanwhile.
func TestTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := clock.Instant(time.Hour)
		l := NewTable(func() clock.Instant { return now })
		term := uint64(2)
		type key struct {
			Leadership
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
				k := key{Leadership{rapid.SampledFrom([]string{"a", "b"}).Draw(t, "leader"), "", term - uint64(rapid.IntRange(0, 1).Draw(t, "behind"))}}
				r := next("held up")
				d := time.Duration(rapid.IntRange(0, 1000).Draw(t, "ms")) * time.Millisecond
				given := l.give(k.Leadership, r, d, func() uint64 { return term })
				rival := false
				for other := range rounds {
					rival = rival || other.Term == k.Term && other != k
				}
				if want := k.Term == term && k.Term >= voted && r > withdrawn[k] && !rival; given != want {
					t.Fatalf("give to %+v round %d in term %d, voted in %d, withdrawn %d, rival %v: %v", k, r, term, voted, withdrawn[k], rival, given)
				}
				if given {
					until[k] = max(until[k], now.Add(d))
					rounds[k] += 0 // it is known from now on
					if d > 0 {
						rounds[k] = max(rounds[k], r)
					}
				}
			},
			"withdraw": func(t *rapid.T) {
				k := key{Leadership{rapid.SampledFrom([]string{"a", "b"}).Draw(t, "leader"), "", term}}
				r := next("overtaken")
				l.Revoke(k.Leadership, r)
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
				if free := !now.Before(most); free != (l.Remaining() <= 0) {
					t.Fatalf("at %v with leases until %v there remain %v", now, most, l.Remaining())
				}
			},
		})
	})
}

// TestReadKeepsNoLease: a request of length 0, as that of a read, which overtakes the revocation
// of a lease does not keep the lease.
func TestReadKeepsNoLease(t *testing.T) {
	t.Parallel()
	now := clock.Instant(time.Hour)
	l := NewTable(func() clock.Instant { return now })
	leader := Leadership{"a", "", 2}
	term := func() uint64 { return 2 }
	if !l.give(leader, 1, time.Minute, term) || !l.give(leader, 3, 0, term) || l.Remaining() != time.Minute {
		t.Fatalf("there remain %v of a lease of a minute", l.Remaining())
	}
	l.Revoke(leader, 2)
	if l.Remaining() != 0 {
		t.Errorf("after its revocation there remain %v", l.Remaining())
	}
}

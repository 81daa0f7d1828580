package cron

import (
	"math/rand/v2"
	"testing"
	"time"
)

// times is a schedule that is written down.
type times []time.Time

func (s times) Next(t time.Time) time.Time {
	for _, at := range s {
		if at.After(t) {
			return at
		}
	}
	return time.Time{}
}

// liar answers at random.
type liar struct{ rng *rand.Rand }

func (l liar) Next(t time.Time) time.Time { return t.Add(time.Duration(l.rng.IntN(2000) - 100)) }

// The latest time is the one that is found step by step, in thousands of random schedules; and
// one that contradicts itself is not asked without end.
func TestLatestIsThatOfSingleSteps(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 9))
	start := time.Unix(0, 0).UTC()
	found := 0
	for range 20_000 {
		var s times
		at := start
		for range rng.IntN(30) {
			at = at.Add(1 + time.Duration(rng.Int64N(1<<rng.IntN(40))))
			s = append(s, at)
		}
		base := start.Add(time.Duration(rng.Int64N(1 << rng.IntN(40))))
		now := base.Add(time.Duration(rng.Int64N(1 << rng.IntN(44))))
		var want time.Time
		for t := s.Next(base); !t.IsZero() && !t.After(now); t = s.Next(t) {
			want = t
		}
		if got := latest(s, base, now); !got.Equal(want) {
			t.Fatalf("after %v, until %v: got %v, want %v of %v", base, now, got, want, s)
		}
		if !want.IsZero() {
			found++
		}
		latest(liar{rng}, base, now)
	}
	if found < 1000 {
		t.Errorf("only %d histories had one", found)
	}
}

package faults

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testing/checker"
)

// The same seed has the same faults, and another one others.
func TestScheduleComesFromTheSeed(t *testing.T) {
	draw := func(seed uint64, provider string) []action {
		return schedule(rand.New(rand.NewPCG(seed, 1)), provider, 5, 20*time.Minute)
	}
	for _, provider := range everywhere {
		a, again, other := draw(1, provider), draw(1, provider), draw(2, provider)
		if !reflect.DeepEqual(a, again) || reflect.DeepEqual(a, other) {
			t.Errorf("%s: the schedule does not come from the seed", provider)
		}
		if len(a) != 60 {
			t.Errorf("%s: %d faults in 20 minutes, want 60", provider, len(a))
		}
		for i, f := range a {
			if f.lasts <= 0 || i > 0 && f.at < a[i-1].at+a[i-1].lasts {
				t.Errorf("%s: fault %d, %s, overlaps the one before or does not last", provider, i, f.kind)
			}
			for _, known := range soakFaults {
				if known.kind == f.kind && (known.store && provider == "static" || known.static && provider != "static") {
					t.Errorf("%s: %s does not concern it", provider, f.kind)
				}
			}
		}
	}
}

func TestRegister(t *testing.T) {
	var r register
	for _, step := range []struct {
		write    bool
		term     uint64
		value    string
		accepted bool
		seen     string
		seenTerm uint64
	}{
		{write: false},
		{write: true, term: 2, value: "a", accepted: true},
		{write: true, term: 2, value: "b", accepted: true, seen: "a", seenTerm: 2},
		{write: true, term: 1, value: "late", seen: "b", seenTerm: 2},
		{write: false, seen: "b", seenTerm: 2},
		{write: true, term: 3, value: "c", accepted: true, seen: "b", seenTerm: 2},
	} {
		got := r.carryOut(step.write, checker.Note{Term: step.term, Value: step.value})
		if want := (checker.Note{Accepted: step.accepted, Seen: step.seen, SeenTerm: step.seenTerm}); got != want {
			t.Errorf("%+v: %+v, want %+v", step, got, want)
		}
	}
	var values []string
	for _, a := range r.log() {
		values = append(values, a.Value)
	}
	if !slices.Equal(values, []string{"a", "b", "c"}) {
		t.Errorf("the log has %v", values)
	}
}

func TestSkew(t *testing.T) {
	const epoch, at = 1_000_000_000_000, 1_010_000_000_000
	for _, s := range []skew{{}, {rate: 1, offset: time.Hour, epoch: epoch}, {rate: 1.1, epoch: epoch}, {rate: 0.99, offset: -time.Second, epoch: epoch}} {
		shown := int64(at)
		if s.rate != 0 { // as internal/clock does
			shown = at + int64(float64(at-epoch)*(s.rate-1)) + int64(s.offset)
		}
		if got := s.trueTime(shown); got < at-1 || got > at+1 {
			t.Errorf("%+v: %d, want %d", s, got, int64(at))
		}
	}
}

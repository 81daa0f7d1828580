package reachability

import (
	"testing"
	"time"
)

var now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// What a node knows after a round of questions, from each state.
func TestNext(t *testing.T) {
	alone := Result{}
	asking := Result{State: Asking, patience: now}
	reached := Result{State: Reachable, Peer: "b", patience: now}
	unreachable := Result{State: Unreachable, Peer: "b", Reason: "refused", patience: now}
	answer := func(s State) Result {
		r := Result{State: s, Peer: "c", Reason: "why"}
		if s == Reachable {
			r.Reason = ""
		}
		return r
	}
	with := func(r Result, at time.Time) Result { r.patience = at; return r }
	for name, test := range map[string]struct {
		last     Result
		round    round
		dead     bool // those that were asked fell silent
		wasReady bool
		doubted  bool
		want     Result
		single   bool
	}{
		"reached": {last: asking, round: round{result: answer(Reachable), asked: 3}, want: with(answer(Reachable), now)},
		"reached after all": {last: unreachable, round: round{result: answer(Reachable), asked: 3, failed: 2},
			want: with(answer(Reachable), now)},
		"nobody answers": {last: asking, round: round{result: answer(Asking), asked: 2, absent: 2}, want: with(answer(Asking), now)},
		"no answer changes nothing": {last: unreachable, round: round{result: answer(Asking), asked: 1, absent: 1},
			want: unreachable},
		"not reached at the start": {last: asking, round: round{result: answer(Unreachable), asked: 1, failed: 1},
			want: with(answer(Unreachable), now)},
		"two could not, of a node that was ready": {last: asking, round: round{result: answer(Unreachable), asked: 3, failed: 2}, wasReady: true,
			want: with(answer(Unreachable), now)},
		"one of several could not, of a node that was ready": {last: asking, round: round{result: answer(Unreachable), asked: 2, failed: 1}, wasReady: true,
			want: with(answer(Asking), now), single: true},
		"one of several could not, again": {last: asking, round: round{result: answer(Unreachable), asked: 2, failed: 1}, wasReady: true, doubted: true,
			want: with(answer(Asking), now), single: true},
		"the only one could not, of a node that was ready": {last: asking, round: round{result: answer(Unreachable), asked: 1, failed: 1}, wasReady: true,
			want: with(answer(Asking), now), single: true},
		"the only one could not, again": {last: asking, round: round{result: answer(Unreachable), asked: 1, failed: 1}, wasReady: true, doubted: true,
			want: with(answer(Unreachable), now), single: true},
		"it stays unreachable by the word of one": {last: unreachable, round: round{result: answer(Unreachable), asked: 2, failed: 1}, wasReady: true,
			want: with(answer(Unreachable), now)},
		"those who could not are gone": {last: unreachable, round: round{result: answer(Asking), asked: 2, absent: 2}, dead: true,
			want: alone},
		"one that fell silent answers": {last: unreachable, round: round{result: answer(Unreachable), asked: 2, failed: 1, absent: 1}, dead: true,
			want: with(answer(Unreachable), now)},
		"one that fell silent has reached it": {last: alone, round: round{result: answer(Reachable), asked: 1}, dead: true,
			want: answer(Reachable)},
		"the first to come has reached it": {last: reached, round: round{result: answer(Reachable), asked: 1}, want: with(answer(Reachable), now)},
	} {
		got, single := test.last.next(test.round, !test.dead, test.wasReady, test.doubted)
		if got != test.want || single != test.single {
			t.Errorf("%s:\n got %+v, single %v\nwant %+v, single %v", name, got, single, test.want, test.single)
		}
	}
}

// What follows for being ready and for being a candidate, in each state.
func TestVerdicts(t *testing.T) {
	waiting := Result{State: Asking, patience: now.Add(time.Second)}
	waited := Result{State: Asking, patience: now}
	unreachable := Result{State: Unreachable}
	early, late := meetTimeout-1, meetTimeout
	for name, test := range map[string]struct {
		result           Result
		standing         Standing
		ready, candidate Verdict
	}{
		"alone":                         {Result{}, Standing{Running: early}, Clear, Clear},
		"a listed member to be met":     {Result{}, Standing{Running: early, Listed: true}, NotMet, NotMet},
		"a listed member did not come":  {Result{}, Standing{Running: late, Listed: true}, Clear, Clear},
		"about to ask":                  {Result{}, Standing{Running: early, Met: true}, Clear, NotMet},
		"about to ask, for long":        {Result{}, Standing{Running: late, Met: true}, Clear, Clear},
		"ready before it met another":   {Result{}, Standing{Running: early, Met: true, Listed: true, WasReady: true}, Clear, Clear},
		"asking":                        {waiting, Standing{Met: true, Running: late}, NotAnswered, NotAnswered},
		"asking, ready before":          {waiting, Standing{Met: true, WasReady: true}, Clear, Clear},
		"no answer in time":             {waited, Standing{Met: true, Running: late}, Clear, Clear},
		"no answer in time, just begun": {waited, Standing{Met: true, Listed: true, Running: early}, Clear, Clear},
		"reachable":                     {Result{State: Reachable, patience: now.Add(time.Second)}, Standing{Met: true, Running: early}, Clear, Clear},
		"unreachable":                   {unreachable, Standing{Running: late}, NotReached, NotReached},
		"unreachable, ready before":     {unreachable, Standing{Running: late, WasReady: true}, NotReached, NotReached},
	} {
		test.standing.Now = now
		if got := test.result.Ready(test.standing); got != test.ready {
			t.Errorf("%s: ready: %v, want %v", name, got, test.ready)
		}
		if got := test.result.Candidate(test.standing); got != test.candidate {
			t.Errorf("%s: candidate: %v, want %v", name, got, test.candidate)
		}
	}
}

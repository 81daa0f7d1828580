package call

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
)

// Where one of N nodes comes or goes, no key moves but its own, and these are about 1/N.
func TestKeysMove(t *testing.T) {
	t.Parallel()
	const keys, nodes = 5000, 10
	var ids []string
	for i := range nodes + 1 {
		ids = append(ids, fmt.Sprintf("node-%d", i))
	}
	owner := func(key string, n int) string {
		return slices.MaxFunc(ids[:n], func(a, b string) int { return rank(key, a, b) })
	}
	moved, has := 0, map[string]int{}
	for i := range keys {
		key := fmt.Sprint("key-", i)
		before, after := owner(key, nodes), owner(key, nodes+1)
		has[before]++
		if before == after {
			continue
		}
		if moved++; after != fmt.Sprintf("node-%d", nodes) {
			t.Fatalf("%s moves from %s to %s", key, before, after)
		}
	}
	if share := float64(moved) / keys; share < 0.075 || share > 0.11 {
		t.Errorf("%.3f of the keys move, want about %.3f", share, 1.0/(nodes+1))
	}
	for id, n := range has {
		if share := float64(n) / keys; share < 0.075 || share > 0.125 {
			t.Errorf("%s has %.3f of the keys, want about 0.1", id, share)
		}
	}
	// Nodes of different versions must agree.
	if got := score("key-1", "node-1"); got != 0xd726ca19f64fa644 {
		t.Errorf("score %#x: it must not change", got)
	}
}

func TestSpreading(t *testing.T) {
	t.Parallel()
	not, may := outcome{verdict: notRun, err: ErrNotReady}, outcome{verdict: mayHaveRun, err: ErrUnreachable}
	over, no := outcome{verdict: refused, err: ErrOverloaded}, outcome{verdict: refused, err: ErrNoHandler}
	for name, test := range map[string]struct {
		idempotent bool
		outcomes   []outcome
		again, ran bool
	}{
		"an answer":                            {false, []outcome{{}}, false, false},
		"the handler's error":                  {true, []outcome{{err: errors.New("no")}}, false, false},
		"it has not run":                       {false, []outcome{not, not, not, not}, true, false},
		"it may have run":                      {false, []outcome{not, may}, false, true},
		"it may have run, and may be repeated": {true, []outcome{may, not}, true, true},
		"two are overloaded":                   {false, []outcome{over, over}, true, false},
		"three are":                            {false, []outcome{over, not, over, over}, false, false},
		"one lacks the method":                 {false, []outcome{no}, true, false},
	} {
		s := spreading{idempotent: test.idempotent, rules: soundRules()}
		again := false
		for i, o := range test.outcomes {
			again = s.ended(o, fmt.Sprint(i))
		}
		if again != test.again || s.ran != test.ran {
			t.Errorf("%s: again %v, may have run %v", name, again, s.ran)
		}
		if last := test.outcomes[len(test.outcomes)-1]; last.err != nil && s.exhausted() != last.err {
			t.Errorf("%s: %v", name, s.exhausted())
		}
	}
}

func TestBudget(t *testing.T) {
	t.Parallel()
	var b budget
	for range 95 {
		b.earn()
	}
	spent := 0
	for b.spend() {
		spent++
	}
	if spent != 9 {
		t.Errorf("%d of 95 calls may be sent again, want 9", spent)
	}
}

func TestLimiter(t *testing.T) {
	t.Parallel()
	l := newLimiter(Limit{InFlight: 1, Waiting: 1})
	if err := l.enter(t.Context()); err != nil {
		t.Fatal(err)
	}
	waited := make(chan error, 1)
	go func() { waited <- l.enter(t.Context()) }()
	for l.waiting.Load() == 0 {
	}
	if err := l.enter(t.Context()); err != ErrOverloaded {
		t.Errorf("%v, want ErrOverloaded", err)
	}
	l.leave()
	if err := <-waited; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.enter(ctx); err != context.Canceled {
		t.Errorf("%v with a context that has ended", err)
	}
	for _, bad := range []Limit{{-1, 0}, {1, -1}, {0, 1}} {
		if _, err := newLimits(Options{Limits: map[string]Limit{"s": bad}}); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}

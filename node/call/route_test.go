package call

import (
	"context"
	"errors"
	"flag"
	"testing"

	"github.com/musterhq/muster/internal/testing/race"
)

var (
	oneSeed = flag.Uint64("seed", 0, "run the model checker for this seed alone")
	nSeeds  = flag.Int("seeds", 0, "run the model checker for so many seeds")
)

// Whatever goes wrong, a call to the master runs once at most unless it may be repeated, nowhere
// but on the master that it was sent to, and says truly whether it may have run.
func TestModel(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		scenario
	}{
		{"faults", scenario{}},
		{"a clock that stood still", scenario{slow: true}},
		{"absurd terms", scenario{absurd: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			checkModel(t, c.scenario)
		})
	}
}

func checkModel(t *testing.T, sc scenario) {
	sc.rules = soundRules()
	n := 1000
	if race.Enabled || testing.Short() {
		n = 300
	}
	if *nSeeds > 0 {
		n = *nSeeds
	}
	first, last := uint64(1), uint64(n)
	if *oneSeed > 0 {
		first, last = *oneSeed, *oneSeed
	}
	seen, calls := map[string]int{}, 0
	for sc.seed = first; sc.seed <= last; sc.seed++ {
		s, err := simulate(sc)
		if err != nil {
			t.Fatalf("seed %d (replay with -run '^%s$' -seed %d): %v", sc.seed, t.Name(), sc.seed, err)
		}
		calls += len(s.calls)
		for what, n := range s.seen {
			seen[what] += n
		}
	}
	t.Logf("%d histories, %d calls; seen: %v", last-first+1, calls, seen)
	if *oneSeed > 0 {
		return
	}
	often := []string{"crash", "pause", "resign", "refused", "another instance", "broken connection", "ended meanwhile", "expired", "answered"}
	if sc.absurd {
		often = append(often, "doubted")
	}
	for _, what := range often {
		if seen[what] == 0 {
			t.Errorf("%q was never brought about", what)
		}
	}
}

// The same checker notices when one rule is broken.
func TestModelCatchesBrokenVariants(t *testing.T) {
	t.Parallel()
	for _, v := range []struct {
		name  string
		wreck func(*scenario)
	}{
		{"sent again after it may have run", func(s *scenario) { s.rules.once = false }},
		{"what ran before is forgotten", func(s *scenario) { s.rules.remember = false }},
		{"grant not checked before", func(s *scenario) { s.rules.check = false }},
		{"grant not checked after", func(s *scenario) { s.rules.recheck = false }},
		{"higher term not doubted", func(s *scenario) { s.slow, s.rules.term = true, false }},
		{"dialed by address alone", func(s *scenario) { s.rules.instance = false }},
	} {
		t.Run(v.name, func(t *testing.T) {
			for seed := uint64(1); seed <= 3000; seed++ {
				sc := scenario{rules: soundRules(), seed: seed}
				v.wreck(&sc)
				if _, err := simulate(sc); err != nil {
					t.Logf("seed %d: %v", seed, err)
					return
				}
			}
			t.Fatal("not noticed in 3000 histories")
		})
	}
}

// What a call that waits says at its deadline.
func TestRouteExpired(t *testing.T) {
	t.Parallel()
	a, b := masterAt{1, "a"}, masterAt{2, "b"}
	refusal := outcome{verdict: notRun, err: ErrNotReady}
	for name, test := range map[string]struct {
		events func(*route)
		want   error
		ran    bool
	}{
		"no master": {func(r *route) { r.look(masterAt{}) }, ErrNoMaster, false},
		"the master is not ready": {func(r *route) {
			r.look(a)
			r.ended(refusal)
			r.look(a)
		}, ErrNotReady, false},
		"the master was not ready, and is gone": {func(r *route) {
			r.look(a)
			r.ended(refusal)
			r.look(masterAt{})
		}, ErrNoMaster, false},
		"it may have run, and no master follows": {func(r *route) {
			r.look(a)
			r.ended(outcome{verdict: mayHaveRun, err: ErrUnreachable})
			r.look(masterAt{})
		}, ErrUnreachable, true},
		"it may have run, and the next one refuses": {func(r *route) {
			r.look(a)
			r.ended(outcome{verdict: mayHaveRun, err: ErrUnreachable})
			r.look(b)
			r.ended(refusal)
		}, ErrNotReady, true},
	} {
		r := &route{idempotent: true, rules: soundRules()}
		test.events(r)
		if c := r.expired(context.DeadlineExceeded, false); !c.over || !errors.Is(c.err, test.want) || c.mayHaveRun != test.ran {
			t.Errorf("%s: %+v, want %v", name, c, test.want)
		}
		if c := r.expired(context.Canceled, true); c.err != context.Canceled || c.mayHaveRun != test.ran {
			t.Errorf("%s: cancelled: %+v", name, c)
		}
	}
}

// A node that is not master names the one that is: the call goes there at once if its term is
// higher, and never to one of an earlier term.
func TestRouteFollowsTheHigherTerm(t *testing.T) {
	t.Parallel()
	a, b, old := masterAt{5, "a"}, masterAt{6, "b"}, masterAt{4, "c"}
	r := &route{rules: soundRules()}
	r.look(a)
	r.ended(outcome{verdict: notRun, master: old})
	if c := r.look(a); c.send != (masterAt{}) {
		t.Errorf("sent to %v", c.send)
	}
	if c := r.paused(a); c.send != a {
		t.Errorf("sent to %v after a pause, want %v", c.send, a)
	}
	r.ended(outcome{verdict: notRun, master: b})
	if c := r.look(a); c.send != b {
		t.Errorf("sent to %v, want %v", c.send, b)
	}
}

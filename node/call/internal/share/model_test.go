package share

import (
	"flag"
	"strings"
	"testing"

	"github.com/musterhq/muster/internal/testing/race"
)

var (
	oneSeed = flag.Uint64("seed", 0, "run the model checker for this seed alone")
	nSeeds  = flag.Int("seeds", 0, "run the model checker for so many seeds")
)

// Whatever goes wrong, no more are in use than the cap allows, and once nothing goes wrong any more
// one busy node has all, and several have fair shares.
func TestModel(t *testing.T) {
	for _, c := range []struct {
		name string
		scenario
	}{
		{"faults", scenario{}},
		{"a record that is deleted", scenario{deletes: true}},
		{"no faults", scenario{calm: true}},
	} {
		t.Run(c.name, func(t *testing.T) { checkModel(t, c.scenario) })
	}
}

func checkModel(t *testing.T, sc scenario) {
	sc.rules = soundRules()
	n := 1000
	if race.Enabled || testing.Short() {
		n = 100
	}
	if *nSeeds > 0 {
		n = *nSeeds
	}
	first, last := uint64(1), uint64(n)
	if *oneSeed > 0 {
		first, last = *oneSeed, *oneSeed
	}
	seen := map[string]int{}
	for sc.seed = first; sc.seed <= last; sc.seed++ {
		s, err := simulate(sc)
		if err != nil {
			t.Fatalf("seed %d (replay with -run '^%s$' -seed %d): %v", sc.seed, t.Name(), sc.seed, err)
		}
		for what, n := range s.seen {
			seen[what] += n
		}
	}
	t.Logf("%d histories; seen: %v", last-first+1, seen)
	if *oneSeed > 0 || sc.calm {
		return
	}
	for _, what := range []string{
		"crash", "pause", "deposed", "cut off", "all change", "closed", "set", "lost place", "over", "late", "lost answer", "doubled answer", "doubled request",
	} {
		if seen[what] == 0 {
			t.Errorf("%q was never brought about", what)
		}
	}
}

// The same checker notices when one rule is broken.
func TestModelCatchesBrokenVariants(t *testing.T) {
	for _, v := range []struct {
		name  string
		wreck func(*scenario)
	}{
		{"granted without a fresh read", func(s *scenario) { s.rules.fresh = false }},
		{"a new master does not wait", func(s *scenario) { s.rules.recover = false }},
		{"free before it is given back", func(s *scenario) { s.rules.confirm = false }},
		{"counted from the answer", func(s *scenario) { s.rules.sent = false }},
		{"any answer taken", func(s *scenario) { s.rules.latest = false }},
		{"any request served", func(s *scenario) { s.rules.order = false }},
		{"a share is a number, and no part", func(s *scenario) { s.rules.scale = false }},
		{"what has no place goes on", func(s *scenario) { s.rules.end = false }},
		{"a reign of any master is ours", func(s *scenario) { s.rules.identity = false }},
	} {
		t.Run(v.name, func(t *testing.T) {
			for seed := uint64(1); seed <= 3000; seed++ {
				sc := scenario{rules: soundRules(), seed: seed, short: true}
				v.wreck(&sc)
				if _, err := simulate(sc); err != nil && strings.Contains(err.Error(), "P66") {
					t.Logf("seed %d: %v", seed, err)
					return
				}
			}
			t.Fatal("not noticed in 3000 histories")
		})
	}
}

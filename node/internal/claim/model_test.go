package claim

import (
	"flag"
	"testing"

	"github.com/musterhq/muster/internal/testing/race"
)

var (
	oneSeed = flag.Uint64("seed", 0, "run the model checker for this seed alone")
	nSeeds  = flag.Int("seeds", 0, "run the model checker for so many seeds")
)

// Whatever goes wrong, a step runs once, or as often as it may, is recorded as done by the one
// that did it, and all gates open; a fire runs once.
func TestModel(t *testing.T) {
	for _, c := range []struct {
		name string
		scenario
	}{
		{"steps", scenario{}},
		{"restartable steps", scenario{restart: true}},
		{"fires", scenario{cron: true}},
		{"fires that run again", scenario{cron: true, restart: true}},
		{"a clock that stood still, steps", scenario{slow: true}},
		{"a clock that stood still, fires", scenario{slow: true, cron: true}},
		{"wiped store, steps", scenario{wipe: true}},
		{"wiped store, fires", scenario{wipe: true, cron: true}},
	} {
		t.Run(c.name, func(t *testing.T) { checkModel(t, c.scenario) })
	}
}

func checkModel(t *testing.T, sc scenario) {
	sc.rules = soundRules()
	n := 1000
	switch {
	case race.Enabled:
		n = 100
	case testing.Short():
		n = 300
	}
	if *nSeeds > 0 {
		n = *nSeeds
	}
	first, last := uint64(1), uint64(n)
	if *oneSeed > 0 {
		first, last = *oneSeed, *oneSeed
	}
	seen, runs := map[string]int{}, 0
	for sc.seed = first; sc.seed <= last; sc.seed++ {
		s, err := simulate(sc)
		if err != nil {
			t.Fatalf("seed %d (replay with -run '^%s$' -seed %d): %v", sc.seed, t.Name(), sc.seed, err)
		}
		runs += len(s.runs)
		for what, n := range s.seen {
			seen[what] += n
		}
	}
	t.Logf("%d histories, %d runs; seen: %v", last-first+1, runs, seen)
	if *oneSeed > 0 {
		return
	}
	often := []string{"crash", "pause", "lost answer", "timeout", "stopped", "superseded"}
	if n >= 300 {
		often = append(often, "given back") // in three of a hundred
	}
	for _, what := range often {
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
		{"claim after run", func(s *scenario) { s.runFirst = true }},
		{"record not fenced by the term", func(s *scenario) { s.slow, s.rules.fence = true, false }},
		{"deadline not watched", func(s *scenario) { s.rules.deadline = false }},
		{"gate by event only", func(s *scenario) { s.eventGate = true }},
		{"end recorded over another claim", func(s *scenario) { s.rules.compare = false }},
		{"lost answer taken for none", func(s *scenario) { s.rules.remember = false }},
		{"interrupted runs again though it may not", func(s *scenario) { s.rules.restart = false }},
		{"given back by its state alone", func(s *scenario) { s.cron, s.rules.undo = true, false }},
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

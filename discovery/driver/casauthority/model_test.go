package casauthority

import (
	"flag"
	"maps"
	"strings"
	"testing"

	"github.com/musterhq/muster/internal/testing/race"
)

var (
	seeds    = flag.Uint64("seeds", 500, "how many histories TestModel runs")
	onlySeed = flag.Uint64("seed", 0, "the one history to run")
)

// TestModel runs random histories. With -seed N -v it shows one.
func TestModel(t *testing.T) {
	first, last := uint64(1), *seeds
	switch {
	case race.Enabled:
		last = min(last, 20)
	case testing.Short():
		last = min(last, 100)
	}
	if *onlySeed != 0 {
		first, last = *onlySeed, *onlySeed
	}
	total := make(map[string]int)
	for seed := first; seed <= last; seed++ {
		s, err := simulate(scenario{seed: seed, rules: soundRules(), logLines: *onlySeed != 0})
		for what, n := range s.seen {
			total[what] += n
		}
		if *onlySeed != 0 {
			t.Log("\n" + strings.Join(s.log, "\n"))
		}
		if err != nil {
			t.Fatalf("seed %d: %v (go test ./discovery/driver/casauthority -run 'TestModel$' -seed %d -v)", seed, err, seed)
		}
	}
	t.Log((&simulation{seen: total}).summary())
	if *onlySeed != 0 {
		return
	}
	for what := range maps.Keys(map[string]int{
		"granted": 0, "conflict": 0, "expired": 0, "released": 0, "lost": 0, "crash": 0, "pause": 0, "lost request": 0,
		"lost answer": 0, "stale read": 0, "failed over": 0, "restored": 0, "emptied": 0, "deleted": 0, "annotated": 0,
		"reload": 0, "edited": 0, "reset": 0, "founded beside": 0, "forged": 0, "counted from a proof": 0,
	}) {
		if total[what] < int(last-first)/10 {
			t.Errorf("%q happened %d times in %d histories, which is too few to say anything", what, total[what], last-first+1)
		}
	}
}

// TestCarelessVariants shows that the checker would notice.
func TestCarelessVariants(t *testing.T) {
	if race.Enabled {
		t.Skip("one goroutine has no races: make test runs it without the race detector")
	}
	for _, v := range variants() {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(v.seeds) {
				r := soundRules()
				v.wreck(&r)
				if _, err := simulate(scenario{seed: seed + 1, rules: r}); err != nil {
					t.Logf("noticed with seed %d: %v", seed+1, err)
					return
				}
			}
			t.Fatalf("not noticed in %d histories", v.seeds)
		})
	}
}

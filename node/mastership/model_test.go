package mastership

import (
	"flag"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testing/race"
)

var (
	oneSeed = flag.Uint64("seed", 0, "run the model checker for this seed alone, and print what happened")
	nSeeds  = flag.Int("seeds", 0, "run the model checker for so many seeds")
)

// Nothing that can go wrong makes two masters, and once it is over there is one.
func TestModel(t *testing.T) {
	checkModel(t, scenario{rules: soundRules()})
}

// A wiped store does not make a second cluster, nor a term that was there before.
func TestModelWipedStore(t *testing.T) {
	checkModel(t, scenario{rules: soundRules(), wipe: true})
}

// A member that announces whatever may do harm keeps nobody from being master, and ends no
// mastership.
func TestModelHostileGossip(t *testing.T) {
	checkModel(t, scenario{rules: soundRules(), hostile: true})
}

func checkModel(t *testing.T, sc scenario) {
	if *oneSeed != 0 {
		sc.seed, sc.logLines = *oneSeed, true
		s, err := simulate(sc)
		t.Log(strings.Join(s.log, "\n"))
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	n := 3000
	switch {
	case race.Enabled:
		n = 50
	case testing.Short():
		n = 400
	case sc.wipe:
		n = 1000
	}
	if *nSeeds > 0 {
		n = *nSeeds
	}
	start := time.Now()
	var begins atomic.Int64
	var mu sync.Mutex
	seen := make(map[string]int)
	forSeeds(n, func(seed uint64) bool {
		sc := sc
		sc.seed = seed
		s, err := simulate(sc)
		begins.Add(int64(s.begins))
		mu.Lock()
		for what, n := range s.seen {
			seen[what] += n
		}
		mu.Unlock()
		if err != nil {
			t.Errorf("seed %d (replay with -run '^%s$' -seed %d -v): %v", seed, t.Name(), seed, err)
		}
		return err == nil
	})
	t.Logf("%d seeds, %d masterships in %v", n, begins.Load(), time.Since(start).Round(time.Millisecond))
	t.Logf("seen: %v", seen)
	if begins.Load() < int64(n) {
		t.Errorf("only %d masterships in %d seeds: nothing was tested", begins.Load(), n)
	}
	if sc.wipe {
		return
	}
	if sc.hostile {
		for kind := range suspicions {
			if what := "suspicion " + fmt.Sprint(kind); seen[what] == 0 {
				t.Errorf("%q was never brought about", what)
			}
		}
	}
	for _, what := range []string{
		string(ReasonResigned), string(ReasonDraining), string(ReasonIneligible), string(ReasonMajority),
		string(ReasonRenewal), string(ReasonDeadline), string(ReasonLost),
		"end noticed late", "late grant", "late renewal", "unused grant given back", "conflict",
	} {
		if seen[what] == 0 {
			t.Errorf("%q was never brought about", what)
		}
	}
}

// The same checker notices when one rule is broken.
func TestModelCatchesBrokenVariants(t *testing.T) {
	for _, v := range variants() {
		t.Run(v.name, func(t *testing.T) {
			var mu sync.Mutex
			var first error
			var at uint64
			forSeeds(v.seeds, func(seed uint64) bool {
				sc := scenario{rules: soundRules(), seed: seed}
				v.wreck(&sc)
				_, err := simulate(sc)
				mu.Lock()
				defer mu.Unlock()
				if err != nil && (first == nil || seed < at) {
					first, at = err, seed
				}
				return err == nil
			})
			if first == nil {
				t.Fatalf("not noticed in %d seeds", v.seeds)
			}
			t.Logf("seed %d: %v", at, first)
		})
	}
}

// forSeeds runs f for the seeds from 1 to n, a few at a time, until it says no.
func forSeeds(n int, f func(seed uint64) bool) {
	var next atomic.Uint64
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for !stop.Load() {
				seed := next.Add(1)
				if seed > uint64(n) {
					return
				}
				if !f(seed) {
					stop.Store(true)
				}
			}
		})
	}
	wg.Wait()
}

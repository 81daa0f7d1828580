package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
)

// resignCooldown is longer than a node that has resigned leaves mastership to others.
const resignCooldown = 3500 * time.Millisecond

// BenchmarkWhileMasterHandover measures how long no command runs when the master resigns: from when
// one is about to end until the next is executed, and until that has started, as its first line
// says. It is this test binary, which takes its time for that. Three agents and their wrappers run
// on one host.
func BenchmarkWhileMasterHandover(b *testing.B) {
	b.Run("static", func(b *testing.B) { benchmarkHandover(b, staticProvider) })
	b.Run("etcd", func(b *testing.B) { benchmarkHandover(b, etcdProvider(testserver.StartEtcd(b))) })
	b.Run("consul", func(b *testing.B) { benchmarkHandover(b, consulProvider(testserver.StartConsul(b))) })
}

func benchmarkHandover(b *testing.B, provider providerConfig) {
	c, _ := formCluster(b, 3, provider)
	file := filepath.Join(b.TempDir(), "beats")
	for _, agent := range c.agents {
		w := &wrapped{agent: agent, args: []string{"--restart", "always"}}
		w.start(b, file)
		b.Cleanup(func() {
			_ = w.wrapper.Process.Kill()
			_ = w.wrapper.Wait()
			if text, _ := os.ReadFile(agent.config + ".wrapper.log"); b.Failed() {
				b.Logf("the wrapper of %s:\n%s", agent.name, text)
			}
		})
	}
	runs := func() []beatsRun { return readBeats(b, file) }
	wait.For(b, "the first run", func() bool { return len(runs()) > 0 })
	executed := func(term uint64) (at clock.Instant) {
		for _, agent := range c.agents {
			text, _ := os.ReadFile(agent.config + ".wrapper.log")
			match := regexp.MustCompile(fmt.Sprintf(`time=(\S+) .*msg="command started" term=%d `, term)).FindSubmatch(text)
			if match != nil {
				logged, _ := time.Parse(time.RFC3339Nano, string(match[1]))
				at = clock.Now().Add(-time.Since(logged))
			}
		}
		return at
	}
	var gaps, starts []time.Duration
	for b.Loop() {
		time.Sleep(resignCooldown)
		var master *agentProcess
		before := 0
		wait.For(b, "a master whose command runs", func() bool {
			all := runs()
			m, err := c.agents[0].master(b.Context())
			before = len(all)
			if err != nil || all[before-1].term != m.Term || all[before-1].last == all[before-1].began {
				return false
			}
			master, _ = c.split(m)
			return true
		})
		if status, _, stderr := execute(b, "resign", "--agent", master.httpAddr); status != statusDone {
			b.Fatalf("resign: %s", stderr)
		}
		wait.For(b, "the next run", func() bool { return len(runs()) > before })
		all := runs()
		if !all[before-1].ended {
			b.Errorf("%+v did not end in good order", all[before-1])
		}
		gaps = append(gaps, executed(all[before].term).Sub(all[before-1].last))
		starts = append(starts, all[before].began.Sub(all[before-1].last))
	}
	slices.Sort(gaps)
	slices.Sort(starts)
	b.ReportMetric(float64(gaps[len(gaps)/2].Milliseconds()), "median-ms")
	b.ReportMetric(float64(gaps[len(gaps)-1].Milliseconds()), "worst-ms")
	b.ReportMetric(float64(starts[len(starts)/2].Milliseconds()), "started-median-ms")
	b.ReportMetric(0, "ns/op")
}

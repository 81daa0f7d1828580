//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testing/testserver"
)

// The figures that users feel, with agents as processes. Run with -benchtime 20x:
// each iteration is one fault.

func forEachProvider(b *testing.B, bench func(b *testing.B, provider providerConfig)) {
	b.Run("static", func(b *testing.B) { bench(b, staticProvider) })
	b.Run("etcd", func(b *testing.B) { bench(b, etcdProvider(testserver.StartEtcd(b))) })
	b.Run("consul", func(b *testing.B) { bench(b, consulProvider(testserver.StartConsul(b))) })
}

// BenchmarkFormation takes the time from the start of the last process until all
// agents see each other and the same master.
func BenchmarkFormation(b *testing.B) {
	forEachProvider(b, func(b *testing.B, provider providerConfig) {
		var times series
		for range b.N {
			c := newTestCluster(b, 3, provider)
			c.start(c.agents...)
			times.measure(func() { c.waitMaster(0, 3, c.agents...) })
			c.stopAll()
		}
		times.report(b)
	})
}

// BenchmarkCrashFailover takes the time from SIGKILL of the master until all
// survivors know the next one.
func BenchmarkCrashFailover(b *testing.B) {
	benchmarkFailover(b, func(c *testCluster, victim *agentProcess) { c.kill(victim) })
}

// BenchmarkHandover takes the time from SIGTERM of the master until all others
// know the next one.
func BenchmarkHandover(b *testing.B) {
	benchmarkFailover(b, func(c *testCluster, victim *agentProcess) { c.signal(victim, syscall.SIGTERM) })
}

// settle is longer than the quiet time of a voter that was started again.
const settle = 2 * time.Second

func benchmarkFailover(b *testing.B, end func(*testCluster, *agentProcess)) {
	forEachProvider(b, func(b *testing.B, provider providerConfig) {
		c := newTestCluster(b, 3, provider)
		c.start(c.agents...)
		var times series
		master := c.waitMaster(0, 3, c.agents...)
		for range b.N {
			victim, others := c.split(master)
			times.measure(func() {
				end(c, victim)
				c.eventually("the next master", func(ctx context.Context) bool {
					for _, agent := range others {
						if m, err := agent.master(ctx); err != nil || m.Term <= master.Term {
							return false
						}
					}
					return true
				})
			})
			<-victim.exited
			c.start(victim)
			master = c.waitMaster(master.Term, 3, c.agents...)
			// Who has just started keeps quiet for a while and does not vote. What is
			// measured is the fault of one node, and not of two.
			<-time.After(settle)
		}
		times.report(b)
		c.stopAll()
	})
}

// BenchmarkIdleAgent takes what one agent of a formed cluster of three uses while nothing happens:
// its share of a core over an iteration of half a minute, and its resident memory. The agents are
// the program as it is released, and log what they log by default. -benchtime 1x will do.
func BenchmarkIdleAgent(b *testing.B) {
	binary := releasedProgram(b)
	forEachProvider(b, func(b *testing.B, provider providerConfig) {
		c := newTestCluster(b, 3, func(peers []string) map[string]any {
			config := provider(peers)
			config["log"] = map[string]any{"level": "info"}
			return config
		})
		c.files.binary = binary
		for _, agent := range c.agents {
			agent.args = nil // no history
		}
		var formation series
		formation.measure(func() {
			c.start(c.agents...)
			c.waitMaster(0, 3, c.agents...)
		})
		<-time.After(5 * settle)
		master := c.waitMaster(0, 3, c.agents...)
		const span = 30 * time.Second
		before, began := c.cpuTimes(), time.Now()
		for range b.N {
			<-time.After(span)
		}
		passed := time.Since(began)
		var follower struct{ cpu, mb float64 }
		for i, after := range c.cpuTimes() {
			cpu, mb := 100*(after-before[i]).Seconds()/passed.Seconds(), c.agents[i].residentMB(b)
			if c.agents[i].name == master.NodeID {
				b.ReportMetric(cpu, "master-cpu-%")
				b.ReportMetric(mb, "master-MB")
				continue
			}
			follower.cpu += cpu / 2
			follower.mb = max(follower.mb, mb)
		}
		b.ReportMetric(follower.cpu, "follower-cpu-%")
		b.ReportMetric(follower.mb, "follower-MB")
		b.ReportMetric(float64(formation.times[0].Milliseconds()), "formed-ms")
		b.ReportMetric(0, "ns/op")
		c.stopAll()
	})
}

// releasedProgram builds the program as make release does.
func releasedProgram(b *testing.B) string {
	b.Helper()
	binary := filepath.Join(b.TempDir(), "muster")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("go build: %v\n%s", err, out)
	}
	return binary
}

// cpuTimes returns the processor time that each agent has used, to the nanosecond: in
// /proc/PID/stat it is rounded to a thousandth of the span that is measured.
func (c *testCluster) cpuTimes() []time.Duration {
	c.t.Helper()
	var times []time.Duration
	for _, agent := range c.agents {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", agent.cmd.Process.Pid))
		if err != nil || len(threads) == 0 {
			c.t.Fatal("the threads of the agent:", threads, err)
		}
		var sum time.Duration
		for _, thread := range threads {
			text, err := os.ReadFile(thread)
			if err != nil {
				continue // it has just ended
			}
			n, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
			if err != nil {
				c.t.Fatal(err)
			}
			sum += time.Duration(n)
		}
		times = append(times, sum)
	}
	return times
}

func (p *agentProcess) residentMB(t testing.TB) float64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return float64(kb) / 1024
}

// series collects times.
type series struct {
	times []time.Duration
}

func (s *series) measure(f func()) {
	began := time.Now()
	f()
	s.times = append(s.times, time.Since(began))
}

func (s *series) report(b *testing.B) {
	slices.Sort(s.times)
	b.ReportMetric(float64(s.times[len(s.times)/2].Milliseconds()), "median-ms")
	b.ReportMetric(float64(s.times[len(s.times)-1].Milliseconds()), "worst-ms")
	b.ReportMetric(0, "ns/op")
}

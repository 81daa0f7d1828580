package faults

import (
	"cmp"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testing/checker"
)

// TestSoak runs for DURATION, with the choices of SEED, over PROVIDER (all, one after
// another, if it is not set): see make soak.
func TestSoak(t *testing.T) {
	duration := soakTime(t)
	for _, provider := range providers() {
		t.Run(provider, func(t *testing.T) {
			if report := Soak(t, provider, seed(t), duration, false); report.Available < 0.9 {
				t.Errorf("there was a master %.2f %% of the time, want 90 %% at least", 100*report.Available)
			}
		})
	}
}

// fireSlack is how much longer than a failover and the interval of a job the longest time between
// two runs may be: what is due while a run ends is missed, and a store is asked at intervals.
const fireSlack = 3 * time.Second

// TestSoakOfJobs has one job each second, and one every 2 s, for DURATION, while a fault meets the
// master every 20 s: see make soak-jobs.
func TestSoakOfJobs(t *testing.T) {
	duration := soakTime(t)
	for _, provider := range providers() {
		t.Run(provider, func(t *testing.T) {
			report := Soak(t, provider, seed(t), duration, true)
			failover := 2*time.Second + time.Second // as in bounds
			if provider != "static" {
				failover = 2*2*time.Second + time.Second
			}
			if limit := failover + 2*time.Second + fireSlack; report.FireGap > limit {
				t.Errorf("%v between two runs of one job, want %v at most", report.FireGap, limit)
			}
		})
	}
}

func soakTime(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("DURATION")
	if text == "" {
		t.Skip("a soak takes long: make soak DURATION=20m SEED=1")
	}
	duration, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return duration
}

// TestStartsAtOnce starts five nodes at once, STARTS times, with a step that may run once: see
// make starts. Over etcd and Consul each time is a cluster of its own on the same server.
func TestStartsAtOnce(t *testing.T) {
	times, err := strconv.Atoi(cmp.Or(os.Getenv("STARTS"), "0"))
	if err != nil {
		t.Fatalf("STARTS: %v", err)
	}
	if times == 0 {
		t.Skip("it takes long: make starts STARTS=100")
	}
	for _, provider := range providers() {
		t.Run(provider, func(t *testing.T) {
			l := New(t, Options{Name: "starts", Provider: provider, Nodes: 5, LogLevel: "info"})
			for i := range times {
				l.cluster = fmt.Sprintf("start-%d", i)
				began := time.Now()
				for _, h := range l.Hosts {
					h.args = []string{"-steps", "2", "-step", "1ms"}
					h.LoseData()
					_ = os.Remove(h.file(".notes"))
				}
				l.StartAll()
				l.progress(2)
				took := time.Since(began)
				rows := make(map[int]int)
				for _, h := range l.Hosts {
					for _, n := range l.notesOf(h) {
						if n.Kind == checker.StepBegin {
							rows[n.Version]++
						}
					}
					h.Stop()
				}
				if rows[1] != 1 || rows[2] != 1 {
					t.Errorf("start %d: the steps have inserted %v rows", i, rows)
				}
				t.Logf("start %d: all gates are open after %v", i, took.Round(time.Millisecond))
			}
		})
	}
}

// providers are those that PROVIDER names.
func providers() []string {
	return strings.Split(cmp.Or(os.Getenv("PROVIDER"), "static,etcd,consul"), ",")
}

func seed(t testing.TB) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(cmp.Or(os.Getenv("SEED"), "1"), 10, 64)
	if err != nil {
		t.Fatalf("SEED: %v", err)
	}
	return n
}

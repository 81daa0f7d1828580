package cron_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/cron"
	"github.com/musterhq/muster/node/nodetest"
)

// Real nodes, and a job that is due five times a second, while the master is deposed and cut off
// from its provider again and again: nothing is run twice, and the gaps are those of the
// failovers. That nothing at all is lost, TestNoFireIsLost shows.
func TestNoFireRunsTwice(t *testing.T) {
	t.Parallel()
	cluster := nodetest.Start(t, 3)
	var mu sync.Mutex
	ran := make(map[time.Time]node.Term)
	var latest time.Time
	var gap time.Duration
	job := cron.Job{Name: "often", Schedule: cron.Every(200 * time.Millisecond), Run: func(_ context.Context, f cron.Fire) error {
		mu.Lock()
		defer mu.Unlock()
		if term, twice := ran[f.Scheduled]; twice {
			t.Errorf("%v ran in term %d and in term %d", f.Scheduled, term, f.Term)
		}
		ran[f.Scheduled] = f.Term
		if !latest.IsZero() {
			gap = max(gap, f.Scheduled.Sub(latest))
		}
		latest = f.Scheduled
		return nil
	}}
	fires := func() int { mu.Lock(); defer mu.Unlock(); return len(ran) }
	for _, n := range cluster.Nodes() {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		s := &cron.Scheduler{Node: n, Store: n.Store()}
		go func() { ended <- s.Run(ctx, job) }()
		t.Cleanup(func() {
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("Run: %v", err)
			}
		})
	}
	// Each gap is within a failover, and so within a round or two.
	longest, began := time.Duration(0), time.Now()
	ends := func() { longest, began = max(longest, time.Since(began)), time.Now() }
	rounds := 10
	if testing.Short() {
		rounds = 2
	}
	for round := range rounds {
		ends()
		before := fires()
		wait.For(t, "the job to run", func() bool { return fires() > before+1 })
		if round%2 == 0 {
			cluster.Depose()
			continue
		}
		master := cluster.Master()
		last, _ := master.Master()
		restore := cluster.CutOff(master)
		cluster.MasterAbove(last.Term)
		restore()
	}
	ends()
	before := fires()
	wait.For(t, "the job to run", func() bool { return fires() > before+1 })
	ends()
	mu.Lock()
	if gap > 2*longest+cron.Grace {
		t.Errorf("a gap of %v, where no round took longer than %v", gap, longest)
	}
	mu.Unlock()
	t.Logf("%d fires in %d masterships, the longest gap %v", fires(), rounds+1, gap)
	runs, err := cron.List(t.Context(), cluster.Nodes()[0].Store())
	if err != nil || len(runs) != 1 || len(runs[0].Runs) == 0 {
		t.Errorf("%+v, %v", runs, err)
	}
}

//go:build unix

package cron_test

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/node/cron"
)

// What a thousand jobs cost that are not due, in percent of a core.
func BenchmarkIdleJobs(b *testing.B) {
	s := openStore(b)
	var jobs []cron.Job
	for i := range 1000 {
		schedule, err := cron.Parse(fmt.Sprintf("%d 3 * * 1", i%60), time.UTC)
		if err != nil {
			b.Fatal(err)
		}
		jobs = append(jobs, cron.Job{Name: fmt.Sprint("job-", i), Schedule: schedule,
			Run: func(context.Context, cron.Fire) error { return nil }})
	}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan struct{})
	go func() { (&cron.Scheduler{Store: s}).Run(ctx, jobs...); close(ended) }()
	for known := 0; known < len(jobs); {
		all, err := cron.List(b.Context(), s)
		if err != nil {
			b.Fatal(err)
		}
		known = len(all)
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(2 * time.Second) // what it costs to begin is over
	var used, passed time.Duration
	for b.Loop() {
		began, cpu := time.Now(), cpuTime(b)
		time.Sleep(time.Second)
		used, passed = used+cpuTime(b)-cpu, passed+time.Since(began)
	}
	b.ReportMetric(100*float64(used)/float64(passed), "%core")
	cancel()
	<-ended
}

func cpuTime(b *testing.B) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

//go:build unix

package quorum

import (
	"runtime"
	"syscall"
	"testing"
	"time"
)

// BenchmarkIdle reports what three voters with a master cost per node when nothing
// happens.
func BenchmarkIdle(b *testing.B) {
	c := newCluster(b, 3)
	c.start()
	c.master()
	c.voting()
	runtime.GC()
	var before, after syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &before)
	began := time.Now()
	b.ResetTimer()
	for range b.N {
		time.Sleep(10 * time.Second)
	}
	syscall.Getrusage(syscall.RUSAGE_SELF, &after)
	cpu := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	b.ReportMetric(100*cpu.Seconds()/time.Since(began).Seconds()/3, "%core/node")
	b.ReportMetric(0, "ns/op")
}

package quorum

import (
	"slices"
	"testing"
	"time"
)

// BenchmarkFailover reports how long a cluster of three is without a master after
// a crash and in a hand-over. Run it with -benchtime=20x.
func BenchmarkFailover(b *testing.B) {
	for _, mode := range []string{"crash", "handover"} {
		b.Run(mode, func(b *testing.B) {
			c := newCluster(b, 3)
			c.start()
			var took []time.Duration
			b.ResetTimer()
			for range b.N {
				old := c.master()
				c.voting()
				began := time.Now()
				done := make(chan struct{})
				go func() {
					defer close(done)
					if mode == "crash" {
						old.crash()
					} else {
						old.leave()
					}
				}()
				c.masterNot(old)
				took = append(took, time.Since(began))
				<-done
				old.start()
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "median-ms")
			b.ReportMetric(float64(took[len(took)-1].Milliseconds()), "worst-ms")
			b.ReportMetric(0, "ns/op")
		})
	}
}

package node_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/node"
)

// BenchmarkConvergence50 starts 50 nodes at once in this process and takes the time
// until every one of them sees all the others.
func BenchmarkConvergence50(b *testing.B) {
	const size = 50
	var times durations
	for range b.N {
		c := newCluster(b)
		nodes := make([]*node.Node, size)
		times.measure(func() {
			var wg sync.WaitGroup
			for i := range size {
				wg.Go(func() {
					registry := discovery.New("memory", c.memory.Driver(), discovery.Options{})
					n, err := node.Start(b.Context(), node.Config{
						Cluster: "orders", NodeID: fmt.Sprintf("node-%d", i), Bind: "127.0.0.1:0", Registries: []*discovery.Registry{registry},
					})
					if err != nil {
						b.Error(err)
						return
					}
					nodes[i] = n
				})
			}
			wg.Wait()
			if !b.Failed() {
				c.waitMembers(size, nodes...)
			}
		})
		var wg sync.WaitGroup
		for _, n := range nodes {
			wg.Go(func() { _ = n.Leave(b.Context()) })
		}
		wg.Wait()
	}
	times.report(b)
}

// durations collects times.
type durations []time.Duration

func (d *durations) measure(f func()) {
	began := time.Now()
	f()
	*d = append(*d, time.Since(began))
}

func (d durations) report(b *testing.B) {
	slices.Sort(d)
	b.ReportMetric(float64(d[len(d)/2].Milliseconds()), "median-ms")
	b.ReportMetric(float64(d[len(d)-1].Milliseconds()), "worst-ms")
	b.ReportMetric(0, "ns/op")
}

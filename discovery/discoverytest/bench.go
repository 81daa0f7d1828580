package discoverytest

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
)

// BenchmarkRegisterToWatch measures the time from the call of Register to the
// moment when another client's Registry.Watch has yielded the change, beside nine
// instances that do not change. Beyond ns/op, which is the mean, it reports
// p50-ns and p99-ns. It is skipped where the driver is no Registrar.
func BenchmarkRegisterToWatch(b *testing.B, newHarness func(t testing.TB) Harness) {
	k := benchmark(b, newHarness)
	d := k.open()
	k.registrar(d)
	k.SessionTTL = max(k.SessionTTL, 30*time.Second)
	s := k.liveSession(d)
	for n := range 10 {
		k.register(s, instance(service, n))
	}
	r := discovery.New("benchmark", k.Open(k), discovery.Options{})
	k.Cleanup(func() { r.Close() })
	ctx, cancel := context.WithCancel(k.Context())
	defer cancel()
	seen := make(chan int)
	go func() {
		defer close(seen)
		last := 0
		for snap := range r.Watch(ctx, discovery.Query{Service: service}) {
			instances, _ := snap.Instances()
			at, ok := slices.BinarySearchFunc(instances, instance(service, 0).Key(), func(i driver.Instance, key string) int {
				return strings.Compare(i.Key(), key)
			})
			if !ok {
				continue
			}
			n, _ := strconv.Atoi(instances[at].Meta["n"])
			if n == last {
				continue
			}
			last = n
			select {
			case seen <- n:
			case <-ctx.Done():
				return
			}
		}
	}()
	change := func(n int) {
		i := instance(service, 0)
		i.Meta = map[string]string{"n": strconv.Itoa(n)}
		k.register(s, i)
		for timeout := time.After(k.Patience); ; {
			select {
			case have := <-seen:
				if have >= n {
					return
				}
			case <-timeout:
				b.Fatalf("change %d was not seen for %v", n, k.Patience)
			}
		}
	}
	change(1) // the watch is up
	var took []time.Duration
	for n := 2; b.Loop(); n++ {
		start := time.Now()
		change(n)
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2]), "p50-ns")
	b.ReportMetric(float64(took[len(took)*99/100]), "p99-ns")
}

// BenchmarkList measures Registry.List of a set of 100 instances.
func BenchmarkList(b *testing.B, newHarness func(t testing.TB) Harness) {
	k := benchmark(b, newHarness)
	k.SessionTTL = max(k.SessionTTL, 30*time.Second)
	hundred := make([]driver.Instance, 100)
	for n := range hundred {
		hundred[n] = instance(service, n)
	}
	d, want := k.place(hundred...)
	k.eventually(d, service, "100 instances were published", want...)
	r := discovery.New("benchmark", k.Open(k), discovery.Options{})
	k.Cleanup(func() { r.Close() })
	b.ReportAllocs()
	for b.Loop() {
		s, err := r.List(k.Context(), discovery.Query{Service: service})
		if instances, _ := s.Instances(); err != nil || len(instances) != len(hundred) {
			b.Fatalf("List returned %d instances and %v", len(instances), err)
		}
	}
}

func benchmark(b *testing.B, newHarness func(t testing.TB) Harness) *check {
	b.Helper()
	k := &check{TB: b, clause: clause{name: "benchmark"}, Harness: newHarness(b)}
	k.setDefaults()
	return k
}

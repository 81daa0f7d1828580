package providertest

import (
	"context"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
)

// RegisterToVisible measures how long it takes from the call that registers on the
// writer until the watch of the reader's registry yields the set with the new instance,
// beside the provider's own client. The two take turns: bare makes and times the same by
// that client, and returns the instance of service "bench" to register after it, which no
// Version had before.
func RegisterToVisible(b *testing.B, writer driver.Registrar, reader driver.Driver, bare func(n int) (time.Duration, driver.Instance)) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s, err := writer.OpenSession(ctx, driver.SessionOptions{TTL: 10 * time.Minute})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close(context.Background())
	registry := discovery.New("bench", reader, discovery.Options{})
	defer registry.Close()
	next, stop := iter.Pull(registry.Watch(ctx, driver.Query{Service: "bench"}))
	defer stop()
	next() // the empty set

	var theirs, ours []time.Duration
	for n := 0; b.Loop(); n++ {
		took, i := bare(n)
		theirs = append(theirs, took)
		start, done := time.Now(), make(chan error, 1)
		go func() { done <- s.Register(ctx, i) }()
		for seen := false; !seen; {
			snapshot, ok := next()
			if !ok || snapshot.Err != nil {
				b.Fatalf("the watch broke: %v", snapshot.Err)
			}
			listed, _ := snapshot.Instances()
			seen = slices.ContainsFunc(listed, func(have driver.Instance) bool { return have.Version == i.Version })
		}
		ours = append(ours, time.Since(start))
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(P50(theirs), "bare-p50-µs")
	b.ReportMetric(P50(ours), "muster-p50-µs")
	b.ReportMetric(P50(ours)/P50(theirs), "ratio")
}

// P50 returns the median, in microseconds.
func P50(all []time.Duration) float64 {
	slices.Sort(all)
	return float64(all[len(all)/2].Nanoseconds()) / 1000
}

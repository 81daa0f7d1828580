package consul

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testserver"
)

// How long it takes from the call that registers until the watch of another
// client's registry yields the set with the new instance, beside a bare registration
// and blocking query, taken turn by turn on the same agent. Between the turns there is
// time for a watch that is not in the midst of a burst.
func BenchmarkRegisterToVisible(b *testing.B) {
	server := testserver.StartConsul(b)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	writer, reader := open(b, Config{Address: server.Addr()}), open(b, Config{Address: server.Addr()})
	s, err := writer.OpenSession(ctx, driver.SessionOptions{TTL: 10 * time.Minute})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close(context.Background())
	registry := discovery.New("consul", reader, discovery.Options{})
	defer registry.Close()
	next, stop := iter.Pull(registry.Watch(ctx, driver.Query{Service: "bench"}))
	defer stop()
	next() // the empty set

	bareClient := server.Client()
	var bare, ours []time.Duration
	for n := 0; b.Loop(); n++ {
		i := driver.Instance{Service: "bench", NodeID: "node-1", InstanceID: fmt.Sprintf("%032x", n), Addr: "10.0.0.5:7946", Version: fmt.Sprint(n)}
		done := make(chan error, 1)

		_, meta, err := bareClient.Health().Service("bare", "", false, nil)
		if err != nil {
			b.Fatal(err)
		}
		answered := make(chan error, 1)
		go func() {
			entries, _, err := bareClient.Health().Service("bare", "", false, &api.QueryOptions{WaitIndex: meta.LastIndex})
			if err == nil && len(entries) == 0 {
				err = fmt.Errorf("an answer without the service")
			}
			answered <- err
		}()
		<-time.After(quiet + longestPause)
		id := fmt.Sprint("bare-", n)
		start := time.Now()
		go func() {
			done <- bareClient.Agent().ServiceRegister(&api.AgentServiceRegistration{
				ID: id, Name: "bare", Address: "10.0.0.5", Port: 7946,
				Check: &api.AgentServiceCheck{TTL: "10m", Status: api.HealthPassing},
			})
		}()
		if err := <-answered; err != nil {
			b.Fatal(err)
		}
		bare = append(bare, time.Since(start))
		if err := <-done; err != nil {
			b.Fatal(err)
		}
		start = time.Now()
		go func() { done <- s.Register(ctx, i) }()
		for seen := false; !seen; {
			snapshot, ok := next()
			if !ok || snapshot.Err != nil {
				b.Fatalf("the watch broke: %v", snapshot.Err)
			}
			seen = slices.ContainsFunc(snapshot.Instances, func(have driver.Instance) bool { return have.Version == i.Version })
		}
		ours = append(ours, time.Since(start))
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(p50(bare), "bare-p50-µs")
	b.ReportMetric(p50(ours), "muster-p50-µs")
	b.ReportMetric(p50(ours)/p50(bare), "ratio")
}

func p50(all []time.Duration) float64 {
	slices.Sort(all)
	return float64(all[len(all)/2].Nanoseconds()) / 1000
}

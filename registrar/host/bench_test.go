package host

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/internal/testing/snapshot"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/providers/etcd"
	"github.com/musterhq/muster/registrar/docker/engine"
	"github.com/musterhq/muster/registrar/docker/grammar"
)

// BenchmarkContainerToVisible takes the time from the start of a container, by the
// engine's own account, until the watch of another client of etcd shows it.
func BenchmarkContainerToVisible(b *testing.B) {
	h := onRealHost(b, "", nil)
	c := h.engine.Create(h.options(map[string]string{"SERVICE_NAME": "bench"}, "-p", "0:80"))
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	seen := make(chan int, 1000)
	at := make(chan time.Time, 1000)
	go func() {
		defer close(seen)
		for s := range h.reader.Watch(ctx, discovery.Query{Service: "bench"}) {
			at <- time.Now()
			seen <- len(snapshot.Instances(s))
		}
	}()
	await := func(want int) time.Time {
		for n := range seen {
			if when := <-at; n == want {
				return when
			}
		}
		b.Fatal("the watch has ended")
		return time.Time{}
	}
	await(0)
	var times []time.Duration
	for b.Loop() {
		c.Start()
		visible := await(1)
		started, err := time.Parse(time.RFC3339Nano, c.Inspect("{{.State.StartedAt}}"))
		if err != nil {
			b.Fatal(err)
		}
		times = append(times, visible.Sub(started))
		c.Kill()
		await(0)
	}
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "ms/median")
	b.ReportMetric(float64(times[len(times)*9/10].Microseconds())/1000, "ms/p90")
	b.ReportMetric(0, "ns/op")
}

// slowCrew is an engine that takes as long for a call as Docker does.
type slowCrew struct{ *crew }

func (s slowCrew) Inspect(ctx context.Context, id string) (engine.Container, error) {
	time.Sleep(5 * time.Millisecond)
	return s.crew.Inspect(ctx, id)
}

// BenchmarkCold takes the time from the start of a registrar on a host with 200
// containers until another client of etcd lists them all. The engine is a fake one that
// takes 5 ms for each of them.
func BenchmarkCold(b *testing.B) {
	const n = 200
	containers := newCrew()
	for i := range n {
		containers.begin(fmt.Sprintf("container-%03d", i), map[string]int{"80/tcp": 10000 + i}, "SERVICE_NAME=bench", "SERVICE_TAGS=a,b", "SERVICE_REGION=eu")
	}
	server := testserver.StartEtcd(b)
	open := func() *discovery.Registry {
		d, err := etcd.New(etcd.Config{Endpoints: []string{server.Endpoint()}})
		if err != nil {
			b.Fatal(err)
		}
		r := discovery.New("etcd", d, discovery.Options{})
		b.Cleanup(func() { r.Close() })
		return r
	}
	reader := open()
	await := func(want int) {
		for s := range reader.Watch(b.Context(), discovery.Query{Service: "bench"}) {
			if s.Known && len(snapshot.Instances(s)) == want {
				return
			}
		}
		b.Fatal("the watch has ended")
	}
	var times []time.Duration
	for b.Loop() {
		began := time.Now()
		r, err := Start(Config{
			Registries: []*discovery.Registry{open()}, Engine: slowCrew{containers},
			Rules: grammar.Rules{Hostname: strings.Repeat("h", 12), HostIP: "10.0.0.1"},
		})
		if err != nil {
			b.Fatal(err)
		}
		await(n)
		times = append(times, time.Since(began))
		if err := r.Stop(context.Background()); err != nil {
			b.Fatal(err)
		}
		await(0)
	}
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Milliseconds()), "ms/median")
	b.ReportMetric(float64(times[len(times)-1].Milliseconds()), "ms/max")
	b.ReportMetric(0, "ns/op")
}

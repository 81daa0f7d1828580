//go:build unix

package registrylab

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/faultproxy"
	"github.com/musterhq/muster/internal/testing/snapshot"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/registrar"
)

// What a registry is asked for, counted on the way to it.

// BenchmarkRegistryRequests reports what a follower asks for in 5 s in which nothing
// happens, and how often the whole set is read for a burst of a hundred changes, where
// a service has so many instances.
func BenchmarkRegistryRequests(b *testing.B) {
	for _, row := range registryRows {
		for _, instances := range []int{10, 100, 1000} {
			b.Run(fmt.Sprintf("%s/%d", row.provider, instances), func(b *testing.B) {
				for b.Loop() {
					name := clusterName(row.provider, fmt.Sprint("requests ", instances))
					server := row.start(b, ownServer, name)
					service := newCrowd(b, server, name)
					service.add(instances - 2)
					b.ReportMetric(idleFollower(b, server, name)(60*time.Second), "requests/5s")
					b.ReportMetric(service.listsOfBurst(100), "lists/burst")
				}
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// A follower asks for something once in 5 s at most while nothing happens: it renews its
// registration, and queries wait for news.
func TestIdleFollower(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	t.Parallel()
	for _, row := range registryRows {
		t.Run(row.provider, func(t *testing.T) {
			t.Parallel()
			name := clusterName(row.provider, "idle")
			requests := idleFollower(t, row.start(t, ownServer, name), name)
			// On a machine with a lot else to do things happen: a renewal is late, and a master is
			// in doubt. So the minute in which the average counts may be a later one.
			const perMinute = 3
			var spans []float64
			for range 18 {
				spans = append(spans, requests(time.Minute/perMinute))
				if n := len(spans) - perMinute; n >= 0 && spans[n]+spans[n+1]+spans[n+2] <= perMinute {
					return
				}
			}
			t.Errorf("%.2f requests in 5 s, want 1 at most on average over a minute", spans)
		})
	}
}

// A burst is read once or twice, however many changes it has.
func TestBurstIsCoalesced(t *testing.T) {
	t.Parallel()
	for _, row := range registryRows {
		t.Run(row.provider, func(t *testing.T) {
			t.Parallel()
			name := clusterName(row.provider, "burst")
			service := newCrowd(t, row.start(t, sharedServer, name), name)
			service.add(10)
			if lists := service.listsOfBurst(100); lists > 5 {
				t.Errorf("the set was read %v times for a burst of 100 changes", lists)
			}
		})
	}
}

// crowd is a service with many instances at which nobody is, on one session.
type crowd struct {
	t       testing.TB
	server  registryServer
	service string
	session driver.Session
	size    int
}

func newCrowd(t testing.TB, server registryServer, service string) *crowd {
	t.Helper()
	d, err := server.open(server.addrs(), 10*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.(driver.Registrar).OpenSession(context.Background(), driver.SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close(context.Background())
		d.Close()
	})
	return &crowd{t, server, service, s, 0}
}

// add registers more instances, several at a time.
func (c *crowd) add(more int) {
	c.t.Helper()
	var group sync.WaitGroup
	places := make(chan struct{}, 16)
	for range more {
		c.size++
		id := fmt.Sprintf("crowd-%d", c.size)
		places <- struct{}{}
		group.Go(func() {
			defer func() { <-places }()
			err := c.session.Register(context.Background(), discovery.Instance{Service: c.service, NodeID: id, InstanceID: id, Addr: "127.0.0.1:1"})
			if err != nil {
				c.t.Error(err)
			}
		})
	}
	group.Wait()
}

// listsOfBurst watches while more instances are registered, and returns how often the
// whole set was read for that.
func (c *crowd) listsOfBurst(more int) float64 {
	c.t.Helper()
	proxy := faultproxy.NewHTTP(c.t, c.server.addrs()[0])
	d, err := c.server.open([]string{proxy.Addr()}, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	registry := discovery.New(c.server.provider(), d, discovery.Options{})
	defer registry.Close()
	ctx, cancel := context.WithTimeout(context.Background(), wait.Patience)
	defer cancel()
	var before faultproxy.Counts
	changed := make(chan struct{})
	var at int // how many there are at first
	for s := range registry.Watch(ctx, discovery.Query{Service: c.service}) {
		switch {
		case s.Known && before == nil:
			at, before = len(snapshot.Instances(s)), proxy.Counts()
			go func() {
				defer close(changed)
				c.add(more)
			}()
		case s.Known && len(snapshot.Instances(s)) >= at+more:
			<-changed
			return float64(lists(proxy.Counts().Since(before)))
		}
	}
	c.t.Fatalf("not within %v: the watch shows %d more instances", wait.Patience, more)
	return 0
}

// lists counts the readings of a whole set.
func lists(c faultproxy.Counts) int {
	return c.Sum("GET /v1/health/service", "GET /v1/catalog/service", "POST /etcdserverpb.KV/Range").Answers
}

// idleFollower runs a follower beside a master until the test ends, and returns what counts its
// requests in 5 s, over a span in which nothing happens.
func idleFollower(t testing.TB, server registryServer, name string) (requests func(span time.Duration) float64) {
	t.Helper()
	start := func(id string, addr string, eligible bool) *node.Node {
		d, err := server.open([]string{addr}, 0)
		if err != nil {
			t.Fatal(err)
		}
		registry := discovery.New(server.provider(), d, discovery.Options{})
		n, err := node.Start(t.Context(), node.Config{
			Cluster: name, NodeID: id, Bind: "127.0.0.1:0", DataDir: t.TempDir(), Registries: []*discovery.Registry{registry},
			Mastership: node.Mastership{Eligible: new(eligible)},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			n.Leave(context.Background())
			registry.Close()
		})
		return n
	}
	proxy := faultproxy.NewHTTP(t, server.addrs()[0])
	start("master", server.addrs()[0], true)
	follower := start("follower", proxy.Addr(), false)
	wait.For(t, "the follower is ready and knows a master", func() bool { _, ok := follower.Master(); return ok && follower.Status().Ready },
		func() string { return fmt.Sprintf("%+v", follower.Status()) })
	<-time.After(5 * time.Second) // what a start brings about has come to rest
	return func(span time.Duration) float64 {
		before := proxy.Counts()
		<-time.After(span)
		asked := proxy.Counts().Since(before)
		t.Logf("in %v:\n%s", span, asked)
		return float64(asked.Sum().Requests) / (span.Seconds() / 5)
	}
}

// BenchmarkRegistryReturns reports how long it takes from the return of a registry that
// was gone for three TTLs until all registrations of a hundred nodes are back, and how
// many requests that takes for each that their first start took.
func BenchmarkRegistryReturns(b *testing.B) {
	for _, row := range registryRows {
		b.Run(row.provider, func(b *testing.B) {
			for b.Loop() {
				took, requests := registryReturns(b, row.start(b, ownServer, clusterName(row.provider, "returns")), 100, 5*time.Second)
				b.ReportMetric(took.Seconds(), "s")
				b.ReportMetric(requests, "requests/needed")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// After an outage all come back, and not as a stampede.
func TestRegistryReturns(t *testing.T) {
	t.Parallel()
	for _, row := range registryRows {
		t.Run(row.provider, func(t *testing.T) {
			t.Parallel()
			// On a machine with a lot else to do sessions end before they are renewed, and calls
			// time out that were carried out. So the return that counts may be a later one.
			for range 3 {
				var took time.Duration
				var requests float64
				t.Run("once", func(t *testing.T) {
					took, requests = registryReturns(t, row.start(t, ownServer, clusterName(row.provider, "returns")), 20, 5*time.Second)
				})
				if t.Failed() || took <= 20*time.Second && requests <= 3 {
					return
				}
				t.Logf("all are back after %v, with %.1f times the requests of a start", took, requests)
			}
			t.Error("all are back too late, or with too many requests, each time")
		})
	}
}

func registryReturns(t testing.TB, server registryServer, nodes int, ttl time.Duration) (took time.Duration, requests float64) {
	t.Helper()
	calls := faultproxy.NewHTTP(t, server.addrs()[0])
	way := faultproxy.NewTCP(t, calls.Addr())
	var registrars []*registrar.Registrar
	var watching sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		watching.Wait()
	})
	registered := func() bool {
		return !slices.ContainsFunc(registrars, func(r *registrar.Registrar) bool { return !r.Status().Registered() })
	}
	for n := range nodes {
		d, err := server.open([]string{way.Addr()}, ttl)
		if err != nil {
			t.Fatal(err)
		}
		registry := discovery.New(server.provider(), d, discovery.Options{})
		r := registrar.New(registrar.Config{Registry: registry})
		t.Cleanup(func() {
			r.Stop(context.Background())
			registry.Close()
		})
		watching.Go(func() { // as a node does, beside its registrar
			for range registry.Watch(ctx, discovery.Query{Service: "orders"}) {
			}
		})
		id := fmt.Sprintf("node-%d", n)
		if err := r.Set(discovery.Instance{Service: "orders", NodeID: id, InstanceID: id, Addr: "127.0.0.1:1"}); err != nil {
			t.Fatal(err)
		}
		registrars = append(registrars, r)
	}
	wait.For(t, "all are registered", registered)
	needed := calls.Counts().Sum().Requests
	way.Cut()
	wait.For(t, "all take their registrations to be gone", func() bool {
		return !slices.ContainsFunc(registrars, func(r *registrar.Registrar) bool { return r.Status().Registered() })
	})
	<-time.After(2 * ttl) // three in all
	before := calls.Counts()
	began := time.Now()
	way.Restore()
	wait.For(t, "all are registered again", registered)
	took = time.Since(began)
	asked := calls.Counts().Since(before)
	t.Logf("%d requests at the start; in %v after the return:\n%s", needed, took, kinds(asked))
	return took, float64(asked.Sum().Requests) / float64(needed)
}

// kinds adds up what differs in names and ids alone.
func kinds(c faultproxy.Counts) string {
	sums := make(map[string]int)
	for name, count := range c {
		kind := strings.Split(name, "/")
		kind = kind[:min(4, len(kind))] // GET /v1/agent/service
		sums[strings.Join(kind, "/")] += count.Requests
	}
	var b strings.Builder
	for _, kind := range slices.Sorted(maps.Keys(sums)) {
		fmt.Fprintf(&b, "%s: %d\n", kind, sums[kind])
	}
	return strings.TrimSpace(b.String())
}

//go:build unix

package host

import (
	"context"
	"fmt"
	"iter"
	"runtime"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/memory"
	"github.com/musterhq/muster/registrar/docker/grammar"
)

// cost is what the process has used.
type cost struct {
	cpu   time.Duration
	bytes uint64
}

func costOf(t testing.TB, f func()) cost {
	t.Helper()
	used := func() cost {
		var usage syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
			t.Fatal(err)
		}
		var mem runtime.MemStats
		runtime.ReadMemStats(&mem)
		return cost{time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), mem.TotalAlloc}
	}
	runtime.GC()
	before := used()
	f()
	after := used()
	return cost{after.cpu - before.cpu, after.bytes - before.bytes}
}

// onePerPort are n services of one container, which has n ports, and perContainer n instances
// of one service.
func onePerPort(c *crew, n int) {
	ports := make(map[string]int)
	for i := range n {
		ports[fmt.Sprintf("%d/udp", 10000+i)] = 10000 + i
	}
	c.begin("media", ports, "SERVICE_NAME=media")
}

func perContainer(c *crew, n int) {
	for i := range n {
		c.begin(fmt.Sprintf("media-%d", i), map[string]int{"80/tcp": 10000 + i}, "SERVICE_NAME=media")
	}
}

// client is what a registrar uses of a driver.
type client interface {
	driver.Driver
	driver.Registrar
	driver.Watcher
	driver.Cataloger
}

// paced reports changes ten times a second at most, as each report is the whole set: how many
// of them are taken together would else depend on the scheduler, and with it the cost.
type paced struct{ client }

func (p paced) Watch(ctx context.Context, q driver.Query, since driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
	return func(yield func(driver.Snapshot, error) bool) {
		for snapshot, err := range p.client.Watch(ctx, q, since) {
			if !yield(snapshot, err) {
				return
			}
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
}

// busyHost registers n instances and then removes as many that were left behind, and returns
// what each of the two has cost.
func busyHost(t testing.TB, n int, shape func(c *crew, n int)) (apply, cleanUp cost) {
	memory := memory.New()
	registry := discovery.New("memory", paced{memory.Driver().(client)}, discovery.Options{})
	defer registry.Close()
	containers := newCrew()
	shape(containers, n)
	var r *Registrar
	registered := func() int {
		_, registered := r.Status().Providers[0].Wanted()
		return registered
	}
	apply = costOf(t, func() {
		var err error
		r, err = Start(Config{
			Registries: []*discovery.Registry{registry}, Engine: containers, Cleanup: true, Resync: time.Second,
			Rules: grammar.Rules{Hostname: "h", HostIP: "10.0.0.1"},
		})
		if err != nil {
			t.Fatal(err)
		}
		for registered() < n {
			time.Sleep(100 * time.Millisecond)
		}
	})
	defer r.Stop(context.Background())
	for i := range n {
		memory.Put(driver.Instance{Service: "media", InstanceID: fmt.Sprintf("h:gone:%d", 10000+i), Addr: "10.0.0.1:80"})
	}
	cleanUp = costOf(t, func() {
		for r.Status().Providers[0].Evictions < uint64(n) {
			time.Sleep(100 * time.Millisecond)
		}
	})
	if got := registered(); got != n {
		t.Errorf("%d are registered, want %d", got, n)
	}
	return apply, cleanUp
}

// sizes are those that are compared, the second four times the first.
var sizes = [2]int{500, 2000}

// atMost is how many times the cost of the smaller size that of the larger may be: what is
// linear comes to 4 and a little more, twice as much where the race detector looks, and what
// grows with the square to 16.
const atMost = 12

var shapes = map[string]func(c *crew, n int){"one container with many ports": onePerPort, "many containers": perContainer}

// What a registrar does for each of many registrations costs the same, however many there are.
func TestCostIsLinear(t *testing.T) {
	for name, shape := range shapes {
		t.Run(name, func(t *testing.T) {
			var apply, cleanUp [2]cost
			for n, size := range sizes {
				synctest.Test(t, func(t *testing.T) { apply[n], cleanUp[n] = busyHost(t, size, shape) })
			}
			isLinear(t, "to register", apply)
			isLinear(t, "to clean up", cleanUp)
		})
	}
}

func isLinear(t *testing.T, what string, c [2]cost) {
	t.Helper()
	t.Logf("%s: %v and %d bytes for %d, %v and %d for %d", what, c[0].cpu, c[0].bytes, sizes[0], c[1].cpu, c[1].bytes, sizes[1])
	if c[1].bytes > atMost*c[0].bytes || c[1].cpu > atMost*c[0].cpu+100*time.Millisecond {
		t.Errorf("%s %d instances costs more than %d times as much as %d", what, sizes[1], atMost, sizes[0])
	}
}

// BenchmarkPorts takes the processor time per registration of a busy host.
func BenchmarkPorts(b *testing.B) {
	for name, shape := range shapes {
		for _, n := range []int{500, 1000, 2000, 4000} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				var apply, cleanUp time.Duration
				for b.Loop() {
					a, c := busyHost(b, n, shape)
					apply, cleanUp = apply+a.cpu, cleanUp+c.cpu
				}
				per := float64(b.N) * float64(n) * 1000
				b.ReportMetric(float64(apply.Nanoseconds())/per, "µs/registration")
				b.ReportMetric(float64(cleanUp.Nanoseconds())/per, "µs/eviction")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

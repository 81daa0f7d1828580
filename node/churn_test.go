package node_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/mastership"
)

// churn is how many cycles the tests of growth make. make faults makes 1000.
var churn = flag.Int("churn", 50, "cycles of joining and leaving, and changes of the master")

// resources are what must not grow.
type resources struct {
	goroutines, descriptors int
	heap                    uint64
}

func (r resources) String() string {
	return fmt.Sprintf("%d goroutines, %d descriptors, %.1f MB of memory", r.goroutines, r.descriptors, float64(r.heap)/(1<<20))
}

func measure() (r resources) {
	runtime.GC()
	runtime.GC() // what finalizers let go
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	r.goroutines, r.heap = runtime.NumGoroutine(), m.HeapAlloc
	if entries, err := os.ReadDir("/proc/self/fd"); err == nil {
		r.descriptors = len(entries)
	}
	return r
}

// settled waits until what has just been started is there, as links are made one after
// another, and measures.
func settled(t *testing.T) resources {
	t.Helper()
	most, since := 0, time.Now()
	wait.For(t, "the number of goroutines settles", func() bool {
		if n := runtime.NumGoroutine(); n > most {
			most, since = n, time.Now()
		}
		return time.Since(since) > 2*time.Second
	})
	return measure()
}

// stable waits until the resources are what they were, but for what n cycles may
// leave behind for a while, such as the names of those that left.
func stable(t *testing.T, before resources, what string, cycles int) {
	t.Helper()
	var now resources
	fits := func() bool {
		now = measure()
		return now.goroutines <= before.goroutines+10 && now.descriptors <= before.descriptors+10 && now.heap <= before.heap+before.heap/2+(4<<20)
	}
	wait.For(t, "the resources are what they were", fits, func() string { return fmt.Sprintf("before: %v; after %d %s: %v", before, cycles, what, now) })
	t.Logf("before: %v; after %d %s: %v", before, cycles, what, now)
}

// churners come and go at the same time.
const churners = 10

// Members come and go, each time as another instance, and nothing is left of them: not
// in themselves, which ran in this process too, and not in those that stay.
func TestNoGrowthByJoiningAndLeaving(t *testing.T) {
	c := newCluster(t)
	stay := []*node.Node{c.start("a"), c.start("b")}
	// Nothing is registered with the test, which would keep them all.
	soon := func(done func() bool) bool {
		ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
		defer cancel()
		return wait.Until(ctx, done)
	}
	cycle := func(id string) error {
		registry := discovery.New("memory", c.memory.Driver(), discovery.Options{})
		defer registry.Close()
		n, err := node.Start(t.Context(), node.Config{Cluster: "orders", NodeID: id, Bind: "127.0.0.1:0", Registries: []*discovery.Registry{registry}})
		if err != nil {
			return err
		}
		known := func() bool {
			for _, s := range stay {
				if !slices.ContainsFunc(s.Members(), func(m node.Member) bool { return m.InstanceID == n.InstanceID() }) {
					return false
				}
			}
			return true
		}
		joined := soon(func() bool { return known() && len(n.Members()) > len(stay) })
		// A busy machine may cut the goodbye short, which Leave says. The others find out all
		// the same, and nothing may be left behind of such a node either.
		if err = n.Leave(context.Background()); errors.Is(err, context.DeadlineExceeded) {
			t.Logf("%s: %v", id, err)
			err = nil
		}
		if gone := soon(func() bool { return !known() }); !joined || !gone {
			return fmt.Errorf("%s joined %v, is gone %v", id, joined, gone)
		}
		return err
	}
	cycles := func(n int) {
		var coming sync.WaitGroup
		for k := range churners {
			coming.Go(func() {
				for i := range (n + churners - 1) / churners {
					if err := cycle(fmt.Sprintf("churn-%d", k)); err != nil {
						t.Errorf("cycle %d: %v", i, err)
						return
					}
				}
			})
		}
		coming.Wait()
	}
	cycles(*churn/10 + churners)
	before := settled(t)
	cycles(*churn)
	stable(t, before, "cycles", *churn)
}

// Mastership goes from one to another, and nothing is left of the terms that were.
func TestNoGrowthByMasterChanges(t *testing.T) {
	const size = 12 // each stands back for a while after it was master
	c := newCluster(t)
	var nodes []*node.Node
	for i := range size {
		nodes = append(nodes, c.start(fmt.Sprintf("n%d", i)))
	}
	var last node.Term
	change := func() {
		var master *node.Node
		wait.For(t, fmt.Sprintf("a master after term %d", last), func() bool {
			for _, n := range nodes {
				if token, err := n.Check(); err == nil && token.Term > last {
					master, last = n, token.Term
					return true
				}
			}
			return false
		})
		// On a busy machine the grant may be left to expire, which changes the master, too.
		if err := master.Resign(t.Context()); err != nil && !errors.Is(err, mastership.ErrDrainTimeout) {
			t.Fatal(err)
		}
	}
	wait.For(t, "all see all", func() bool {
		return !slices.ContainsFunc(nodes, func(n *node.Node) bool { return len(n.Members()) != size })
	})
	for range *churn/10 + size {
		change()
	}
	before := settled(t)
	for range *churn {
		change()
	}
	stable(t, before, "changes of the master", *churn)
}

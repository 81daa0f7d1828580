package call_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/call"
	"github.com/musterhq/muster/node/nodetest"
)

// announced waits until members see of each other what they serve.
func announced(t *testing.T, members []*member, service string, want int) {
	t.Helper()
	for _, m := range members {
		wait.For(t, fmt.Sprintf("%s sees %d members with %s", m.ID(), want, service), func() bool {
			n := 0
			for _, o := range m.Members() {
				for _, tag := range o.Tags {
					if tag == "call:"+service {
						n++
					}
				}
			}
			return n == want
		})
	}
}

// answers counts the members that answered n calls.
func answers(t *testing.T, ctx context.Context, m *member, p call.Pool, n int) map[string]int {
	t.Helper()
	c, got := m.Mesh.Pool(p), make(map[string]int)
	for range n {
		id, err := who(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		got[id]++
	}
	return got
}

func TestPool(t *testing.T) {
	t.Parallel()
	cluster := nodetest.Start(t, 4, func(c *node.Config) {
		if c.NodeID >= "node-3" {
			c.Zone = "west"
		}
	})
	members := []*member{start(t, cluster.Nodes()[0]), start(t, cluster.Nodes()[1]), start(t, cluster.Nodes()[2])}
	announced(t, members, "who", 3)
	a := members[0]
	if got := answers(t, t.Context(), a, call.Pool{}, 60); len(got) != 3 {
		t.Errorf("least pending: %v", got)
	}
	got := answers(t, t.Context(), a, call.Pool{Policy: call.RoundRobin}, 30)
	for _, m := range members {
		if got[m.InstanceID()] != 10 {
			t.Errorf("round robin: %v", got)
		}
	}
	if got := answers(t, t.Context(), a, call.Pool{Policy: call.Nearest}, 10); got[a.InstanceID()] != 10 {
		t.Errorf("nearest: %v", got)
	}
	not := func(m *member) func(node.Member) bool {
		return func(o node.Member) bool { return o.NodeID != m.ID() }
	}
	if got := answers(t, t.Context(), a, call.Pool{Among: not(a)}, 30); len(got) != 2 || got[a.InstanceID()] > 0 {
		t.Errorf("among the others: %v", got)
	}
	for _, key := range []string{"", "a", "b"} {
		if got := answers(t, call.WithKey(t.Context(), key), a, call.Pool{Policy: call.ByKey}, 10); len(got) != 1 {
			t.Errorf("key %q: %v", key, got)
		}
	}
	// The nearest of a node that does not serve are those of its zone.
	caller, err := call.Open(cluster.Nodes()[3], call.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(caller.Close)
	announced(t, []*member{{Node: cluster.Nodes()[3]}}, "who", 3)
	got = answers(t, t.Context(), &member{Mesh: caller}, call.Pool{Policy: call.Nearest}, 10)
	if got[members[2].InstanceID()] != 10 {
		t.Errorf("nearest in zone west: %v", got)
	}
	_, err = call.Invoke[string](t.Context(), a.Mesh.Pool(call.Pool{}), "unknown", struct{}{})
	if !errors.Is(err, call.ErrNotReady) || call.MayHaveRun(err) {
		t.Errorf("a service that nobody has: %v", err)
	}
	members[2].Mesh.Close()
	announced(t, members[:2], "who", 2)
	if got := answers(t, t.Context(), a, call.Pool{Policy: call.RoundRobin}, 30); len(got) != 2 {
		t.Errorf("after one has ended: %v", got)
	}
}

// Members come and go in good order, and no call that may be repeated fails.
func TestPoolRolls(t *testing.T) {
	t.Parallel()
	cluster, members := startAll(t, 3)
	announced(t, members, "who", 3)
	a := members[0]
	pool := a.Mesh.Pool(call.Pool{})
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var calls, failed = make(chan struct{}, 1), make(chan error, 100)
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, err := who(call.Idempotent(t.Context()), pool); err != nil {
					select {
					case failed <- err:
					default:
					}
				}
				select {
				case calls <- struct{}{}:
				default:
				}
			}
		})
	}
	for _, m := range members[1:] {
		next(t, calls)
		start(t, cluster.Restart(m.Node))
		next(t, calls)
	}
	stop()
	wg.Wait()
	close(failed)
	for err := range failed {
		t.Error(err)
	}
}

// The limit holds where the work is done. A pool tries others, and then says so.
func TestOverload(t *testing.T) {
	t.Parallel()
	cluster := nodetest.Start(t, 2)
	var members []*member
	for _, n := range cluster.Nodes() {
		m := &member{Node: n, entered: make(chan string, 10), free: make(chan struct{})}
		var err error
		if m.Mesh, err = call.Open(n, call.Options{Limits: map[string]call.Limit{"slow": {InFlight: 1}}}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(m.Mesh.Close)
		call.Handle(m, "slow", func(context.Context, struct{}) (string, error) {
			m.entered <- ""
			<-m.free
			return m.ID(), nil
		})
		if err := m.Start(); err != nil {
			t.Fatal(err)
		}
		members = append(members, m)
	}
	announced(t, members, "slow", 2)
	a, b := members[0], members[1]
	results := make(chan error, 2)
	invoke := func() {
		_, err := call.Invoke[string](t.Context(), a.Mesh.Pool(call.Pool{}), "slow", struct{}{})
		results <- err
	}
	go invoke()
	go invoke()
	next(t, a.entered) // each has one, whichever was asked first
	next(t, b.entered)
	for name, err := range map[string]error{
		"one": func() error {
			_, err := call.Invoke[string](t.Context(), a.Mesh.Node(b.ID()), "slow", struct{}{})
			return err
		}(),
		"both": func() error {
			_, err := call.Invoke[string](t.Context(), a.Mesh.Pool(call.Pool{}), "slow", struct{}{})
			return err
		}(),
	} {
		if !errors.Is(err, call.ErrOverloaded) || call.MayHaveRun(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	close(a.free)
	close(b.free)
	for range 2 {
		if err := next(t, results); err != nil {
			t.Error(err)
		}
	}
}

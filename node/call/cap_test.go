package call_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/call"
	"github.com/musterhq/muster/node/nodetest"
)

// capLease is that of the tests: a failover of nodetest takes about half a second.
const capLease = 3 * time.Second

// openCaps starts a mesh whose caps have the lease of the tests.
func openCaps(t *testing.T, n *node.Node, o call.Options) *call.Mesh {
	t.Helper()
	if o.CapLease == 0 {
		o.CapLease = capLease
	}
	m, err := call.Open(n, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func startCaps(t *testing.T, n *node.Node) *call.Mesh {
	t.Helper()
	m := openCaps(t, n, call.Options{})
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	return m
}

// downstream is the system that bears no more than a cap. It counts the contexts that have not
// ended.
type downstream struct {
	mu    sync.Mutex
	now   map[context.Context]string
	most  int
	limit atomic.Int64
	over  []string
	done  map[string]int
}

func newDownstream(limit int) *downstream {
	d := &downstream{now: make(map[context.Context]string), done: make(map[string]int)}
	d.limit.Store(int64(limit))
	return d
}

func (d *downstream) enter(ctx context.Context, from string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.now[ctx] = from
	n := 0
	for c := range d.now {
		if c.Err() == nil {
			n++
		}
	}
	d.most = max(d.most, n)
	if limit := int(d.limit.Load()); n > limit {
		d.over = append(d.over, fmt.Sprintf("%d of %d", n, limit))
	}
}

func (d *downstream) leave(ctx context.Context, from string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.now, ctx)
	d.done[from]++
}

func (d *downstream) used(from string) (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for c, f := range d.now {
		if c.Err() == nil && (from == "" || f == from) {
			n++
		}
	}
	return n
}

func (d *downstream) check(t *testing.T) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.over) > 0 {
		t.Errorf("%d times more were in use than the cap allows: %v", len(d.over), d.over[:min(len(d.over), 5)])
	}
}

// load has callers of a node acquire places and use them for a while, until ctx ends.
func (d *downstream) load(ctx context.Context, wg *sync.WaitGroup, c *call.Cap, from string, callers int, takes time.Duration) {
	for range callers {
		wg.Go(func() {
			for ctx.Err() == nil {
				place, release, err := c.Acquire(ctx)
				if err != nil {
					continue
				}
				d.enter(place, from)
				select {
				case <-place.Done():
				case <-time.After(takes):
				}
				d.leave(place, from)
				release()
			}
		})
	}
}

// On a node alone there is a cap, too, and its master is the node itself.
func TestCapAlone(t *testing.T) {
	t.Parallel()
	m := startCaps(t, nodetest.Alone(t))
	c := m.Cap("db")
	if m.Cap("db") != c || c.Name() != "db" {
		t.Error("another cap of the same name")
	}
	if _, _, err := c.Acquire(t.Context()); !errors.Is(err, call.ErrCapNotSet) {
		t.Errorf("before it is set: %v", err)
	}
	if _, err := c.Get(t.Context()); !errors.Is(err, call.ErrCapNotSet) {
		t.Errorf("before it is set: %v", err)
	}
	for _, total := range []int{-1, call.MaxCap + 1} {
		if err := c.Set(t.Context(), total); err == nil {
			t.Errorf("a total of %d", total)
		}
	}
	if err := c.Init(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	if err := c.Init(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	if total, err := c.Get(t.Context()); total != 2 || err != nil {
		t.Errorf("%d, %v", total, err)
	}
	_, one, err := c.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	two, release, err := c.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, _, err := c.Acquire(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a third of two: %v", err)
	}
	if s := c.Stats(); s.Total != 2 || s.Share != 2 || s.InUse != 2 || s.Waiting != 0 || s.Acquired != 2 {
		t.Errorf("%+v", s)
	}
	waited := make(chan error, 1)
	go func() {
		_, release, err := c.Acquire(t.Context())
		if err == nil {
			defer release()
		}
		waited <- err
	}()
	wait.For(t, "one waits", func() bool { return c.Stats().Waiting == 1 })
	release()
	release()
	if two.Err() == nil {
		t.Error("the context of what was released goes on")
	}
	if err := next(t, waited); err != nil {
		t.Errorf("the one that waited: %v", err)
	}
	one()
	// A higher total is used at once.
	if err := c.Set(t.Context(), 5); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
		defer cancel()
		if _, _, err := c.Acquire(ctx); err != nil {
			t.Fatal(err)
		}
	}
	// And the mesh's end ends all.
	place, _, err := func() (context.Context, func(), error) {
		if err := c.Set(t.Context(), 6); err != nil {
			t.Fatal(err)
		}
		return c.Acquire(t.Context())
	}()
	if err != nil {
		t.Fatal(err)
	}
	m.Close()
	if place.Err() == nil || context.Cause(place) != call.ErrPlaceLost {
		t.Errorf("after Close: %v", context.Cause(place))
	}
	if _, _, err := c.Acquire(t.Context()); !errors.Is(err, node.ErrStopped) {
		t.Errorf("after Close: %v", err)
	}
	if got := m.Caps(); len(got) != 1 || got[0].Name != "db" {
		t.Errorf("%+v", got)
	}
}

func TestCapNames(t *testing.T) {
	t.Parallel()
	m := startCaps(t, nodetest.Alone(t))
	for _, name := range []string{"", "a/b", "..", "ä", strings.Repeat("x", 101)} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Cap(%q) does not panic", name)
				}
			}()
			m.Cap(name)
		}()
	}
	for _, o := range []call.Options{
		{CapLease: time.Millisecond}, {CapLease: time.Hour}, {Caps: map[string]string{"s": "a b"}}, {Caps: map[string]string{"": "a"}},
	} {
		if _, err := call.Open(nodetest.Alone(t), o); err == nil {
			t.Errorf("Open with %+v", o)
		}
	}
}

// Under load on all nodes there are never more in use than the cap allows, however masters follow
// one another, and all of it is used.
func TestCapFailover(t *testing.T) {
	t.Parallel()
	const total, nodes = 10, 5
	cluster := nodetest.Start(t, nodes)
	d := newDownstream(total)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var caps []*call.Cap
	for _, n := range cluster.Nodes() {
		c := startCaps(t, n).Cap("db")
		caps = append(caps, c)
		d.load(ctx, &wg, c, n.ID(), 6, 5*time.Millisecond)
	}
	if err := caps[0].Set(ctx, total); err != nil {
		t.Fatal(err)
	}
	full := func(what string) {
		began := time.Now()
		wait.For(t, what, func() bool { return d.used("") >= total-1 }, func() string { return fmt.Sprint(d.used(""), " in use") })
		t.Logf("%s: all are in use after %v", what, time.Since(began).Round(time.Millisecond))
	}
	full("at first")
	for _, fault := range []struct {
		name string
		make func(master *node.Node) (restore func())
	}{
		{"cut off from the provider", func(n *node.Node) func() { return cluster.CutOff(n) }},
		{"resigned", func(n *node.Node) func() { _ = n.Resign(ctx); return func() {} }},
		{"deposed", func(*node.Node) func() { cluster.Provider().EndMastership("nodetest"); return func() {} }},
		{"deposed and not aware of it", func(*node.Node) func() { cluster.Provider().ExpireMastership("nodetest"); return func() {} }},
	} {
		master := cluster.Master()
		last, _ := master.Master()
		restore := fault.make(master)
		cluster.MasterAbove(last.Term)
		restore()
		cluster.Master()
		full("the master was " + fault.name)
	}
	lost := uint64(0)
	for _, c := range caps {
		lost += c.Stats().LostEver
	}
	stop()
	wg.Wait()
	d.check(t)
	t.Logf("%v, %d at most, %d places lost", d.done, d.most, lost)
	for _, n := range cluster.Nodes() {
		if d.done[n.ID()] == 0 {
			t.Errorf("%s has had no place", n.ID())
		}
	}
}

// A lowered total holds for all after a lease, a raised one at once, and 0 for nobody. What is in
// use loses its place if it does not end in time.
func TestCapSet(t *testing.T) {
	t.Parallel()
	cluster := nodetest.Start(t, 3)
	var caps []*call.Cap
	for _, n := range cluster.Nodes() {
		caps = append(caps, startCaps(t, n).Cap("db"))
	}
	if err := caps[0].Set(t.Context(), 9); err != nil {
		t.Fatal(err)
	}
	var places []context.Context
	for i := range 9 {
		ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
		defer cancel()
		place, _, err := caps[i%3].Acquire(ctx)
		if err != nil {
			t.Fatal(err)
		}
		places = append(places, place)
	}
	goOn := func() (n int) {
		for _, p := range places {
			if p.Err() == nil {
				n++
			}
		}
		return n
	}
	began := time.Now()
	if err := caps[1].Set(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	wait.For(t, "the lowered total holds", func() bool { return goOn() <= 4 })
	t.Logf("after %v", time.Since(began).Round(time.Millisecond))
	for _, p := range places {
		if p.Err() != nil && context.Cause(p) != call.ErrPlaceLost {
			t.Errorf("%v", context.Cause(p))
		}
	}
	if err := caps[2].Set(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	wait.For(t, "there is no place", func() bool { return goOn() == 0 })
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, _, err := caps[0].Acquire(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("of a total of 0: %v", err)
	}
}

// One busy node has all of it soon, though others have had shares; and when they are busy they have
// theirs back.
func TestCapMoves(t *testing.T) {
	t.Parallel()
	const total = 20
	cluster := nodetest.Start(t, 4)
	d := newDownstream(total)
	all, stopAll := context.WithCancel(t.Context())
	defer stopAll()
	var caps []*call.Cap
	var wg sync.WaitGroup
	for _, n := range cluster.Nodes() {
		caps = append(caps, startCaps(t, n).Cap("db"))
	}
	if err := caps[0].Set(t.Context(), total); err != nil {
		t.Fatal(err)
	}
	nodes := cluster.Nodes()
	first, stop := context.WithCancel(all)
	for i, c := range caps[1:] {
		d.load(first, &wg, c, nodes[i+1].ID(), 10, 2*time.Millisecond)
	}
	wait.For(t, "three nodes are busy", func() bool { return d.used("") >= total-2 })
	stop()
	began := time.Now()
	d.load(all, &wg, caps[0], nodes[0].ID(), 40, 2*time.Millisecond)
	wait.For(t, "one node has all", func() bool { return caps[0].Stats().Share == total })
	t.Logf("one busy node has all after %v", time.Since(began).Round(time.Millisecond))
	began = time.Now()
	for i, c := range caps[1:] {
		d.load(all, &wg, c, nodes[i+1].ID(), 40, 2*time.Millisecond)
	}
	wait.For(t, "shares are even", func() bool {
		return !slices.ContainsFunc(caps, func(c *call.Cap) bool { s := c.Stats().Share; return s < 4 || s > 6 })
	}, func() string { return fmt.Sprint(caps[0].Stats(), caps[1].Stats(), caps[2].Stats(), caps[3].Stats()) })
	t.Logf("shares are even after %v", time.Since(began).Round(time.Millisecond))
	stopAll()
	wg.Wait()
	d.check(t)
}

// Calls of a method that is under a cap wait for a place, and end like those that were not let in.
func TestCapOfMethod(t *testing.T) {
	t.Parallel()
	cluster := nodetest.Start(t, 2)
	var meshes []*call.Mesh
	running, most := atomic.Int64{}, atomic.Int64{}
	for _, n := range cluster.Nodes() {
		m := openCaps(t, n, call.Options{Caps: map[string]string{"slow": "db"}})
		call.Handle(m, "slow", func(ctx context.Context, _ struct{}) (int, error) {
			k := running.Add(1)
			defer running.Add(-1)
			for old := most.Load(); k > old && !most.CompareAndSwap(old, k); old = most.Load() {
			}
			select {
			case <-time.After(5 * time.Millisecond):
			case <-ctx.Done():
			}
			return int(k), ctx.Err()
		})
		call.Handle(m, "free", func(context.Context, struct{}) (int, error) { return 1, nil })
		if err := m.Start(); err != nil {
			t.Fatal(err)
		}
		meshes = append(meshes, m)
	}
	_, err := call.Invoke[int](t.Context(), meshes[0].Node(cluster.Nodes()[1].ID()), "slow", struct{}{})
	if !errors.Is(err, call.ErrOverloaded) || call.MayHaveRun(err) || status.Code(err) != codes.ResourceExhausted {
		t.Errorf("before the cap is set: %v", err)
	}
	if err := meshes[0].Cap("db").Set(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
			defer cancel()
			if _, err := call.Invoke[int](ctx, meshes[i%2].Pool(call.Pool{}), "slow", struct{}{}); err != nil {
				t.Errorf("%v", err)
			}
			if _, err := call.Invoke[int](ctx, meshes[i%2].Pool(call.Pool{}), "free", struct{}{}); err != nil {
				t.Errorf("%v", err)
			}
		})
	}
	wg.Wait()
	if n := most.Load(); n > 3 || n < 2 {
		t.Errorf("%d at a time", n)
	}
}

// What has been set is seen by who asks afterwards, also where others asked just before.
func TestCapIsSetOnceSetReturns(t *testing.T) {
	t.Parallel()
	m := startCaps(t, nodetest.Alone(t))
	for i := range 30 {
		c := m.Cap(fmt.Sprintf("db-%d", i))
		ctx, stop := context.WithCancel(t.Context())
		var asking sync.WaitGroup
		for range 4 {
			asking.Go(func() {
				for ctx.Err() == nil {
					if _, release, err := c.Acquire(ctx); err == nil {
						release()
					}
				}
			})
		}
		if err := c.Init(ctx, 8); err != nil {
			t.Fatal(err)
		}
		_, release, err := c.Acquire(ctx)
		if err != nil {
			t.Errorf("cap %d: %v", i, err)
		} else {
			release()
		}
		stop()
		asking.Wait()
	}
}

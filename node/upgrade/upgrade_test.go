package upgrade_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/memory"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/nodetest"
	"github.com/musterhq/muster/node/upgrade"
)

// table is what the steps change: it refuses a row that is there.
type table struct {
	mu   sync.Mutex
	rows map[string]node.Term
	runs int
}

func (db *table) insert(row string) func(context.Context, node.Term) error {
	return func(_ context.Context, term node.Term) error {
		db.mu.Lock()
		defer db.mu.Unlock()
		db.runs++
		if _, ok := db.rows[row]; ok {
			return fmt.Errorf("duplicate row %s", row)
		}
		if db.rows == nil {
			db.rows = make(map[string]node.Term)
		}
		db.rows[row] = term
		return nil
	}
}

// run runs upgrade.Run on n until the test ends, or stop is called, which returns its error.
func run(t *testing.T, n upgrade.Node, l upgrade.Ledger, steps ...upgrade.Step) (r *upgrade.Runner, stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r = &upgrade.Runner{Node: n, Ledger: l, Steps: steps, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(wait.Patience):
			return errors.New("Run does not return")
		}
	})
	t.Cleanup(func() {
		if err := stop(); err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, node.ErrStopped) && !errors.As(err, new(*upgrade.OutdatedError)) {
			t.Errorf("Run returned %v", err)
		}
	})
	return r, stop
}

func open(t *testing.T, l upgrade.Ledger, name string, v upgrade.Version) {
	t.Helper()
	if err := upgrade.Wait(wait.Context(t), l, name, v); err != nil {
		t.Fatal(err)
	}
}

// All nodes start at once with a step that inserts a row.
func TestStepsRunOnceWhereAllStartAtOnce(t *testing.T) {
	t.Parallel()
	cluster := nodetest.Start(t, 5)
	rounds := 20
	if testing.Short() {
		rounds = 3
	}
	for round := range rounds {
		var db table
		name := fmt.Sprint("schema-", round)
		steps := []upgrade.Step{
			{Name: name, Version: "1.9", Run: db.insert("one")},
			{Name: name, Version: "1.10", Run: db.insert("two"), AfterAll: true},
			{Name: name, Version: "2", Run: db.insert("three")},
		}
		var gates sync.WaitGroup
		var stops []func() error
		for _, n := range cluster.Nodes() {
			_, stop := run(t, n, n.Store(), steps...)
			stops = append(stops, stop)
			gates.Go(func() {
				if err := upgrade.Wait(wait.Context(t), n.Store(), name, "2.0"); err != nil {
					t.Error(err)
				}
			})
		}
		gates.Wait()
		for _, stop := range stops {
			stop()
		}
		if db.runs != 3 || len(db.rows) != 3 {
			t.Fatalf("round %d: %d runs, rows %v", round, db.runs, db.rows)
		}
	}
}

// A step that fails fails every gate, on every node, and for those who come later; and nothing
// runs before somebody has decided.
func TestFailureReachesEveryGate(t *testing.T) {
	t.Parallel()
	cluster := nodetest.Start(t, 3)
	var runs atomic.Int32
	step := upgrade.Step{Name: "schema", Version: "1", Run: func(context.Context, node.Term) error {
		if runs.Add(1) == 1 {
			return errors.New("no space left")
		}
		return nil
	}}
	for _, n := range cluster.Nodes() {
		run(t, n, n.Store(), step)
	}
	for _, n := range append(cluster.Nodes(), cluster.Add()) {
		var failed *upgrade.FailedError
		err := upgrade.Wait(wait.Context(t), n.Store(), "schema", "1")
		if !errors.As(err, &failed) || failed.State != upgrade.Failed || !strings.Contains(err.Error(), "no space left") {
			t.Fatalf("%s: %v", n.ID(), err)
		}
	}
	cluster.Depose()
	l := cluster.Nodes()[0].Store()
	if err := upgrade.Retry(t.Context(), l, "schema", "2"); !errors.Is(err, driver.ErrConflict) {
		t.Errorf("a retry of what has not failed: %v", err)
	}
	if n := runs.Load(); n != 1 {
		t.Errorf("it ran %d times", n)
	}
	if err := upgrade.Retry(t.Context(), l, "schema", "1"); err != nil {
		t.Fatal(err)
	}
	open(t, l, "schema", "1.0")
	if n := runs.Load(); n != 2 {
		t.Errorf("it ran %d times", n)
	}
}

// blocking is a step that does not end in its first run before its context does, and for as long
// as its node is paused does not look at that either.
type blocking struct {
	runs    atomic.Int32
	began   chan string // the node that runs it
	release chan struct{}
	terms   sync.Map
}

func newBlocking() *blocking {
	return &blocking{began: make(chan string, 10), release: make(chan struct{})}
}

func (b *blocking) step(id string, restartable bool) upgrade.Step {
	return upgrade.Step{Name: "schema", Version: "1", Restartable: restartable, Run: func(ctx context.Context, term node.Term) error {
		n := b.runs.Add(1)
		b.terms.Store(term, n)
		b.began <- id
		if n == 1 {
			<-b.release
			return ctx.Err()
		}
		return nil
	}}
}

// The master is cut off in the middle of a step and goes on: the next one does not run it again,
// unless it may.
func TestMasterIsLostInTheMiddle(t *testing.T) {
	for _, restartable := range []bool{false, true} {
		t.Run(fmt.Sprintf("restartable=%v", restartable), func(t *testing.T) {
			t.Parallel()
			cluster := nodetest.Start(t, 3)
			b := newBlocking()
			for _, n := range cluster.Nodes() {
				run(t, n, n.Store(), b.step(n.ID(), restartable))
			}
			<-b.began
			master := cluster.Master()
			last, _ := master.Master()
			restore := cluster.CutOff(master)
			defer restore()
			next := cluster.MasterAbove(last.Term)
			l := next.Store()
			if restartable {
				open(t, l, "schema", "1")
				close(b.release)
				if n := b.runs.Load(); n != 2 {
					t.Errorf("it ran %d times", n)
				}
				return
			}
			var failed *upgrade.FailedError
			if err := upgrade.Wait(wait.Context(t), l, "schema", "1"); !errors.As(err, &failed) || failed.State != upgrade.Interrupted {
				t.Fatalf("the gate: %v", err)
			}
			if failed.NodeID != master.ID() || failed.Term != last.Term {
				t.Errorf("interrupted on %s in term %d, want %s and %d", failed.NodeID, failed.Term, master.ID(), last.Term)
			}
			close(b.release)
			restore()
			if err := upgrade.Resolve(t.Context(), l, "schema", "1"); err != nil {
				t.Fatal(err)
			}
			open(t, l, "schema", "1")
			if n := b.runs.Load(); n != 1 {
				t.Errorf("it ran %d times", n)
			}
		})
	}
}

// dying is a ledger of a process that is killed once it has written a record in a state, before
// it learns of that, or instead of writing it.
type dying struct {
	upgrade.Ledger
	state   string
	instead bool
	dead    atomic.Bool
	died    chan struct{}
}

func (d *dying) Get(ctx context.Context, key string) (driver.Record, error) {
	if d.dead.Load() {
		return driver.Record{}, driver.ErrClosed
	}
	return d.Ledger.Get(ctx, key)
}

func (d *dying) Set(ctx context.Context, key string, value []byte, prev driver.Revision) (driver.Revision, error) {
	if d.dead.Load() {
		return 0, driver.ErrClosed
	}
	dies := strings.Contains(string(value), `"state":"`+d.state+`"`)
	if dies && d.instead {
		d.dead.Store(true)
		close(d.died)
		return 0, driver.ErrClosed
	}
	rev, err := d.Ledger.Set(ctx, key, value, prev)
	if dies && err == nil {
		d.dead.Store(true)
		close(d.died)
		return 0, driver.ErrClosed
	}
	return rev, err
}

// The master dies between claim and run, between run and done, and after done.
func TestMasterDiesAroundTheStep(t *testing.T) {
	for _, c := range []struct {
		name, state string
		instead     bool
		restartable bool
		runs        int
		stuck       bool
	}{
		{name: "before the claim", state: "running", instead: true, runs: 1},
		{name: "between claim and run", state: "running", stuck: true, runs: 0},
		{name: "between claim and run, restartable", state: "running", restartable: true, runs: 1},
		{name: "between run and done", state: "done", instead: true, stuck: true, runs: 1},
		{name: "between run and done, restartable", state: "done", instead: true, restartable: true, runs: 2},
		{name: "after done", state: "done", runs: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cluster := nodetest.Start(t, 3)
			var runs atomic.Int32
			step := upgrade.Step{Name: "schema", Version: "1", Restartable: c.restartable,
				Run: func(context.Context, node.Term) error { runs.Add(1); return nil }}
			master := cluster.Master()
			d := &dying{Ledger: master.Store(), state: c.state, instead: c.instead, died: make(chan struct{})}
			run(t, master, d, step)
			<-d.died
			for _, n := range cluster.Nodes() {
				if n != master {
					run(t, n, n.Store(), step)
				}
			}
			cluster.Leave(master)
			l := cluster.Master().Store()
			err := upgrade.Wait(wait.Context(t), l, "schema", "1")
			if failed := (*upgrade.FailedError)(nil); c.stuck != errors.As(err, &failed) || !c.stuck && err != nil {
				t.Errorf("the gate: %v", err)
			}
			if n := int(runs.Load()); n != c.runs {
				t.Errorf("it ran %d times, want %d", n, c.runs)
			}
		})
	}
}

// Old nodes, the master among them, make way for a new one that has a step which they lack.
func TestMasterMakesWayForOneThatHasTheStep(t *testing.T) {
	t.Parallel()
	cluster := nodetest.Start(t, 2)
	var db table
	first := upgrade.Step{Name: "schema", Version: "1.1", Run: db.insert("one")}
	for _, n := range cluster.Nodes() {
		run(t, n, n.Store(), first)
	}
	open(t, cluster.Nodes()[0].Store(), "schema", "1.1")
	newer := cluster.Add()
	second := upgrade.Step{Name: "schema", Version: "1.2", Run: db.insert("two")}
	run(t, newer, newer.Store(), first, second)
	open(t, newer.Store(), "schema", "1.2")
	if master := cluster.Master(); db.rows["two"] == 0 {
		t.Errorf("rows %v, master %s", db.rows, master.ID())
	}
}

// A master that lacks a step of another node runs its own to their end before it makes way.
func TestMasterEndsItsStepBeforeItMakesWay(t *testing.T) {
	t.Parallel()
	cluster := nodetest.Start(t, 2)
	master := cluster.Master()
	var other *node.Node
	for _, n := range cluster.Nodes() {
		if n != master {
			other = n
		}
	}
	var db table
	begun := make(chan struct{})
	var runs atomic.Int32
	run(t, master, master.Store(), upgrade.Step{Name: "schema", Version: "1", Run: func(ctx context.Context, _ node.Term) error {
		if runs.Add(1) == 1 {
			close(begun)
		}
		select {
		case <-ctx.Done(): // its node makes way
			return ctx.Err()
		case <-time.After(4 * time.Second): // it takes its time
			return nil
		}
	}})
	<-begun
	run(t, other, other.Store(), upgrade.Step{Name: "index", Version: "1", Run: db.insert("index")})
	open(t, other.Store(), "schema", "1")
	open(t, other.Store(), "index", "1")
	if n := runs.Load(); n != 1 || db.rows["index"] == 0 {
		t.Errorf("the step ran %d times, rows %v", n, db.rows)
	}
}

// A step waits until all that are in sight have it, says for which nodes, and does not wait for
// one that is gone. One that comes later without it is refused.
func TestAfterAll(t *testing.T) {
	t.Parallel()
	cluster := nodetest.Start(t, 2)
	old := cluster.Add()
	var db table
	first := upgrade.Step{Name: "schema", Version: "1", Run: db.insert("one")}
	second := upgrade.Step{Name: "schema", Version: "2", Run: db.insert("two"), AfterAll: true}
	run(t, old, old.Store(), first)
	var runners []*upgrade.Runner
	for _, n := range cluster.Nodes()[:2] {
		r, _ := run(t, n, n.Store(), first, second)
		runners = append(runners, r)
	}
	wait.For(t, "the master to wait for the old node", func() bool {
		for _, r := range runners {
			if strings.Contains(r.Waiting(), "these lack: "+old.ID()) {
				return true
			}
		}
		return false
	})
	if db.rows["two"] != 0 {
		t.Error("it ran before all had it")
	}
	cluster.Leave(old)
	l := cluster.Nodes()[0].Store()
	open(t, l, "schema", "2")

	late := cluster.Add()
	err := upgrade.Run(wait.Context(t), late, late.Store(), first)
	if outdated := (*upgrade.OutdatedError)(nil); !errors.As(err, &outdated) {
		t.Errorf("a late and old node: %v", err)
	}
}

// A record that cannot be read, as one of a later version, hides no other where all are listed.
func TestUnreadableRecordHidesNoOther(t *testing.T) {
	l := nodetest.Start(t, 1).Master().Store()
	for name, value := range map[string]string{
		"a-later": `{"what":"1.0","state":"postponed"}`, "b-garbage": "{" + strings.Repeat("x", 10000), "c-failed": `{"what":"1.0","state":"failed"}`,
		"d-none": `{"what":"none","state":"done"}`,
	} {
		if _, err := l.Set(t.Context(), "upgrade/steps/"+name, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	all, err := upgrade.Statuses(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	for watched, err := range upgrade.Watch(t.Context(), l) {
		if err != nil || !slices.Equal(watched, all) {
			t.Errorf("watched: %+v, %v", watched, err)
		}
		break
	}
	for i, want := range []upgrade.Status{
		{Name: "a-later", State: upgrade.Unreadable}, {Name: "b-garbage", State: upgrade.Unreadable},
		{Name: "c-failed", State: upgrade.Failed}, {Name: "d-none", State: upgrade.Unreadable},
	} {
		unreadable := want.State == upgrade.Unreadable
		if len(all) != 4 || all[i].Name != want.Name || all[i].State != want.State || !all[i].Stuck() ||
			unreadable && (all[i].Error == "" || len(all[i].Error) > 256) {
			t.Fatalf("%d: %+v", i, all)
		}
	}
	if _, err := upgrade.Statuses(t.Context(), l, "c-failed", "b-garbage"); !errors.Is(err, driver.ErrInvalid) {
		t.Errorf("asked for by name: %v", err)
	}
}

func TestUnreadableRecord(t *testing.T) {
	l := nodetest.Start(t, 1).Master().Store()
	if _, err := l.Set(t.Context(), "upgrade/steps/schema", []byte("{"), 0); err != nil {
		t.Fatal(err)
	}
	if err := upgrade.Wait(wait.Context(t), l, "schema", "1"); !errors.Is(err, driver.ErrInvalid) {
		t.Errorf("the gate: %v", err)
	}
	if err := upgrade.Resolve(t.Context(), l, "schema", "1"); err != nil {
		t.Fatal(err)
	}
	open(t, l, "schema", "1")
}

// Without a cluster the process is its own master.
func TestAlone(t *testing.T) {
	d := memory.New().Driver()
	a, err := d.(driver.Authorizer).OpenAuthority(t.Context(), driver.AuthorityOptions{
		Cluster: "alone", Self: driver.Holder{NodeID: "a", InstanceID: "a1", Addr: "127.0.0.1:1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close(context.Background())
	l := a.(driver.Store)
	var db table
	for range 2 { // the program is started twice
		_, stop := run(t, nil, l, upgrade.Step{Name: "schema", Version: "1", AfterAll: true, Run: db.insert("one")})
		open(t, l, "schema", "1")
		stop()
	}
	if db.runs != 1 {
		t.Errorf("it ran %d times", db.runs)
	}
	all, err := upgrade.Statuses(t.Context(), l)
	if err != nil || len(all) != 1 || all[0].Name != "schema" || all[0].State != upgrade.Done || all[0].Runs != 1 {
		t.Errorf("%+v, %v", all, err)
	}
}

// transacting is a ledger in the database that the steps change: whatever does not end is undone.
type transacting struct{ upgrade.Ledger }

func (transacting) Transact(ctx context.Context, f func(context.Context) error) error { return f(ctx) }

// A step that was interrupted in its transaction runs again, so that its gate waits, although the
// step is not said to be restartable.
func TestInterruptedTransaction(t *testing.T) {
	l := transacting{nodetest.Start(t, 1).Master().Store()}
	began := make(chan struct{})
	_, stop := run(t, nil, l, upgrade.Step{Name: "schema", Version: "1", Run: func(ctx context.Context, _ node.Term) error {
		close(began)
		<-ctx.Done()
		return ctx.Err()
	}})
	<-began
	stop()
	all, err := upgrade.Statuses(t.Context(), l, "schema")
	if err != nil || len(all) != 1 || all[0].State != upgrade.Interrupted || !all[0].Restartable {
		t.Fatalf("%+v, %v", all, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	var failed *upgrade.FailedError
	if err := upgrade.Wait(ended, l, "schema", "1"); err == nil || errors.As(err, &failed) {
		t.Errorf("the gate: %v", err)
	}
	run(t, nil, l, upgrade.Step{Name: "schema", Version: "1", Run: func(context.Context, node.Term) error { return nil }})
	open(t, l, "schema", "1")
}

func TestWhatCannotBe(t *testing.T) {
	ok := func(context.Context, node.Term) error { return nil }
	for _, steps := range [][]upgrade.Step{
		{{Name: "", Version: "1", Run: ok}},
		{{Name: "a/b", Version: "1", Run: ok}},
		{{Name: "..", Version: "1", Run: ok}},
		{{Name: "a", Version: "v1", Run: ok}},
		{{Name: "a", Version: "1..2", Run: ok}},
		{{Name: "a", Version: "", Run: ok}},
		{{Name: "a", Version: "1"}},
		{{Name: "a", Version: "1.10", Run: ok}, {Name: "a", Version: "1.9", Run: ok}},
		{{Name: "a", Version: "1", Run: ok}, {Name: "a", Version: "1.0", Run: ok}},
	} {
		if err := upgrade.Run(t.Context(), nil, nil, steps...); !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("%+v: %v", steps, err)
		}
	}
}

func TestVersionCompare(t *testing.T) {
	for _, c := range []struct {
		v, w upgrade.Version
		want int
	}{
		{"1.2", "1.2.0", 0}, {"1.2", "1.10", -1}, {"2", "1.99", 1}, {"01", "1", 0},
		{"2026.11.30", "2026.2.1", 1}, {"99999999999999999999999", "100000000000000000000000", -1},
	} {
		if got := c.v.Compare(c.w); got != c.want {
			t.Errorf("%s and %s: %d, want %d", c.v, c.w, got, c.want)
		}
		if got := c.w.Compare(c.v); got != -c.want {
			t.Errorf("%s and %s: %d, want %d", c.w, c.v, got, -c.want)
		}
	}
}

// How long after the end of a step fifty gates open, on five nodes.
func BenchmarkGates(b *testing.B) {
	cluster := nodetest.Start(b, 5)
	var mu sync.Mutex
	var took []time.Duration
	round := 0
	for b.Loop() {
		round++
		name := fmt.Sprint("schema-", round)
		var gates, waiting sync.WaitGroup
		var done time.Time
		for _, n := range cluster.Nodes() {
			for range 10 {
				waiting.Add(1)
				gates.Go(func() {
					waiting.Done()
					if err := upgrade.Wait(b.Context(), n.Store(), name, "1"); err != nil {
						b.Error(err)
						return
					}
					mu.Lock()
					defer mu.Unlock()
					took = append(took, time.Since(done))
				})
			}
		}
		waiting.Wait()
		time.Sleep(50 * time.Millisecond) // until all wait for the change
		mu.Lock()
		done = time.Now()
		if err := upgrade.ResolveLost(b.Context(), cluster.Nodes()[0].Store(), name, "1"); err != nil {
			b.Fatal(err)
		}
		mu.Unlock()
		gates.Wait()
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100])/1e6, "p99-ms")
	b.ReportMetric(float64(took[len(took)-1])/1e6, "max-ms")
}

// A step that is added runs, mastership goes to the node that has it, and a node whose step was
// removed leaves it to others.
func TestAddedSteps(t *testing.T) {
	t.Parallel()
	cluster := nodetest.Start(t, 3)
	nodes := cluster.Nodes()
	var runners []*upgrade.Runner
	for _, n := range nodes {
		r, _ := run(t, n, n.Store())
		runners = append(runners, r)
	}
	var db table
	for round := range 3 {
		// Each node in turn is the only one that has the step, so that it has to become master.
		name := fmt.Sprint("schema-", round)
		step := upgrade.Step{Name: name, Version: "1", Run: db.insert(name)}
		lost, err := runners[(round+1)%3].Add(upgrade.Step{Name: name, Version: "1", AfterAll: true, Run: db.insert("never")})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := runners[(round+1)%3].Add(step); !errors.Is(err, driver.ErrConflict) {
			t.Errorf("a second step of the name: %v", err)
		}
		wait.For(t, "the step is announced", func() bool {
			r, err := nodes[0].Store().Get(t.Context(), "upgrade/nodes/"+name)
			return err == nil && strings.Contains(string(r.Value), nodes[(round+1)%3].InstanceID())
		})
		lost()
		lost()
		remove, err := runners[round].Add(step)
		if err != nil {
			t.Fatal(err)
		}
		open(t, nodes[2].Store(), name, "1")
		remove()
		wait.For(t, "the announcements are taken back", func() bool {
			r, err := nodes[0].Store().Get(t.Context(), "upgrade/nodes/"+name)
			return err == nil && !strings.Contains(string(r.Value), "node_id")
		})
	}
	if db.runs != 3 || db.rows["never"] != 0 {
		t.Errorf("%d runs, rows %v", db.runs, db.rows)
	}
}

// A step may say that it was interrupted although the mastership goes on, and runs again if it is
// restartable.
func TestInterruptedByItself(t *testing.T) {
	t.Parallel()
	n := nodetest.Start(t, 1).Nodes()[0]
	var runs atomic.Int32
	interrupted := func(context.Context, node.Term) error {
		if runs.Add(1)%2 == 1 {
			return fmt.Errorf("%w: the process is gone", upgrade.ErrInterrupted)
		}
		return nil
	}
	run(t, n, n.Store(), upgrade.Step{Name: "once", Version: "1", Run: interrupted})
	var failed *upgrade.FailedError
	if err := upgrade.Wait(wait.Context(t), n.Store(), "once", "1"); !errors.As(err, &failed) || failed.State != upgrade.Interrupted {
		t.Errorf("it was interrupted: %v", err)
	}
	runs.Store(0)
	run(t, n, n.Store(), upgrade.Step{Name: "again", Version: "1", Run: interrupted, Restartable: true})
	open(t, n.Store(), "again", "1")
	if got := runs.Load(); got != 2 {
		t.Errorf("it ran %d times", got)
	}
}

// A step that is interrupted again and again, or never begins, is not claimed in a loop, and counts
// only what has begun.
func TestInterruptedAgainAndAgain(t *testing.T) {
	t.Parallel()
	n := nodetest.Start(t, 1).Nodes()[0]
	for name, err := range map[string]error{"interrupted": upgrade.ErrInterrupted, "not-begun": upgrade.ErrNotBegun} {
		var runs atomic.Int32
		run(t, n, n.Store(), upgrade.Step{Name: name, Version: "1", Restartable: true, Run: func(context.Context, node.Term) error {
			runs.Add(1)
			return err
		}})
		wait.For(t, "it runs again", func() bool { return runs.Load() > 1 })
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		if wait.Until(ctx, func() bool { return runs.Load() > 50 }) {
			t.Errorf("%s: it runs in a loop", name)
		}
		all, failed := upgrade.Statuses(t.Context(), n.Store(), name)
		if failed != nil || len(all) != 1 || err == upgrade.ErrNotBegun && all[0].Runs > 1 {
			t.Errorf("%s: %+v, %v", name, all, failed)
		}
	}
}

// removing is the ledger of a node whose step is removed while its record is looked at.
type removing struct {
	upgrade.Ledger
	key string
	now func()
}

func (r removing) Get(ctx context.Context, key string) (driver.Record, error) {
	record, err := r.Ledger.Get(ctx, key)
	if key == r.key {
		r.now()
	}
	return record, err
}

// What is announced of a step that is removed at that very moment is taken back.
func TestStepThatIsRemovedWhileItIsAnnounced(t *testing.T) {
	t.Parallel()
	cluster := nodetest.Start(t, 2)
	other := cluster.Nodes()[0]
	if other == cluster.Master() {
		other = cluster.Nodes()[1]
	}
	var remove atomic.Pointer[func()]
	gone := make(chan struct{})
	hangUp := sync.OnceFunc(func() { (*remove.Load())(); close(gone) })
	l := removing{other.Store(), "upgrade/steps/brief", func() {
		if remove.Load() != nil {
			hangUp()
		}
	}}
	r, _ := run(t, other, l)
	taken, err := r.Add(upgrade.Step{Name: "brief", Version: "1", Run: func(context.Context, node.Term) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	remove.Store(&taken)
	wait.For(t, "the step to be removed", func() bool {
		select {
		case <-gone:
			return true
		default:
			return false
		}
	})
	wait.For(t, "nothing to be announced", func() bool {
		record, err := other.Store().Get(t.Context(), "upgrade/nodes/brief")
		return errors.Is(err, driver.ErrNotFound) || err == nil && !strings.Contains(string(record.Value), other.InstanceID())
	})
}

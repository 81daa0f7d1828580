package providertest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/cron"
	"github.com/musterhq/muster/node/upgrade"
)

// workNodes is of how many nodes Work makes a cluster.
const workNodes = 3

// rows are what the steps and jobs of Work do, as a table with a unique key would have it.
type rows struct {
	mu   sync.Mutex
	seen map[string]node.Term
}

// insert fails the test for a row that there is, unless it is again, of a later term.
func (r *rows) insert(t testing.TB, row string, term node.Term, again bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if before, twice := r.seen[row]; twice && !(again && term > before) {
		t.Errorf("%s was done in term %d, and is in term %d", row, before, term)
	}
	r.seen[row] = term
}

func (r *rows) count(has func(row string) bool) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for row := range r.seen {
		if has(row) {
			n++
		}
	}
	return n
}

// Work runs steps and jobs (node/upgrade, node/cron) on a cluster of nodes over real servers, with
// the Store of the provider, while one master follows another. open returns a new driver for each
// node, of the same servers, and Work closes it.
func Work(t testing.TB, provider string, open func() (driver.Driver, error)) {
	ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
	defer cancel()
	var nodes []*node.Node
	for i := range workNodes {
		d, err := open()
		Must(t, "open a driver", err)
		registry := discovery.New(provider, d, discovery.Options{})
		n, err := node.Start(ctx, node.Config{
			Cluster: "work", NodeID: fmt.Sprintf("n%d", i+1), Bind: "127.0.0.1:0", DataDir: t.TempDir(),
			Registries: []*discovery.Registry{registry},
			Bootstrap:  node.Bootstrap{Expect: workNodes},
			Mastership: node.Mastership{TTL: 2 * time.Second},
			Logger:     slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
		})
		Must(t, "start a node", err)
		nodes = append(nodes, n)
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), wait.Patience)
			defer cancel()
			if err := errors.Join(n.Leave(ctx), registry.Close()); err != nil {
				t.Errorf("leave: %v", err)
			}
		})
	}
	r := rows{seen: make(map[string]node.Term)}
	began := make(chan node.Term, 10)
	steps := []upgrade.Step{
		{Name: "schema", Version: "1.1", Run: func(_ context.Context, term node.Term) error {
			r.insert(t, "schema 1.1", term, false)
			return nil
		}},
		{Name: "schema", Version: "1.2", Restartable: true, Run: func(ctx context.Context, term node.Term) error {
			r.insert(t, "schema 1.2", term, true)
			began <- term
			if term > 1 {
				return nil
			}
			<-ctx.Done() // until another node is master
			return context.Cause(ctx)
		}},
		{Name: "schema", Version: "1.3", Run: func(context.Context, node.Term) error { return errors.New("there is no space left") }},
	}
	fire := func(_ context.Context, f cron.Fire) error {
		r.insert(t, f.Job+" "+f.Scheduled.Format(time.RFC3339Nano), f.Term, false)
		_, err := fmt.Fprintln(f.Output, "done")
		return err
	}
	fires := func(job string) int {
		return r.count(func(row string) bool { return len(row) > len(job) && row[:len(job)+1] == job+" " })
	}
	working, stop := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer stop()
	for _, n := range nodes {
		work.Go(func() { _ = upgrade.Run(working, n, n.Store(), steps...) }) // it ends with the context
		work.Go(func() {
			s := cron.Scheduler{Node: n, Store: n.Store(), Handlers: map[string]func(context.Context, cron.Fire) error{"fire": fire}}
			_ = s.Run(working, cron.Job{Name: "often", Schedule: cron.Every(200 * time.Millisecond), Run: fire})
		})
	}
	all := func(what string, do func(n *node.Node) error) {
		t.Helper()
		for _, n := range nodes {
			if err := do(n); err != nil {
				t.Fatalf("%s: %s: %v", n.ID(), what, err)
			}
		}
	}
	all("the first gate", func(n *node.Node) error { return upgrade.Wait(ctx, n.Store(), "schema", "1.1") })
	wait.For(t, "jobs run", func() bool { return fires("often") >= 3 })
	if term := <-began; term != 1 {
		t.Errorf("the step began in term %d first", term)
	}
	wait.For(t, "the master has resigned", func() bool {
		for _, n := range nodes {
			if _, err := n.Check(); err == nil {
				return n.Resign(ctx) == nil
			}
		}
		return false
	})
	all("the gate of a step that was interrupted", func(n *node.Node) error { return upgrade.Wait(ctx, n.Store(), "schema", "1.2") })
	all("the gate of a step that fails", func(n *node.Node) error {
		failed := (*upgrade.FailedError)(nil)
		if err := upgrade.Wait(ctx, n.Store(), "schema", "1.3"); !errors.As(err, &failed) || failed.State != upgrade.Failed {
			return fmt.Errorf("it returns %w", err)
		}
		return nil
	})
	Must(t, "resolve", upgrade.Resolve(ctx, nodes[0].Store(), "schema", "1.3"))
	all("the gate of a step that was resolved", func(n *node.Node) error { return upgrade.Wait(ctx, n.Store(), "schema", "1.3") })

	before := fires("often")
	Must(t, "add a job", cron.Add(ctx, nodes[1].Store(), cron.Spec{Name: "added", Schedule: "@every 1s", Handler: "fire"}))
	Must(t, "trigger it", cron.Trigger(ctx, nodes[2].Store(), "added"))
	wait.For(t, "all jobs run on the next master", func() bool { return fires("often") >= before+3 && fires("added") > 0 })
	var seq uint64
	wait.For(t, "the run is recorded", func() bool {
		jobs, err := cron.List(ctx, nodes[0].Store())
		for _, j := range jobs {
			for _, run := range j.Runs {
				if j.Name == "added" && run.State == cron.Done {
					seq = run.Seq
				}
			}
		}
		return err == nil && seq > 0
	})
	if text, err := cron.Output(ctx, nodes[0].Store(), "added", seq); err != nil || string(text) != "done\n" {
		t.Errorf("the output of a run is %q, %v", text, err)
	}
	Must(t, "remove the job", cron.Remove(ctx, nodes[0].Store(), "added"))
}

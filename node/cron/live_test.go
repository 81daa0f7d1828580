package cron_test

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/cron"
	"github.com/musterhq/muster/node/mastership"
)

// run starts a scheduler until the test ends.
func (w *world) run(s *cron.Scheduler, jobs ...cron.Job) *cron.Scheduler {
	ctx, cancel := context.WithCancel(w.t.Context())
	ended := make(chan struct{})
	if s.Store == nil {
		s.Store = w.s
	}
	go func() { defer close(ended); s.Run(ctx, jobs...) }()
	w.t.Cleanup(func() { cancel(); <-ended })
	return s
}

func jobNamed(t *testing.T, s *cron.Scheduler, name string) cron.NodeStatus {
	t.Helper()
	for _, j := range s.Jobs() {
		if j.Name == name {
			return j
		}
	}
	t.Fatalf("no job %s among %+v", name, s.Jobs())
	return cron.NodeStatus{}
}

// Who asks for the jobs may do so before Run has begun; the race detector sees the rest.
func TestJobsWhileRunBegins(t *testing.T) {
	s := &cron.Scheduler{Store: openStore(t)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); s.Run(ctx) }()
	for range 100 {
		if jobs := s.Jobs(); len(jobs) > 0 {
			t.Errorf("jobs: %+v", jobs)
		}
	}
	cancel()
	<-ended
}

// What a node knows of its jobs: the master of all, the others of those that each node runs.
func TestJobsOfANode(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var works atomic.Bool
		jobs := func() []cron.Job {
			return []cron.Job{
				{Name: "hourly", Schedule: cron.Every(time.Hour), Run: func(_ context.Context, f cron.Fire) error {
					if !works.Load() {
						return errors.New("no disk")
					}
					time.Sleep(time.Minute)
					return nil
				}},
				{Name: "each", EachNode: true, Schedule: cron.Every(time.Hour), Run: func(_ context.Context, f cron.Fire) error {
					fmt.Fprintf(f.Output, "at %s", f.Scheduled.Format(clock))
					return nil
				}},
			}
		}
		a, b := newMember("a"), newMember("b")
		sa, sb := w.run(&cron.Scheduler{Node: a}, jobs()...), w.run(&cron.Scheduler{Node: b}, jobs()...)
		a.terms <- 1
		w.sleep(time.Hour + time.Second)
		got := jobNamed(t, sa, "hourly")
		if got.Failed != 1 || got.Done != 0 || got.Last == nil || got.Last.State != cron.Failed || got.Last.Error != "no disk" ||
			got.Schedule != "@every 1h0m0s" || !got.Next.Equal(time.Date(2000, 1, 1, 2, 0, 0, 0, time.UTC)) {
			t.Errorf("on the master: %+v", got)
		}
		if got := jobNamed(t, sb, "hourly"); got.Failed != 0 || got.Last != nil || got.Next.IsZero() {
			t.Errorf("on the other: %+v", got)
		}
		for _, s := range []*cron.Scheduler{sa, sb} {
			if got := jobNamed(t, s, "each"); got.Done != 1 || got.Last == nil || got.Last.State != cron.Done || !got.EachNode {
				t.Errorf("of each node: %+v", got)
			}
			runs := s.Runs("each")
			if len(runs) != 1 || runs[0].State != cron.Done {
				t.Fatalf("its runs: %+v", runs)
			}
			if out, err := s.Output("each", runs[0].Seq); err != nil || string(out) != "at 01:00:00" {
				t.Errorf("its output: %q, %v", out, err)
			}
			if _, err := s.Output("each", 9); !errors.Is(err, driver.ErrNotFound) {
				t.Errorf("the output of a run that was not: %v", err)
			}
		}
		// Another master knows of the failure, and this one forgets it.
		a.terms <- 0
		b.terms <- 2
		w.sleep(time.Minute)
		if got := jobNamed(t, sb, "hourly"); got.Last == nil || got.Last.State != cron.Failed || got.Last.NodeID != "a" {
			t.Errorf("on the next master: %+v", got)
		}
		if got := jobNamed(t, sa, "hourly"); got.Last != nil {
			t.Errorf("on the one before: %+v", got)
		}
		works.Store(true)
		w.sleep(time.Hour - time.Minute)
		if got := jobNamed(t, sb, "hourly"); got.Running != 1 {
			t.Errorf("while it runs: %+v", got)
		}
		w.sleep(time.Minute + time.Second)
		if got := jobNamed(t, sb, "hourly"); got.Running != 0 || got.Done != 1 || got.Last.State != cron.Done {
			t.Errorf("afterwards: %+v", got)
		}
		if err := cron.Pause(t.Context(), w.s, "hourly"); err != nil {
			t.Fatal(err)
		}
		w.sleep(time.Second)
		if got := jobNamed(t, sa, "hourly"); !got.Paused || !got.Next.IsZero() {
			t.Errorf("paused: %+v", got)
		}
	})
}

// unauthorized is a node that is never master.
type unauthorized struct{ *member }

func (unauthorized) WhileMaster(context.Context, func(context.Context, node.Term) error, ...mastership.WhileMasterOption) error {
	return node.ErrNoAuthority
}

// A node that is never master runs the jobs of each node.
func TestJobsOfEachNodeWithoutAnAuthority(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var j journal
		w.run(&cron.Scheduler{Node: unauthorized{newMember("a")}}, cron.Job{Name: "each", EachNode: true, Schedule: cron.Every(time.Hour), Run: j.run})
		w.sleep(2*time.Hour + time.Second)
		w.want("fires", j.times(clock, time.UTC), "01:00:00", "02:00:00")
	})
}

// What the store says is run only if the node permits it, and as the node says.
func TestPermit(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var j journal
		took := make(chan time.Duration, 1)
		slow := func(ctx context.Context, _ cron.Fire) error {
			start := time.Now()
			<-ctx.Done()
			took <- time.Since(start)
			return ctx.Err()
		}
		s := w.run(&cron.Scheduler{
			Handlers: map[string]func(context.Context, cron.Fire) error{"report": j.run, "slow": slow},
			Permit: func(s *cron.Spec) error {
				s.Timeout = time.Minute
				if len(s.Args) > 0 {
					return errors.New("it has arguments")
				}
				return nil
			},
		})
		w.put("cron/jobs/good", `{"spec":{"schedule":"@hourly","handler":"report"}}`)
		w.put("cron/jobs/bad", `{"spec":{"schedule":"@hourly","handler":"report","args":["--rm"]}}`)
		w.put("cron/jobs/slow", `{"spec":{"schedule":"@hourly","handler":"slow","timeout":600000000000}}`)
		w.put("cron/jobs/worse", `{"spec":{"schedule":"@hourly","handler":"shell"}}`)
		w.put("cron/jobs/worst", `{"spec":{"schedule":"@hourly","handler":"`+strings.Repeat("x", 100_000)+`"}}`)
		w.sleep(time.Hour + 2*time.Minute)
		select {
		case d := <-took:
			if d != time.Minute {
				t.Errorf("ended after %v", d)
			}
		default:
			t.Error("it still runs, or has not run")
		}
		if len(j.fires) != 1 || j.fires[0].Job != "good" {
			t.Errorf("fires: %+v", j.fires)
		}
		if got := jobNamed(t, s, "bad"); got.Problem != "it has arguments" {
			t.Errorf("what is not permitted: %+v", got)
		}
		if got := jobNamed(t, s, "worst"); got.Problem == "" || len(got.Problem) > 1000 {
			t.Errorf("a problem of %d bytes", len(got.Problem))
		}
	})
}

// The last 64 KiB are kept, whatever they are, and what somebody else wrote as an output does no
// harm.
func TestOutputs(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		random := make([]byte, cron.MaxOutput+1000)
		for i := range random {
			random[i] = byte(rand.Uint32())
		}
		texts := [][]byte{random, []byte(strings.Repeat("all is well\n", 100_000)), []byte("short")}
		n := 0
		w.run(&cron.Scheduler{}, cron.Job{Name: "loud", Schedule: cron.Every(time.Hour), Run: func(_ context.Context, f cron.Fire) error {
			f.Output.Write(texts[n])
			n++
			return nil
		}})
		w.sleep(3*time.Hour + time.Second)
		for i, text := range texts {
			want := text[max(0, len(text)-cron.MaxOutput):]
			if got, err := cron.Output(t.Context(), w.s, "loud", uint64(i+1)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("run %d: %d bytes, want %d, %v", i+1, len(got), len(want), err)
			}
		}
		if r, err := w.s.Get(t.Context(), "cron/output/loud/2"); err != nil || len(r.Value) > 4096 {
			t.Errorf("text takes %d bytes, %v", len(r.Value), err)
		}
		var bomb bytes.Buffer
		z, _ := flate.NewWriter(&bomb, flate.BestCompression)
		z.Write(make([]byte, 100<<20))
		z.Close()
		w.put("cron/output/loud/1", `{"seq":1,"deflated":"`+base64.StdEncoding.EncodeToString(bomb.Bytes())+`"}`)
		if got, err := cron.Output(t.Context(), w.s, "loud", 1); err != nil || len(got) > cron.MaxOutput {
			t.Errorf("a bomb: %d bytes, %v", len(got), err)
		}
		w.put("cron/output/loud/1", `{"seq":1,"deflated":"AAAA"}`)
		if _, err := cron.Output(t.Context(), w.s, "loud", 1); !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("what is not deflated: %v", err)
		}
	})
}

// There is a bound to what is added.
func TestMaxAdded(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		spec := cron.Spec{Schedule: "@hourly", Handler: "h"}
		for i := range cron.MaxAdded {
			w.put(fmt.Sprintf("cron/jobs/%d", i), `{}`)
		}
		spec.Name = "more"
		if err := cron.Add(t.Context(), w.s, spec); !errors.Is(err, driver.ErrConflict) {
			t.Errorf("one more: %v", err)
		}
		if err := cron.Remove(t.Context(), w.s, "0"); err != nil {
			t.Fatal(err)
		}
		if err := cron.Add(t.Context(), w.s, spec); err != nil {
			t.Errorf("after one was removed: %v", err)
		}
	})
}

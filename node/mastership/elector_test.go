package mastership

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
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/internal/testing/wait"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ttl = 5 * time.Second

// recorder keeps what functions of WhileMaster saw, in order.
type recorder struct {
	mu    sync.Mutex
	lines []string
}

func (r *recorder) add(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, fmt.Sprintf(format, args...))
}

func (r *recorder) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.lines...)
}

func TestWhileMasterRunsOncePerTerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := run(t, newFakeStore(newFakeClock(), ttl), "a")
		var r recorder
		ctx, cancel := context.WithCancel(t.Context())
		returned := make(chan error, 1)
		go func() {
			returned <- e.WhileMaster(ctx, func(ctx context.Context, term driver.Term) error {
				token, ok := TokenFrom(ctx)
				r.add("begin %d: token %d %v %v, master %v", term, token.Term, ok, token.Check(), e.IsMaster())
				<-ctx.Done()
				r.add("end %d: %v, master %v, token %v", term, context.Cause(ctx), e.IsMaster(), token.Check() != nil)
				return ctx.Err() // counts as nothing to complain of
			})
		}()
		wait.Virtual(t, "master", time.Second, e.IsMaster)
		if err := e.Resign(t.Context()); err != nil {
			t.Fatal(err)
		}
		if e.IsMaster() {
			t.Fatal("master right after Resign")
		}
		cool := wait.Virtual(t, "master again", 5*time.Second, e.IsMaster)
		if cool < 2*time.Second {
			t.Errorf("master again after %v, within the cooldown", cool)
		}
		synctest.Wait()
		cancel()
		if err := <-returned; !errors.Is(err, context.Canceled) {
			t.Errorf("WhileMaster = %v, want context.Canceled", err)
		}
		want := []string{
			"begin 1: token 1 true <nil>, master true",
			"end 1: mastership ended: term 1: resigned, master false, token true",
			"begin 2: token 2 true <nil>, master true",
			"end 2: context canceled, master true, token false",
		}
		if diff := cmp.Diff(want, r.all()); diff != "" {
			t.Error(diff)
		}
	})
}

// A function that fails ends the mastership, so that another node gets it.
func TestWhileMasterFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore(newFakeClock(), ttl)
		a := run(t, s, "a")
		wait.Virtual(t, "a is master", time.Second, a.IsMaster)
		b := run(t, s, "b")
		broken := errors.New("broken")
		n := 0
		fail := func(context.Context, driver.Term) error { n++; return broken }
		if err := a.WhileMaster(t.Context(), fail); err != broken {
			t.Errorf("WhileMaster = %v, want %v", err, broken)
		}
		if a.IsMaster() {
			t.Error("the node whose function has failed is master when WhileMaster returns")
		}
		b.awaitTerm(t, 2)
		if last := a.lastEvent(t); last.Kind != Ended || last.Term != 1 || last.Reason != ReasonFailed {
			t.Errorf("last event %+v, want the end of term 1 as failed", last)
		}
		// Alone it comes back after the cooldown, and a function that is there then works.
		_ = b.stop()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		err := a.WhileMaster(ctx, func(context.Context, driver.Term) error { n++; return nil })
		if !errors.Is(err, context.DeadlineExceeded) || n != 2 {
			t.Errorf("WhileMaster = %v after %d calls, want the deadline after one more than one", err, n)
		}
		_ = a.stop()
		if err := a.WhileMaster(t.Context(), func(context.Context, driver.Term) error { return nil }); err != ErrStopped {
			t.Errorf("WhileMaster after Run = %v, want ErrStopped", err)
		}
	})
}

// With KeepOnError the other functions go on.
func TestWhileMasterKeepsOnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := run(t, newFakeStore(newFakeClock(), ttl), "a")
		wait.Virtual(t, "a is master", time.Second, a.IsMaster)
		token, _ := a.Check()
		broken := errors.New("broken")
		err := a.WhileMaster(t.Context(), func(context.Context, driver.Term) error { return broken }, KeepOnError())
		if err != broken {
			t.Errorf("WhileMaster = %v, want %v", err, broken)
		}
		time.Sleep(10 * ttl)
		synctest.Wait()
		if err := token.Check(); err != nil {
			t.Errorf("the mastership of before has ended: %v", err)
		}
	})
}

// The failure of a function that outlives its term does not end the next term.
func TestWhileMasterFailsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := run(t, newFakeStore(newFakeClock(), ttl), "a", func(c *Config) { c.DrainTimeout = time.Second })
		release := make(chan struct{})
		failed := make(chan error, 1)
		broken := errors.New("broken")
		go func() {
			failed <- a.WhileMaster(t.Context(), func(context.Context, driver.Term) error { <-release; return broken })
		}()
		wait.Virtual(t, "a is master", time.Second, a.IsMaster)
		if err := a.Resign(t.Context()); !errors.Is(err, ErrDrainTimeout) {
			t.Fatalf("Resign = %v", err)
		}
		wait.Virtual(t, "a is master again", 3*ttl, a.IsMaster)
		token, _ := a.Check()
		close(release)
		if err := <-failed; err != broken {
			t.Errorf("WhileMaster = %v, want %v", err, broken)
		}
		time.Sleep(ttl)
		synctest.Wait()
		if err := token.Check(); err != nil {
			t.Errorf("term %d ended since a function of an earlier one failed: %v", token.Term, err)
		}
	})
}

// When the context of a function ends, the node is not master and its status says so.
func TestStatusSaysTheEndBeforeTheContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := run(t, newFakeStore(newFakeClock(), ttl), "a")
		for range 3 {
			got := make(chan Status, 1)
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				_ = a.WhileMaster(ctx, func(ctx context.Context, _ driver.Term) error {
					<-ctx.Done()
					got <- a.Status()
					return ctx.Err()
				})
			}()
			wait.Virtual(t, "a is master", 2*ttl, a.IsMaster)
			synctest.Wait()
			_ = a.Resign(t.Context())
			if st := <-got; st.State == Active || st.Master != nil {
				t.Errorf("at the end of the context the status says %v, master %v", st.State, st.Master)
			}
			cancel()
		}
	})
}

// A function that hangs keeps the grant from being released, and delays nobody
// but itself.
func TestHangingFunctionDelaysOnlyItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore(newFakeClock(), ttl)
		a := run(t, s, "a")
		var r recorder
		unhang := make(chan struct{})
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		for _, name := range []string{"good", "hangs"} {
			wg.Go(func() {
				_ = a.WhileMaster(ctx, func(ctx context.Context, term driver.Term) error {
					r.add("%s begins %d", name, term)
					<-ctx.Done()
					if name == "hangs" {
						<-unhang
					}
					r.add("%s ends %d", name, term)
					return nil
				})
			})
		}
		wait.Virtual(t, "both run", time.Second, func() bool { return len(r.all()) == 2 })
		start := time.Now()
		if err := a.Resign(t.Context()); !errors.Is(err, ErrDrainTimeout) {
			t.Fatalf("Resign = %v, want ErrDrainTimeout", err)
		}
		if d := time.Since(start); d != time.Second {
			t.Errorf("Resign took %v, want the drain timeout", d)
		}
		if m, _ := s.read(); m.Holder == nil {
			t.Fatal("released while a function runs")
		}
		wait.Virtual(t, "master again", 20*time.Second, a.IsMaster)
		if m, _ := s.read(); m.Term != 2 {
			t.Errorf("term %d, want 2", m.Term)
		}
		synctest.Wait()
		close(unhang)
		synctest.Wait()
		cancel()
		wg.Wait()
		lines := strings.Join(r.all()[2:], ", ")
		want := "good ends 1, good begins 2, hangs ends 1, hangs begins 2"
		if !strings.HasPrefix(lines, want) {
			t.Errorf("%s, want %s first", lines, want)
		}
	})
}

// The process is stopped for three validities. When it goes on nothing has run
// yet, no timer and no callback, and yet it is not master any more.
func TestPauseIsNoticedAtUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore(newFakeClock(), ttl)
		a := run(t, s, "a")
		wait.Virtual(t, "a is master", time.Second, a.IsMaster)
		token, err := a.Check()
		if err != nil {
			t.Fatal(err)
		}
		term := make(chan context.Context, 1)
		go func() {
			_ = a.WhileMaster(t.Context(), func(ctx context.Context, _ driver.Term) error {
				term <- ctx
				<-ctx.Done()
				return nil
			})
		}()
		fnCtx := <-term
		b := run(t, s, "b")
		time.Sleep(2 * time.Second)
		synctest.Wait()

		s.clock.jump(3 * ttl)
		if a.IsMaster() || token.Check() == nil {
			t.Fatal("master after the deadline")
		}
		if _, err := a.Check(); !errors.Is(err, ErrNoMaster) {
			t.Errorf("Check = %v, want ErrNoMaster", err)
		}
		if fnCtx.Err() != nil {
			t.Fatal("the context ended before anything ran: the test shows nothing")
		}
		a.SetConditions(Conditions{}) // leave the vacancy to b
		s.expire()
		wait.Virtual(t, "b is master", 5*time.Second, b.IsMaster)
		if a.IsMaster() {
			t.Fatal("two masters")
		}
		if fnCtx.Err() == nil {
			t.Error("the function's context has not ended")
		}
		wait.Virtual(t, "a knows b", 5*time.Second, func() bool { _, err := a.Check(); return errors.Is(err, ErrNotMaster) })
		var notMaster *NotMasterError
		if err := token.Check(); !errors.As(err, &notMaster) || notMaster.Term != 2 || notMaster.Master.InstanceID != "b" {
			t.Errorf("Check of the old token = %v, want b in term 2", err)
		}
		if last := a.lastEvent(t); last.Kind != Ended || last.Reason != ReasonDeadline || last.Until != last.Deadline || last.Until >= last.At {
			t.Errorf("last event %+v, want an end at the deadline, before it was noticed", last)
		}
	})
}

func TestHandoverIsFastAndAfterTheDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore(newFakeClock(), ttl)
		a := run(t, s, "a")
		wait.Virtual(t, "a is master", time.Second, a.IsMaster)
		b := run(t, s, "b")
		synctest.Wait()
		var overlap atomic.Bool
		go func() {
			_ = a.WhileMaster(t.Context(), func(ctx context.Context, _ driver.Term) error {
				<-ctx.Done()
				time.Sleep(100 * time.Millisecond)
				overlap.Store(b.IsMaster())
				return nil
			})
		}()
		synctest.Wait()
		start := time.Now()
		if err := a.Resign(t.Context()); err != nil {
			t.Fatal(err)
		}
		wait.Virtual(t, "b is master", time.Second, b.IsMaster)
		if d := time.Since(start); d < 100*time.Millisecond || d > 200*time.Millisecond {
			t.Errorf("handover took %v, want the drain of 100ms and little more", d)
		}
		if overlap.Load() {
			t.Error("b was master while a's function ran")
		}
		if st := a.Status(); st.Master == nil || st.Master.InstanceID != "b" || st.MasterTerm != 2 {
			t.Errorf("a knows %v of term %d, want b of 2", st.Master, st.MasterTerm)
		}
	})
}

// The end of Run is a handover too.
func TestRunReleasesWhenItEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore(newFakeClock(), ttl)
		a := run(t, s, "a")
		wait.Virtual(t, "a is master", time.Second, a.IsMaster)
		b := run(t, s, "b")
		synctest.Wait()
		if err := a.stop(); err != nil {
			t.Fatal(err)
		}
		if d := wait.Virtual(t, "b is master", time.Second, b.IsMaster); d > 100*time.Millisecond {
			t.Errorf("took %v", d)
		}
		if err := a.Run(t.Context()); err == nil {
			t.Error("Run could be called twice")
		}
		if err := a.Resign(t.Context()); err != ErrStopped {
			t.Errorf("Resign after Run = %v, want ErrStopped", err)
		}
	})
}

// deaf makes every call hang for good, whatever its context says.
func deaf(release <-chan struct{}) func(context.Context, string) error {
	return func(context.Context, string) error {
		<-release
		return driver.ErrUnavailable
	}
}

func TestEverythingHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore(newFakeClock(), ttl)
		a := run(t, s, "a")
		wait.Virtual(t, "a is master", time.Second, a.IsMaster)
		time.Sleep(3 * time.Second)
		release := make(chan struct{})
		a.auth.hooks(deaf(release), nil)
		var softAt, endAt clock.Instant
		go func() {
			_ = a.WhileMaster(t.Context(), func(ctx context.Context, _ driver.Term) error {
				<-ctx.Done()
				softAt = s.clock.now()
				<-release
				return nil
			})
		}()
		synctest.Wait()
		deadline := clock.Instant(a.Status().Deadline)
		wait.Virtual(t, "the end", 2*ttl, func() bool { return !a.IsMaster() })
		synctest.Wait()
		endAt = s.clock.now()
		deadline = max(deadline, clock.Instant(a.Status().Deadline))
		if endAt >= deadline || softAt < deadline.Add(-1100*time.Millisecond) {
			t.Errorf("drain from %v until the deadline %v, check false at %v", softAt, deadline, endAt)
		}
		start := time.Now()
		err := a.stop()
		if err == nil {
			t.Error("Run left nothing behind, with calls that hang")
		}
		if d := time.Since(start); d > 12*time.Second {
			t.Errorf("Run took %v to end", d)
		}
		close(release)
	})
}

// stuckHandler is a log handler that blocks on the renewal's record, and with it
// the loop.
type stuckHandler struct {
	slog.Handler
	stuck   *atomic.Bool
	release chan struct{}
}

func (h stuckHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h stuckHandler) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h stuckHandler) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "mastership renewed" {
		h.stuck.Store(true)
		<-h.release
	}
	return nil
}

// logKeys is a log handler that keeps what is logged, and with which attributes.
type logKeys struct {
	slog.Handler
	seen *sync.Map // message: attributes
	with []string  // those of all records
}

func (h logKeys) Enabled(context.Context, slog.Level) bool { return true }
func (h logKeys) WithAttrs(attrs []slog.Attr) slog.Handler {
	h.with = slices.Clone(h.with)
	for _, a := range attrs {
		h.with = append(h.with, a.Key)
	}
	return h
}
func (h logKeys) Handle(_ context.Context, r slog.Record) error {
	keys := slices.Clone(h.with)
	r.Attrs(func(a slog.Attr) bool {
		keys = append(keys, a.Key)
		return true
	})
	h.seen.Store(r.Message, strings.Join(keys, " "))
	return nil
}

// Users lay the records of several processes side by side, as the package comment says.
func TestLogs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen := new(sync.Map)
		a := run(t, newFakeStore(newFakeClock(), ttl), "a", func(c *Config) { c.Logger = slog.New(logKeys{Handler: slog.DiscardHandler, seen: seen}) })
		wait.Virtual(t, "a is master", time.Second, a.IsMaster)
		time.Sleep(ttl)
		if err := a.stop(); err != nil {
			t.Fatal(err)
		}
		for message, want := range map[string]string{
			"mastership active":  "node_id instance_id term cluster_id t_boot_ns deadline_ns",
			"mastership renewed": "node_id instance_id term cluster_id t_boot_ns sent_ns deadline_ns",
			"mastership ended":   "node_id instance_id term cluster_id reason t_boot_ns until_ns deadline_ns",
		} {
			if got, _ := seen.Load(message); got != want {
				t.Errorf("%q has %v, want %s", message, got, want)
			}
		}
	})
}

func TestTheLoopHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore(newFakeClock(), ttl)
		h := stuckHandler{slog.DiscardHandler, new(atomic.Bool), make(chan struct{})}
		a := run(t, s, "a", func(c *Config) { c.Logger = slog.New(h) })
		wait.Virtual(t, "a is master", time.Second, a.IsMaster)
		var ended atomic.Bool
		go func() {
			_ = a.WhileMaster(t.Context(), func(ctx context.Context, _ driver.Term) error {
				<-ctx.Done()
				ended.Store(true)
				if a.IsMaster() {
					t.Error("master after the context's end")
				}
				return nil
			})
		}()
		wait.Virtual(t, "the loop hangs", ttl, h.stuck.Load)
		b := run(t, s, "b")
		wait.Virtual(t, "b is master", 3*ttl, func() bool {
			if a.IsMaster() && b.IsMaster() {
				t.Fatal("two masters")
			}
			return b.IsMaster()
		})
		if !ended.Load() {
			t.Error("the function's context did not end at the deadline")
		}
		close(h.release)
		wait.Virtual(t, "a follows", ttl, func() bool { _, err := a.Check(); return errors.Is(err, ErrNotMaster) })
	})
}

// The answer to an Acquire comes long after it was given up on. It is not counted
// from when it came, and what it granted does not stand unused.
func TestLateAnswerToAcquire(t *testing.T) {
	for _, late := range []time.Duration{2500 * time.Millisecond, 4 * time.Second, 9 * time.Second} {
		t.Run(late.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newFakeStore(newFakeClock(), ttl)
				a := run(t, s, "a", func(c *Config) { c.ResignCooldown = time.Minute })
				var calls atomic.Int32
				a.auth.hooks(nil, func(_ context.Context, op string) error {
					if op == "acquire" && calls.Add(1) == 1 {
						time.Sleep(late)
					}
					return nil
				})
				start := s.clock.now()
				wait.Virtual(t, "a is master", 20*time.Second, a.IsMaster)
				token, _ := a.Check()
				if limit := s.clock.now().Add(usable(ttl)); clock.Instant(token.Deadline) > limit {
					t.Errorf("deadline %v, %v too late", token.Deadline, clock.Instant(token.Deadline).Sub(limit))
				}
				if took := s.clock.now().Sub(start); took > 3*time.Second {
					t.Errorf("took %v", took)
				}
				time.Sleep(late)
				if err := a.Resign(t.Context()); err != nil {
					t.Fatal(err)
				}
				time.Sleep(ttl)
				if m, _ := s.read(); m.Holder != nil {
					t.Errorf("%v still holds term %d", m.Holder, m.Term)
				}
			})
		})
	}
}

// A node that resigns while its Acquire is under way gives back what it gets.
func TestResignDuringAcquire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore(newFakeClock(), ttl)
		slow := make(chan struct{})
		a := run(t, s, "a", func(c *Config) {
			c.Authority.(*fakeAuthority).hooks(nil, func(_ context.Context, op string) error {
				if op == "acquire" {
					<-slow
				}
				return nil
			})
		})
		wait.Virtual(t, "granted", time.Second, func() bool { m, _ := s.read(); return m.Holder != nil })
		resigned := make(chan error, 1)
		go func() { resigned <- a.Resign(t.Context()) }()
		synctest.Wait()
		close(slow)
		if err := <-resigned; err != nil {
			t.Fatal(err)
		}
		if m, _ := s.read(); m.Holder != nil || a.Status().Transitions != 0 {
			t.Errorf("holder %v after %d transitions, want none", m.Holder, a.Status().Transitions)
		}
	})
}

// Renewals whose answers are lost are tried again, and mastership stays.
func TestLostAnswersToRenewals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore(newFakeClock(), ttl)
		a := run(t, s, "a")
		wait.Virtual(t, "a is master", time.Second, a.IsMaster)
		var n atomic.Int32
		a.auth.hooks(nil, func(ctx context.Context, op string) error {
			if op == "renew" && n.Add(1)%3 != 0 {
				<-ctx.Done()
				return fmt.Errorf("%w: %w", driver.ErrUnavailable, ctx.Err())
			}
			return nil
		})
		for range 600 {
			time.Sleep(100 * time.Millisecond)
			if !a.IsMaster() {
				t.Fatalf("lost: %+v", a.Status())
			}
		}
		if st := a.Status(); st.RenewalFailures == 0 || st.Renewals == 0 || st.RenewalLatency.Count != st.Renewals || st.Term != 1 {
			t.Errorf("%+v", st)
		}
	})
}

func TestLostGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore(newFakeClock(), ttl)
		a := run(t, s, "a")
		wait.Virtual(t, "a is master", time.Second, a.IsMaster)
		synctest.Wait()
		s.update(func() { s.state.Holder = nil }) // an operator deletes the key
		synctest.Wait()
		if token, err := a.Check(); err == nil && token.Term == 1 {
			t.Error("still master in the deleted term")
		}
		a.awaitTerm(t, 2)
	})
}

func TestConditions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore(newFakeClock(), ttl)
		a := run(t, s, "a")
		step := func(c Conditions, master bool, waiting string, reason WaitReason) {
			t.Helper()
			a.SetConditions(c)
			time.Sleep(4 * time.Second)
			synctest.Wait()
			if st := a.Status(); a.IsMaster() != master || !strings.Contains(st.WaitingFor, waiting) || st.WaitingReason != reason {
				t.Errorf("with %+v: master %v, waiting %q (%s); want %v, %q (%s)", c, a.IsMaster(), st.WaitingFor, st.WaitingReason, master, waiting, reason)
			}
		}
		wait.Virtual(t, "master", time.Second, a.IsMaster)
		// The cluster has been formed: leave to form one is not asked for any more.
		forming := Conditions{Eligible: true, Ready: true, Formation: Formation{Expect: 3}.Decide(1)}
		step(forming, true, "", "")
		step(Conditions{Eligible: false, Ready: true}, false, "not eligible", WaitNotEligible)
		step(Conditions{Eligible: true, Ready: false}, false, "to be ready", WaitNotReady)
		step(Conditions{Eligible: true, Ready: true, Draining: true}, false, "draining", WaitLeaving)
		step(Conditions{Eligible: true, Ready: true, Have: 1, Need: 2}, false, "sees 1 of the 2 needed", WaitMajority)
		if _, err := a.Check(); !errors.Is(err, ErrNoQuorum) {
			t.Errorf("Check = %v, want ErrNoQuorum", err)
		}
		step(Conditions{Eligible: true, Ready: true, Have: 2, Need: 2}, true, "", "")
		// A majority that is out of sight for a moment changes nothing.
		step(Conditions{Eligible: true, Ready: true, Have: 1, Need: 2}, true, "", "")
		step(Conditions{Eligible: true, Ready: true, Have: 2, Need: 2}, true, "", "")
		step(Conditions{Eligible: true, Ready: true, Have: 1, Need: 2}, true, "", "")
		d := wait.Virtual(t, "resignation", time.Minute, func() bool { return !a.IsMaster() })
		if d < 5*time.Second || d > 7*time.Second {
			t.Errorf("resigned %v after, want after what was left of the grace of 10s", d)
		}
	})
}

func TestFormationOnlyWithLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore(newFakeClock(), ttl)
		a := start(t, s, "a")
		a.SetConditions(Conditions{Eligible: true, Ready: true, Formation: Formation{Expect: 3}.Decide(1)})
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if st := a.Status(); a.IsMaster() || st.WaitingFor != "waiting for 3 members, sees 1" || st.WaitingReason != WaitFormation {
			t.Fatalf("master %v, waiting %q", a.IsMaster(), st.WaitingFor)
		}
		// With the id known by gossip the record is put back under the same id.
		a.SetConditions(Conditions{Eligible: true, Ready: true})
		a.Learn(Announcement{Term: 4, ClusterID: "known"})
		wait.Virtual(t, "master", 5*time.Second, a.IsMaster)
		if token, _ := a.Check(); token.ClusterID != "known" || token.Term != 5 {
			t.Errorf("term %d of %q, want 5 of known", token.Term, token.ClusterID)
		}
		b := start(t, s, "b")
		b.SetConditions(Conditions{Eligible: true, Ready: true})
		wait.Virtual(t, "b knows the cluster", time.Second, func() bool { return b.Status().ClusterProven })
		s.update(func() { s.state.ClusterID = "of others" })
		time.Sleep(time.Second)
		_ = a.stop()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if st := b.Status(); b.IsMaster() || !errors.Is(st.Err, driver.ErrClusterMismatch) || !strings.Contains(st.WaitingFor, "another cluster") || st.WaitingReason != WaitCluster {
			t.Errorf("of another cluster: master %v, %v, %q", b.IsMaster(), st.Err, st.WaitingFor)
		}
	})
}

func TestUnreachableAuthority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore(newFakeClock(), ttl)
		a := run(t, s, "a", func(c *Config) {
			c.Authority.(*fakeAuthority).hooks(func(context.Context, string) error { return driver.ErrUnavailable }, nil)
		})
		time.Sleep(time.Minute)
		synctest.Wait()
		if st := a.Status(); a.IsMaster() || !errors.Is(st.Err, driver.ErrUnavailable) || !strings.Contains(st.WaitingFor, "unavailable") || st.WaitingReason != WaitAuthority {
			t.Fatalf("%+v", st)
		}
		a.auth.hooks(nil, nil)
		wait.Virtual(t, "master", 5*time.Second, a.IsMaster)
	})
}

// A master whose authority is its voters is cut off from them. Within the validity
// it says that there is no quorum, though no failure detector has noticed yet.
func TestNoQuorumWithinTheValidity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore(newFakeClock(), 400*time.Millisecond)
		s.state.Expected = 3
		a := run(t, s, "a")
		a.SetConditions(Conditions{Eligible: true, Ready: true, Have: 3, Need: 2, Formation: Decision{Allowed: true}})
		wait.Virtual(t, "master", time.Second, a.IsMaster)
		a.auth.hooks(func(context.Context, string) error { return driver.ErrUnavailable }, nil)
		d := wait.Virtual(t, "the end", time.Second, func() bool { return !a.IsMaster() })
		_, err := a.Check()
		var noQuorum *NoQuorumError
		if !errors.As(err, &noQuorum) || noQuorum.Need != 2 || d > 400*time.Millisecond {
			t.Errorf("Check = %v after %v, want ErrNoQuorum within 400ms", err, d)
		}
	})
}

// The observer is called for each beginning and each end, in order.
func TestEventsAlternateAndNoneIsMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore(newFakeClock(), ttl)
		a := run(t, s, "a", func(c *Config) { c.ResignCooldown = time.Millisecond })
		const terms = 10
		for term := driver.Term(1); term < terms; term++ {
			wait.Virtual(t, "master", time.Second, func() bool { return a.IsMaster() && a.Status().Term == term })
			if err := a.Resign(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		wait.Virtual(t, "master", time.Second, a.IsMaster)
		var want, got []string
		for term := 1; term < terms; term++ {
			want = append(want, fmt.Sprintf("began %d", term), fmt.Sprintf("ended %d", term))
		}
		want = append(want, fmt.Sprintf("began %d", terms))
		for _, e := range a.observed() {
			got = append(got, fmt.Sprintf("%s %d", map[EventKind]string{Began: "began", Ended: "ended"}[e.Kind], e.Term))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestAnnouncementsReachAnotherNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clk := newFakeClock()
		s := newFakeStore(clk, ttl)
		a := run(t, s, "a")
		// far cannot reach the authority, and hears a by gossip alone.
		far := run(t, s, "far", func(c *Config) {
			c.Authority.(*fakeAuthority).hooks(func(context.Context, string) error { return driver.ErrUnavailable }, nil)
		})
		gossip, mute := context.WithCancel(t.Context())
		go func() {
			for an := range a.Announcements(gossip) {
				far.Learn(an)
			}
		}()
		knows := func() bool { st := far.Status(); return st.Master != nil && st.Master.InstanceID == "a" }
		wait.Virtual(t, "far knows a", 2*time.Second, knows)
		time.Sleep(5 * ttl)
		synctest.Wait()
		if !knows() {
			t.Error("far has forgotten a, which renews")
		}
		an, ok := far.LocalAnnouncement()
		if !ok || !an.Active || an.Holder.AppAddrs["http"] != "10.0.0.1:80" || an.ValidFor <= 0 || an.ValidFor > ttl {
			t.Errorf("far passes on %+v", an)
		}
		mute()
		wait.Virtual(t, "far forgets a", 2*ttl, func() bool { return !knows() })
		if an, ok := far.LocalAnnouncement(); !ok || an.Active || an.Term != 1 {
			t.Errorf("far passes on %+v, want the term alone", an)
		}
		an, _ = a.LocalAnnouncement()
		far.Learn(an)
		wait.Virtual(t, "far knows a", time.Second, knows)
		far.MemberGone("a")
		wait.Virtual(t, "far forgets a", time.Second, func() bool { return !knows() })
		far.Learn(an) // the same again is no sign of life
		time.Sleep(time.Second)
		if knows() {
			t.Error("a repetition brought the name back")
		}
		_ = a.stop()
		an, ok = a.LocalAnnouncement()
		if !ok || an.Active || an.Holder.InstanceID != "a" {
			t.Errorf("after the end: %+v", an)
		}
	})
}

func TestWatchComesToRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore(newFakeClock(), ttl)
		a := run(t, s, "a")
		var states []State
		for st := range a.Watch(t.Context()) {
			if len(states) == 0 || states[len(states)-1] != st.State {
				states = append(states, st.State)
			}
			if st.State == Active {
				go func() { _ = a.stop() }()
			}
		} // ends with Run
		if last := states[len(states)-1]; last != Follower {
			t.Errorf("states %v, want follower last", states)
		}
	})
}

// A clock that is read by many while mastership comes and goes.
func TestCheckUnderRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore(newFakeClock(), ttl)
		nodes := []*candidate{run(t, s, "a"), run(t, s, "b"), run(t, s, "c")}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for _, n := range nodes {
			wg.Go(func() {
				for ctx.Err() == nil {
					if token, err := n.Check(); err == nil && token.Check() != nil && n.Status().Transitions == 1 {
						t.Error("a token of now does not hold")
					}
					time.Sleep(7 * time.Millisecond)
				}
			})
			wg.Go(func() {
				_ = n.WhileMaster(ctx, func(ctx context.Context, _ driver.Term) error { <-ctx.Done(); return nil })
			})
		}
		for range 10 {
			var master *candidate
			wait.Virtual(t, "a master", 5*time.Second, func() bool {
				count := 0
				for _, n := range nodes {
					if n.IsMaster() {
						master = n
						count++
					}
				}
				if count > 1 {
					t.Fatal("two masters")
				}
				return count == 1
			})
			time.Sleep(time.Second)
			_ = master.Resign(t.Context())
		}
		cancel()
		wg.Wait()
	})
}

// suspectingAuthority is an authority that learns when nobody vouches for the master.
type suspectingAuthority struct {
	*fakeAuthority
	suspected chan bool
}

func (s suspectingAuthority) Suspect(suspected bool) { s.suspected <- suspected }

// The authority is told when the master is vouched for by gossip, and at once when that
// stops: it has not announced itself when it should have, it has ended, it is no
// member any more, or there is another reason to look.
func TestSuspect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore(newFakeClock(), 3*time.Second)
		reported := make(chan bool, 10)
		run(t, s, "a")
		wait.Virtual(t, "a master", time.Second, func() bool { m, _ := s.read(); return m.Holder != nil })
		b := start(t, s, "b", func(c *Config) { c.Authority = suspectingAuthority{&fakeAuthority{s: s, id: "b"}, reported} })
		wait.Virtual(t, "b sees the master", time.Second, func() bool { return b.Status().Observed.Holder != nil })
		m, _ := s.read()
		seq := uint64(0)
		announce := func(active bool) {
			seq++
			b.Learn(Announcement{
				Term: m.Term, ClusterID: m.ClusterID, Holder: *m.Holder, Active: active, Seq: seq,
				ValidFor: time.Minute, Next: 3 * time.Second,
			})
		}
		next := func(what string, want bool, within time.Duration) {
			t.Helper()
			began := time.Now()
			select {
			case got := <-reported:
				if got != want {
					t.Errorf("%s: suspected %v", what, got)
				}
			case <-time.After(time.Hour):
				t.Fatalf("%s: the authority is not told", what)
			}
			if took := time.Since(began); took > within {
				t.Errorf("%s: told after %v", what, took)
			}
		}
		for _, stop := range []struct {
			what   string
			do     func()
			within time.Duration
		}{
			{"not announced in time", func() {}, 3*time.Second + 10*time.Millisecond},
			{"doubted", func() { b.Doubt("a") }, 0},
			{"no member any more", func() { b.MemberGone("a") }, 0},
			{"ended", func() { announce(false) }, 0},
		} {
			announce(true)
			next("announced before "+stop.what, false, 0)
			b.Doubt("another")
			announce(true)
			stop.do()
			next(stop.what, true, stop.within)
			if len(reported) > 0 {
				t.Errorf("%s: reported twice", stop.what)
			}
		}
	})
}

// learningAuthority is one that is told what others prove.
type learningAuthority struct {
	*fakeAuthority
	learned chan string
}

func (l learningAuthority) Learn(proof string) { l.learned <- proof }

// What a master proves with each renewal, the authorities of the others are told, at once.
func TestProofs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore(newFakeClock(), ttl)
		a := run(t, s, "a")
		learned := make(chan string, 10)
		b := start(t, s, "b", func(c *Config) { c.Authority = learningAuthority{&fakeAuthority{s: s, id: "b"}, learned} })
		wait.Virtual(t, "a is master", 5*time.Second, a.IsMaster)
		n := 0
		for said := range a.Announcements(t.Context()) {
			said, err := DecodeAnnouncement(said.Encode())
			if err != nil {
				t.Fatal(err)
			}
			b.Learn(said)
			select {
			case got := <-learned:
				if got != said.Proof {
					t.Errorf("the authority is told %q, want %q", got, said.Proof)
				}
			default:
				t.Fatalf("%+v is not reported to the authority", said)
			}
			if n++; n == 4 {
				s.mu.Lock()
				defer s.mu.Unlock()
				if want := fmt.Sprintf("lease-%d", s.leases); said.Proof != want {
					t.Errorf("announced is %q, want the latest, %q", said.Proof, want)
				}
				return
			}
		}
	})
}

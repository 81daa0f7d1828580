package check

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/registrar/declared"
)

// outcome is what a probe says, as a test decides.
type outcome struct {
	mu    sync.Mutex
	err   error
	hang  bool
	tries []time.Time
	addr  string
}

func (o *outcome) set(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.err = err
}

// await lets time pass until n more attempts were made.
func (o *outcome) await(n int) {
	count := func() int {
		o.mu.Lock()
		defer o.mu.Unlock()
		return len(o.tries)
	}
	for want := count() + n; count() < want; {
		time.Sleep(time.Millisecond)
	}
	synctest.Wait()
}

func (o *outcome) probe(_ declared.Check, addr string) (Probe, error) {
	return func(ctx context.Context) error {
		o.mu.Lock()
		o.tries, o.addr = append(o.tries, time.Now()), addr
		err, hang := o.err, o.hang
		o.mu.Unlock()
		if hang {
			<-ctx.Done()
			return ctx.Err()
		}
		return err
	}, nil
}

// followed is a Runner and what those who follow it were told last.
type followed struct {
	*Runner
	mu       sync.Mutex
	reported []Status
}

func (f *followed) follow(ctx context.Context) {
	for range f.Changes(ctx) {
		f.mu.Lock()
		f.reported = f.Status()
		f.mu.Unlock()
	}
}

func running(t *testing.T, c declared.Check, test func(r *followed, o *outcome)) {
	synctest.Test(t, func(t *testing.T) {
		o := new(outcome)
		ip := "10.0.0.5"
		c.TCP = "true"
		r := NewRunner([]declared.Service{{Name: "always", Address: ":1"}, {Name: "db", Address: ":5432", Check: c}}, func() string { return ip }, nil)
		r.newProbe = o.probe
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); r.Run(ctx) }()
		f := &followed{Runner: r}
		following := make(chan struct{})
		go func() { defer close(following); f.follow(ctx) }()
		test(f, o)
		cancel()
		<-done
		<-following
	})
}

// up wants the checked service to be up or not.
func up(t *testing.T, r *followed, want bool) Status {
	t.Helper()
	synctest.Wait()
	all := r.Status()
	if !all[0].Up || all[1].Up != want {
		t.Fatalf("%+v, want up to be %v", all, want)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reported[1].Up != want {
		t.Fatalf("told %+v, want up to be %v", r.reported, want)
	}
	return all[1]
}

var errDown = errors.New("down")

func TestRiseAndFall(t *testing.T) {
	running(t, declared.Check{Interval: 10 * time.Second, Rise: 2, Fall: 3}, func(r *followed, o *outcome) {
		up(t, r, false)
		o.await(1)
		up(t, r, false)
		o.await(1)
		up(t, r, true)
		o.set(errDown)
		o.await(2)
		if s := up(t, r, true); s.Err == nil {
			t.Error("it does not say that an attempt has failed")
		}
		o.set(nil)
		o.await(1) // which starts the count again
		o.set(errDown)
		o.await(2)
		up(t, r, true)
		o.await(1)
		up(t, r, false)
		o.set(nil)
		o.await(1)
		up(t, r, false)
		o.await(1)
		up(t, r, true)
		if o.addr != "10.0.0.5:5432" {
			t.Errorf("it was checked at %s", o.addr)
		}
	})
}

func TestIntervalsAreSpread(t *testing.T) {
	running(t, declared.Check{Interval: 10 * time.Second}, func(r *followed, o *outcome) {
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := len(o.tries); n < 54 || n > 67 {
			t.Errorf("%d attempts in 10 m", n)
		}
		same := 0
		for i := 2; i < len(o.tries); i++ {
			if o.tries[i].Sub(o.tries[i-1]) == o.tries[i-1].Sub(o.tries[i-2]) {
				same++
			}
		}
		if same > 5 {
			t.Errorf("%d waits are like the one before", same)
		}
	})
}

func TestAttemptThatHangs(t *testing.T) {
	running(t, declared.Check{Interval: 10 * time.Second, Timeout: 2 * time.Second, Fall: 1}, func(r *followed, o *outcome) {
		time.Sleep(firstWithin)
		up(t, r, true)
		o.mu.Lock()
		o.hang = true
		o.mu.Unlock()
		time.Sleep(14 * time.Second)
		if s := up(t, r, false); s.Err == nil || s.Err.Error() != "no answer within 2s" {
			t.Errorf("it says %v", s.Err)
		}
	})
}

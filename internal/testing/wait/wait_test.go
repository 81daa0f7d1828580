package wait_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/internal/testing/wait"
)

// failing is a test that notes with what it fails.
type failing struct {
	testing.TB
	message string
}

func (f *failing) Helper() {}
func (f *failing) Fatalf(format string, args ...any) {
	f.message = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// failed returns the message with which f fails its test, empty if it does not.
func failed(f func(t testing.TB)) string {
	t := &failing{}
	done := make(chan struct{})
	go func() { defer close(done); f(t) }()
	<-done
	return t.message
}

func TestFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, looks := time.Now(), 0
		wait.For(t, "a second", func() bool { looks++; return time.Since(start) >= time.Second })
		if took := time.Since(start); took > time.Second+50*time.Millisecond || looks > 40 {
			t.Errorf("a second took %v and %d looks", took, looks)
		}
		start = time.Now()
		got := failed(func(t testing.TB) {
			wait.For(t, "pigs fly", func() bool { return false }, func() string { return "one pig" }, func() string { return "no wings" })
		})
		if want := "not within 3m0s: pigs fly\none pig\nno wings"; got != want {
			t.Errorf("it failed with %q, want %q", got, want)
		}
		if took := time.Since(start); took != wait.Patience {
			t.Errorf("it failed after %v", took)
		}
	})
}

func TestNoError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		wait.NoError(t, func() error {
			if calls++; calls < 3 {
				return errors.New("too early")
			}
			return nil
		})
		if calls != 3 {
			t.Errorf("%d calls", calls)
		}
		got := failed(func(t testing.TB) { wait.NoError(t, func() error { return errors.New("refused") }) })
		if want := "not within 3m0s: refused"; got != want {
			t.Errorf("it failed with %q, want %q", got, want)
		}
	})
}

func TestUntil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if wait.Until(ctx, func() bool { return false }) || time.Since(start) != time.Second {
			t.Errorf("it ended after %v, want a second", time.Since(start))
		}
		// What holds does so after the end as well.
		if !wait.Until(ctx, func() bool { return true }) {
			t.Error("what holds is not seen")
		}
	})
}

func TestVirtual(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		if took := wait.Virtual(t, "300 ms", time.Second, func() bool { return time.Since(start) >= 300*time.Millisecond }); took != 300*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		start = time.Now()
		got := failed(func(t testing.TB) { wait.Virtual(t, "pigs fly", time.Second, func() bool { return false }) })
		if took := time.Since(start); got != "not within 1s: pigs fly" || took <= time.Second || took > 1100*time.Millisecond {
			t.Errorf("it failed with %q after %v", got, took)
		}
	})
}

func TestContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := wait.Context(t)
		start := time.Now()
		<-ctx.Done()
		if took := time.Since(start); took != wait.Patience {
			t.Errorf("it ended after %v", took)
		}
	})
}

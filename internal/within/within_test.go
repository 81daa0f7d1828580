package within

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestCall(t *testing.T) {
	own := errors.New("its own")
	for _, v := range []struct {
		name string
		f    func(context.Context) (int, error)
		took time.Duration
		want int
		err  error
	}{
		{"at once", func(context.Context) (int, error) { return 7, own }, 0, 7, own},
		{"just in time", func(context.Context) (int, error) { time.Sleep(time.Second + Grace/2); return 7, nil }, time.Second + Grace/2, 7, nil},
		{"one that honours its context", func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, own }, time.Second, 0, own},
		{"one that ignores it", func(context.Context) (int, error) { time.Sleep(time.Minute); return 7, nil }, time.Second + Grace, 0, context.DeadlineExceeded},
	} {
		t.Run(v.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				begun := time.Now()
				got, err := Call(ctx, v.f)
				if took := time.Since(begun); got != v.want || !errors.Is(err, v.err) || took != v.took {
					t.Errorf("%d, %v after %v; want %d, %v after %v", got, err, took, v.want, v.err, v.took)
				}
				begun = time.Now()
				ended, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				err = Do(ended, func(ctx context.Context) error { _, err := v.f(ctx); return err })
				if took := time.Since(begun); !errors.Is(err, v.err) || took != v.took {
					t.Errorf("Do: %v after %v; want %v after %v", err, took, v.err, v.took)
				}
				time.Sleep(2 * time.Minute) // what was left behind ends
			})
		})
	}
}

// What comes too late is handed on, once, and what comes in time is not.
func TestCallLate(t *testing.T) {
	own := errors.New("its own")
	for took, want := range map[time.Duration]int{0: 0, Grace / 2: 0, 2 * Grace: 1} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			var late atomic.Int64
			got, err := CallLate(ctx, func(context.Context) (int, error) { time.Sleep(took); return 7, own },
				func(n int, err error) {
					late.Add(1)
					if n != 7 || err != own {
						t.Errorf("late is %d, %v", n, err)
					}
				})
			if want == 0 && (got != 7 || err != own) || want == 1 && (got != 0 || !errors.Is(err, context.Canceled)) {
				t.Errorf("after %v: %d, %v", took, got, err)
			}
			time.Sleep(time.Second)
			if n := int(late.Load()); n != want {
				t.Errorf("after %v: %d were late, want %d", took, n, want)
			}
		})
	}
}

// A panic is that of the caller, and says where it was.
func TestPanics(t *testing.T) {
	for what, f := range map[string]func(context.Context) error{
		"a bug":  func(context.Context) error { panic("a bug") },
		"Goexit": func(context.Context) error { runtime.Goexit(); return nil },
	} {
		func() {
			defer func() {
				if p, _ := recover().(string); !strings.Contains(p, what) || what == "a bug" && !strings.Contains(p, "within_test.go") {
					t.Errorf("%s: the panic is %q", what, p)
				}
			}()
			_ = Do(t.Context(), f)
			t.Errorf("%s: Do returned", what)
		}()
	}
}

func TestDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for after, want := range map[time.Duration]error{0: nil, Grace / 2: nil, 2 * Grace: context.Canceled} {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			done := make(chan struct{})
			time.AfterFunc(after, func() { close(done) })
			if err := Done(ctx, done); !errors.Is(err, want) {
				t.Errorf("closed after %v: %v, want %v", after, err, want)
			}
			<-done
		}
	})
}

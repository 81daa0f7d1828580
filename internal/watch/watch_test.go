package watch

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
)

func TestWatchYieldsTheNewestInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var v Value[int]
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan int)
		go func() {
			defer close(got)
			for n := range v.Watch(ctx) {
				got <- n
			}
		}()
		synctest.Wait() // nothing was stored: nothing is yielded
		v.Store(1)
		if n := <-got; n != 1 {
			t.Fatalf("first value %d, want 1", n)
		}
		v.Store(2)
		synctest.Wait() // the listener is held up with 2
		v.Store(3)
		v.Store(4)
		if a, b := <-got, <-got; a != 2 || b != 4 {
			t.Fatalf("then %d and %d, want 2, and 4 with 3 skipped", a, b)
		}
		cancel()
		if n, open := <-got; open {
			t.Fatalf("value %d after the context ended", n)
		}
	})
}

// The last value before Close is not lost to a listener that is slow.
func TestCloseEndsWatchesAfterTheNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var v Value[int]
		got := make(chan int)
		go func() {
			defer close(got)
			for n := range v.Watch(t.Context()) {
				got <- n
			}
		}()
		v.Store(1)
		synctest.Wait() // the listener is held up with 1
		v.Store(2)
		v.Close()
		v.Close()
		if a, b := <-got, <-got; a != 1 || b != 2 {
			t.Fatalf("got %d and %d, want 1 and 2", a, b)
		}
		if n, open := <-got; open {
			t.Fatalf("value %d after Close", n)
		}
		for n := range v.Watch(t.Context()) {
			if n != 2 {
				t.Errorf("a later listener got %d, want 2", n)
			}
		}
		var waiting Value[int]
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for range waiting.Watch(t.Context()) {
				t.Error("a value that was not stored")
			}
		}()
		synctest.Wait()
		waiting.Close()
		<-ended
	})
}

func TestLoad(t *testing.T) {
	var v Value[string]
	if _, ok := v.Load(); ok {
		t.Fatal("Load of an empty Value reports a value")
	}
	v.Store("a")
	if s, ok := v.Load(); s != "a" || !ok {
		t.Fatalf("Load() = %q, %v, want a, true", s, ok)
	}
}

func TestEveryListenerReachesTheLastValue(t *testing.T) {
	const last = 10_000
	var v Value[int]
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			previous := 0
			for n := range v.Watch(t.Context()) {
				if n <= previous {
					t.Errorf("%d after %d", n, previous)
				}
				if previous = n; n == last {
					return
				}
			}
		})
	}
	for n := range last {
		v.Store(n + 1)
	}
	wg.Wait()
}

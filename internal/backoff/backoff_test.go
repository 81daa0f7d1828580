package backoff

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestNextStaysBelowADoublingBound(t *testing.T) {
	b := Backoff{Min: 10 * time.Millisecond, Max: 75 * time.Millisecond}
	for _, bound := range []time.Duration{10, 20, 40, 75, 75, 75} {
		bound *= time.Millisecond
		if got := b.Next(); got < 0 || got > bound {
			t.Fatalf("Next() = %v, want between 0 and %v", got, bound)
		}
	}
	b.Reset()
	if got := b.Next(); got > 10*time.Millisecond {
		t.Fatalf("Next() after Reset = %v, want at most Min", got)
	}
}

func TestNextSpreads(t *testing.T) {
	seen := make(map[time.Duration]bool)
	for range 100 {
		b := Backoff{Min: time.Second}
		seen[b.Next()] = true
	}
	if len(seen) < 90 {
		t.Fatalf("100 first waits took only %d values: no jitter", len(seen))
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	b := Backoff{Min: time.Hour, Max: time.Hour}
	if err := b.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("Wait = %v, want context.Canceled", err)
	}
}

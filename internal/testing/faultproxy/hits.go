package faultproxy

import (
	"context"
	"fmt"
	"sync"

	"github.com/musterhq/muster/internal/watch"
)

// Hits counts what a fault has hit: what was swallowed, held back, reset, refused.
// All methods are safe for concurrent use.
type Hits struct {
	mu    sync.Mutex // orders the counts
	count watch.Value[int]
}

func (h *Hits) add() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count.Store(h.Count() + 1)
}

// Count returns how often the fault has hit so far.
func (h *Hits) Count() int {
	n, _ := h.count.Load()
	return n
}

// Wait returns nil once the fault has hit n times, and an error when ctx ends first.
func (h *Hits) Wait(ctx context.Context, n int) error {
	if n <= 0 {
		return nil
	}
	for count := range h.count.Watch(ctx) {
		if count >= n {
			return nil
		}
	}
	return fmt.Errorf("the fault has hit %d times, not %d: %w", h.Count(), n, ctx.Err())
}

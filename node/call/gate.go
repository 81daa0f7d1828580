package call

import (
	"context"
	"sync"
)

// gate counts those that are inside, and lets nobody in once it is shut.
type gate struct {
	mu     sync.Mutex
	inside int
	isShut bool
	empty  chan struct{} // closed when the last has left after it was shut
}

func newGate() *gate { return &gate{empty: make(chan struct{})} }

// enter reports whether the caller is inside, and then calls leave.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.isShut {
		return false
	}
	g.inside++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.isShut && g.inside == 0 {
		close(g.empty)
	}
}

// shut keeps out who is not inside. It is idempotent.
func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.isShut {
		return
	}
	g.isShut = true
	if g.inside == 0 {
		close(g.empty)
	}
}

// wait waits until all who were inside have left a gate that is shut, or ctx ends.
func (g *gate) wait(ctx context.Context) {
	select {
	case <-g.empty:
	case <-ctx.Done():
	}
}

// count returns how many are inside.
func (g *gate) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inside
}

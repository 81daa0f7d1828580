package call

import (
	"context"
	"sync"
	"sync/atomic"
)

// gate counts those that are inside, and lets nobody in once it is shut. Each call goes through
// two: there is no lock.
type gate struct {
	// state is twice how many are inside, and one more once it is shut.
	state atomic.Int64
	once  sync.Once
	empty chan struct{} // closed when the last has left after it was shut
}

func newGate() *gate { return &gate{empty: make(chan struct{})} }

// enter reports whether the caller is inside, and then calls leave.
func (g *gate) enter() bool {
	for {
		old := g.state.Load()
		if old&1 == 1 {
			return false
		}
		if g.state.CompareAndSwap(old, old+2) {
			return true
		}
	}
}

func (g *gate) leave() { g.ended(g.state.Add(-2)) }

// shut keeps out who is not inside. It is idempotent.
func (g *gate) shut() { g.ended(g.state.Or(1) | 1) }

// ended closes empty if in this state it is: none follows in which anybody is inside.
func (g *gate) ended(state int64) {
	if state == 1 {
		g.once.Do(func() { close(g.empty) })
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
func (g *gate) count() int { return int(g.state.Load() >> 1) }

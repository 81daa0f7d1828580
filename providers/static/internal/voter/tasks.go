package voter

import (
	"context"
	"sync"
)

// tasks are the goroutines of a voter, which end joins.
type tasks struct {
	ctx    context.Context // ends with end
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	closed bool // spawn starts no more
}

func newTasks() *tasks {
	ctx, cancel := context.WithCancel(context.Background())
	return &tasks{ctx: ctx, cancel: cancel}
}

// spawn runs f on a goroutine, or reports false after close.
func (t *tasks) spawn(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.wg.Go(f)
	return true
}

// close has spawn report false.
func (t *tasks) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
}

// end has all goroutines end, which unblock makes those notice that do not look at ctx, and joins
// them.
func (t *tasks) end(unblock func()) {
	t.close()
	t.cancel()
	unblock()
	t.wg.Wait()
}

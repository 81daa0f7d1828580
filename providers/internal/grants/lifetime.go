package grants

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// Lifetime is that of an authority. What outlives a call is bound to it, and waited for
// by Close. It is safe for concurrent use.
type Lifetime struct {
	ctx    context.Context
	cancel context.CancelFunc

	mu    sync.Mutex // guards later against Close
	later sync.WaitGroup
}

// NewLifetime returns one that has begun.
func NewLifetime() *Lifetime {
	l := new(Lifetime)
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// Over reports whether Close was called.
func (l *Lifetime) Over() bool { return l.ctx.Err() != nil }

// Bind returns a context that ends with ctx, and with the lifetime too.
func (l *Lifetime) Bind(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(l.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// Later does what the caller, whose context may have ended, cannot wait for. It may take
// until limit has passed or the lifetime is over. After that nothing is done.
func (l *Lifetime) Later(limit time.Duration, do func(context.Context)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.Over() {
		return
	}
	l.later.Go(func() {
		ctx, cancel := context.WithTimeout(l.ctx, limit)
		defer cancel()
		do(ctx)
	})
}

// Close ends the lifetime and waits for what Later has begun. It is idempotent.
func (l *Lifetime) Close(ctx context.Context) error {
	l.mu.Lock()
	l.cancel()
	l.mu.Unlock()
	done := make(chan struct{})
	go func() {
		l.later.Wait()
		close(done)
	}()
	select {
	case <-done: // soon, as what it waits for has just been cancelled
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", driver.ErrUnavailable, ctx.Err())
	}
}

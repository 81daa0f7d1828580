package grants

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/within"
)

// Lifetime is the lifetime of an authority. What outlives a call ends with it, and Close waits for
// that. It is safe for concurrent use.
type Lifetime struct {
	ctx    context.Context
	cancel context.CancelFunc

	mu sync.Mutex // guards the WaitGroup against Close
	wg sync.WaitGroup
}

// NewLifetime returns one that has begun.
func NewLifetime() *Lifetime {
	l := new(Lifetime)
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// Ended reports whether Close was called.
func (l *Lifetime) Ended() bool { return l.ctx.Err() != nil }

// Bind returns a context that ends with ctx, and with the lifetime too.
func (l *Lifetime) Bind(ctx context.Context) (context.Context, context.CancelFunc) {
	return within.Both(ctx, l.ctx)
}

// Go calls do on a goroutine, for work that the caller, whose context may have ended, cannot wait
// for. The context of do ends after limit, or with the lifetime. After Close, Go does nothing.
func (l *Lifetime) Go(limit time.Duration, do func(context.Context)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.Ended() {
		return
	}
	l.wg.Go(func() {
		ctx, cancel := context.WithTimeout(l.ctx, limit)
		defer cancel()
		do(ctx)
	})
}

// Close ends the lifetime and waits for what Go has begun. It is idempotent.
func (l *Lifetime) Close(ctx context.Context) error {
	l.mu.Lock()
	l.cancel()
	l.mu.Unlock()
	done := make(chan struct{})
	go func() {
		l.wg.Wait()
		close(done)
	}()
	select {
	case <-done: // soon, as what it waits for has just been cancelled
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", driver.ErrUnavailable, ctx.Err())
	}
}

// Package backoff spaces retries with full jitter: each wait is uniform between
// nothing and a bound that doubles, which spreads the retries of many clients
// best (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog 2015).
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff counts the failures of one operation in a row. The zero value waits
// from 100 ms to 15 s at most. It is not safe for concurrent use.
type Backoff struct {
	// Min is the bound of the first wait, Max that of the last.
	Min, Max time.Duration
	failures int
}

// Next counts a failure and returns how long to wait before the next try.
func (b *Backoff) Next() time.Duration {
	bound, most := b.Min, b.Max
	if bound <= 0 {
		bound = 100 * time.Millisecond
	}
	if most <= 0 {
		most = 15 * time.Second
	}
	for range b.failures {
		if bound *= 2; bound >= most {
			bound = most
			break
		}
	}
	b.failures++
	return rand.N(bound + 1)
}

// Reset forgets the failures, after a success.
func (b *Backoff) Reset() { b.failures = 0 }

// Wait counts a failure and waits for Next, or until ctx ends, whose error it
// then returns.
func (b *Backoff) Wait(ctx context.Context) error { return Sleep(ctx, b.Next()) }

// Sleep waits for d, or until ctx ends, whose error it then returns.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Package wait is how tests wait: for a condition, with a deadline, and never for a while in
// the hope that it will do.
package wait

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Patience bounds each wait. What is waited for takes milliseconds, or a few TTLs, on an idle
// machine: a loaded one is slow, not wrong.
const Patience = 3 * time.Minute

// The first look follows after firstPause, and each pause is half as long again as the one
// before it, up to longestPause: what comes soon is seen soon, and what takes its time costs
// few looks.
const (
	firstPause   = time.Millisecond
	longestPause = 50 * time.Millisecond
)

// For waits until holds returns true. It fails the test at once where that is not within
// Patience, with what was waited for and the lines that state returns.
func For(t testing.TB, what string, holds func() bool, state ...func() string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	if Until(ctx, holds) {
		return
	}
	var lines strings.Builder
	for _, f := range state {
		lines.WriteString("\n" + f())
	}
	t.Fatalf("not within %v: %s%s", Patience, what, &lines)
}

// NoError waits until f returns no error. It fails the test at once with the last error where
// that is not within Patience.
func NoError(t testing.TB, f func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	var err error
	if !Until(ctx, func() bool { err = f(); return err == nil }) {
		t.Fatalf("not within %v: %v", Patience, err)
	}
}

// Until waits until holds returns true or ctx ends, and reports whether it holds.
func Until(ctx context.Context, holds func() bool) bool {
	for pause := firstPause; ; pause = min(pause+pause/2, longestPause) {
		if holds() {
			return true
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return false
		}
	}
}

// Context returns a context that ends after Patience, and when the test has ended. Other than
// that of t it lasts while cleanups run.
func Context(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	t.Cleanup(cancel)
	return ctx
}

// Virtual lets the time of a synctest bubble pass in steps of a millisecond until holds
// returns true while every other goroutine of the bubble waits. It returns how long that took,
// and fails the test at once where it is longer than limit.
func Virtual(t testing.TB, what string, limit time.Duration, holds func() bool) time.Duration {
	t.Helper()
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		synctest.Wait()
		took := time.Since(start)
		if holds() {
			return took
		}
		if took > limit {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

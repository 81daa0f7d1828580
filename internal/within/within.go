// Package within bounds calls of code that may ignore its context: a user's detector, a
// driver, an engine's client.
package within

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"
)

// Grace is how much longer than its context a call may take, so that one which honours the
// context returns its own error.
const Grace = 100 * time.Millisecond

// Call calls f and returns what it returns. Where ctx ends and f has not returned within
// Grace, Call returns the cause, and f goes on in a goroutine of its own: nothing can end it.
//
// A panic of f is raised by Call, as a text that says where it was, or in that goroutine
// where Call has returned.
func Call[T any](ctx context.Context, f func(context.Context) (T, error)) (T, error) {
	return CallLate(ctx, f, func(T, error) {})
}

// CallLate is Call, and calls late with what f returns where that has come too late.
func CallLate[T any](ctx context.Context, f func(context.Context) (T, error), late func(T, error)) (T, error) {
	type result struct {
		value    T
		err      error
		panicked string
	}
	results, left := make(chan result), make(chan struct{})
	defer close(left)
	go func() {
		r := result{panicked: "the goroutine was ended by runtime.Goexit"}
		defer func() {
			if p := recover(); p != nil {
				r.panicked = fmt.Sprintf("%v\n\n%s", p, debug.Stack())
			}
			select {
			case results <- r:
				return
			case <-left:
			}
			if r.panicked != "" {
				panic(r.panicked)
			}
			late(r.value, r.err)
		}()
		r.value, r.err = f(ctx)
		r.panicked = ""
	}()
	returned := func(r result) (T, error) {
		if r.panicked != "" {
			panic(r.panicked)
		}
		return r.value, r.err
	}
	select {
	case r := <-results:
		return returned(r)
	case <-ctx.Done():
	}
	grace := time.NewTimer(Grace)
	defer grace.Stop()
	select {
	case r := <-results:
		return returned(r)
	case <-grace.C:
		var none T
		return none, context.Cause(ctx)
	}
}

// Do is Call of an f that returns no value.
func Do(ctx context.Context, f func(context.Context) error) error {
	_, err := Call(ctx, func(ctx context.Context) (struct{}, error) { return struct{}{}, f(ctx) })
	return err
}

// Done waits until done is closed. Where ctx ends first and done is not closed within
// Grace, it returns the cause.
func Done(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	grace := time.NewTimer(Grace)
	defer grace.Stop()
	select {
	case <-done:
		return nil
	case <-grace.C:
		return context.Cause(ctx)
	}
}

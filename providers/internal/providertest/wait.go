// Package providertest is what the tests of the providers over real servers share.
package providertest

import (
	"context"
	"io"
	"testing"
	"time"
)

// Bound is how long a step may take that takes milliseconds where the machine is idle.
const Bound = 30 * time.Second

// Within returns a context that ends after Bound, and with the test.
func Within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Bound)
	t.Cleanup(cancel)
	return ctx
}

// Eventually waits until the condition holds, for Bound at most.
func Eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Bound); !holds(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, Bound)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Opened returns what was opened, and has it closed with the test.
func Opened[T io.Closer](t testing.TB, opened T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := opened.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return opened
}

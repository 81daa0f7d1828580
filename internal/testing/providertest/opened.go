// Package providertest is what the tests of the providers over real servers share.
package providertest

import (
	"io"
	"testing"
)

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

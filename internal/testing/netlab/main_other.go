//go:build !linux

package netlab

import "testing"

// Main runs the tests.
func Main(m interface{ Run() int }) int { return m.Run() }

// Require skips the test.
func Require(t testing.TB) {
	t.Helper()
	lack(t, "this needs Linux, for network namespaces")
}

func lack(t testing.TB, why string) {
	t.Helper()
	t.Skipf("no network of hosts: %s", why)
}

//go:build !linux

package netlab

import "testing"

// Main runs the tests.
func Main(m interface{ Run() int }) int { return m.Run() }

// Require skips the test.
func Require(t testing.TB) {
	t.Helper()
	t.Skip("no network of hosts: this needs Linux, for network namespaces")
}

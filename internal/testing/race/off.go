//go:build !race

package race

// Enabled reports whether the test runs with the race detector.
const Enabled = false

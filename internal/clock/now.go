//go:build !musterfault

package clock

// Now reads the boot clock.
func Now() Instant { return Instant(sinceBoot()) }

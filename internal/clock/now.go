//go:build !musterfault

package clock

// Now reads the boot clock.
func Now() Instant { return Instant(sinceBoot()) }

// faultID is empty: the clock is the host's.
const faultID = ""

// Package clock reads the clock that mastership is measured on.
//
// It counts on while the machine is suspended, which Go's monotonic clock does
// not on every system (golang/go issues 24595 and 66870), never jumps with the
// wall clock, and is shared by all processes of a host, so that their event logs
// can be laid side by side.
package clock

import "time"

// Instant is a reading of the boot clock: the time since an arbitrary moment
// that is the same for all processes since the host was booted.
type Instant time.Duration

// Add returns the instant d after i.
func (i Instant) Add(d time.Duration) Instant { return i + Instant(d) }

// Sub returns the time from j to i.
func (i Instant) Sub(j Instant) time.Duration { return time.Duration(i - j) }

// Before reports whether i comes before j.
func (i Instant) Before(j Instant) bool { return i < j }

// String shows the instant as a duration since boot.
func (i Instant) String() string { return time.Duration(i).String() }

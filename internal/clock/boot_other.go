//go:build !linux && !darwin && !windows

package clock

import "time"

var start = time.Now()

// Elsewhere Go's monotonic clock must do: it is counted from the start of the
// process, and whether it counts while the machine sleeps is up to the system.
func sinceBoot() time.Duration { return time.Since(start) }

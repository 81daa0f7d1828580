package clock

import (
	"time"

	"golang.org/x/sys/windows"
)

// The tick count includes time asleep. It moves in steps of up to 16 ms, which
// the margin of a mastership's deadline covers.
func sinceBoot() time.Duration { return windows.DurationSinceBoot() }

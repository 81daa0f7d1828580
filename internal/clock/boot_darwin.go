package clock

import (
	"time"

	"golang.org/x/sys/unix"
)

// Darwin's CLOCK_MONOTONIC counts while the machine sleeps.
func sinceBoot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic("clock: " + err.Error())
	}
	return time.Duration(ts.Nano())
}

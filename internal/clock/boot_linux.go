package clock

import (
	"time"

	"golang.org/x/sys/unix"
)

func sinceBoot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		// Every kernel that Go runs on has it. Without a clock nothing is safe.
		panic("clock: " + err.Error())
	}
	return time.Duration(ts.Nano())
}

package clock

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sinceBoot reads the clock by a raw system call. unix.ClockGettime tells the
// scheduler first, as for a call that may block, and on an idle node that wakes the
// runtime's monitor each time.
func sinceBoot() time.Duration {
	var ts unix.Timespec
	_, _, errno := unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_BOOTTIME, uintptr(unsafe.Pointer(&ts)), 0)
	if errno != 0 {
		// Every kernel that Go runs on has it. Without a clock nothing is safe.
		panic("clock: " + errno.Error())
	}
	return time.Duration(ts.Nano())
}

//go:build unix

package grammar

import (
	"syscall"
	"testing"
	"time"
)

// used is the processor time of this process so far, which other processes do not add to.
func used(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

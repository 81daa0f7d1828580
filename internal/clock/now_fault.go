//go:build musterfault

package clock

import (
	"fmt"
	"os"
	"time"
)

// FaultVariable makes the clock of the process wrong, in programs that are built with
// the tag musterfault: "OFFSET RATE EPOCH", as "1h 1.05 81325000000000".
const FaultVariable = "MUSTER_FAULT_CLOCK"

// faultID makes a wrong clock another one than the host's.
var faultID = os.Getenv(FaultVariable)

var fault = readFault(os.Getenv(FaultVariable))

// wrong is a clock that was right at the epoch but for its offset, and has run at the
// rate since.
type wrong struct {
	offset time.Duration
	rate   float64
	epoch  int64
}

func readFault(text string) (w wrong) {
	if text == "" {
		return wrong{rate: 1}
	}
	var offset string
	if _, err := fmt.Sscan(text, &offset, &w.rate, &w.epoch); err != nil {
		panic("clock: " + FaultVariable + ": " + err.Error())
	}
	var err error
	if w.offset, err = time.ParseDuration(offset); err != nil {
		panic("clock: " + FaultVariable + ": " + err.Error())
	}
	return w
}

// Now reads the boot clock, and makes it wrong.
func Now() Instant {
	t := sinceBoot()
	if fault.rate != 1 {
		t += time.Duration(float64(int64(t)-fault.epoch) * (fault.rate - 1))
	}
	return Instant(t + fault.offset)
}

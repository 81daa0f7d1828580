//go:build musterfault

package link

import (
	"os"
	"strconv"
)

// FaultVariable is the version of the wire to speak, in programs that are built with
// the tag musterfault: what a later release might be.
const FaultVariable = "MUSTER_FAULT_WIRE"

// wireVersion is that of the hello and of the frames.
var wireVersion = func() int {
	text := os.Getenv(FaultVariable)
	if text == "" {
		return 2
	}
	n, err := strconv.ParseUint(text, 10, 8)
	if err != nil {
		panic("link: " + FaultVariable + ": " + err.Error())
	}
	return int(n)
}()

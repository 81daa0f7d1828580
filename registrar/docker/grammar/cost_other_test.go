//go:build !unix

package grammar

import (
	"testing"
	"time"
)

var began = time.Now()

// used is the time of the clock, where that of the processor is not known.
func used(*testing.T) time.Duration { return time.Since(began) }

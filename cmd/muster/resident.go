package main

import (
	"os"
	"runtime/debug"
)

// saveMemory has a service take less memory from those that it shares a host with. gcPercent is
// that of debug.SetGCPercent, unless GOGC says otherwise.
func saveMemory(gcPercent int) {
	if _, set := os.LookupEnv("GOGC"); !set {
		debug.SetGCPercent(gcPercent)
	}
	shrinkOnceStarted()
}

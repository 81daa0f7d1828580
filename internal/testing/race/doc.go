// Package race reports whether a test runs with the race detector.
//
// A simulation in one goroutine has no races, and takes ten to twenty times as long with the
// detector. It runs a few seeds with it, and all of them without: make test does both.
package race

//go:build race

package mastership

// raceEnabled makes the model checker, which has no goroutines of its own, run
// fewer seeds where each takes ten times as long.
const raceEnabled = true

//go:build !race

package mastership

const raceEnabled = false

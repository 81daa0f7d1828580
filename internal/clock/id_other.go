//go:build !linux && !darwin

package clock

// bootID is empty: the system has no id of a boot.
func bootID() string { return "" }

//go:build !linux

package support

// What only Linux is asked for.

func kernel() string { return "" }

func clockSync() map[string]any { return nil }

func limits() map[string]string { return nil }

//go:build !unix

package testserver

// lockFile does nothing here: packages that run side by side each build the
// program, and the last rename wins.
func lockFile(string) (unlock func(), err error) { return func() {}, nil }

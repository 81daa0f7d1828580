//go:build !musterfault

package link

// wireVersion is that of the hello and of the frames.
const wireVersion = 2

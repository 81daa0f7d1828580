//go:build !musterfault

package link

// wireVersion is that of the preface and of the frames.
const wireVersion = 1

// Package binding reads where the ports of a container are published, and at which addresses
// others reach a container itself. The own-container detector and the SERVICE_* grammar are
// above it.
package binding

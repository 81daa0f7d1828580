// Package docker knows containers: the one that this process runs in, so that a node
// learns at which address of the host others reach it, and all of a host, so that
// their published ports are registered.
//
// It talks to an [Engine], which is Docker or Podman.
package docker

// Package docker finds the container that this process runs in, so that a node learns at which
// address of the host others reach it.
//
// It asks an [engine.Engine], which is Docker or Podman. [Self] is the container of this
// process, and a [Detector] reports to package advertise where its port can be dialed.
//
// The other containers of a host are the subject of package registrar/host, which follows them.
// Package grammar decides what of each is registered, and at which published port and address
// (endpoint.go). Of several bindings of a port, binding.Best chooses one.
package docker

// Package docker knows containers: the one that this process runs in, so that a node
// learns at which address of the host others reach it, and all of a host, so that
// their published ports are registered.
//
// It talks to an [Engine], which is Docker or Podman: [New] finds it. [Self] is the
// container of this process, and a [Detector] tells package advertise where its port can
// be dialled.
//
// Whoever can write to the socket of an engine is root on its host. What is here only
// asks: a proxy before the socket that lets GET /_ping, /containers, /events, /networks
// and /info through is enough, and without the last two less is found.
package docker

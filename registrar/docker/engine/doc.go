// Package engine asks a container engine, Docker or Podman, for its containers and networks:
// [New] finds it.
//
// Access to the socket of an engine is equivalent to root on its host. A [Client] only asks: a
// proxy before the socket that lets GET /_ping, /containers, /events, /networks and /info
// through is enough, and without the last two less is found. An error that a closed path has
// made is a [ClosedError].
package engine

// Package node is a running member of a cluster: it finds its peers through one
// provider or several, keeps itself registered with each, sees who is there, and
// takes part in mastership.
//
// # What it promises
//
// At most one node of a cluster is master at any time, and terms only rise, under
// the one assumption that clocks run at the true rate within 1 %. Package
// node/mastership says how, and what remains for the application to do: attach
// the term to whatever it changes outside its own process.
//
// Membership promises less. Each node sees the others as they are within seconds,
// two nodes may see differently meanwhile, and nothing that must happen once may
// be decided by it.
//
// # Order
//
// [Start] listens, works out the address to advertise, joins, registers and then
// takes part in mastership; it returns as soon as the node runs, before any peer or
// provider was reached, and [Node.Status] says what it waits for. [Node.Leave] goes
// the other way: it gives mastership up once the functions of WhileMaster have
// returned, takes the registrations away, says goodbye to the members, and closes.
// Each step is bounded in time, and a step that fails does not keep the next from
// being taken.
//
// # Can it be reached?
//
// That a node listens does not mean that others can dial what it advertises. So it asks up
// to three members to reach for it there, over the one port, and is not ready before
// one has found it: [Status].Reach says who did, or who did not and why. It asks for as
// long as none has. Members of a version that does not know the question do not keep
// it from being ready, nor does an answer that is only missing once it was. Mastership
// does not depend on it.
//
// # Several providers
//
// With several providers a node is registered with each, and its peers are the union
// of what they know: one that fails costs no peer. One of them grants mastership, or two
// that both must, which is how a cluster moves from one to another while it runs.
//
// # What it costs
//
// A node depends on no provider: the caller opens a registry with the one it
// wants, and pays for that one alone.
package node

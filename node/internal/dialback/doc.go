// Package dialback lets a member ask another one whether it can be reached at the
// address that it advertises: what listens well within may lead nowhere from outside,
// and a node that dials finds out first.
//
// # On the wire
//
// It is the protocol "dialback" of the one port. The node that dials sends one line of JSON
// and gets one in return, each of 4 KiB at most:
//
//	{"v":1,"op":"reach","instance":"<id>"}   reach for that member, and tell
//
// The answers are
//
//	{"v":1,"outcome":"reached","addr":"10.0.0.5:7946"}
//	{"v":1,"outcome":"failed","addr":"10.0.0.5:7946","reason":"connection refused"}
//	{"v":1,"outcome":"declined","reason":"no such member is known"}
//
// Fields are only ever added, and readers pass over those that they do not know. A
// question of another version or with another op is declined. One that is declined, or
// put to a node without this protocol, is no answer.
//
// # What it cannot be used for
//
// A node dials no address that it was told by the node that asks: it dials that under which
// it knows the instance as a member itself, and would dial anyway. It dials one instance
// at most once in [Pause], a few at a time, and for [DialTimeout] at most.
package dialback

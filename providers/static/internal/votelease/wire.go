package votelease

import "time"

// Request asks a voter not to vote in a higher Raft term for a while.
type Request struct {
	// To is the id of the voter that is asked. A voter that lost its disk has another id, and
	// does not answer for the one that it replaced.
	To string `json:"to"`
	// Leader, Start and RaftTerm are those of the Leadership that asks.
	Leader   string `json:"leader"`
	Start    string `json:"start"`
	RaftTerm uint64 `json:"raft_term"`
	// Round numbers the requests of a leader.
	Round uint64 `json:"round"`
	// For is how long. With 0 it asks only whether RaftTerm is still the voter's.
	For time.Duration `json:"for_ns"`
	// Withdraw ends the lease instead, since the leader gave Released back.
	Withdraw bool `json:"withdraw,omitempty"`
	// Released means nothing to this package. See Config.Released.
	Released uint64 `json:"released,omitempty"`
}

// Reply answers a Request.
type Reply struct {
	// Round is that of the request.
	Round uint64 `json:"round"`
	// Given reports whether the voter gave the lease.
	Given bool `json:"given"`
	// For is for how long, from some moment after the request was sent.
	For time.Duration `json:"for_ns,omitempty"`
}

// Package reachability finds out whether the other members can dial a node at the address
// that it advertises: that a node listens does not mean that others reach it.
//
// A [Prober] asks up to three members at a time to dial the node, over the one port (package
// dialback), until one has reached it. What the node knows is a [Result]; what follows from it
// for being ready and for being a candidate is decided there, from plain data.
package reachability

import (
	"fmt"
	"time"
)

// State is what a node knows about whether others can dial it.
type State string

// The states of a Result.
const (
	// Alone means that there is no other member to ask. It is the zero value.
	Alone State = ""
	// Asking means that none of the members that were asked has answered yet.
	Asking State = "asking"
	// Reachable means that a member has reached the node at its address.
	Reachable State = "reachable"
	// Unreachable means that the members that have answered did not reach it there.
	Unreachable State = "unreachable"
)

// Result is what a node knows about whether others can dial it.
type Result struct {
	State State
	// Peer is the node that has reached this one, or that could not. It is empty if the one
	// that has reached it is gone, and no other has yet.
	Peer string
	// Reason says why it could not, and how to fix that, or why there is no answer. It is
	// empty if the node is reachable or alone.
	Reason string

	// patience is until when an answer is waited for before the node is ready.
	patience time.Time
}

const (
	// askedAtOnce is how many members are asked at a time. One that reaches the node is
	// enough: that another does not may be its own trouble.
	askedAtOnce = 3
	// answerTimeout is how long a node waits for the first answer before it is ready without
	// one. Nodes of a version that does not know the question give none.
	answerTimeout = 3 * time.Second
	// meetTimeout is how long after its start a node waits, before it is ready, to meet one of
	// those that its providers list. What they list may be long gone.
	meetTimeout = 2 * time.Second
	retryMax    = 30 * time.Second
)

// round is what the members have answered that were asked at once.
type round struct {
	result Result
	asked  int
	failed int // members that could not reach the node
	absent int // members that could not be asked
}

// next returns what a node knows after a round of questions. alive says that the members that
// were asked are alive, wasReady that the node was found ready before, and doubted that the
// round before was single. single reports whether this round rests on one member that could
// not reach a node that was ready: it may have trouble of its own, and is believed only if
// there is no other, and it says so twice.
func (last Result) next(r round, alive, wasReady, doubted bool) (next Result, single bool) {
	next = r.result
	next.patience = last.patience
	single = next.State == Unreachable && r.failed == 1 && last.State != Unreachable && wasReady
	switch {
	case !alive && r.absent == r.asked:
		next = Result{} // the node that could not reach this one is gone
	case next.State == Asking && last.State == Unreachable:
		next = last // an answer that is missing changes nothing
	case single && (r.asked > 1 || !doubted):
		next.State = Asking
	}
	return next, single
}

// Standing is what counts, beside the result, for being ready and for being a candidate.
type Standing struct {
	Now time.Time
	// WasReady says that the node was found ready before. It stays so while an answer is
	// only missing.
	WasReady bool
	// Running is the time since the start of the node.
	Running time.Duration
	// Met says that the node sees another member, Listed that a provider lists one.
	Met, Listed bool
}

// Verdict says what a node has to wait for on account of its address.
type Verdict int

// The verdicts.
const (
	// Clear: nothing.
	Clear Verdict = iota
	// NotReached: others could not reach the node.
	NotReached
	// NotMet: the node has met none of the members that are listed.
	NotMet
	// NotAnswered: no member has said yet whether it can reach the node.
	NotAnswered
)

// Ready returns what keeps the node from being ready.
func (r Result) Ready(s Standing) Verdict {
	switch {
	case r.State == Unreachable:
		return NotReached
	case s.WasReady:
		return Clear
	case r.patience.IsZero() && s.Running < meetTimeout && s.Listed:
		return NotMet
	case r.State == Asking && s.Now.Before(r.patience):
		return NotAnswered
	}
	return Clear
}

// Candidate returns what keeps the node from being a candidate. An unreachable master is
// worse than none: it can still renew its grant, but the other members consider it failed.
func (r Result) Candidate(s Standing) Verdict {
	switch {
	case r.State == Unreachable:
		return NotReached
	case s.WasReady:
		return Clear
	case r.State == Asking && s.Now.Before(r.patience):
		return NotAnswered
	case r == Result{} && s.Running < meetTimeout && (s.Met || s.Listed):
		return NotMet
	}
	return Clear
}

// String returns the verdict in words, for logs of tests.
func (v Verdict) String() string {
	switch v {
	case Clear:
		return "clear"
	case NotReached:
		return "not reached"
	case NotMet:
		return "not met"
	case NotAnswered:
		return "not answered"
	}
	return fmt.Sprintf("Verdict(%d)", int(v))
}

package mastership

import "fmt"

// Mode is a rule of formation.
type Mode string

// The rules of formation.
const (
	// Auto forms the cluster if none is recorded and as many members as
	// expected are in sight.
	Auto Mode = "auto"
	// JoinOnly never forms a cluster: it waits for one that exists.
	JoinOnly Mode = "join-only"
	// Single is one node alone.
	Single Mode = "single"
)

// Formation decides whether a node may form a cluster for the first time. It is
// asked only while no cluster is known; once one is, mastership is a matter of
// terms and not of formation.
type Formation struct {
	// Mode is Auto if empty.
	Mode Mode
	// Expect is how many members the cluster is meant to have. 0 means that it is
	// not known, and then one will do.
	Expect int
}

// Decision is an answer with its reason.
type Decision struct {
	Allowed bool
	// Reason says what is waited for. Empty if Allowed.
	Reason string
}

// Decide answers for a node that sees so many members, itself included.
func (f Formation) Decide(members int) Decision {
	switch f.Mode {
	case Auto, "":
		if want := max(f.Expect, 1); members < want {
			return Decision{Reason: fmt.Sprintf("waiting for %d members, sees %d", want, members)}
		}
		return Decision{Allowed: true}
	case JoinOnly:
		return Decision{Reason: "waiting for an existing cluster to join, as bootstrap mode join-only demands"}
	case Single:
		if members > 1 {
			return Decision{Reason: fmt.Sprintf("bootstrap mode single forbids a second member, sees %d", members)}
		}
		return Decision{Allowed: true}
	}
	return Decision{Reason: fmt.Sprintf("bootstrap mode %q is unknown", f.Mode)}
}

// Majority returns how many of expected members are a majority, 0 if expected is
// not known.
func Majority(expected int) int {
	if expected <= 0 {
		return 0
	}
	return expected/2 + 1
}

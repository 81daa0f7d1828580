package mastership

import (
	"errors"
	"fmt"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
)

// Term counts masterships of a cluster from 1. It is the fencing token to attach to effects
// outside the process.
type Term = driver.Term

// Holder is who asks for mastership, or has it.
type Holder = driver.Holder

// State is where a node stands in the election.
type State int

// The states. Only Active makes a master, and only until the deadline.
const (
	// Follower: another node is master, or this one may not be.
	Follower State = iota
	// Candidate: this node tries to be granted mastership.
	Candidate
	// Acquired: a grant was confirmed and is being checked. It is passed through
	// within one step.
	Acquired
	// Active: master, until the deadline.
	Active
	// Releasing: no longer master; the functions of WhileMaster return, then the
	// grant is released.
	Releasing
)

// String is the state's name in lower case, as in metrics and JSON.
func (s State) String() string {
	switch s {
	case Follower:
		return "follower"
	case Candidate:
		return "candidate"
	case Acquired:
		return "acquired"
	case Active:
		return "active"
	case Releasing:
		return "releasing"
	}
	return fmt.Sprintf("State(%d)", int(s))
}

// Reason says why a mastership ended.
type Reason string

// The reasons. In the first eight cases the mastership was given up in good order
// and the functions had their drain timeout; in the last two it was over at once.
const (
	// ReasonResigned: Resign was called.
	ReasonResigned Reason = "resigned"
	// ReasonStopped: the context of Run ended.
	ReasonStopped Reason = "stopped"
	// ReasonDraining: the conditions say that this node is going away.
	ReasonDraining Reason = "draining"
	// ReasonIneligible: this node may no longer be master.
	ReasonIneligible Reason = "ineligible"
	// ReasonAbstains: this node does not want to be master for now.
	ReasonAbstains Reason = "abstains"
	// ReasonMajority: fewer members than a majority were in sight for longer than
	// the isolation grace.
	ReasonMajority Reason = "majority-lost"
	// ReasonRenewal: renewals failed until the soft deadline.
	ReasonRenewal Reason = "renewal-failed"
	// ReasonFailed: a function of WhileMaster returned an error.
	ReasonFailed Reason = "failed"
	// ReasonDeadline: the hard deadline was passed, as after a pause of the process.
	ReasonDeadline Reason = "deadline"
	// ReasonLost: the authority said that the grant is over.
	ReasonLost Reason = "lost"
)

var (
	// ErrNotMaster means that another node is master. See NotMasterError.
	ErrNotMaster = errors.New("this node is not the master")

	// ErrNoMaster means that this node is not master and knows of none.
	ErrNoMaster = errors.New("no master is known")

	// ErrNoQuorum means that there can be no master because too few members are in
	// sight. See NoQuorumError.
	ErrNoQuorum = errors.New("no majority of the members is in sight")

	// ErrEnded is the cause of a context that WhileMaster handed out, once that
	// mastership has ended. The text adds the term and the reason.
	ErrEnded = errors.New("mastership ended")

	// ErrDrainTimeout means that functions of WhileMaster had not returned within
	// the drain timeout. The grant was not released, since they may still act on
	// it, and expires by itself.
	ErrDrainTimeout = errors.New("a function of WhileMaster, as the run of a job or a step, has not returned within the drain timeout; the grant was left to expire")

	// ErrTermBehind means that the authority names a master in an earlier term than one that
	// it has shown or granted before, as where it was restored from an old copy. That term may
	// have been another's: what it guards cannot tell the two apart.
	ErrTermBehind = errors.New("the authority has gone back to an earlier term")

	// ErrStopped means that Run has ended.
	ErrStopped = errors.New("the elector has stopped")
)

// NotMasterError says who is master instead. It is an ErrNotMaster.
type NotMasterError struct {
	// Master is the one to turn to, never nil.
	Master *Holder
	// Term is the term of Master.
	Term Term
}

func (e *NotMasterError) Error() string {
	return fmt.Sprintf("%v: it is %s at %s in term %d", ErrNotMaster, e.Master.NodeID, e.Master.Addr, e.Term)
}

// Is makes it an ErrNotMaster.
func (e *NotMasterError) Is(target error) bool { return target == ErrNotMaster }

// NoQuorumError counts the members. It is an ErrNoQuorum. Have is 0 if it is not
// known: the grants of the authority come from its voters, and it does not reach
// enough of them.
type NoQuorumError struct{ Have, Need int }

func (e *NoQuorumError) Error() string {
	if e.Have == 0 {
		return fmt.Sprintf("%v: the authority does not reach the %d voters needed", ErrNoQuorum, e.Need)
	}
	return fmt.Sprintf("%v: %d of the %d needed", ErrNoQuorum, e.Have, e.Need)
}

// Is makes it an ErrNoQuorum.
func (e *NoQuorumError) Is(target error) bool { return target == ErrNoQuorum }

// Conditions are what the node knows and mastership depends on. The zero value
// keeps this node from being a candidate.
type Conditions struct {
	// Eligible says that this node may be master at all. A master that becomes
	// ineligible gives up in good order.
	Eligible bool
	// Draining says that this node is going away: it gives up in good order and
	// stays out.
	Draining bool
	// Abstains says why this node does not want to be master for now, in words. A master that
	// abstains gives up in good order. Empty: it does not abstain.
	Abstains string
	// Ready says that this node has joined and has the state that a master needs.
	// Only a ready node becomes a candidate; a master stays one.
	Ready bool
	// Have and Need are the members in sight, this node included, and how many of
	// them make a majority of the expected size. Need 0 means that the size is not
	// known and no majority is asked for.
	Have, Need int
	// Formation says whether a first cluster may be formed. It counts only while
	// no cluster is known, neither to the authority nor by gossip.
	Formation Decision
}

// majority reports whether the majority rule, if any, is met.
func (c Conditions) majority() bool { return c.Need <= 0 || c.Have >= c.Need }

// EventKind is the kind of an Event.
type EventKind int

// The kinds of events.
const (
	// Began: this node is master from At, until Deadline at first.
	Began EventKind = iota
	// Extended: the mastership goes on until Deadline, counted from Sent.
	Extended
	// Ended: this node is master no longer, and was none after Until. Reason says
	// why.
	Ended
)

// Event is one step of this node's mastership, as Config.Observer receives it.
type Event struct {
	Kind      EventKind
	Term      Term
	ClusterID string
	// At is when the step was made. It and the other times are readings of Config.Clock.
	At time.Duration
	// Sent, of Extended, is when the call was sent that extended it.
	Sent time.Duration
	// Deadline is the hard deadline.
	Deadline time.Duration
	// Until, of Ended, is the last moment at which this node can have counted itself
	// master: At, or the deadline if that came first.
	Until time.Duration
	// Reason, of Ended, says why.
	Reason Reason
}

// Status is what an Elector knows. It is a copy.
type Status struct {
	State State
	// Term and Deadline are those of this node's mastership while State is Active
	// or Releasing. Whether the node is master is for Check to say: it reads the
	// clock.
	Term Term
	// Deadline and Since are readings of Config.Clock.
	Deadline time.Duration
	// Since is when State was entered.
	Since time.Duration

	// Master is the node that this one names master, itself included, nil if it knows of
	// none. Another one may not be Active any longer, for the time of a message.
	Master     *Holder
	MasterTerm Term
	// MasterUntil is until when Master counts, on Config.Clock, if nothing more is learned of it:
	// the deadline for this node itself, and for another one what it has announced. It moves
	// without a change that Watch yields.
	MasterUntil time.Duration
	// MaxTerm is the highest term that the authority has shown or granted, or in which a
	// master was named.
	MaxTerm Term
	// ClusterID is that of the cluster, empty while none is known. ClusterProven says that
	// the authority has shown it; otherwise it was announced by other nodes.
	ClusterID     string
	ClusterProven bool
	// Observed is the last that the authority said, zero if nothing yet.
	Observed driver.Mastership
	// Have and Need are those of the conditions.
	Have, Need int

	// Hearsay counts what other nodes announced and was not believed.
	Hearsay Hearsay
	// Alarm is what lasts until an operator acts. ErrClusterMismatch: the authority records
	// another cluster than the one that this node belongs to, which is no candidate then.
	// ErrTermBehind: the master has an earlier term than this node has seen, and is not named;
	// a claim of this node would put that right, once the master is gone. Nil if there is
	// nothing.
	Alarm error
	// Warning is what an operator should know and need not act on: the authority has
	// forgotten terms, and no node is master in an earlier one. Empty if there is nothing.
	Warning string
	// Err is what fails now: the alarm, the last call to the authority, or its
	// observation. Nil when all is well. That another node is master is no error.
	Err error
	// WaitingFor says in words what keeps this node from being a candidate or from
	// knowing a master, and WaitingReason is the code of it. Both are empty when a master
	// is known.
	WaitingFor    string
	WaitingReason WaitReason

	// Transitions counts beginnings and ends. Renewals and RenewalFailures count
	// the answers to renewals.
	Transitions, Renewals, RenewalFailures uint64
	// RenewalLatency is the time from send to success of the renewals.
	RenewalLatency Histogram

	vouched clock.Instant // until when gossip vouches for the master
}

// Hearsay counts announcements of other nodes that were not believed, or that contradict
// what this node knows. None of them ends a mastership. Each kind is logged, at most once
// in a while, with the node that said it.
type Hearsay struct {
	// AbsurdTerms were so far above what the authority has shown that no cluster counts
	// there. They were ignored.
	AbsurdTerms uint64
	// ForeignClusters were of another cluster than the one that the authority records.
	// They were ignored.
	ForeignClusters uint64
	// Disputes contradicted this node's mastership, and had it ask the authority.
	Disputes uint64
}

// latencyBounds are the upper bounds of the buckets of a Histogram. What is above
// the last falls into one more bucket.
var latencyBounds = [...]time.Duration{
	time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond,
	25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond,
	500 * time.Millisecond, time.Second, 2500 * time.Millisecond,
}

// Histogram counts durations in fixed buckets. It is a value: copies are
// independent.
type Histogram struct {
	counts [len(latencyBounds) + 1]uint64
	// Count and Sum are over all durations; Last is the latest one.
	Count uint64
	Sum   time.Duration
	Last  time.Duration
}

func (h *Histogram) observe(d time.Duration) {
	i := 0
	for i < len(latencyBounds) && d > latencyBounds[i] {
		i++
	}
	h.counts[i]++
	h.Count++
	h.Sum += d
	h.Last = d
}

// Cumulative returns how many durations were at most each bound, as a Prometheus
// histogram wants them: the keys are seconds.
func (h Histogram) Cumulative() map[float64]uint64 {
	m := make(map[float64]uint64, len(latencyBounds))
	var sum uint64
	for i, bound := range latencyBounds {
		sum += h.counts[i]
		m[bound.Seconds()] = sum
	}
	return m
}

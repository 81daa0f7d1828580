package mastership

import (
	"errors"
	"fmt"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
)

// WaitReason is the code of what a node waits for, or of what keeps its cluster from having
// a master: what programs and alert rules go by, where a person reads the sentence beside
// it. The codes are stable; docs/waiting.md says what each means and what to do about it.
// Package node has more of them.
type WaitReason string

// The codes of an elector.
const (
	// WaitLeaving: this node is going away.
	WaitLeaving WaitReason = "leaving"
	// WaitNotEligible: this node may not be master, and no other one is known to be.
	WaitNotEligible WaitReason = "not_eligible"
	// WaitAbstains: this node does not want to be master for now, and no other one is known to be.
	WaitAbstains WaitReason = "abstains"
	// WaitAuthority: what grants mastership has not answered yet, fails or refuses.
	WaitAuthority WaitReason = "authority_unavailable"
	// WaitBlocked: the authority keeps this node out, for no reason that has a code.
	WaitBlocked WaitReason = "authority_blocks"
	// WaitCluster: the authority records another cluster than this node belongs to.
	WaitCluster = WaitReason(driver.BlockCluster)
	// WaitTerm: this node remembers a later term than the one that is in force.
	WaitTerm = WaitReason(driver.BlockTerm)
	// WaitStateLost: so many voters came without their state that nobody is elected.
	WaitStateLost = WaitReason(driver.BlockStateLost)
	// WaitUnwritable: this node cannot read or write what it must remember.
	WaitUnwritable = WaitReason(driver.BlockUnwritable)
	// WaitNotFounded: a cluster is founded once all listed voters have answered.
	WaitNotFounded = WaitReason(driver.BlockNotFounded)
	// WaitForgotten: the authority has forgotten the last term, or the record of it was lost,
	// and its master may still count on it.
	WaitForgotten WaitReason = "term_forgotten"
	// WaitMajority: too few of the expected members are in sight.
	WaitMajority WaitReason = "no_majority"
	// WaitFormation: the rule of bootstrap does not let this node form the first cluster.
	WaitFormation WaitReason = "formation"
	// WaitNotReady: this node is not ready to be a candidate.
	WaitNotReady WaitReason = "not_ready"
	// WaitResigned: this node has just resigned and leaves the next term to others.
	WaitResigned WaitReason = "resigned"
	// WaitSilent: a node was granted mastership and has not announced that it is active.
	WaitSilent WaitReason = "master_silent"
	// WaitElection: nothing is in the way; the authority is to grant mastership.
	WaitElection WaitReason = "election"
)

// WaitReasons returns the codes of an elector.
func WaitReasons() []WaitReason {
	return []WaitReason{
		WaitLeaving, WaitNotEligible, WaitAbstains, WaitAuthority, WaitBlocked, WaitCluster, WaitTerm, WaitStateLost, WaitUnwritable,
		WaitNotFounded, WaitForgotten, WaitMajority, WaitFormation, WaitNotReady, WaitResigned, WaitSilent, WaitElection,
	}
}

// obstacle is what keeps a node from being a candidate, or from knowing a master: a code and
// a sentence. The zero value is nothing.
type obstacle struct {
	reason WaitReason
	text   string
}

// BlockedBy returns the code of what keeps this node out, of an m that is Blocked. A kind that
// a later driver has, and this package does not know, is WaitBlocked.
func BlockedBy(m driver.Mastership) WaitReason {
	switch m.BlockedBy {
	case driver.BlockCluster, driver.BlockTerm, driver.BlockStateLost, driver.BlockUnwritable, driver.BlockNotFounded:
		return WaitReason(m.BlockedBy)
	}
	return WaitBlocked
}

// waitingFor says what keeps this node from knowing a master. That the authority fails is
// the reason also where something else would keep this node from being a candidate: the
// others do not come to be master either.
func (m *machine) waitingFor(now clock.Instant) obstacle {
	o := m.blocked(now)
	if _, alarm := m.behind(now); alarm != nil && o.reason != WaitLeaving {
		return obstacle{WaitTerm, alarm.Error()}
	}
	switch o.reason {
	case "", WaitNotEligible, WaitAbstains, WaitNotReady, WaitResigned, WaitForgotten:
	default:
		return o
	}
	for _, err := range []error{m.callErr, m.observeErr} {
		if errors.Is(err, driver.ErrUnavailable) || errors.Is(err, driver.ErrDenied) {
			return obstacle{WaitAuthority, fmt.Sprintf("waiting for the authority: %v", err)}
		}
	}
	if o.reason != "" {
		return o
	}
	if m.observed.Holder == nil && m.observed.Withheld != "" {
		return obstacle{WaitForgotten, m.observed.Withheld}
	}
	if h := m.known.silent(); h != nil && !m.isSelf(h) {
		return obstacle{WaitSilent, fmt.Sprintf("waiting for node %s, which was granted term %d, to announce that it is master", h.NodeID, m.observed.Term)}
	}
	return obstacle{WaitElection, "waiting for the authority to grant mastership"}
}

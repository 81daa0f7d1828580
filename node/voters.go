package node

import (
	"context"
	"fmt"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node/internal/membership"
)

// announceVoter announces to the members which entry of a list of voters is this node, where the
// authority has found that out since the start and its address does not say it: they
// count the voters that they see.
func (n *Node) announceVoter(members []membership.Member, voter string) {
	for _, m := range members {
		if !m.Self || voter == "" {
			continue
		}
		known := driver.CanonicalAddr(m.Addr) == voter || driver.CanonicalAddr(m.Voter) == voter
		if known {
			return
		}
		if err := n.announceDetails(voter); err != nil {
			n.alarms.Raise(voterUnknown, "", "voter", voter, "error", err)
		} else {
			n.alarms.Clear(voterUnknown, "")
		}
		return
	}
}

// Voters returns what the authority knows of its voters, and false if it has none. It
// does not block.
func (n *Node) Voters() (driver.Voters, bool) {
	for _, a := range n.authorities {
		if r, ok := a.Authority.(driver.VoterReporter); ok {
			return r.Voters(), true
		}
	}
	return driver.Voters{}, false
}

// FoundVoters has this node found a cluster although listed voters do not answer, which an
// operator says are gone for good: see driver.Founder. It blocks until that is done.
func (n *Node) FoundVoters(ctx context.Context) error {
	ctx, stop := n.bind(ctx)
	defer stop()
	for _, a := range n.authorities {
		if f, ok := a.Authority.(driver.Founder); ok {
			return f.Found(ctx)
		}
	}
	return fmt.Errorf("%w: no provider of this node has voters", driver.ErrUnsupported)
}

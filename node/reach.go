package node

import (
	"cmp"
	"time"

	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/node/internal/dialback"
	"github.com/musterhq/muster/node/internal/reachability"
)

// ReachState is whether others can dial a node, as far as it knows.
type ReachState string

// The states of Reach.
const (
	// ReachAlone means that there is no other member to ask.
	ReachAlone ReachState = "alone"
	// ReachAsking means that none of those that were asked has answered yet.
	ReachAsking = ReachState(reachability.Asking)
	// Reachable means that a member has reached the node at its address.
	Reachable = ReachState(reachability.Reachable)
	// Unreachable means that those that have answered did not reach it there.
	Unreachable = ReachState(reachability.Unreachable)
)

// Reach is whether others can dial the node at the address that it advertises.
type Reach struct {
	State ReachState
	// Peer is the node that has reached this one, or that could not. Empty if the one that
	// has reached it is gone, and no other has yet.
	Peer string
	// Reason says why it could not, and how to fix that, or why there is no answer.
	// Empty if the node is reachable or alone.
	Reason string
}

func reachOf(r reachability.Result) Reach {
	return Reach{State: cmp.Or(ReachState(r.State), ReachAlone), Peer: r.Peer, Reason: r.Reason}
}

func (n *Node) newProber() *reachability.Prober {
	return reachability.New(reachability.Config{
		Self:     dialback.Member{NodeID: n.cfg.NodeID, InstanceID: n.instanceID, Addr: n.advertised.Addr},
		Network:  n.link,
		Members:  n.members,
		WasReady: n.wasReady.Load,
		Notify:   n.notify,
		Logger:   n.log,
		Alarms:   n.alarms,
	})
}

// standing is what counts, beside the answers of others, for what follows from them.
func (n *Node) standing(members int) reachability.Standing {
	peers, _ := n.peers.Load()
	return reachability.Standing{
		Now:      time.Now(),
		WasReady: n.wasReady.Load(),
		Running:  clock.Now().Sub(n.started),
		Met:      members > 1,
		Listed:   n.listsOthers(peers),
	}
}

// outOfReach reports whether its address keeps the node from being a candidate.
func (n *Node) outOfReach(members int) bool {
	return n.prober.Result().Candidate(n.standing(members)) != reachability.Clear
}

// unreached says why the node is not ready on account of its address, or nothing.
func (n *Node) unreached(members int) obstacle {
	r := n.prober.Result()
	switch r.Ready(n.standing(members)) {
	case reachability.NotReached:
		return obstacle{WaitUnreachable, r.Reason}
	case reachability.NotMet:
		return obstacle{WaitReach, "waiting to meet one of the members that are listed"}
	case reachability.NotAnswered:
		return obstacle{WaitReach, "waiting for a member to say whether it can reach this node"}
	}
	return obstacle{}
}

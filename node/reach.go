package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/musterhq/muster/internal/backoff"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/node/internal/dialback"
	"github.com/musterhq/muster/node/membership"
)

// ReachState is whether others can dial a node, as far as it knows.
type ReachState string

// The states of Reach.
const (
	// ReachAlone means that there is no other member to ask.
	ReachAlone ReachState = "alone"
	// ReachAsking means that none of those that were asked has answered yet.
	ReachAsking ReachState = "asking"
	// Reachable means that a member has found the node at its address.
	Reachable ReachState = "reachable"
	// Unreachable means that those that have answered did not find it there.
	Unreachable ReachState = "unreachable"
)

// Reach is whether others can dial the node at the address that it advertises.
type Reach struct {
	State ReachState
	// Peer is the node that has found this one, or that could not reach it. Empty where
	// the one that has found it is gone, and no other has yet.
	Peer string
	// Reason says why it could not, and how that is mended, or why there is no answer.
	// Empty where the node is reachable or alone.
	Reason string

	// patience is until when an answer is waited for before the node is ready.
	patience time.Time
}

const (
	// reachAsked is how many members are asked at a time. One that finds the node will
	// do: that another does not may be its own trouble.
	reachAsked = 3
	// reachPatience is how long a node waits with being ready for the first answer. There
	// is none among nodes of a version that does not know the question.
	reachPatience = 3 * time.Second
	reachRetry    = 30 * time.Second // at most

	// reachMeet is how long after its start a node waits with being ready to meet one
	// of those that its providers list. What they list may be long gone.
	reachMeet = 2 * time.Second
)

// answerReach has this node reach for others that ask for it.
func (n *Node) answerReach() {
	server := dialback.Server{
		Self:    n.self(),
		Network: n.link,
		Find: func(instanceID string) (dialback.Member, bool) {
			view := n.members.View()
			// Who cannot be reached is soon held for dead, and asks all the more.
			for _, m := range append(view.Members[:len(view.Members):len(view.Members)], view.Departed...) {
				if m.InstanceID == instanceID && m.State != membership.StateLeft {
					return dialback.Member{NodeID: m.NodeID, InstanceID: m.InstanceID, Addr: m.Addr}, true
				}
			}
			return dialback.Member{}, false
		},
	}
	if err := server.Run(n.ctx); err != nil && n.ctx.Err() == nil {
		n.log.Warn("members cannot have this node reach for them", "err", err)
	}
}

func (n *Node) self() dialback.Member {
	return dialback.Member{NodeID: n.cfg.NodeID, InstanceID: n.instanceID, Addr: n.advertised.Addr}
}

// askReach asks others whether they can reach this node, until one can, and anew for who
// that is when it is gone. Alone, it waits for the first to come.
func (n *Node) askReach() {
	defer n.wake()
	if n.waitReached() {
		n.followReached()
	}
}

// waitReached reports whether one can, and not that the node has ended.
func (n *Node) waitReached() bool {
	var wait backoff.Backoff
	doubted := false // one has said, for the first time, that it could not
	for {
		peers, alive := n.waitPeers()
		if peers == nil {
			return false
		}
		reach, _ := n.reach.Load()
		if reach == (Reach{}) && alive {
			wait.Reset()
			reach = Reach{State: ReachAsking, patience: time.Now().Add(reachPatience)}
			n.reach.Store(reach)
		}
		next, said := n.ask(peers)
		if n.ctx.Err() != nil {
			return false
		}
		next.patience = reach.patience
		// A node that others count on does not go by the word of one who may have trouble
		// of its own, unless nobody else is there, and it says so twice.
		single := next.State == Unreachable && said.failed == 1 && reach.State != Unreachable && n.toldReady.Load()
		switch {
		case !alive && said.absent == len(peers):
			next = Reach{} // whoever could not reach this node is gone
		case next.State == ReachAsking && reach.State == Unreachable:
			next = reach // what is known stands
		case single && (len(peers) > 1 || !doubted):
			next.State = ReachAsking
		}
		doubted = single
		n.reach.Store(next)
		n.tellReach(reach, next)
		if next.State == Reachable {
			return true
		}
		if wait.Max = reachRetry; wait.Wait(n.ctx) != nil {
			return false
		}
	}
}

// followReached has the status name one that is there. That the node was reached stands,
// whatever others say later: they are new, and may have trouble of their own.
func (n *Node) followReached() {
	var wait backoff.Backoff
	for {
		reach, _ := n.reach.Load()
		if reach.Peer != "" {
			if !n.waitGone(reach.Peer) {
				return
			}
			wait.Reset()
			reach.Peer = ""
			n.reach.Store(reach)
		}
		peers, alive := n.waitPeers()
		if peers == nil {
			return
		}
		if alive {
			if next, _ := n.ask(peers); next.State == Reachable {
				next.patience = reach.patience
				n.reach.Store(next)
				continue
			}
		}
		if wait.Max = reachRetry; wait.Wait(n.ctx) != nil {
			return
		}
	}
}

// waitGone waits until no member has this id, and is false where the node has ended.
func (n *Node) waitGone(nodeID string) bool {
	for view := range n.members.Watch(n.ctx) {
		there := func(m membership.Member) bool { return m.NodeID == nodeID && m.State != membership.StateLeft }
		if !slices.ContainsFunc(view.Members, there) {
			return true
		}
	}
	return false
}

// waitPeers returns the members to be asked, once there are any, and whether they are
// alive. Where none is, those that fell silent are asked: to a node that nobody can
// reach, all soon do. As long as there is nobody, what others said does not count.
func (n *Node) waitPeers() (peers []dialback.Member, alive bool) {
	for view := range n.members.Watch(n.ctx) {
		peers = nil
		add := func(m membership.Member) {
			if !m.Self && m.State != membership.StateLeft && m.InstanceID != n.instanceID {
				peers = append(peers, dialback.Member{NodeID: m.NodeID, InstanceID: m.InstanceID, Addr: m.Addr})
			}
		}
		for _, m := range view.Members {
			add(m)
		}
		alive = len(peers) > 0
		for _, m := range view.Departed {
			if len(view.Members) == 1 {
				add(m)
			}
		}
		if len(peers) > 0 {
			rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
			return peers[:min(len(peers), reachAsked)], alive
		}
		if reach, _ := n.reach.Load(); reach != (Reach{}) && reach.State != Reachable {
			n.reach.Store(Reach{})
			n.tellReach(reach, Reach{})
		}
	}
	return nil, false
}

// votes count the answers that say less than that the node was reached.
type votes struct {
	failed int // members that could not reach it
	absent int // members that could not be asked
}

// ask puts the question to all of peers at once, and returns what they come to: one
// that can reach the node counts for all.
func (n *Node) ask(peers []dialback.Member) (Reach, votes) {
	ctx, cancel := context.WithCancel(n.ctx)
	type answer struct {
		peer dialback.Member
		err  error
	}
	answers := make(chan answer, len(peers))
	for _, peer := range peers {
		n.wg.Go(func() { answers <- answer{peer, dialback.Ask(ctx, n.link, n.self(), peer)} })
	}
	defer cancel()
	reach := Reach{State: ReachAsking}
	var v votes
	for range peers {
		a := <-answers
		if errors.Is(a.err, dialback.ErrAbsent) {
			v.absent++
		}
		var unreachable *dialback.UnreachableError
		switch {
		case a.err == nil:
			return Reach{State: Reachable, Peer: a.peer.NodeID}, v
		case errors.As(a.err, &unreachable):
			if v.failed++; v.failed == 1 {
				reach = Reach{State: Unreachable, Peer: a.peer.NodeID, Reason: a.err.Error()}
			}
		case reach.State == ReachAsking:
			reach.Peer, reach.Reason = a.peer.NodeID, a.err.Error()
		}
	}
	if v.failed > 1 {
		reach.Reason += fmt.Sprintf(" (%d members could not)", v.failed)
	}
	return reach, v
}

// tellReach logs what has changed.
func (n *Node) tellReach(last, next Reach) {
	n.wake()
	switch {
	case next.State == Reachable:
		n.log.Info("others can reach this node", "addr", n.advertised.Addr, "node", next.Peer)
	case next.State == Unreachable && (last.State != Unreachable || last.Reason != next.Reason):
		n.log.Warn("others cannot reach this node", "addr", n.advertised.Addr, "node", next.Peer, "err", next.Reason)
	case next == (Reach{}) && last.State == Unreachable:
		n.log.Info("nobody is left who cannot reach this node", "addr", n.advertised.Addr, "node", last.Peer)
	case next.State == ReachAsking:
		n.log.Debug("whether others can reach this node is not known yet", "node", next.Peer, "reason", next.Reason)
	}
}

// outOfReach reports whether the node is not to stand for mastership on account of its
// address: others could not reach it, or are yet to say. A master at whom nobody gets is
// worse than none: it dials others, so that it keeps its grant, and they hold it for dead.
func (n *Node) outOfReach(members []membership.Member) bool {
	r, _ := n.reach.Load()
	switch {
	case r.State == Unreachable:
		return true
	case n.toldReady.Load():
		return false
	case r.State == ReachAsking:
		return time.Now().Before(r.patience)
	case r == Reach{}: // about to meet somebody, and to ask
		peers, _ := n.peers.Load()
		return clock.Now().Sub(n.started) < reachMeet && (len(members) > 1 || n.listsOthers(peers))
	}
	return false
}

// unreached says why the node is not to be called ready on account of its address, or
// nothing. One that was called ready stays so while the answer is only missing.
func (n *Node) unreached(r Reach) string {
	peers, _ := n.peers.Load()
	switch now := time.Now(); {
	case r.State == Unreachable:
		return r.Reason
	case n.toldReady.Load():
		return ""
	case r.patience.IsZero() && clock.Now().Sub(n.started) < reachMeet && n.listsOthers(peers):
		return "waiting to meet one of the members that are listed"
	case r.State == ReachAsking && now.Before(r.patience):
		return "waiting for a member to say whether it can reach this node"
	}
	return ""
}

package node

import (
	"time"

	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/node/mastership"
)

// What nodes tell one another of mastership travels with the gossip of members:
// each announcement of a master is broadcast, and what a node knows goes along
// when it exchanges its whole state with another. The application's addresses are
// left out, since they may not fit into a packet: they are among the member's
// details, and are put back when the view is made.

const (
	// announcementKey lets a later announcement take the place of an earlier one
	// that is still to be sent.
	announcementKey = "mastership"

	// A static list renews several times a second. Beginnings and ends are told at
	// once; in between a sign of life now and then will do, and what was told stands
	// until two of those were missed.
	announceInterval = 2 * time.Second
	announcedFor     = 3 * announceInterval
)

// announce broadcasts what the elector wants the others to know.
func (n *Node) announce() {
	for a := range n.elector.Announcements(n.ctx) {
		if err := n.members.Broadcast(announcementKey, n.encode(a)); err != nil {
			n.alarms.Raise(notAnnounced, "", "error", err)
		} else {
			n.alarms.Clear(notAnnounced, "")
		}
	}
}

// localState is asked by the membership layer for what another node should know.
func (n *Node) localState() []byte {
	a, ok := n.elector.LocalAnnouncement()
	if !ok {
		return nil
	}
	return n.encode(a)
}

// learn is handed what another node has announced. It is hearsay: what of it is believed, the
// elector decides. from is empty for what came along with an exchange of states.
func (n *Node) learn(from string, message []byte) {
	if isPrompt(message) {
		n.store.prompts.hear()
		return
	}
	a, err := mastership.DecodeAnnouncement(message)
	if err != nil {
		n.log.Debug("announcement ignored", "from", from, "err", err)
		return
	}
	a.From = from
	n.recordHeard(a)
	n.elector.Learn(a)
}

// encode makes a message of an announcement. What a master says of itself stands until
// its next sign of life may be expected, whichever way it is told: a node that has
// just started and learned of it by an exchange of states would lose its name again
// before the next broadcast. What is passed on of others does not stand longer for it.
func (n *Node) encode(a mastership.Announcement) []byte {
	if a.Active && a.Holder.InstanceID == n.instanceID {
		a.ValidFor = max(a.ValidFor, announcedFor)
		a.Clock, a.At = clock.ID(), time.Duration(clock.Now())
	}
	a.Holder.AppAddrs = nil
	return a.Encode()
}

package node

import (
	"maps"
	"slices"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node/internal/membership"
)

// Term counts masterships of the cluster from 1. It is the fencing token to
// attach to effects outside the process: see [Node.WhileMaster].
type Term = driver.Term

// Master is who holds mastership, as far as this node knows.
type Master struct {
	driver.Holder
	Term      Term
	ClusterID string
}

// View is the cluster as this node sees it: one value, never changed once it was
// handed out.
type View struct {
	// Seq rises with every change of the view on this node. It means nothing on
	// another.
	Seq uint64
	// Term is the highest that the authority has shown, or in which a master was named.
	Term Term
	// ClusterID is empty until the cluster was formed.
	ClusterID string
	// Master is nil while none is known.
	Master *Master
	// Majority says whether the node sees a majority of the expected members. It
	// is true where no size is expected.
	Majority bool
	// Warning is what an operator should fix about mastership, such as lists of
	// voters that differ, or why this node can never be master. Empty: nothing.
	Warning string
	// Members are the live ones, this node among them, by node id.
	Members []Member
	// Departed are those that left or died in the last minutes.
	Departed []Member
}

// Self returns this node's own entry.
func (v View) Self() Member {
	for _, m := range v.Members {
		if m.Self {
			return m
		}
	}
	return Member{}
}

// EventKind is the kind of an Event.
type EventKind string

// The kinds of events.
const (
	// MemberJoined, MemberUpdated, MemberLeft and MemberFailed are about
	// Event.Member. A member that left said so; one that failed fell silent.
	MemberJoined  EventKind = "member_joined"
	MemberUpdated EventKind = "member_updated"
	MemberLeft    EventKind = "member_left"
	MemberFailed  EventKind = "member_failed"
	// MasterChanged says that Event.Master is the master that this node knows of.
	MasterChanged EventKind = "master_changed"
	// MasterLost says that none is known any longer, and that Event.Master was the last.
	MasterLost EventKind = "master_lost"
	// QuorumChanged says that View.Majority has changed.
	QuorumChanged EventKind = "quorum_changed"
	// ClusterFormed says that the cluster's id has become known.
	ClusterFormed EventKind = "cluster_formed"
)

// Event is one difference between two successive views.
type Event struct {
	Kind EventKind
	// Member is set for the kinds that are about a member.
	Member *Member
	// Changed says what MemberUpdated is about: addr, zone, tags, meta, app_addrs, version,
	// voter, authorities, details_known, state and reason, in this order. It is never empty
	// there.
	Changed []string
	// Master is the new one of MasterChanged, and the last one of MasterLost.
	Master *Master
	// View is the view that the event leads to. Several events may lead to one.
	View View
}

// diff returns the events that lead from old to next: members first, so that
// a node that learns of a master has learned of the member that it is.
func diff(old, next View) []Event {
	var events []Event
	add := func(e Event) {
		e.View = next
		events = append(events, e)
	}
	changes := membership.Diff(
		membership.View{Seq: old.Seq, Members: internalMembers(old.Members), Departed: internalMembers(old.Departed)},
		membership.View{Seq: next.Seq, Members: internalMembers(next.Members), Departed: internalMembers(next.Departed)},
	)
	for _, c := range changes {
		member := memberOf(c.Member)
		switch c.Kind {
		case membership.Joined:
			add(Event{Kind: MemberJoined, Member: &member})
		case membership.Updated:
			if changed := news(c.Fields); len(changed) > 0 {
				add(Event{Kind: MemberUpdated, Member: &member, Changed: changed})
			}
		case membership.Left:
			add(Event{Kind: MemberLeft, Member: &member})
		case membership.Failed:
			add(Event{Kind: MemberFailed, Member: &member})
		}
	}
	if old.ClusterID != next.ClusterID && next.ClusterID != "" {
		add(Event{Kind: ClusterFormed})
	}
	if old.Majority != next.Majority {
		add(Event{Kind: QuorumChanged})
	}
	switch {
	case sameMaster(old.Master, next.Master):
	case next.Master == nil:
		add(Event{Kind: MasterLost, Master: old.Master})
	default:
		add(Event{Kind: MasterChanged, Master: next.Master})
	}
	return events
}

// news leaves out of the fields of a member that have changed what ClusterFormed says of
// all of them: who knows another cluster's id is no member.
func news(fields []string) []string {
	return slices.DeleteFunc(slices.Clone(fields), func(field string) bool { return field == "cluster_id" })
}

func sameMaster(a, b *Master) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Term == b.Term && a.ClusterID == b.ClusterID && a.InstanceID == b.InstanceID &&
		a.Addr == b.Addr && maps.Equal(a.AppAddrs, b.AppAddrs)
}

// sameView reports whether the two differ in nothing but their Seq.
func sameView(a, b View) bool {
	return a.Term == b.Term && a.ClusterID == b.ClusterID && a.Majority == b.Majority && a.Warning == b.Warning &&
		sameMaster(a.Master, b.Master) &&
		slices.EqualFunc(a.Members, b.Members, Member.equal) &&
		slices.EqualFunc(a.Departed, b.Departed, Member.equal)
}

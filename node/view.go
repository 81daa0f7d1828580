package node

import (
	"maps"
	"slices"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node/membership"
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
	// Term is the highest that this node has heard of.
	Term Term
	// ClusterID is empty until the cluster was formed.
	ClusterID string
	// Master is nil while none is known.
	Master *Master
	// Majority says whether the node sees a majority of the expected members. It
	// is true where no size is expected.
	Majority bool
	// Warning is what an operator should mend about mastership, such as lists of
	// voters that differ, or why this node can never be master. Empty: nothing.
	Warning string
	// Members are the live ones, this node among them, by node id.
	Members []membership.Member
	// Departed are those that left or died in the last minutes.
	Departed []membership.Member
}

// Self returns this node's own entry.
func (v View) Self() membership.Member {
	for _, m := range v.Members {
		if m.Self {
			return m
		}
	}
	return membership.Member{}
}

// EventKind says what an Event tells.
type EventKind string

// The kinds of events.
const (
	// MemberJoined, MemberUpdated, MemberLeft and MemberFailed are about
	// Event.Member. A member that left said so; one that failed fell silent.
	MemberJoined  EventKind = "member_joined"
	MemberUpdated EventKind = "member_updated"
	MemberLeft    EventKind = "member_left"
	MemberFailed  EventKind = "member_failed"
	// MasterChanged tells of Event.Master, which is nil when none is known any
	// longer.
	MasterChanged EventKind = "master_changed"
	// QuorumChanged tells that View.Majority has changed.
	QuorumChanged EventKind = "quorum_changed"
	// ClusterFormed tells that the cluster's id has become known.
	ClusterFormed EventKind = "cluster_formed"
)

// Event is one difference between two successive views.
type Event struct {
	Kind EventKind
	// Member is set for the kinds that are about a member.
	Member *membership.Member
	// Master is set by MasterChanged, unless there is none.
	Master *Master
	// View is the view that the event leads to. Several events may lead to one.
	View View
}

// diff returns the events that lead from old to next: members first, so that
// whoever hears of a master has heard of the member that it is.
func diff(old, next View) []Event {
	var events []Event
	add := func(kind EventKind, member *membership.Member, master *Master) {
		events = append(events, Event{Kind: kind, Member: member, Master: master, View: next})
	}
	changes := membership.Diff(
		membership.View{Seq: old.Seq, Members: old.Members, Departed: old.Departed},
		membership.View{Seq: next.Seq, Members: next.Members, Departed: next.Departed},
	)
	for _, c := range changes {
		switch c.Kind {
		case membership.Joined:
			add(MemberJoined, &c.Member, nil)
		case membership.Updated:
			add(MemberUpdated, &c.Member, nil)
		case membership.Left:
			add(MemberLeft, &c.Member, nil)
		case membership.Failed:
			add(MemberFailed, &c.Member, nil)
		}
	}
	if old.ClusterID != next.ClusterID && next.ClusterID != "" {
		add(ClusterFormed, nil, nil)
	}
	if old.Majority != next.Majority {
		add(QuorumChanged, nil, nil)
	}
	if !sameMaster(old.Master, next.Master) {
		add(MasterChanged, nil, next.Master)
	}
	return events
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
		slices.EqualFunc(a.Members, b.Members, membership.Member.Equal) &&
		slices.EqualFunc(a.Departed, b.Departed, membership.Member.Equal)
}

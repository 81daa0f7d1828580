package membership

import (
	"cmp"
	"slices"
	"time"
)

// State is what is known about the life of a member.
type State string

// The states of a member.
const (
	// StateAlive is that of all members of a view. It includes a member that has
	// just fallen silent and is still given the benefit of the doubt.
	StateAlive State = "alive"
	// StateLeft means that it said so, or was replaced by a later start of its
	// node, or turned out to belong to another cluster.
	StateLeft State = "left"
	// StateDead means that it fell silent.
	StateDead State = "dead"
)

// Member is one instance of a node, as this node knows it.
type Member struct {
	NodeID     string
	InstanceID string
	// Addr is the HOST:PORT that members dial; the host is an IP address.
	Addr string
	// ClusterID is the id of the cluster as the member knows it, empty if it knows
	// none yet.
	ClusterID string

	Details
	// DetailsKnown is false while the details are on their way. They are then those
	// known last, or empty.
	DetailsKnown bool

	State State
	// Self marks this node's own entry.
	Self bool

	// DepartedAt and Reason say when and why a departed member went.
	DepartedAt time.Time
	Reason     string
}

// Equal reports whether both say the same.
func (m Member) Equal(o Member) bool {
	return m.NodeID == o.NodeID && m.InstanceID == o.InstanceID && m.Addr == o.Addr &&
		m.ClusterID == o.ClusterID && m.Details.Equal(o.Details) && m.DetailsKnown == o.DetailsKnown &&
		m.State == o.State && m.Self == o.Self && m.DepartedAt.Equal(o.DepartedAt) && m.Reason == o.Reason
}

// View is the cluster as this node sees it. It is shared by all who hold it and is
// not to be changed.
type View struct {
	// Seq rises with every change, on this node.
	Seq uint64
	// Members are the live ones by node id, this node among them.
	Members []Member
	// Departed are those that went in the last five minutes, the latest last, 256
	// at most.
	Departed []Member
}

// ChangeKind says what a Change tells.
type ChangeKind string

// The kinds of changes.
const (
	// Joined tells of a new member.
	Joined ChangeKind = "join"
	// Updated tells of a member that says something new about itself.
	Updated ChangeKind = "update"
	// Left tells of a member that is gone in good order.
	Left ChangeKind = "leave"
	// Failed tells of a member that fell silent.
	Failed ChangeKind = "fail"
)

// Change is one difference between two views.
type Change struct {
	Kind ChangeKind
	// Member is the new entry, or for Left and Failed the departed one.
	Member Member
}

// Diff returns the changes of the members that lead from old to next, by node id.
// A node that was started again has left as the old instance before it joins as
// the new one. A member that went and has been forgotten since counts as failed,
// because nothing says that it left.
func Diff(old, next View) []Change {
	before, after := byInstance(old.Members), byInstance(next.Members)
	departed := byInstance(next.Departed)
	var changes []Change
	for _, m := range old.Members {
		if _, stays := after[m.InstanceID]; stays {
			continue
		}
		kind := Failed
		if gone, known := departed[m.InstanceID]; known {
			m = gone
			if gone.State == StateLeft {
				kind = Left
			}
		} else if slices.ContainsFunc(next.Members, func(n Member) bool { return n.NodeID == m.NodeID }) {
			m.State, kind = StateLeft, Left
		} else {
			m.State = StateDead
		}
		changes = append(changes, Change{kind, m})
	}
	for _, m := range next.Members {
		if was, known := before[m.InstanceID]; !known {
			changes = append(changes, Change{Joined, m})
		} else if !was.Equal(m) {
			changes = append(changes, Change{Updated, m})
		}
	}
	// Departures were put first, and stay so within a node id.
	slices.SortStableFunc(changes, func(a, b Change) int { return cmp.Compare(a.Member.NodeID, b.Member.NodeID) })
	return changes
}

func byInstance(members []Member) map[string]Member {
	index := make(map[string]Member, len(members))
	for _, m := range members {
		index[m.InstanceID] = m
	}
	return index
}

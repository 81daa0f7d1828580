package membership

import (
	"cmp"
	"maps"
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

// Changed names what m says of the member that was says otherwise, of the same instance:
// addr, cluster_id, zone, tags, meta, app_addrs, version, voter, authorities,
// details_known, state and reason, in this order.
func (m Member) Changed(was Member) []string {
	var fields []string
	for _, f := range []struct {
		name string
		same bool
	}{
		{"addr", m.Addr == was.Addr},
		{"cluster_id", m.ClusterID == was.ClusterID},
		{"zone", m.Zone == was.Zone},
		{"tags", slices.Equal(m.Tags, was.Tags)},
		{"meta", maps.Equal(m.Meta, was.Meta)},
		{"app_addrs", maps.Equal(m.AppAddrs, was.AppAddrs)},
		{"version", m.Version == was.Version},
		{"voter", m.Voter == was.Voter},
		{"authorities", slices.Equal(m.Authorities, was.Authorities)},
		{"details_known", m.DetailsKnown == was.DetailsKnown},
		{"state", m.State == was.State},
		{"reason", m.Reason == was.Reason},
	} {
		if !f.same {
			fields = append(fields, f.name)
		}
	}
	return fields
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

// ChangeKind is the kind of a Change.
type ChangeKind string

// The kinds of changes.
const (
	// Joined is a new member.
	Joined ChangeKind = "join"
	// Updated is a member that says something new about itself.
	Updated ChangeKind = "update"
	// Left is a member that is gone in good order.
	Left ChangeKind = "leave"
	// Failed is a member that fell silent.
	Failed ChangeKind = "fail"
)

// Change is one difference between two views.
type Change struct {
	Kind ChangeKind
	// Member is the new entry, or for Left and Failed the departed one.
	Member Member
	// Fields are what differs, for Updated: the names that Member.Changed gives.
	Fields []string
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
		changes = append(changes, Change{Kind: kind, Member: m})
	}
	for _, m := range next.Members {
		if was, known := before[m.InstanceID]; !known {
			changes = append(changes, Change{Kind: Joined, Member: m})
		} else if fields := m.Changed(was); len(fields) > 0 {
			changes = append(changes, Change{Updated, m, fields})
		}
	}
	// Departures were put first, and stay so within a node id.
	slices.SortStableFunc(changes, func(a, b Change) int { return cmp.Compare(a.Member.NodeID, b.Member.NodeID) })
	return changes
}

// departures returns the instances that are known to have departed as of next and were not as
// of old: those that left, and those that fell silent and were replaced.
func departures(old, next View) []string {
	before := make(map[string]bool)
	for _, m := range gone(old) {
		before[m] = true
	}
	return slices.DeleteFunc(gone(next), func(instanceID string) bool { return before[instanceID] })
}

func gone(v View) (instances []string) {
	nodes := make(map[string]bool, len(v.Members))
	for _, m := range v.Members {
		nodes[m.NodeID] = true
	}
	for _, m := range v.Departed {
		if m.State == StateLeft || nodes[m.NodeID] {
			instances = append(instances, m.InstanceID)
		}
	}
	return instances
}

func byInstance(members []Member) map[string]Member {
	index := make(map[string]Member, len(members))
	for _, m := range members {
		index[m.InstanceID] = m
	}
	return index
}

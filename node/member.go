package node

import (
	"time"

	"github.com/musterhq/muster/node/internal/membership"
)

// MemberState is what is known about the life of a member.
type MemberState string

// The states of a member.
const (
	// StateAlive is that of all Members of a View. It includes a member that has just
	// fallen silent and is not considered failed yet.
	StateAlive MemberState = "alive"
	// StateLeft means that the member said that it leaves, was replaced by a later start of
	// its node, or turned out to belong to another cluster.
	StateLeft MemberState = "left"
	// StateDead means that the member fell silent.
	StateDead MemberState = "dead"
)

// Member is one instance of a node, as this node knows it. Its slices and maps are shared
// by all who read the view: do not change them.
type Member struct {
	NodeID     string
	InstanceID string
	// Addr is the HOST:PORT that other members dial; the host is an IP address.
	Addr string
	// ClusterID is the id of the cluster as the member knows it, empty if it knows none
	// yet.
	ClusterID string

	// Zone, Tags, Meta, AppAddrs and Version are those of the member's Config.
	Zone     string
	Tags     []string
	Meta     map[string]string
	AppAddrs map[string]string
	Version  string
	// Voter is the entry of a list of voters that the member is, if that is not its
	// address.
	Voter string
	// Authorities names the providers that grant the member mastership: all of them must,
	// and there are none if it is never granted.
	Authorities []string
	// DetailsKnown is false while the fields since Zone are on their way. They are then
	// those known last, or empty.
	DetailsKnown bool

	State MemberState
	// Self marks this node's own entry.
	Self bool
	// DepartedAt and Reason say when and why a departed member went.
	DepartedAt time.Time
	Reason     string
}

func memberOf(m membership.Member) Member {
	return Member{
		NodeID: m.NodeID, InstanceID: m.InstanceID, Addr: m.Addr, ClusterID: m.ClusterID,
		Zone: m.Zone, Tags: m.Tags, Meta: m.Meta, AppAddrs: m.AppAddrs, Version: m.Version,
		Voter: m.Voter, Authorities: m.Authorities, DetailsKnown: m.DetailsKnown,
		State: MemberState(m.State), Self: m.Self, DepartedAt: m.DepartedAt, Reason: m.Reason,
	}
}

// internal is the reverse of memberOf.
func (m Member) internal() membership.Member {
	return membership.Member{
		NodeID: m.NodeID, InstanceID: m.InstanceID, Addr: m.Addr, ClusterID: m.ClusterID,
		Details: membership.Details{
			Zone: m.Zone, Tags: m.Tags, Meta: m.Meta, AppAddrs: m.AppAddrs, Version: m.Version,
			Voter: m.Voter, Authorities: m.Authorities,
		},
		DetailsKnown: m.DetailsKnown,
		State:        membership.State(m.State), Self: m.Self, DepartedAt: m.DepartedAt, Reason: m.Reason,
	}
}

func (m Member) equal(o Member) bool { return m.internal().Equal(o.internal()) }

func membersOf(in []membership.Member) []Member {
	var out []Member
	for _, m := range in {
		out = append(out, memberOf(m))
	}
	return out
}

func internalMembers(in []Member) []membership.Member {
	var out []membership.Member
	for _, m := range in {
		out = append(out, m.internal())
	}
	return out
}

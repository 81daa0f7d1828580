package node

import (
	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/node/mastership"
	"github.com/musterhq/muster/registrar"
	"github.com/musterhq/muster/registrar/advertise"
	"github.com/musterhq/muster/tlsfiles"
)

// Status is what a node knows about itself, put together for people and for
// metrics. It is a copy.
type Status struct {
	Cluster    string
	NodeID     string
	InstanceID string
	// Advertised is the address that others dial, and how it was found.
	Advertised advertise.Address
	// Explained is what the last attempt to find it has found, step by step: since the
	// start it is looked for again and again. Its Err says why it was not found again.
	Explained advertise.Explanation
	// Reach is whether others can dial it there.
	Reach Reach

	// Ready says that the node is registered, knows what its provider knows, belongs to a
	// cluster that has been formed (unless no master is wanted), may take part in it, and can be
	// reached by one of the members, if there are any that know the question. Of several
	// providers one is enough.
	// WaitingFor says what is missing, or what keeps the cluster from having a master, and
	// WaitingReason is the code of it, one of WaitReasons. Both are empty if a ready node
	// knows a master.
	Ready         bool
	WaitingFor    string
	WaitingReason WaitReason

	View View
	// Peers is the union of what the providers said last.
	Peers discovery.Snapshot
	// Providers are those in use: what grants mastership comes first, then the
	// others, each by name. There is at least one.
	Providers  []Provider
	Mastership mastership.Status

	// Counters of the layers.
	Membership MembershipStats
	Link       LinkStats

	// TLS says which certificate other nodes are shown, and whether its files can be
	// used as they are now. Nil without TLS.
	TLS *tlsfiles.State
}

// Provider is what a node knows about one of its providers.
type Provider struct {
	Name string
	// Addrs are where it is looked for, as configured and without passwords. There are none
	// where it does not say.
	Addrs []string
	// Authority says that it grants mastership, alone or together with another.
	Authority bool
	// Peers is its last answer.
	Peers        discovery.Snapshot
	Registration registrar.Status
	Discovery    discovery.Stats
	// TLS says which certificate the provider is shown, and whether its files can be used
	// as they are now. Nil if it has no files of certificates.
	TLS *tlsfiles.State
}

// Well reports whether the provider answers, and lists the node if it lists any.
func (p Provider) Well() bool {
	return p.Peers.Known && !p.Peers.Stale && (p.Registration.Off != "" || p.Registration.Registered())
}

// Status returns what the node knows now. It does not block.
func (n *Node) Status() Status {
	peers, _ := n.peers.Load()
	s := Status{
		Cluster:    n.cfg.Cluster,
		NodeID:     n.cfg.NodeID,
		InstanceID: n.instanceID,
		Advertised: n.advertised,
		View:       n.View(),
		Peers:      peers.Snapshot,
		Mastership: n.elector.Status(),
		Membership: membershipStatsOf(n.members.Stats()),
		Link:       linkStatsOf(n.link.Stats()),
	}
	if n.tls != nil {
		state := n.tls.State()
		s.TLS = &state
	}
	s.Explained, _ = n.explained.Load()
	for i, p := range n.providers {
		provider := Provider{
			Name:         p.registry.Name(),
			Addrs:        p.registry.Addrs(),
			Authority:    p.grants,
			Peers:        partOf(peers, i),
			Registration: p.registrar.Status(),
			Discovery:    p.registry.Stats(),
		}
		if state, ok := p.registry.TLS(); ok {
			provider.TLS = &state
		}
		s.Providers = append(s.Providers, provider)
	}
	s.Reach = reachOf(n.prober.Result())
	ready, waiting := n.readiness(s.View, s.Mastership)
	s.Ready, s.WaitingFor, s.WaitingReason = ready, waiting.text, waiting.reason
	return s
}

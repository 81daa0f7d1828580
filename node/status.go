package node

import (
	"cmp"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node/link"
	"github.com/musterhq/muster/node/mastership"
	"github.com/musterhq/muster/node/membership"
	"github.com/musterhq/muster/registrar"
	"github.com/musterhq/muster/registrar/advertise"
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

	// Ready says that the node is registered, knows what its provider knows, belongs
	// to a cluster that has been formed, and can be reached by one of the members, where
	// there are any that know the question; of several providers one will do.
	// WaitingFor says what is missing, or what keeps the cluster from having a master.
	Ready      bool
	WaitingFor string

	View View
	// Peers is the union of what the providers said last.
	Peers discovery.Snapshot
	// Providers are those in use: what grants mastership comes first, then the
	// others, each by name. There is at least one.
	Providers  []Provider
	Mastership mastership.Status

	// Counters of the layers.
	Membership membership.Stats
	Link       link.Stats

	// TLS says which certificate other nodes are shown, and whether its files can be
	// used as they are now. Nil without TLS.
	TLS *driver.TLSState
}

// Provider is what a node knows about one of its providers.
type Provider struct {
	Name string
	// Authority says that it grants mastership, alone or together with another.
	Authority bool
	// Peers is its last answer.
	Peers        discovery.Snapshot
	Registration registrar.Status
	Discovery    discovery.Stats
	// TLS says which certificate the provider is shown, and whether its files can be used
	// as they are now. Nil where it has no files of certificates.
	TLS *driver.TLSState
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
		Membership: n.members.Stats(),
		Link:       n.link.Stats(),
	}
	if n.tls != nil {
		state := n.tls.State()
		s.TLS = &state
	}
	s.Explained, _ = n.explained.Load()
	for i, p := range n.providers {
		provider := Provider{
			Name:         p.registry.Name(),
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
	s.Reach, _ = n.reach.Load()
	s.Reach.State = cmp.Or(s.Reach.State, ReachAlone)
	unreached := n.unreached(s.Reach)
	noMaster := cmp.Or(discord(s.View.Members), s.Mastership.WaitingFor)
	switch err := n.joined(); {
	case n.isDraining():
		s.WaitingFor = "the node is leaving"
	case err != nil:
		s.WaitingFor = err.Error()
	case s.Reach.State == Unreachable:
		s.WaitingFor = unreached // which is likely to be the reason of what follows
	case s.View.ClusterID == "":
		s.WaitingFor = "the cluster is not formed: " + noMaster
	case unreached != "":
		s.WaitingFor = unreached
	default:
		s.Ready = true
		n.toldReady.Store(true)
		if s.View.Master == nil {
			s.WaitingFor = noMaster
		}
	}
	return s
}

package node

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/musterhq/muster/discovery"
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
	// Provider is the name of the registry's provider.
	Provider string

	// Ready says that the node is registered, knows what its provider knows, and
	// belongs to a cluster that has been formed. WaitingFor says what is missing, or
	// what keeps the cluster from having a master.
	Ready      bool
	WaitingFor string

	View View
	// Peers is the last answer of the provider.
	Peers        discovery.Snapshot
	Registration registrar.Status
	Mastership   mastership.Status

	// Counters of the layers.
	Discovery  discovery.Stats
	Membership membership.Stats
	Link       link.Stats
}

// Status returns what the node knows now. It does not block.
func (n *Node) Status() Status {
	peers, _ := n.peers.Load()
	s := Status{
		Cluster:      n.cfg.Cluster,
		NodeID:       n.cfg.NodeID,
		InstanceID:   n.instanceID,
		Advertised:   n.advertised,
		Provider:     n.cfg.Registry.Name(),
		View:         n.View(),
		Peers:        peers,
		Registration: n.registrar.Status(),
		Mastership:   n.elector.Status(),
		Discovery:    n.cfg.Registry.Stats(),
		Membership:   n.members.Stats(),
		Link:         n.link.Stats(),
	}
	switch err := n.joined(); {
	case n.isDraining():
		s.WaitingFor = "the node is leaving"
	case err != nil:
		s.WaitingFor = err.Error()
	case s.View.ClusterID == "":
		s.WaitingFor = "the cluster is not formed: " + s.Mastership.WaitingFor
	default:
		s.Ready = true
		if s.View.Master == nil {
			s.WaitingFor = s.Mastership.WaitingFor
		}
	}
	return s
}

// joined returns what the node still waits for before it may be master, or nil.
func (n *Node) joined() error {
	provider := n.cfg.Registry.Name()
	peers, asked := n.peers.Load()
	switch {
	case !asked:
		return fmt.Errorf("waiting for the first answer of provider %s", provider)
	case !peers.Known:
		return fmt.Errorf("waiting for provider %s: %w", provider, peers.Err)
	}
	registration := n.registrar.Status()
	if registration.Off != "" || registration.Registered() {
		return nil
	}
	return fmt.Errorf("waiting to be registered with provider %s: %w", provider, cmp.Or(registration.Err(), errNoAnswer))
}

var errNoAnswer = errors.New("it has not answered yet")

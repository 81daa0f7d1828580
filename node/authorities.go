package node

import (
	"slices"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/node/internal/authorities"
	"github.com/musterhq/muster/node/internal/membership"
)

// authorityNames returns the providers that grant this node mastership, sorted. There are
// none if it is never granted.
func (n *Node) authorityNames() []string {
	if _, never := n.authority.(noAuthority); never || !n.cfg.Mastership.eligible() {
		return nil
	}
	var names []string
	for _, p := range n.providers {
		if p.grants {
			names = append(names, p.registry.Name())
		}
	}
	return names
}

// authorityConflict says in words which member is granted mastership by none of the
// providers that grant it to this node, or "" if there is no such member.
func authorityConflict(members []membership.Member) string {
	all := make([]authorities.Member, len(members))
	for i, m := range members {
		all[i] = authorities.Member{NodeID: m.NodeID, Self: m.Self, Authorities: m.Authorities}
	}
	return authorities.Conflict(all)
}

// metPeers reports whether this node knows what the members say of their authorities, as
// far as it has to.
func (n *Node) metPeers(members []membership.Member) bool {
	peers, _ := n.peers.Load()
	return authorities.Peers{
		Providers: len(n.providers),
		Members:   len(members),
		Settled:   len(peers.Parts) > 0 && peers.Settled(),
		Listed:    n.listsOthers(peers),
		Running:   clock.Now().Sub(n.started),
	}.Met()
}

// listsOthers reports whether the providers list a node other than this one.
func (n *Node) listsOthers(peers discovery.UnionSnapshot) bool {
	own := driver.CanonicalAddr(n.advertised.Addr)
	others, _ := peers.Others(n.instanceID)
	return slices.ContainsFunc(others, func(i discovery.Instance) bool { return driver.CanonicalAddr(i.Addr) != own })
}

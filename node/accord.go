package node

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/node/membership"
)

// Two nodes that are granted mastership by different providers could both be master.
// What keeps that from happening while a cluster moves from one provider to another is
// a step in which both must grant (see mastership.Joint). Here is a belt besides those
// braces, for those who skip the step: each node tells the members by whom it is
// granted, and does not stand while one of them is granted by others alone. It is no
// more than a belt, for a node can stand before it has heard of the others.

// meetTimeout is how long a node with several providers waits to meet one of the
// peers that these list, before it stands all the same.
const meetTimeout = 3 * time.Second

// grantors names the providers that grant this node mastership, sorted. There are
// none where it is never granted.
func (n *Node) grantors() []string {
	if _, never := n.authority.(noAuthority); never || n.cfg.Mastership.Ineligible {
		return nil
	}
	var grantors []string
	for _, p := range n.providers {
		if p.grants {
			grantors = append(grantors, p.registry.Name())
		}
	}
	return grantors
}

// discord says in words which member is granted mastership by none of the providers
// that grant it to this node, or "" where there is no such member.
func discord(members []membership.Member) string {
	var own []string
	for _, m := range members {
		if m.Self {
			own = m.Authorities
		}
	}
	if len(own) == 0 {
		return "" // this node never stands
	}
	for _, m := range members {
		common := slices.ContainsFunc(m.Authorities, func(name string) bool { return slices.Contains(own, name) })
		if len(m.Authorities) == 0 || common {
			continue
		}
		return fmt.Sprintf("mastership.authority is %q here and %q at %s: each could grant a master, so that neither node stands; "+
			"move from one to the other by way of both at once, on all nodes", strings.Join(own, ","), strings.Join(m.Authorities, ","), m.NodeID)
	}
	return ""
}

// acquainted reports whether this node knows what the members would tell it of their
// authorities: it has met one, or there is none to be met, or it has waited long
// enough. With one provider there is nothing to be learnt: who uses another one is
// found by no provider of this node.
func (n *Node) acquainted(members []membership.Member) bool {
	if len(n.providers) == 1 || len(members) > 1 {
		return true
	}
	peers, _ := n.peers.Load()
	alone := len(peers.Parts) > 0 && peers.Settled() && !n.listsOthers(peers)
	return alone || clock.Now().Sub(n.started) >= meetTimeout
}

// listsOthers reports whether the providers list anybody but this node.
func (n *Node) listsOthers(peers discovery.UnionSnapshot) bool {
	own := driver.CanonicalAddr(n.advertised.Addr)
	return slices.ContainsFunc(peers.Others(n.instanceID), func(i discovery.Instance) bool { return driver.CanonicalAddr(i.Addr) != own })
}

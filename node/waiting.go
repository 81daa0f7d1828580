package node

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node/internal/membership"
	"github.com/musterhq/muster/node/mastership"
)

// WaitReason is the code of what a node waits for: see [mastership.WaitReason].
type WaitReason = mastership.WaitReason

// The codes of a node, beside those of its elector, which package mastership has.
const (
	// WaitProvider: no provider has answered since the node started, or none for so long
	// that the node is registered with none of them any more.
	WaitProvider WaitReason = "provider_unavailable"
	// WaitRegistration: the node is registered with none of its providers.
	WaitRegistration WaitReason = "not_registered"
	// WaitUnreachable: other members cannot dial the node at the address that it advertises.
	WaitUnreachable WaitReason = "unreachable"
	// WaitReach: no member has said yet whether it can dial the node.
	WaitReach WaitReason = "reach_unknown"
	// WaitConflict: a member is granted mastership by other providers than this node.
	WaitConflict WaitReason = "authority_conflict"
	// WaitRecords: the records of the cluster are not where this node is granted mastership.
	WaitRecords WaitReason = "records_elsewhere"
	// WaitNobodyEligible: none of the members in sight may be master.
	WaitNobodyEligible WaitReason = "nobody_eligible"
	// WaitNoAuthority: the provider of this node grants no mastership.
	WaitNoAuthority WaitReason = "no_authority"
	// WaitNoneWanted: mastership.authority is none, so that there is no master, as wanted.
	WaitNoneWanted WaitReason = "none_wanted"
)

// WaitReasons returns all codes of a node, those of its elector among them.
func WaitReasons() []WaitReason {
	return append(mastership.WaitReasons(), WaitProvider, WaitRegistration, WaitUnreachable, WaitReach,
		WaitConflict, WaitRecords, WaitNobodyEligible, WaitNoAuthority, WaitNoneWanted)
}

// obstacle is what a node waits for: a code and a sentence. The zero value is nothing.
type obstacle struct {
	reason WaitReason
	text   string
}

// readiness says whether the node is ready, and what it waits for. It changes nothing: who may
// be master depends on it, and not on who asks.
func (n *Node) readiness(view View, m mastership.Status) (ready bool, waiting obstacle) {
	unreached := n.unreached(len(view.Members))
	noMaster := n.noMaster(internalMembers(view.Members), m)
	missing := n.joined()
	switch {
	case n.isDraining():
		return false, obstacle{mastership.WaitLeaving, "the node is leaving"}
	case m.Alarm != nil:
		reason := mastership.WaitCluster
		if errors.Is(m.Alarm, mastership.ErrTermBehind) {
			reason = mastership.WaitTerm
		}
		return false, obstacle{reason, m.Alarm.Error()}
	case m.Observed.Blocked != "":
		return false, obstacle{mastership.BlockedBy(m.Observed), m.Observed.Blocked}
	case missing != obstacle{}:
		return false, missing
	case n.recordsElsewhere() != obstacle{}:
		return false, n.recordsElsewhere()
	case unreached.reason == WaitUnreachable:
		return false, unreached // which is likely to be the reason of what follows
	case view.ClusterID == "" && !n.cfg.Mastership.noneWanted():
		return false, obstacle{noMaster.reason, "the cluster is not formed: " + noMaster.text}
	case unreached != obstacle{}:
		return false, unreached
	}
	if view.Master == nil {
		return true, noMaster
	}
	return true, obstacle{}
}

// noMaster says what keeps the cluster from having a master.
func (n *Node) noMaster(members []membership.Member, m mastership.Status) obstacle {
	if n.cfg.Mastership.noneWanted() {
		return obstacle{WaitNoneWanted, "mastership.authority is " + AuthorityNone + ", so that no member is granted mastership"}
	}
	if conflict := authorityConflict(members); conflict != "" {
		return obstacle{WaitConflict, conflict}
	}
	if nobody := n.nobodyEligible(members); nobody != "" {
		return obstacle{WaitNobodyEligible, nobody}
	}
	waiting := obstacle{m.WaitingReason, m.WaitingFor}
	switch {
	case waiting.reason == "": // it is known, and the view is about to say so
		return obstacle{mastership.WaitElection, "waiting for the authority to grant mastership"}
	case waiting.reason == mastership.WaitNotEligible && n.noAuthority() != nil:
		waiting.reason = WaitNoAuthority
	case waiting.reason == mastership.WaitAuthority:
		waiting.text = n.authorityLabel() + ": " + waiting.text
	}
	return waiting
}

// authorityLabel names the providers that grant this node mastership, and where they are.
func (n *Node) authorityLabel() string {
	names, addrs := n.grantedBy()
	return label(names, addrs)
}

func label(name, addr string) string {
	if addr == "" {
		return "provider " + name
	}
	return "provider " + name + " at " + addr
}

// joined returns what the node still waits for before it may be master: one provider is
// enough that knows its peers and lists it, where it lists any.
func (n *Node) joined() obstacle {
	peers, _ := n.peers.Load()
	var missing obstacle
	for i, p := range n.providers {
		waits := p.joined(partOf(peers, i))
		switch {
		case waits == obstacle{}:
			return waits
		case missing == obstacle{}:
			missing = waits
		default:
			missing.text += "; " + waits.text
		}
	}
	return missing
}

func (p *provider) label() string {
	return label(p.registry.Name(), strings.Join(p.registry.Addrs(), ","))
}

func (p *provider) joined(peers discovery.Snapshot) obstacle {
	if !peers.Known {
		if peers.Err == nil {
			return obstacle{WaitProvider, "waiting for the first answer of " + p.label()}
		}
		return obstacle{WaitProvider, fmt.Sprintf("waiting for %s: %v", p.label(), peers.Err)}
	}
	registration := p.registrar.Status()
	if registration.Off != "" || registration.Registered() {
		return obstacle{}
	}
	return unregistered(p.label(), cmp.Or(registration.Err(), errNoAnswer))
}

// unregistered tells a provider that does not answer, for so long that what stood there has
// expired, from one that does and refuses: the one is to be brought back, and not to be given
// rights.
func unregistered(label string, err error) obstacle {
	reason := WaitRegistration
	if errors.Is(err, driver.ErrUnavailable) {
		reason = WaitProvider
	}
	return obstacle{reason, fmt.Sprintf("waiting to be registered with %s: %v", label, err)}
}

var errNoAnswer = errors.New("it has not answered yet")

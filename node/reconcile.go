package node

import (
	"cmp"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node/mastership"
	"github.com/musterhq/muster/node/membership"
)

// reconcileInterval is how often the state is put together even where nothing has
// woken us: events tell when to look, the timer makes sure that we do.
const reconcileInterval = time.Second

// reconcile puts together what the layers know, for ever: it tells the elector the
// conditions under which it may stand, tells the members the cluster's id, and
// publishes the view.
func (n *Node) reconcile() {
	timer := time.NewTicker(reconcileInterval)
	defer timer.Stop()
	var last membership.View
	for {
		members, status := n.members.View(), n.elector.Status()
		for _, change := range membership.Diff(last, members) {
			if change.Kind == membership.Left || change.Kind == membership.Failed {
				n.elector.MemberGone(change.Member.InstanceID)
			}
		}
		last = members
		conditions := n.conditions(members, status)
		n.elector.SetConditions(conditions)
		if status.ClusterID != "" {
			if err := n.members.SetClusterID(status.ClusterID); err != nil {
				n.log.Error("cluster id not made known", "cluster_id", status.ClusterID, "err", err)
			}
		}
		n.publish(members, status, conditions)
		select {
		case <-n.kick:
		case <-timer.C:
		case <-n.ctx.Done():
			return
		}
	}
}

// conditions says whether this node may be master, and why not.
func (n *Node) conditions(members membership.View, status mastership.Status) mastership.Conditions {
	have, need := n.quorum(members, status)
	return mastership.Conditions{
		Eligible:  !n.cfg.Mastership.Ineligible,
		Draining:  n.isDraining(),
		Ready:     n.joined() == nil && n.acquainted(members.Members) && discord(members.Members) == "" && !n.outOfReach(members.Members),
		Have:      have,
		Need:      need,
		Formation: n.formation.Decide(len(members.Members)),
	}
}

// quorum returns how many of the expected members are seen and how many make a
// majority, which is 0 where no size is expected. The base is the configured list
// of voters or the configured size; it is never learnt.
func (n *Node) quorum(members membership.View, status mastership.Status) (have, need int) {
	voters := make(map[string]bool)
	for _, v := range status.Observed.Voters {
		voters[driver.CanonicalAddr(v)] = true
	}
	if len(voters) == 0 {
		return len(members.Members), mastership.Majority(n.cfg.Bootstrap.Expect)
	}
	for _, m := range members.Members {
		if voters[driver.CanonicalAddr(m.Addr)] || voters[driver.CanonicalAddr(m.Voter)] {
			have++
		}
	}
	return have, mastership.Majority(len(voters))
}

// publish makes a view of what the layers know, where it differs from the last.
func (n *Node) publish(members membership.View, status mastership.Status, conditions mastership.Conditions) {
	last, _ := n.view.Load()
	next := View{
		Seq:       last.Seq + 1,
		Term:      status.MaxTerm,
		ClusterID: status.ClusterID,
		Majority:  conditions.Have >= conditions.Need,
		Warning:   cmp.Or(discord(members.Members), status.Observed.Warning, status.Observed.Ineligible),
		Members:   members.Members,
		Departed:  members.Departed,
	}
	if status.Master != nil {
		next.Master = &Master{Holder: *status.Master, Term: status.MasterTerm, ClusterID: status.ClusterID}
		for _, m := range members.Members {
			if m.InstanceID == next.Master.InstanceID && next.Master.AppAddrs == nil {
				next.Master.AppAddrs = m.AppAddrs // gossip does not carry them
			}
		}
	}
	if last.Seq > 0 && sameView(last, next) {
		return
	}
	n.view.Store(next)
	n.recordView(next)
	n.tellOf(last, next)
}

// tellOf logs what has changed in the view and no layer has logged.
func (n *Node) tellOf(last, next View) {
	if next.Warning != last.Warning && next.Warning != "" {
		n.log.Warn("mastership needs attention", "warning", next.Warning)
	}
	switch {
	case sameMaster(last.Master, next.Master):
	case next.Master == nil:
		n.log.Info("no master is known")
	default:
		n.log.Info("master changed", "master", next.Master.NodeID, "addr", next.Master.Addr, "term", next.Master.Term)
	}
}

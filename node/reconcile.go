package node

import (
	"cmp"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node/internal/membership"
	"github.com/musterhq/muster/node/mastership"
)

// reconcileInterval is how often the state is put together even where nothing has
// woken us: events tell when to look, the timer makes sure that we do.
const reconcileInterval = time.Second

// reconcile puts together what the layers know, until the node ends: it tells the elector the
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
		if status.ClusterProven { // members of another cluster are rejected from then on
			if err := n.members.SetClusterID(status.ClusterID); err != nil {
				n.alarms.Raise(clusterIDUnknown, "", "cluster_id", status.ClusterID, "error", err)
			} else {
				n.alarms.Clear(clusterIDUnknown, "")
			}
		}
		n.announceVoter(members.Members, status.Observed.Voter)
		n.publish(members, status, conditions)
		if ready, _ := n.readiness(n.View(), status); ready {
			n.wasReady.Store(true)
		}
		select {
		case <-n.changed:
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
		Eligible: n.cfg.Mastership.eligible(),
		Draining: n.isDraining(),
		Abstains: n.abstentions.reasons(),
		Ready: n.joined() == obstacle{} && n.metPeers(members.Members) && authorityConflict(members.Members) == "" && !n.outOfReach(len(members.Members)) &&
			n.recordsElsewhere() == obstacle{},
		Have:      have,
		Need:      need,
		Formation: n.formation.Decide(len(members.Members)),
	}
}

// quorum returns how many of the expected members are seen and how many make a
// majority, which is 0 if no size is expected. The base is the configured list
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
		Warning:   cmp.Or(alarmOf(status), authorityConflict(members.Members), status.Warning, status.Observed.Warning, status.Observed.Ineligible),
		Members:   membersOf(members.Members),
		Departed:  membersOf(members.Departed),
	}
	if status.Master != nil {
		next.Master = &Master{Holder: *status.Master, Term: status.MasterTerm, ClusterID: status.ClusterID}
		for _, m := range members.Members {
			if m.InstanceID == next.Master.InstanceID && (m.DetailsKnown || next.Master.AppAddrs == nil) {
				next.Master.AppAddrs = m.AppAddrs // gossip does not carry them, and they may be new
			}
		}
	}
	n.reportState(next, status)
	if last.Seq > 0 && sameView(last, next) {
		return
	}
	n.view.Store(next)
	n.readers.put(next)
	n.recordView(last, next)
	n.reportView(last, next)
}

// alarmOf is what keeps the node out of the election until an operator acts, or "".
func alarmOf(s mastership.Status) string {
	if s.Alarm == nil {
		return ""
	}
	return s.Alarm.Error()
}

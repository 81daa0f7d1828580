package node

import (
	"errors"
	"strings"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/alarm"
	"github.com/musterhq/muster/node/mastership"
)

// What an operator must know of.
var (
	masterLost = alarm.Kind{Name: "master_lost", Raised: "master lost", Cleared: "master known again"}
	// A member that is late by a moment, as where all start at once, is no majority lost.
	majorityLost = alarm.Kind{Name: "majority_lost", Raised: "majority lost", Cleared: "majority in sight again",
		Patience: time.Second}
	// While the voters of a static list elect their leader, none of them grants anything.
	authorityFails = alarm.Kind{Name: "authority_fails", Raised: "authority fails", Cleared: "authority answers again",
		Patience: 3 * time.Second}
	attention = alarm.Kind{Name: "mastership_attention", Raised: "mastership needs attention",
		Cleared: "mastership needs no attention any more", Repeat: time.Second}

	clusterIDUnknown = alarm.Kind{Name: "cluster_id_unannounced", Raised: "cluster id not announced", Cleared: "cluster id announced"}
	voterUnknown     = alarm.Kind{Name: "voter_unannounced", Raised: "voter not announced", Cleared: "voter announced"}
	notAnnounced     = alarm.Kind{Name: "mastership_unannounced", Raised: "mastership not announced", Cleared: "mastership announced again"}
	historyUnwritten = alarm.Kind{Name: "history_unwritten", Raised: "history not written", Cleared: "history written again"}

	addressUnknown = alarm.Kind{Name: "address_unknown", Raised: "address not found again", Cleared: "address found again"}
	addressMoved   = alarm.Kind{Name: "address_moved", Raised: "another address found", Cleared: "address is the advertised one again"}
)

// reportView logs what has changed in the view and no layer has logged.
func (n *Node) reportView(last, next View) {
	if n.isDraining() {
		return // what it loses now it has given up
	}
	switch {
	case next.Majority:
		n.alarms.Clear(majorityLost, "")
	case last.Majority && last.ClusterID != "":
		n.alarms.Raise(majorityLost, "", "members", len(next.Members))
	}
	switch {
	case sameMaster(last.Master, next.Master):
	case next.Master == nil:
		n.alarms.Raise(masterLost, "", "master", last.Master.NodeID, "addr", last.Master.Addr, "term", last.Master.Term)
	default:
		n.log.Info("master changed", "master", next.Master.NodeID, "addr", next.Master.Addr, "term", next.Master.Term)
		n.alarms.Clear(masterLost, "", "master", next.Master.NodeID, "term", next.Master.Term)
	}
}

// reportState logs what lasts, whether or not the view has changed.
func (n *Node) reportState(view View, status mastership.Status) {
	if n.isDraining() {
		n.alarms.Forget(masterLost, "")
		n.alarms.Forget(majorityLost, "")
	}
	if view.Warning != "" {
		n.alarms.Raise(attention, "", "warning", view.Warning)
	} else {
		n.alarms.Clear(attention, "")
	}
	names, addrs := n.grantedBy()
	if err := status.Err; errors.Is(err, driver.ErrUnavailable) || errors.Is(err, driver.ErrDenied) {
		n.alarms.Raise(authorityFails, "", "provider", names, "addr", addrs, "error", err)
	} else {
		n.alarms.Clear(authorityFails, "", "provider", names)
	}
}

// grantedBy names the providers that grant this node mastership, and where they are.
func (n *Node) grantedBy() (names, addrs string) {
	var all, where []string
	for _, p := range n.providers {
		if p.grants {
			all = append(all, p.registry.Name())
			where = append(where, p.registry.Addrs()...)
		}
	}
	return strings.Join(all, ","), strings.Join(where, ",")
}

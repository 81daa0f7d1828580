package node

import (
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/node/history"
	"github.com/musterhq/muster/node/mastership"
)

// record adds a line to the node's history, if one is kept. A time that is not set is
// now.
func (n *Node) record(r history.Record) {
	if n.history == nil {
		return
	}
	if r.BootNS == 0 {
		r.BootNS = int64(clock.Now())
	}
	n.history.Write(r)
	if err := n.history.Err(); err != nil {
		n.unwritten.Do(func() { n.log.Error("history not written; records are missing", "err", err) })
	}
}

// recordMastership is called by the election.
func (n *Node) recordMastership(e mastership.Event) {
	if n.history == nil {
		return
	}
	kinds := map[mastership.EventKind]history.Kind{
		mastership.Began: history.Active, mastership.Extended: history.Renewed, mastership.Ended: history.Ended,
	}
	n.record(history.Record{
		BootNS:     int64(e.At),
		Kind:       kinds[e.Kind],
		Term:       uint64(e.Term),
		ClusterID:  e.ClusterID,
		SentNS:     int64(e.Sent),
		DeadlineNS: int64(e.Deadline),
		UntilNS:    int64(e.Until),
		Reason:     string(e.Reason),
	})
}

func (n *Node) recordView(v View) {
	if n.history == nil {
		return
	}
	state := &history.ViewState{
		Seq: v.Seq, Term: uint64(v.Term), ClusterID: v.ClusterID, Majority: v.Majority, Members: []history.Member{},
	}
	if m := v.Master; m != nil {
		state.Master = &history.Master{NodeID: m.NodeID, InstanceID: m.InstanceID, Term: uint64(m.Term)}
	}
	for _, m := range v.Members {
		state.Members = append(state.Members, history.Member{NodeID: m.NodeID, InstanceID: m.InstanceID, Addr: m.Addr})
	}
	n.record(history.Record{Kind: history.View, View: state})
}

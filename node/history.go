package node

import (
	"sync"
	"time"

	"github.com/musterhq/muster/discovery/driver"
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
	r.Time = time.Now().UTC().Truncate(time.Microsecond)
	if err := n.history.Write(r); err != nil {
		n.alarms.Raise(historyUnwritten, "", "error", err)
	} else {
		n.alarms.Clear(historyUnwritten, "")
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

// recordView adds the view, and the events that lead to it from the last one.
func (n *Node) recordView(last, v View) {
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
	if last.Seq == 0 {
		last.Majority = true // so that only its absence is news
	}
	var events []history.Event
	for _, e := range diff(last, v) {
		event := history.Event{Kind: string(e.Kind), Changed: e.Changed}
		switch {
		case e.Member != nil:
			event.NodeID, event.InstanceID = e.Member.NodeID, e.Member.InstanceID
		case e.Master != nil:
			event.NodeID, event.InstanceID, event.Term = e.Master.NodeID, e.Master.InstanceID, uint64(e.Master.Term)
		}
		events = append(events, event)
	}
	n.record(history.Record{Kind: history.View, View: state, Events: events})
}

// heardInterval is how often a reading of the master's clock is recorded. The clocks of two hosts
// may run apart by 2 %, so that one is known by the other up to 0.2 s.
const heardInterval = 10 * time.Second

// heard is the last reading of another clock that was recorded.
type heard struct {
	mu   sync.Mutex
	from string // the instance
	term driver.Term
	at   clock.Instant
}

// recordHeard adds a reading of the clock of a master on another host.
func (n *Node) recordHeard(a mastership.Announcement) {
	if n.history == nil || !a.Active || a.Clock == "" || a.Clock == clock.ID() {
		return
	}
	now := clock.Now()
	n.heard.mu.Lock()
	defer n.heard.mu.Unlock()
	h := &n.heard
	if h.from == a.Holder.InstanceID && h.term == a.Term && now.Sub(h.at) < heardInterval {
		return
	}
	h.from, h.term, h.at = a.Holder.InstanceID, a.Term, now
	n.record(history.Record{
		BootNS: int64(now), Kind: history.Heard, Term: uint64(a.Term), ClusterID: a.ClusterID,
		Peer: &history.Reading{NodeID: a.Holder.NodeID, InstanceID: a.Holder.InstanceID, Clock: a.Clock, BootNS: int64(a.At)},
	})
}

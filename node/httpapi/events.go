package httpapi

// Event is the data of one server-sent event. The name of the event is its Kind.
type Event struct {
	// Kind is member_joined, member_updated, member_left, member_failed,
	// master_changed, master_lost, quorum_changed or cluster_formed.
	Kind string `json:"kind"`
	// Member is what a member_ event is about.
	Member *Member `json:"member,omitempty"`
	// Changed names what a member that was updated says otherwise: addr, zone, tags, meta,
	// app_addrs, version, voter, authorities, details_known, one or more of them. It is
	// missing in all other events.
	Changed []string `json:"changed,omitempty"`
	// Master is the new one of master_changed, and the last one of master_lost, after
	// which none is known.
	Master *Master `json:"master,omitempty"`
	// Seq, Term, ClusterID and Majority are those of the view that the event
	// leads to.
	Seq       uint64 `json:"seq"`
	Term      uint64 `json:"term"`
	ClusterID string `json:"cluster_id"`
	Majority  bool   `json:"majority"`
	// BootNS is when the event was sent, in nanoseconds on the host's boot clock,
	// so that the events of several agents of one host can be put in order.
	BootNS int64 `json:"boot_ns"`
}

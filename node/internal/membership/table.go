package membership

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

const (
	// explainGrace is how long the end of a member waits for its reason. memberlist
	// tells that a member is gone, but not whether it left: that travels beside, in
	// the same packets, and may be read a moment later.
	explainGrace = 50 * time.Millisecond

	// supersededHold is how long the predecessors of an instance stay hidden after
	// it has gone itself. A predecessor that crashed is found dead within it; one
	// that lives, behind a partition that has healed since, is shown again after.
	supersededHold = 10 * time.Second

	// leaveBelieved is how long a member that is said to leave is taken at that word while
	// it is alive. One that leaves is gone by then; of another one, another node has
	// said it.
	leaveBelieved = 30 * time.Second

	// departedKept and maxDeparted bound the memory of who went.
	departedKept = 5 * time.Minute
	maxDeparted  = 256

	// maxGone bounds the records of those that memberlist has given up.
	maxGone = 4096
)

// record is what is known of one name in memberlist.
type record struct {
	name string
	id   identity
	addr netip.AddrPort
	meta meta
	raw  string // the encoded meta

	live   bool      // memberlist holds it for alive, or suspects it
	goneAt time.Time // when live ended
	left   bool      // it said that it leaves
	leftAt time.Time
	stayed bool // it did not, so that this is not believed again

	details Details // those known last
	fetched string  // digest of the details, if they were fetched
}

// known reports whether details are those that the record announces.
func (r *record) known() bool { return r.meta.Digest == "" || r.meta.Digest == r.fetched }

// here reports whether the record counts as alive. wake is when it will cease to,
// or zero.
func (r *record) here(now time.Time) (here bool, wake time.Time) {
	switch {
	case r.left:
		return false, time.Time{}
	case r.live:
		return true, time.Time{}
	case r.goneAt.IsZero():
		return false, time.Time{}
	}
	until := r.goneAt.Add(explainGrace)
	return now.Before(until), until
}

// wentAt is when the record ceased to be here.
func (r *record) wentAt() time.Time {
	if r.left && (r.live || r.leftAt.Before(r.goneAt)) {
		return r.leftAt
	}
	return r.goneAt
}

// table is what the callbacks of memberlist have told, and what follows from it.
// It is plain data: its owner locks it.
type table struct {
	self      self
	records   map[string]*record   // by memberlist name
	instances map[string][]*record // the same, by node id
	members   []Member             // as composed last
	departed  []Member
}

func newTable(s self) table {
	return table{self: s, records: make(map[string]*record), instances: make(map[string][]*record)}
}

func (t *table) add(r *record) {
	t.records[r.name] = r
	t.instances[r.id.nodeID] = append(t.instances[r.id.nodeID], r)
}

func (t *table) remove(r *record) {
	delete(t.records, r.name)
	rest := slices.DeleteFunc(t.instances[r.id.nodeID], func(other *record) bool { return other == r })
	if len(rest) == 0 {
		delete(t.instances, r.id.nodeID)
		return
	}
	t.instances[r.id.nodeID] = rest
}

// compatible reports whether a member with meta m may be of one cluster with this
// node, and if not, why.
func (t *table) compatible(m *meta) (reason string) {
	switch {
	case t.self.single || m.Single:
		return reasonSingle
	case t.self.clusterID != "" && m.ClusterID != "" && t.self.clusterID != m.ClusterID:
		return reasonClusterID
	}
	return ""
}

// incompatible says in words what compatible gives as a reason.
func (t *table) incompatible(reason string, m *meta) error {
	if reason == reasonSingle {
		return errors.New("one of the two is to be the only member")
	}
	return fmt.Errorf("the cluster id is %q here and %q there: two clusters share a name", t.self.clusterID, m.ClusterID)
}

// superseded reports whether a later start of the same node is here, or was a
// moment ago.
func (t *table) superseded(id identity, now time.Time) bool {
	if id.nodeID == t.self.nodeID {
		return t.self.newerThan(id)
	}
	for _, r := range t.instances[id.nodeID] {
		if r.id.newerThan(id) && t.compatible(&r.meta) == "" && r.holds(now) {
			return true
		}
	}
	return false
}

// holds reports whether the record is here, or went so lately that it still keeps
// its predecessors hidden.
func (r *record) holds(now time.Time) bool {
	if here, _ := r.here(now); here {
		return true
	}
	return r.shown() && now.Before(r.wentAt().Add(supersededHold))
}

// shown reports whether the record was ever alive to this node.
func (r *record) shown() bool { return r.live || !r.goneAt.IsZero() }

// successor returns the live instance of this node's own id that was started
// later, if there is one.
func (t *table) successor() *record {
	var latest *record
	for _, r := range t.instances[t.self.nodeID] {
		if r.live && !r.left && t.compatible(&r.meta) == "" && r.id.newerThan(t.self.identity) && (latest == nil || r.id.newerThan(latest.id)) {
			latest = r
		}
	}
	return latest
}

// compose works out the members and the departed ones as of now, and reports
// whether they differ from the last time. wake is when time alone will change
// them, or zero.
func (t *table) compose(now time.Time) (changed bool, wake time.Time) {
	at := func(when time.Time) {
		if when.After(now) && (wake.IsZero() || when.Before(wake)) {
			wake = when
		}
	}

	latest := make(map[string]*record, len(t.records)) // by node id
	hidden := make(map[string]bool)                    // node ids that have older ones here
	for _, r := range t.records {
		if r.id.nodeID == t.self.nodeID || t.compatible(&r.meta) != "" || !r.holds(now) {
			continue
		}
		if other := latest[r.id.nodeID]; other == nil {
			latest[r.id.nodeID] = r
		} else {
			hidden[r.id.nodeID] = true
			if r.id.newerThan(other.id) {
				latest[r.id.nodeID] = r
			}
		}
	}
	for _, r := range t.records {
		if r.left && r.live {
			at(r.leftAt.Add(leaveBelieved))
		}
	}
	members := []Member{t.self.entry}
	for nodeID, r := range latest {
		here, until := r.here(now)
		at(until)
		if here {
			members = append(members, r.member())
		} else if hidden[nodeID] {
			at(r.wentAt().Add(supersededHold))
		}
	}
	slices.SortFunc(members, func(a, b Member) int { return cmp.Compare(a.NodeID, b.NodeID) })

	departed := t.composeDeparted(members, now)
	if len(departed) > 0 {
		at(departed[0].DepartedAt.Add(departedKept))
	}
	changed = !slices.EqualFunc(members, t.members, Member.Equal) || !slices.EqualFunc(departed, t.departed, Member.Equal)
	t.members, t.departed = members, departed
	return changed, wake
}

// composeDeparted adds the members of last time that are not among members to
// those that departed before.
func (t *table) composeDeparted(members []Member, now time.Time) []Member {
	here := byInstance(members)
	departed := make([]Member, 0, len(t.departed))
	for _, m := range t.departed {
		if _, back := here[m.InstanceID]; back || now.Sub(m.DepartedAt) >= departedKept {
			continue
		}
		if m.State == StateDead {
			if r := t.records[memberName(m.NodeID, m.InstanceID)]; r != nil && r.left {
				m.State, m.Reason = StateLeft, departureLeft // it had said so, and was cut off while it did
			}
		}
		departed = append(departed, m)
	}
	for _, m := range t.members {
		if _, stays := here[m.InstanceID]; stays || m.Self {
			continue
		}
		m.DepartedAt = now
		m.State, m.Reason = t.departure(m, now)
		departed = append(departed, m)
	}
	if over := len(departed) - maxDeparted; over > 0 {
		departed = departed[over:]
	}
	return departed
}

// The reasons of departures.
const (
	departureLeft       = "left"
	departureSuperseded = "superseded"
	departureSilent     = "fell silent"
)

func (t *table) departure(m Member, now time.Time) (State, string) {
	r := t.records[memberName(m.NodeID, m.InstanceID)]
	if r == nil {
		return StateDead, departureSilent
	}
	if reason := t.compatible(&r.meta); reason != "" {
		return StateLeft, reason
	}
	if r.left {
		return StateLeft, departureLeft
	}
	if t.superseded(r.id, now) {
		return StateLeft, departureSuperseded
	}
	return StateDead, departureSilent
}

func (r *record) member() Member {
	return Member{
		NodeID:       r.id.nodeID,
		InstanceID:   r.id.instanceID,
		Addr:         r.addr.String(),
		ClusterID:    r.meta.ClusterID,
		Details:      r.details,
		DetailsKnown: r.known(),
		State:        StateAlive,
	}
}

// restore takes back those that are said to have left and are alive all the same, and
// returns their names.
func (t *table) restore(now time.Time) (names []string) {
	for _, r := range t.records {
		if r.left && r.live && !now.Before(r.leftAt.Add(leaveBelieved)) {
			r.left, r.stayed = false, true
			names = append(names, r.name)
		}
	}
	return names
}

// forget drops records that nothing needs any longer.
func (t *table) forget(now time.Time) {
	var gone []*record
	for _, r := range t.records {
		switch {
		case r.live:
		case now.Sub(r.goneAt) > departedKept:
			t.remove(r)
		default:
			gone = append(gone, r)
		}
	}
	if over := len(gone) - maxGone; over > 0 {
		slices.SortFunc(gone, func(a, b *record) int { return a.goneAt.Compare(b.goneAt) })
		for _, r := range gone[:over] {
			t.remove(r)
		}
	}
}

// leavers names who left in the last minute, the latest first, for those who have
// not heard it.
func (t *table) leavers(now time.Time) []string {
	const most = 64
	var left []*record
	for _, r := range t.records {
		if r.left && now.Sub(r.leftAt) < time.Minute {
			left = append(left, r)
		}
	}
	slices.SortFunc(left, func(a, b *record) int { return b.leftAt.Compare(a.leftAt) })
	names := make([]string, 0, min(len(left), most))
	for _, r := range left[:min(len(left), most)] {
		names = append(names, r.name)
	}
	return names
}

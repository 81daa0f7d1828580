package check

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/node/history"
)

// maxReasons bounds how many reasons of a kind are given.
const maxReasons = 10

// decide answers whether there were two masters.
func (r *Report) decide() {
	r.Notes = append(r.Notes, r.wall.notes...)
	r.Undecided = slices.Concat(r.gaps(), r.differences(), r.strangers(), r.unrecorded(), r.unheard(), r.contradictions(), r.unordered())
	switch {
	case r.count["I2"] > 0:
		r.TwoMasters, r.Undecided = Yes, nil
	case len(r.Undecided) > 0 || r.o.ClocksBroken:
		r.TwoMasters = Unknown
	default:
		r.TwoMasters = No
	}
}

// shorten leaves the first reasons of a kind, and says how many more there are.
func shorten(reasons []string) []string {
	if more := len(reasons) - maxReasons; more > 0 {
		return append(reasons[:maxReasons:maxReasons], fmt.Sprintf("and %d more of this kind", more))
	}
	return reasons
}

// clockTime shows a moment of an instance to people.
func (r *Report) clockTime(i *Instance, t int64) string {
	return r.Wall(i, t).Format("2006-01-02 15:04:05.000")
}

// gaps are the records that are missing between others. A mastership may be among them. What is
// missing before the first record is known to be: the answer is about what is on record.
func (r *Report) gaps() (reasons []string) {
	for _, i := range r.Instances {
		for _, g := range i.Gaps {
			if r.inside(i, g.After, g.Till) {
				reasons = append(reasons, fmt.Sprintf("%d records of %s are missing between %s and %s", g.Records, i.Node, r.clockTime(i, g.After), r.clockTime(i, g.Till)))
			}
		}
		if i.Cut && r.inside(i, i.Begin, i.Begin) {
			r.Notes = append(r.Notes, fmt.Sprintf("the history of %s (instance %.8s) is cut: it begins at %s, and nothing is said of the time before", i.Node, i.ID, r.clockTime(i, i.Begin)))
		}
	}
	return shorten(reasons)
}

// differences are instances of which two histories are not the same: a machine that was copied
// while it ran, or a file that was changed.
func (r *Report) differences() (reasons []string) {
	for _, i := range r.Instances {
		if i.Differ > 0 {
			reasons = append(reasons, fmt.Sprintf("there are two histories of %s (instance %.8s): %d records have the number of one that is not the same", i.Node, i.ID, i.Differ))
		}
	}
	return shorten(reasons)
}

// unrecorded are masterships that others learned of, and that the history of the master lacks. What
// it lacks before its first record is known to be missing.
func (r *Report) unrecorded() (reasons []string) {
	told := make(map[claim]bool)
	for _, m := range r.all {
		told[claim{m.ID, m.Term}] = true
	}
	for _, i := range r.Instances {
		for _, record := range i.views() {
			named := record.View.Master
			if named == nil || told[claim{named.InstanceID, named.Term}] || !r.inside(i, record.BootNS, record.BootNS) {
				continue
			}
			peer := r.byID[named.InstanceID]
			if peer == nil || !peer.incomplete() || peer.Cut && named.Term <= peer.firstTerm() {
				continue
			}
			told[claim{named.InstanceID, named.Term}] = true
			reasons = append(reasons, fmt.Sprintf("the history of %s (instance %.8s) has no mastership of term %d, in which %s saw it as master at %s",
				peer.Node, peer.ID, named.Term, i.Node, r.clockTime(i, record.BootNS)))
		}
	}
	return shorten(reasons)
}

// firstTerm returns the first term that is on record of an instance, 0 if there is none.
func (i *Instance) firstTerm() uint64 {
	for _, r := range i.Records {
		if r.Term > 0 {
			return r.Term
		} else if r.View != nil {
			return r.View.Term
		}
	}
	return 0
}

// strangers are members that others saw, and of which there is no history.
func (r *Report) strangers() (reasons []string) {
	type sight struct {
		node string
		by   *Instance
		at   int64
	}
	seen := make(map[string]sight)
	for _, i := range r.Instances {
		for _, record := range i.views() {
			if !r.inside(i, record.BootNS, record.BootNS) {
				continue
			}
			note := func(id, node string) {
				if r.byID[id] == nil && id != "" {
					seen[id] = sight{node, i, record.BootNS}
				}
			}
			for _, m := range record.View.Members {
				note(m.InstanceID, m.NodeID)
			}
			if m := record.View.Master; m != nil {
				note(m.InstanceID, m.NodeID)
			}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(seen)) {
		s := seen[id]
		reasons = append(reasons, fmt.Sprintf("there is no history of %s (instance %.8s), which %s saw at %s", s.node, id, s.by.Node, r.clockTime(s.by, s.at)))
	}
	return shorten(reasons)
}

// unheard are masters that others heard from when their own history had ended.
func (r *Report) unheard() (reasons []string) {
	told := make(map[claim]bool)
	for _, i := range r.Instances {
		for _, record := range i.Records {
			if record.Kind != history.Heard || record.Peer == nil {
				continue
			}
			k := claim{record.Peer.InstanceID, record.Term}
			peer := r.byID[k.instance]
			if peer == nil || told[k] || peer.Clock != record.Peer.Clock || !r.inside(i, record.BootNS, record.BootNS) {
				continue
			}
			if record.Peer.BootNS > peer.Last && !slices.ContainsFunc(r.all, func(m *Mastership) bool {
				return m.ID == k.instance && m.Term == k.term && record.Peer.BootNS <= m.Until
			}) {
				told[k] = true
				reasons = append(reasons, fmt.Sprintf("the end of the history of %s (instance %.8s) is missing: it ends at %s, and %s heard from it later, as master of term %d",
					peer.Node, peer.ID, r.clockTime(peer, peer.Last), i.Node, k.term))
			}
		}
	}
	return shorten(reasons)
}

// contradictions are clocks that cannot have run as they say.
func (r *Report) contradictions() (reasons []string) {
	for d := range r.clocks.odd {
		if d.from < d.to {
			reasons = append(reasons, fmt.Sprintf("the clocks of %s and %s contradict each other: one ran at a wrong rate, or a member lies", r.nodesOf(d.from), r.nodesOf(d.to)))
		}
	}
	slices.Sort(reasons)
	return shorten(reasons)
}

// nodesOf names the nodes of a clock.
func (r *Report) nodesOf(clock string) string {
	nodes := make(map[string]bool)
	for _, i := range r.Instances {
		if i.Clock == clock {
			nodes[i.Node] = true
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(nodes)), " and ")
}

// unordered are the masterships of neighbouring terms of which it is not certain that the first was
// over when the second began. If there are none, all were one after another.
func (r *Report) unordered() (reasons []string) {
	all := r.byTerm()
	for k := 0; k+1 < len(all); k++ {
		m, next := all[k], all[k+1]
		if r.before(m, next) {
			continue
		}
		if m.Clock == next.Clock {
			text := "term %d of %s and term %d of %s are not one after the other"
			if m.Reason == "" {
				text = "the end of term %d of %s is not on record, and term %d of %s began before the last deadline"
			}
			reasons = append(reasons, fmt.Sprintf(text, m.Term, m.Node, next.Term, next.Node))
			continue
		}
		wall := r.Wall(next.Instance, next.Begin).Sub(r.Wall(m.Instance, m.Until)).Round(time.Millisecond)
		by := fmt.Sprintf("by their wall clocks there were %v between them", wall)
		if wall < 0 {
			by = fmt.Sprintf("by their wall clocks they overlap by %v", -wall)
		}
		text := fmt.Sprintf("term %d of %s and term %d of %s: nothing that %s heard tells its clock from that of %s; %s",
			m.Term, m.Node, next.Term, next.Node, next.Node, m.Node, by)
		if bound := r.clocks.bound(m.Clock, next.Clock, m.Until); bound != Forever {
			text = fmt.Sprintf("term %d of %s and term %d of %s may overlap by up to %v: their clocks are known no better; %s",
				m.Term, m.Node, next.Term, next.Node, time.Duration(bound-next.Begin).Round(time.Millisecond), by)
		}
		reasons = append(reasons, text)
	}
	return shorten(reasons)
}

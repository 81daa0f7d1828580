package checker

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/node/history"
	"github.com/musterhq/muster/node/history/check"
)

// Violation is a promise that was broken.
type Violation = check.Violation

// Report is what a run came to.
type Report struct {
	Violations []Violation
	// Masterships is how many there were.
	Masterships int
	// Writes is how many the register accepted, and Refused how many it rejected
	// for their term: what fencing was for.
	Writes, Refused int
	// Steps and Fires are how many runs of steps and of jobs have begun, and FireGap is the
	// longest time between two of one job, of that in which there could be a master.
	Steps, Fires int
	FireGap      time.Duration
	// Commands is how many runs of commands there were, and CommandLate the longest time that one
	// went on after the deadline of its mastership.
	Commands    int
	CommandLate time.Duration
	// Calls is how many calls have begun, CallResults how many ended how, CallRuns how many
	// handlers have begun, and CallLate the longest time that a call went on after its deadline.
	Calls, CallRuns int
	CallResults     map[string]int
	CallLate        time.Duration
	// Available is the part of the time from the first mastership to Quiet in which
	// some node was master, and Gap the longest time without. The time in which the
	// machine stood still, which is Stalled, counts in neither.
	Available float64
	Gap       time.Duration
	Stalled   time.Duration
	// Possible and PossibleGap are the same of the time in which there could be a master:
	// some host ran, reached a majority of the voters, and a store that took writes. What it
	// takes to recover afterwards counts.
	Possible    float64
	PossibleGap time.Duration
	// Named is the longest time that a node went on to name a master whose mastership
	// was over.
	Named time.Duration
	// ToMaster and ToComponent are the times from Quiet until all agreed.
	ToMaster, ToComponent time.Duration
}

// Broken returns the names of the invariants that were broken.
func (r Report) Broken() []string {
	names := make(map[string]bool)
	for _, v := range r.Violations {
		names[v.Invariant] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// forever is the end of what has not ended.
const forever = check.Forever

func endOf(t int64) int64 { return check.EndOf(t) }

func stamp(t int64) string { return check.Stamp(t) }

// run is one Check under way.
type run struct {
	Run
	Report
	all       []*check.Instance
	byID      map[string]*check.Instance
	intervals []*check.Mastership // by begin
}

func (c *run) violate(invariant, format string, args ...any) {
	c.Violations = append(c.Violations, Violation{Invariant: invariant, Text: fmt.Sprintf(format, args...)})
}

// Check verifies the run.
func Check(r Run) Report {
	c := &run{Run: r, byID: make(map[string]*check.Instance)}
	// What the histories show by themselves, package check verifies. The harness has put the
	// times of all hosts on one clock.
	histories := check.Check(r.Logs, check.Options{
		OneClock: true, Complete: true, Lives: r.Lives, Seen: r.End, Awake: c.awake,
		ClocksBroken: r.Bounds.ClocksBroken, Hearsay: r.Bounds.Hearsay,
	})
	c.all, c.intervals, c.Violations = histories.Instances, histories.Masterships, histories.Violations
	for _, i := range c.all {
		c.byID[i.ID] = i
	}
	c.Masterships = len(c.intervals)
	if c.Masterships == 0 {
		c.violate("I9", "there was no mastership at all: nothing is proven")
	}
	c.alone()
	c.fenced()
	c.majority()
	c.samples()
	c.work()
	c.knowledge()
	c.recovery()
	c.registry()
	c.linearisable()
	c.commands()
	c.once()
	c.calls()
	c.fireGap()
	c.availability()
	return c.Report
}

// alone verifies the part of I2 that is about work.
func (c *run) alone() {
	if c.Bounds.ClocksBroken {
		return
	}
	for _, w := range c.works() {
		r := c.intervalOf(w.instance, w.term)
		if r == nil || c.Bounds.Revoked && r.Reason == "lost" {
			continue
		}
		// A function may act until it returns. The grant is kept for it as long as
		// that is valid.
		until := min(w.end, r.Deadline, r.End)
		for _, other := range c.intervals {
			if overlap := min(until, other.Until) - max(w.begin, other.Begin); other.ID != r.ID && overlap > 0 {
				c.violate("I2", "the work of %v goes on to %s, beside the mastership of %v for %v", r, stamp(until), other, time.Duration(overlap))
			}
		}
	}
}

// fenced verifies I3.
func (c *run) fenced() {
	highest := uint64(0)
	for _, a := range c.Applied {
		if a.Term < highest {
			c.violate("I3", "the register accepted %q of term %d at %s, after a write of term %d", a.Value, a.Term, stamp(a.BootNS), highest)
		}
		highest = max(highest, a.Term)
	}
	c.Writes = len(c.Applied)
	for _, n := range c.Notes {
		if n.Kind == Write && n.ReturnNS != 0 && !n.Accepted {
			c.Refused++
		}
	}
}

// majority verifies I5.
func (c *run) majority() {
	if c.Bounds.Isolation == 0 || len(c.Bounds.Voters) == 0 {
		return
	}
	for _, r := range c.intervals {
		for _, alone := range c.isolated(r.Host) {
			from := max(r.Begin, alone.Begin+int64(c.Bounds.Isolation))
			if to := min(r.Until, alone.End); from < to {
				c.violate("I5", "%v reached no majority of %d from %s on, and was master for %v longer than the %v that it may take to notice",
					r, len(c.Bounds.Voters), stamp(alone.Begin), time.Duration(to-from), c.Bounds.Isolation)
			}
		}
	}
}

// isolated returns the times in which a host reached no majority of the voters: they
// were dead, paused, or cut off from it.
func (c *run) isolated(host string) []check.Span {
	return c.spans(func(t int64) bool { return !c.reachesMajority(host, t) })
}

func (c *run) reachesMajority(host string, t int64) bool {
	have := 0
	for _, v := range c.Bounds.Voters {
		if c.reaches(host, v, t) {
			have++
		}
	}
	return have > len(c.Bounds.Voters)/2
}

// spans returns the times in which something holds, which only lives and faults change.
func (c *run) spans(holds func(t int64) bool) []check.Span {
	moments := map[int64]bool{}
	note := func(times ...int64) {
		for _, t := range times {
			moments[t] = true
		}
	}
	for _, l := range c.Lives {
		note(l.Begin, endOf(l.End))
	}
	for _, f := range c.Faults {
		note(f.Begin, endOf(f.End))
	}
	times := slices.Sorted(maps.Keys(moments))
	var spans []check.Span
	for k := 0; k+1 < len(times); k++ {
		if !holds(times[k]) {
			continue
		}
		if n := len(spans); n > 0 && spans[n-1].End == times[k] {
			spans[n-1].End = times[k+1]
		} else {
			spans = append(spans, check.Span{Begin: times[k], End: times[k+1]})
		}
	}
	return spans
}

// reaches reports whether host and voter can say something to each other from t on,
// until the next fault begins or ends. One way is enough: a voter that is not heard
// may still hear, and one that is heard may still promise.
func (c *run) reaches(host, voter string, t int64) bool {
	if !slices.ContainsFunc(c.Lives, func(l Life) bool { return l.Host == voter && l.Begin <= t && t < endOf(l.End) }) {
		return false
	}
	var there, back bool
	for _, f := range c.Faults {
		if t < f.Begin || t >= endOf(f.End) {
			continue
		}
		switch f.Kind {
		case Pause:
			if f.Host == voter || f.Host == host {
				return false
			}
		case Cut:
			there = there || f.From == host && f.To == voter
			back = back || f.From == voter && f.To == host
		}
	}
	return !there || !back
}

// samples verifies I6.
func (c *run) samples() {
	if c.Bounds.ClocksBroken {
		return
	}
	for _, n := range c.Notes {
		if n.Kind != Sample {
			continue
		}
		i := c.byID[n.InstanceID]
		if i == nil {
			c.violate("I6", "instance %.8s, of which there is no history, says that it is master of term %d at %s", n.InstanceID, n.Term, stamp(n.BootNS))
			continue
		}
		r := c.intervalOf(n.InstanceID, n.Term)
		switch {
		case r == nil:
			c.violate("I6", "%s says that it is master of term %d at %s, which is not on record", i.Node, n.Term, stamp(n.BootNS))
		case n.BootNS >= r.Deadline:
			c.violate("I6", "%s says that it is master of term %d at %s, %v after its deadline", i.Node, n.Term, stamp(n.BootNS), time.Duration(n.BootNS-r.Deadline))
		}
	}
}

// work is a function from its call to its return.
type work struct {
	instance   string
	term       uint64
	begin, end int64
}

// works pairs the notes of functions.
func (c *run) works() (all []work) {
	open := make(map[string]*work)
	for _, n := range c.sortedNotes() {
		switch n.Kind {
		case WorkBegin:
			open[n.InstanceID] = &work{n.InstanceID, n.Term, n.BootNS, forever}
		case WorkEnd:
			if w := open[n.InstanceID]; w != nil && w.term == n.Term {
				w.end = n.BootNS
				all = append(all, *w)
				delete(open, n.InstanceID)
			}
		}
	}
	for _, w := range open {
		all = append(all, *w)
	}
	return all
}

func (c *run) sortedNotes() []Note {
	notes := slices.Clone(c.Notes)
	slices.SortStableFunc(notes, func(a, b Note) int { return cmp.Compare(a.BootNS, b.BootNS) })
	return notes
}

// work verifies the part of I7 that is about functions.
func (c *run) work() {
	running := make(map[string]uint64)
	last := make(map[string]uint64)
	for _, n := range c.sortedNotes() {
		switch n.Kind {
		case WorkBegin:
			if t := running[n.InstanceID]; t != 0 {
				c.violate("I7", "instance %.8s is informed of term %d at %s while its function of term %d runs", n.InstanceID, n.Term, stamp(n.BootNS), t)
			}
			if last[n.InstanceID] != 0 && !n.EarlierDone {
				c.violate("I7", "instance %.8s is informed of term %d at %s before the context of term %d has ended", n.InstanceID, n.Term, stamp(n.BootNS), last[n.InstanceID])
			}
			running[n.InstanceID], last[n.InstanceID] = n.Term, n.Term
		case WorkEnd:
			if running[n.InstanceID] != n.Term {
				c.violate("I7", "instance %.8s ends a function of term %d at %s, which does not run", n.InstanceID, n.Term, stamp(n.BootNS))
			}
			running[n.InstanceID] = 0
		}
	}
}

// knowledge verifies the part of I8 that is about what is cleared.
func (c *run) knowledge() {
	over := make(map[uint64]int64) // when a term was over
	for _, r := range c.intervals {
		over[r.Term] = max(over[r.Term], r.Until)
	}
	for _, i := range c.all {
		var views []history.Record
		for _, r := range i.Records {
			if r.Kind == history.View {
				views = append(views, r)
			}
		}
		for k, r := range views {
			v := r.View
			if v.Master == nil {
				continue
			}
			until := min(i.End, endOf(c.End))
			if k+1 < len(views) {
				until = min(until, views[k+1].BootNS)
			}
			end, known := over[v.Master.Term]
			if !known || until <= end {
				continue
			}
			named := c.awake(i.Host, max(end, r.BootNS), until)
			c.Named = max(c.Named, time.Duration(named))
			if late := named - int64(c.Bounds.Clear); c.Bounds.Clear > 0 && late > 0 {
				c.violate("I8", "%s names %s master of term %d until %s, %v longer than the %v after its end",
					i.Node, v.Master.NodeID, v.Master.Term, stamp(until), time.Duration(late), c.Bounds.Clear)
			}
		}
	}
}

// awake is how long a host ran between two moments.
func (c *run) awake(host string, from, to int64) int64 {
	left := to - from
	for _, f := range c.Faults {
		if f.Kind == Pause && f.Host == host || f.Kind == Stall {
			left -= max(0, min(to, endOf(f.End))-max(from, f.Begin))
		}
	}
	return left
}

// took is the time between two moments in which the machine ran.
func (c *run) took(from, to int64) time.Duration { return time.Duration(c.awake("", from, to)) }

// recovery verifies I9.
func (c *run) recovery() {
	if c.Quiet == 0 {
		return
	}
	live := c.live()
	ids := make([]string, 0, len(live))
	for _, i := range live {
		ids = append(ids, i.ID)
	}
	slices.Sort(ids)
	var master *check.Mastership
	for _, r := range c.intervals {
		if r.Begin <= c.End && r.Until > c.End {
			if master != nil {
				c.violate("I9", "two masters in the end: %v, and %v", master, r)
			}
			master = r
		}
	}
	if master == nil {
		c.violate("I9", "no master in the end, %v after the last fault has healed", time.Duration(c.End-c.Quiet))
		return
	}
	agreed, together := max(c.Quiet, master.Begin), c.Quiet
	for _, i := range live {
		var knows, sees int64 = -1, -1 // since when
		for _, r := range i.Records {
			if r.Kind != history.View || r.BootNS > c.End {
				continue
			}
			var members []string
			for _, m := range r.View.Members {
				members = append(members, m.InstanceID)
			}
			slices.Sort(members)
			m := r.View.Master
			knows = since(knows, r.BootNS, m != nil && m.InstanceID == master.ID && m.Term == master.Term)
			sees = since(sees, r.BootNS, slices.Equal(members, ids))
		}
		if knows < 0 {
			c.violate("I9", "%s does not know %s as the master of term %d in the end", i.Node, master.Node, master.Term)
		}
		if sees < 0 {
			c.violate("I9", "%s does not see the %d that live, and nobody else, in the end", i.Node, len(ids))
		}
		agreed, together = max(agreed, knows), max(together, sees)
	}
	c.ToMaster, c.ToComponent = c.took(c.Quiet, agreed), c.took(c.Quiet, together)
	if b := c.Bounds.Master; b > 0 && c.ToMaster > b {
		c.violate("I9", "all know one master %v after the last fault has healed; it may take %v", c.ToMaster, b)
	}
	if b := c.Bounds.Component; b > 0 && c.ToComponent > b {
		c.violate("I9", "all see all %v after the last fault has healed; it may take %v", c.ToComponent, b)
	}
}

// since keeps the moment since which something holds, -1 if it does not.
func since(last, now int64, holds bool) int64 {
	switch {
	case !holds:
		return -1
	case last < 0:
		return now
	}
	return last
}

// live returns the instances that run in the end.
func (c *run) live() (live []*check.Instance) {
	for _, i := range c.all {
		if i.End > endOf(c.End) || i.End == forever {
			live = append(live, i)
		}
	}
	return live
}

// registry verifies I11.
func (c *run) registry() {
	if c.Bounds.Registry == 0 || c.Quiet == 0 {
		return
	}
	want := make([]string, 0)
	for _, i := range c.live() {
		want = append(want, i.ID)
	}
	slices.Sort(want)
	right := int64(-1)
	last := "nothing: it was not asked"
	for _, l := range c.Listings {
		got := slices.Sorted(slices.Values(l.Instances))
		right = since(right, l.BootNS, slices.Equal(got, want))
		last = strings.Join(got, " ")
	}
	switch {
	case right < 0:
		c.violate("I11", "in the end the registry lists %s, while %s live", last, strings.Join(want, " "))
	case c.took(c.Quiet, right) > c.Bounds.Registry:
		c.violate("I11", "the registry lists those who live %v after the last fault has healed; it may take %v", c.took(c.Quiet, right), c.Bounds.Registry)
	}
}

// availability works out how much of the time there was a master.
func (c *run) availability() {
	if len(c.intervals) == 0 {
		return
	}
	from, to := c.intervals[0].Begin, c.Quiet
	if to == 0 {
		to = c.End
	}
	if to <= from {
		return
	}
	none := c.impossible()
	var covered, could time.Duration
	var spans []check.Span
	for _, m := range c.intervals {
		spans = append(spans, check.Span{Begin: m.Begin, End: m.Until})
	}
	with, without := check.Cover(spans, from, to)
	for _, s := range with {
		covered += c.took(s.Begin, s.End)
		could += c.possible(s.Begin, s.End, none)
	}
	for _, s := range without {
		c.Gap = max(c.Gap, c.took(s.Begin, s.End))
		c.PossibleGap = max(c.PossibleGap, c.possible(s.Begin, s.End, none))
	}
	c.Available = float64(covered) / float64(c.took(from, to))
	c.Possible = 1
	if all := c.possible(from, to, none); all > 0 {
		c.Possible = float64(could) / float64(all)
	}
	c.Stalled = time.Duration(to-from) - c.took(from, to)
}

// possible is how much of the time between two moments is in none of the spans.
func (c *run) possible(from, to int64, none []check.Span) time.Duration {
	d := c.took(from, to)
	for _, s := range none {
		if begin, end := max(from, s.Begin), min(to, s.End); begin < end {
			d -= c.took(begin, end)
		}
	}
	return d
}

// impossible returns the times in which no host could be master.
func (c *run) impossible() []check.Span {
	if len(c.Bounds.Voters) == 0 {
		return nil
	}
	return c.spans(func(t int64) bool {
		return !slices.ContainsFunc(c.Bounds.Voters, func(host string) bool {
			return c.reaches(host, host, t) && c.reachesMajority(host, t) && !slices.ContainsFunc(c.Faults, func(f Fault) bool {
				return f.Begin <= t && t < endOf(f.End) && (f.Kind == StoreOut || f.Kind == StoreCut && f.Host == host)
			})
		})
	})
}

// intervalOf returns the mastership of an instance in a term.
func (c *run) intervalOf(id string, term uint64) *check.Mastership {
	for _, r := range c.intervals {
		if r.ID == id && r.Term == term {
			return r
		}
	}
	return nil
}

package checker

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/node/history"
)

// Violation is a promise that was broken.
type Violation struct {
	// Invariant is its name, as in the package comment.
	Invariant string
	// Text says what happened, and when.
	Text string
}

func (v Violation) String() string { return v.Invariant + ": " + v.Text }

func violation(invariant, format string, args ...any) Violation {
	return Violation{invariant, fmt.Sprintf(format, args...)}
}

// Report is what a run came to.
type Report struct {
	Violations []Violation
	// Masterships is how many there were.
	Masterships int
	// Writes is how many the register accepted, and Refused how many it turned away
	// for their term: what fencing was for.
	Writes, Refused int
	// Available is the part of the time from the first mastership to Quiet in which
	// some node was master, and Gap the longest time without. The time in which the
	// machine stood still, which is Stalled, counts in neither.
	Available float64
	Gap       time.Duration
	Stalled   time.Duration
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

// check is one Check under way.
type check struct {
	Run
	Report
	all    []*instance
	byID   map[string]*instance
	reigns []*reign // by begin
}

func (c *check) violate(invariant, format string, args ...any) {
	c.Violations = append(c.Violations, violation(invariant, format, args...))
}

// Check verifies the run.
func Check(run Run) Report {
	c := &check{Run: run, byID: make(map[string]*instance)}
	c.all = run.instances()
	for _, i := range c.all {
		c.byID[i.id] = i
		reigns, wrong := i.reigns()
		c.reigns = append(c.reigns, reigns...)
		c.Violations = append(c.Violations, wrong...)
	}
	slices.SortStableFunc(c.reigns, func(a, b *reign) int { return cmp.Compare(a.begin, b.begin) })
	c.Masterships = len(c.reigns)
	if c.Masterships == 0 {
		c.violate("I9", "there was no mastership at all: nothing is proven")
	}
	c.terms()
	c.alone()
	c.fenced()
	c.majority()
	c.samples()
	c.work()
	c.knowledge()
	c.recovery()
	c.identity()
	c.registry()
	c.linearisable()
	c.availability()
	return c.Report
}

// terms verifies I1 and I4.
func (c *check) terms() {
	first := make(map[uint64]*reign)
	var last *reign
	for _, r := range c.reigns {
		if other := first[r.term]; other != nil {
			c.violate("I1", "term %d was begun twice: %v, and %v", r.term, other, r)
		} else {
			first[r.term] = r
		}
		if last != nil && r.term <= last.term {
			c.violate("I4", "the term did not rise: %v, then %v", last, r)
		}
		last = r
	}
}

// alone verifies I2.
func (c *check) alone() {
	if c.Bounds.ClocksBroken {
		return
	}
	for i, next := range c.reigns {
		for _, last := range c.reigns[:i] {
			if last.id != next.id && next.begin < last.until && last.begin < next.until {
				c.violate("I2", "two masters for %v: %v, and %v", time.Duration(min(last.until, next.until)-next.begin), last, next)
			}
		}
	}
	for _, w := range c.works() {
		r := c.reignOf(w.instance, w.term)
		if r == nil || c.Bounds.Revoked && r.reason == "lost" {
			continue
		}
		// A function may act until it returns. The grant is kept for it as long as
		// that is valid.
		until := min(w.end, r.deadline, r.end)
		for _, other := range c.reigns {
			if overlap := min(until, other.until) - max(w.begin, other.begin); other.id != r.id && overlap > 0 {
				c.violate("I2", "the work of %v goes on to %s, beside the mastership of %v for %v", r, stamp(until), other, time.Duration(overlap))
			}
		}
	}
}

// fenced verifies I3.
func (c *check) fenced() {
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
func (c *check) majority() {
	if c.Bounds.Isolation == 0 || len(c.Bounds.Voters) == 0 {
		return
	}
	for _, r := range c.reigns {
		for _, alone := range c.isolated(r.host) {
			from := max(r.begin, alone.begin+int64(c.Bounds.Isolation))
			if to := min(r.until, alone.end); from < to {
				c.violate("I5", "%v reached no majority of %d from %s on, and was master for %v longer than the %v that it may take to notice",
					r, len(c.Bounds.Voters), stamp(alone.begin), time.Duration(to-from), c.Bounds.Isolation)
			}
		}
	}
}

// span is a time.
type span struct{ begin, end int64 }

// isolated returns the times in which a host reached no majority of the voters: they
// were dead, paused, or cut off from it.
func (c *check) isolated(host string) []span {
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
	var spans []span
	for k := 0; k+1 < len(times); k++ {
		have := 0
		for _, v := range c.Bounds.Voters {
			if c.reaches(host, v, times[k]) {
				have++
			}
		}
		if have > len(c.Bounds.Voters)/2 {
			continue
		}
		if n := len(spans); n > 0 && spans[n-1].end == times[k] {
			spans[n-1].end = times[k+1]
		} else {
			spans = append(spans, span{times[k], times[k+1]})
		}
	}
	return spans
}

// reaches reports whether host and voter can say something to each other from t on,
// until the next fault begins or ends. One way is enough: a voter that is not heard
// may still hear, and one that is heard may still promise.
func (c *check) reaches(host, voter string, t int64) bool {
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
func (c *check) samples() {
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
		r := c.reignOf(n.InstanceID, n.Term)
		switch {
		case r == nil:
			c.violate("I6", "%s says that it is master of term %d at %s, which is not on record", i.node, n.Term, stamp(n.BootNS))
		case n.BootNS >= r.deadline:
			c.violate("I6", "%s says that it is master of term %d at %s, %v after its deadline", i.node, n.Term, stamp(n.BootNS), time.Duration(n.BootNS-r.deadline))
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
func (c *check) works() (all []work) {
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

func (c *check) sortedNotes() []Note {
	notes := slices.Clone(c.Notes)
	slices.SortStableFunc(notes, func(a, b Note) int { return cmp.Compare(a.BootNS, b.BootNS) })
	return notes
}

// work verifies the part of I7 that is about functions.
func (c *check) work() {
	running := make(map[string]uint64)
	last := make(map[string]uint64)
	for _, n := range c.sortedNotes() {
		switch n.Kind {
		case WorkBegin:
			if t := running[n.InstanceID]; t != 0 {
				c.violate("I7", "instance %.8s is told of term %d at %s while its function of term %d runs", n.InstanceID, n.Term, stamp(n.BootNS), t)
			}
			if last[n.InstanceID] != 0 && !n.EarlierDone {
				c.violate("I7", "instance %.8s is told of term %d at %s before the context of term %d has ended", n.InstanceID, n.Term, stamp(n.BootNS), last[n.InstanceID])
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

// knowledge verifies I8.
func (c *check) knowledge() {
	over := make(map[uint64]int64) // when a term was over
	for _, r := range c.reigns {
		over[r.term] = max(over[r.term], r.until)
	}
	for _, i := range c.all {
		var term, master uint64
		var views []history.Record
		for _, r := range i.records {
			if r.Kind == history.View {
				views = append(views, r)
			}
		}
		for k, r := range views {
			v := r.View
			if v.Term < term {
				c.violate("I8", "%s knew term %d, and knows of %d only at %s", i.node, term, v.Term, stamp(r.BootNS))
			}
			term = max(term, v.Term)
			if v.Master == nil {
				continue
			}
			if v.Master.Term < master {
				c.violate("I8", "%s knew a master of term %d, and names %s of term %d at %s", i.node, master, v.Master.NodeID, v.Master.Term, stamp(r.BootNS))
			}
			master = max(master, v.Master.Term)
			until := min(i.end, endOf(c.End))
			if k+1 < len(views) {
				until = min(until, views[k+1].BootNS)
			}
			end, known := over[v.Master.Term]
			if !known || until <= end {
				continue
			}
			named := c.awake(i.host, max(end, r.BootNS), until)
			c.Named = max(c.Named, time.Duration(named))
			if late := named - int64(c.Bounds.Clear); c.Bounds.Clear > 0 && late > 0 {
				c.violate("I8", "%s names %s master of term %d until %s, %v longer than the %v after its end",
					i.node, v.Master.NodeID, v.Master.Term, stamp(until), time.Duration(late), c.Bounds.Clear)
			}
		}
	}
}

// awake is how long a host ran between two moments.
func (c *check) awake(host string, from, to int64) int64 {
	left := to - from
	for _, f := range c.Faults {
		if f.Kind == Pause && f.Host == host || f.Kind == Stall {
			left -= max(0, min(to, endOf(f.End))-max(from, f.Begin))
		}
	}
	return left
}

// took is the time between two moments in which the machine ran.
func (c *check) took(from, to int64) time.Duration { return time.Duration(c.awake("", from, to)) }

// recovery verifies I9.
func (c *check) recovery() {
	if c.Quiet == 0 {
		return
	}
	live := c.live()
	ids := make([]string, 0, len(live))
	for _, i := range live {
		ids = append(ids, i.id)
	}
	slices.Sort(ids)
	var master *reign
	for _, r := range c.reigns {
		if r.begin <= c.End && r.until > c.End {
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
	agreed, together := max(c.Quiet, master.begin), c.Quiet
	for _, i := range live {
		var knows, sees int64 = -1, -1 // since when
		for _, r := range i.records {
			if r.Kind != history.View || r.BootNS > c.End {
				continue
			}
			var members []string
			for _, m := range r.View.Members {
				members = append(members, m.InstanceID)
			}
			slices.Sort(members)
			m := r.View.Master
			knows = since(knows, r.BootNS, m != nil && m.InstanceID == master.id && m.Term == master.term)
			sees = since(sees, r.BootNS, slices.Equal(members, ids))
		}
		if knows < 0 {
			c.violate("I9", "%s does not know %s as the master of term %d in the end", i.node, master.node, master.term)
		}
		if sees < 0 {
			c.violate("I9", "%s does not see the %d that live, and nobody else, in the end", i.node, len(ids))
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
func (c *check) live() (live []*instance) {
	for _, i := range c.all {
		if i.end > endOf(c.End) || i.end == forever {
			live = append(live, i)
		}
	}
	return live
}

// identity verifies I10.
func (c *check) identity() {
	first := ""
	say := func(i *instance, id string, at int64) {
		switch {
		case id == "" || id == first:
		case first == "":
			first = id
		default:
			c.violate("I10", "two clusters: %s at first, and %s on %s at %s", first, id, i.node, stamp(at))
		}
	}
	for _, i := range c.all {
		told := make(map[string]bool)
		for _, r := range i.records {
			id := r.ClusterID
			if r.View != nil {
				id = r.View.ClusterID
			}
			if !told[id] {
				told[id] = true
				say(i, id, r.BootNS)
			}
		}
	}
}

// registry verifies I11.
func (c *check) registry() {
	if c.Bounds.Registry == 0 || c.Quiet == 0 {
		return
	}
	want := make([]string, 0)
	for _, i := range c.live() {
		want = append(want, i.id)
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
func (c *check) availability() {
	if len(c.reigns) == 0 {
		return
	}
	from, to := c.reigns[0].begin, c.Quiet
	if to == 0 {
		to = c.End
	}
	if to <= from {
		return
	}
	covered, at := time.Duration(0), from
	for _, r := range c.reigns {
		begin, until := max(r.begin, at), min(r.until, to)
		if until <= begin {
			continue
		}
		c.Gap = max(c.Gap, c.took(at, begin))
		covered += c.took(begin, until)
		at = until
	}
	c.Gap = max(c.Gap, c.took(at, to))
	c.Available = float64(covered) / float64(c.took(from, to))
	c.Stalled = time.Duration(to-from) - c.took(from, to)
}

// reignOf returns the mastership of an instance in a term.
func (c *check) reignOf(id string, term uint64) *reign {
	for _, r := range c.reigns {
		if r.id == id && r.term == term {
			return r
		}
	}
	return nil
}

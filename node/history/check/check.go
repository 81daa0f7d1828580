package check

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/musterhq/muster/node/history"
)

// Violation is a promise that was broken.
type Violation struct {
	// Invariant is its name, as in the package comment.
	Invariant string
	// Text says what happened, and when. Times are seconds of the boot clock.
	Text string
	// Instance is one that has it on record, and BootNS when; nil if no single one has.
	Instance *Instance
	BootNS   int64
}

func (v Violation) String() string { return v.Invariant + ": " + v.Text }

func violation(invariant string, i *Instance, at int64, format string, args ...any) Violation {
	return Violation{Invariant: invariant, Text: fmt.Sprintf(format, args...), Instance: i, BootNS: at}
}

// maxViolations bounds how many of one invariant are reported.
const maxViolations = 100

// Options say what is known in addition to the histories. The zero value is for those of users.
type Options struct {
	// OneClock says that all times are of one clock, whatever the records say.
	OneClock bool
	// Complete says that no record is missing, at the ends of histories either: a mastership whose
	// end is not on record lasted until the process was dead or the deadline had passed.
	Complete bool
	// Lives are the processes of which the begin and end are known.
	Lives []Life
	// ClocksBroken says that clocks ran at rates outside of what mastership assumes: masterships
	// may overlap then, and only terms protect (I2 and I12 are not checked).
	ClocksBroken bool
	// Hearsay is how long a node may name a master that never was one, where a member lies.
	Hearsay time.Duration
	// Awake returns how long a host ran between two moments, nil if it ran all the time.
	Awake func(host string, from, to int64) int64
	// Seen is up to when the histories were looked at, or 0.
	Seen int64
	// Since and Until are a span of the wall clock, each without bound if it is zero. What lies
	// outside is left out.
	Since, Until time.Time
}

// Answer is one to a question that histories need not answer.
type Answer string

// The answers.
const (
	Yes     Answer = "yes"
	No      Answer = "no"
	Unknown Answer = "unknown"
)

// Report is what the histories come to.
type Report struct {
	Instances   []*Instance   // by begin
	Masterships []*Mastership // as far as it is known, one after another
	Violations  []Violation
	// Omitted is how many more violations there were.
	Omitted int
	// TwoMasters says whether there were two at a time.
	TwoMasters Answer
	// Undecided says why that cannot be told, if it cannot.
	Undecided []string
	// Notes say what to know about the histories: which are cut, and how far clocks are apart.
	Notes []string

	o      Options
	all    []*Mastership // those outside of the span as well
	byID   map[string]*Instance
	clocks *clocks
	wall   *walls
	count  map[string]int // of violations, by invariant
}

func (r *Report) violate(invariant string, i *Instance, at int64, format string, args ...any) {
	r.add(violation(invariant, i, at, format, args...))
}

func (r *Report) add(v Violation) {
	if v.Instance != nil && !r.inside(v.Instance, v.BootNS, v.BootNS) {
		return
	}
	if r.count[v.Invariant]++; r.count[v.Invariant] > maxViolations {
		r.Omitted++
		return
	}
	r.Violations = append(r.Violations, v)
}

// Check verifies the histories of the nodes of one cluster.
func Check(logs []Log, o Options) *Report {
	r := &Report{o: o, byID: make(map[string]*Instance), count: make(map[string]int)}
	r.Instances = instances(logs, o)
	var wrong []Violation
	for _, i := range r.Instances {
		r.byID[i.ID] = i
		m, w := i.masterships(o.Complete)
		r.all = append(r.all, m...)
		wrong = append(wrong, w...)
	}
	r.clocks = relate(r.Instances, r.all)
	r.wall = alignWalls(r.Instances, r.clocks)
	for _, v := range wrong {
		r.add(v)
	}
	for _, m := range r.all {
		if r.inside(m.Instance, m.Begin, m.Until) {
			r.Masterships = append(r.Masterships, m)
		}
	}
	slices.SortStableFunc(r.Masterships, func(a, b *Mastership) int {
		return cmp.Or(r.Wall(a.Instance, a.Begin).Compare(r.Wall(b.Instance, b.Begin)), cmp.Compare(a.Term, b.Term))
	})
	r.terms()
	r.alone()
	r.knowledge()
	r.names()
	r.identity()
	r.decide()
	return r
}

// inside reports whether a span of an instance touches that of the options.
func (r *Report) inside(i *Instance, from, to int64) bool {
	return (r.o.Until.IsZero() || !r.Wall(i, from).After(r.o.Until)) && (r.o.Since.IsZero() || to == Forever || !r.Wall(i, to).Before(r.o.Since))
}

// before reports whether it is certain that m was over when next began.
func (r *Report) before(m, next *Mastership) bool {
	return r.clocks.bound(m.Clock, next.Clock, m.Until) <= next.Begin
}

// overlap returns for how long it is certain that two masterships were at the same time, at least.
func (r *Report) overlap(a, b *Mastership) (time.Duration, bool) {
	if a.Clock == b.Clock {
		d := min(a.Held, b.Held) - max(a.Begin, b.Begin)
		return time.Duration(d), d > 0
	}
	if r.clocks.odd[direction{a.Clock, b.Clock}] {
		return 0, false
	}
	latestA, latestB := r.clocks.bound(a.Clock, b.Clock, a.Begin), r.clocks.bound(b.Clock, a.Clock, b.Begin)
	if latestA == Forever || latestB == Forever {
		return 0, false
	}
	d := min(b.Held-max(latestA, b.Begin), a.Held-max(latestB, a.Begin))
	return time.Duration(d), d > 0
}

// neighbours is how many of the masterships next to one, by term, on other clocks are compared with
// it to see whether they overlap.
const neighbours = 32

// byTerm returns the masterships in the order of their terms.
func (r *Report) byTerm() []*Mastership {
	return slices.SortedStableFunc(slices.Values(r.Masterships), func(a, b *Mastership) int { return cmp.Compare(a.Term, b.Term) })
}

// perClock returns the masterships of each clock by begin, clocks in order.
func (r *Report) perClock() (all [][]*Mastership) {
	by := make(map[string][]*Mastership)
	for _, m := range r.Masterships {
		by[m.Clock] = append(by[m.Clock], m)
	}
	for _, name := range slices.Sorted(maps.Keys(by)) {
		slices.SortStableFunc(by[name], func(a, b *Mastership) int { return cmp.Compare(a.Begin, b.Begin) })
		all = append(all, by[name])
	}
	return all
}

// terms verifies I1 and I4.
func (r *Report) terms() {
	first := make(map[uint64]*Mastership)
	for _, one := range r.perClock() {
		var last *Mastership
		for _, m := range one {
			if other := first[m.Term]; other != nil {
				r.violate("I1", m.Instance, m.Begin, "term %d was begun twice: %v, and %v", m.Term, other, m)
			} else {
				first[m.Term] = m
			}
			if last != nil && m.Term <= last.Term {
				r.violate("I4", m.Instance, m.Begin, "the term did not rise: %v, then %v", last, m)
			}
			last = m
		}
	}
	r.pairs(func(a, b *Mastership) {
		if a.Term < b.Term && r.before(b, a) && !r.clocks.odd[direction{a.Clock, b.Clock}] {
			r.violate("I4", a.Instance, a.Begin, "the term did not rise: %v, then %v", b, a)
		}
	})
}

// pairs calls f for masterships on different clocks whose terms are neighbours, the lower first.
func (r *Report) pairs(f func(a, b *Mastership)) {
	all := r.byTerm()
	for k, b := range all {
		for _, a := range all[max(0, k-neighbours):k] {
			if a.Clock != b.Clock {
				f(a, b)
			}
		}
	}
}

// alone verifies I2.
func (r *Report) alone() {
	if r.o.ClocksBroken {
		return
	}
	for _, one := range r.perClock() {
		var open []*Mastership
		for _, next := range one {
			open = slices.DeleteFunc(open, func(m *Mastership) bool { return m.Until <= next.Begin })
			for _, last := range open {
				if d, ok := r.overlap(last, next); ok && last.ID != next.ID {
					r.violate("I2", next.Instance, next.Begin, "two masters for %v: %v, and %v", d, last, next)
				}
			}
			if len(open) <= maxViolations { // what is reported of more would be omitted
				open = append(open, next)
			}
		}
	}
	r.pairs(func(a, b *Mastership) {
		if d, ok := r.overlap(a, b); ok {
			r.violate("I2", b.Instance, b.Begin, "two masters for %v at least: %v, and %v", d, a, b)
		}
	})
}

// views returns the views of an instance.
func (i *Instance) views() (views []history.Record) {
	for _, r := range i.Records {
		if r.Kind == history.View && r.View != nil {
			views = append(views, r)
		}
	}
	return views
}

// knowledge verifies I8.
func (r *Report) knowledge() {
	held := r.held()
	for _, i := range r.Instances {
		var term, master uint64
		for _, record := range i.views() {
			v := record.View
			if v.Term < term {
				r.violate("I8", i, record.BootNS, "%s knew term %d, and knows of %d only at %s", i.Node, term, v.Term, Stamp(record.BootNS))
			}
			term = max(term, v.Term)
			if v.Master == nil {
				continue
			}
			if r.o.Hearsay > 0 && held[claim{v.Master.InstanceID, v.Master.Term}] == nil {
				continue // a lie, of which a node may know better: names bounds how long it may not
			}
			if v.Master.Term < master {
				r.violate("I8", i, record.BootNS, "%s knew a master of term %d, and names %s of term %d at %s", i.Node, master, v.Master.NodeID, v.Master.Term, Stamp(record.BootNS))
			}
			master = max(master, v.Master.Term)
		}
	}
}

// held returns the first mastership of each instance and term.
func (r *Report) held() map[claim]*Mastership {
	held := make(map[claim]*Mastership)
	for _, m := range r.all {
		if k := (claim{m.ID, m.Term}); held[k] == nil {
			held[k] = m
		}
	}
	return held
}

// names verifies I12: nobody is named master who was only granted it, or who never claimed it.
// A node records that it is active before it announces that.
func (r *Report) names() {
	if r.o.ClocksBroken {
		return
	}
	held := r.held()
	for _, i := range r.Instances {
		views := i.views()
		var lied int64 // how long it has named those that never were, until now
		for k, record := range views {
			named := record.View.Master
			if named == nil {
				lied = 0
				continue
			}
			until := min(i.End, EndOf(r.o.Seen))
			if k+1 < len(views) {
				until = min(until, views[k+1].BootNS)
			}
			m := held[claim{named.InstanceID, named.Term}]
			holder := r.byID[named.InstanceID]
			if m == nil && !r.o.Complete && (holder == nil || holder.incomplete()) {
				continue // its history is not all there
			}
			if m != nil && (record.BootNS >= m.Begin || m.Clock != i.Clock || m.Partial) {
				lied = 0
				continue
			}
			if m != nil {
				until = min(until, m.Begin)
			}
			lied += r.awake(i.Host, record.BootNS, until)
			if lied <= int64(r.o.Hearsay) && r.o.Hearsay > 0 {
				continue
			}
			if m == nil {
				r.violate("I12", i, record.BootNS, "%s names %s (instance %.8s) master of term %d from %s on, in which it never was active", i.Node, named.NodeID, named.InstanceID, named.Term, Stamp(record.BootNS))
			} else {
				r.violate("I12", i, record.BootNS, "%s names %s master of term %d at %s, %v before it was active", i.Node, named.NodeID, named.Term, Stamp(record.BootNS), time.Duration(m.Begin-record.BootNS))
			}
		}
	}
}

// incomplete reports whether a mastership of the instance may be missing.
func (i *Instance) incomplete() bool { return i.Cut || len(i.Gaps) > 0 || !i.Left }

func (r *Report) awake(host string, from, to int64) int64 {
	if r.o.Awake == nil {
		return to - from
	}
	return r.o.Awake(host, from, to)
}

// identity verifies I10.
func (r *Report) identity() {
	first := ""
	say := func(i *Instance, id string, at int64) {
		switch {
		case id == "" || id == first:
		case first == "":
			first = id
		default:
			r.violate("I10", i, at, "two clusters: %s at first, and %s on %s at %s", first, id, i.Node, Stamp(at))
		}
	}
	for _, i := range r.Instances {
		told := make(map[string]bool)
		for _, record := range i.Records {
			id := record.ClusterID
			if record.View != nil {
				id = record.View.ClusterID
			}
			if !told[id] {
				told[id] = true
				say(i, id, record.BootNS)
			}
		}
	}
}

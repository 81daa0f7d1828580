package check

import (
	"cmp"
	"fmt"
	"math"
	"reflect"
	"slices"
	"time"

	"github.com/musterhq/muster/node/history"
)

// Log is a part of the history of one or more nodes, as a file has it.
type Log struct {
	// Host names the file, or the host whose processes wrote it.
	Host    string
	Records []history.Record
	// Folded is how many renewals right before a record are left out, since they are the record
	// over again: none of them came after a deadline.
	Folded map[Number]uint64
}

// Number is that of a record of an instance.
type Number struct {
	Instance string
	N        uint64
}

// Life is a process of which something else than its history is known. End is when it was
// certainly dead, or 0.
type Life struct {
	Host       string
	Begin, End int64
}

// Forever is the end of what has not ended.
const Forever = math.MaxInt64

// EndOf is t, or Forever for 0.
func EndOf(t int64) int64 {
	if t == 0 {
		return Forever
	}
	return t
}

// Instance is one start of a node. Times are nanoseconds of its boot clock.
type Instance struct {
	ID, Node, Host string
	// Clock names the boot clock. Times of instances that have the same can be compared.
	Clock string
	// Cluster is the name of the cluster, empty if the record of the start is missing.
	Cluster string
	// Begin is the first record, and End the end of its life: Forever if it is not known.
	Begin, End int64
	// Last is the latest time of a record.
	Last int64
	// Left says that it has ended by itself.
	Left bool
	// Cut says that records before the first one are missing.
	Cut  bool
	Gaps []Gap
	// Differ counts the numbers that two records have which are not the same.
	Differ  int
	Records []history.Record

	folded map[uint64]uint64 // by the number of a record
	absent map[int]uint64    // how many are missing right before a record, by its index
}

// Gap is where records of an instance are missing, between two that are there.
type Gap struct {
	Records     uint64
	After, Till int64
}

// Mastership is one of an instance, from Begin to Until.
type Mastership struct {
	*Instance
	Term      uint64
	ClusterID string
	Begin     int64
	// Until is when it was certainly over, and Deadline its last deadline.
	Until, Deadline int64
	// Held is until when it certainly lasted: Until, where its end is on record, and else the last
	// renewal, since it may have ended early with the end missing.
	Held int64
	// Reason is why it ended, empty where no end is on record.
	Reason string
	// Partial says that its beginning is not on record.
	Partial bool
}

// String says who was master, and when, in seconds of the boot clock.
func (m *Mastership) String() string {
	return fmt.Sprintf("%s (instance %.8s on %s) in term %d, from %s to %s", m.Node, m.ID, m.Host, m.Term, Stamp(m.Begin), Stamp(m.Until))
}

// Stamp shows a time of the boot clock in seconds.
func Stamp(t int64) string {
	if t == Forever {
		return "now"
	}
	return fmt.Sprintf("%.6f", time.Duration(t).Seconds())
}

// instances sorts the records by instance. A record that is there twice counts once.
func instances(logs []Log, o Options) []*Instance {
	var all []*Instance
	byID := make(map[string]*Instance)
	for _, log := range logs {
		for _, record := range log.Records {
			i := byID[record.InstanceID]
			if i == nil {
				i = &Instance{ID: record.InstanceID, Node: record.NodeID, Host: log.Host, End: Forever}
				byID[i.ID] = i
				all = append(all, i)
			}
			i.Records = append(i.Records, record)
		}
		for number, count := range log.Folded {
			if i := byID[number.Instance]; i != nil {
				if i.folded == nil {
					i.folded = make(map[uint64]uint64)
				}
				i.folded[number.N] = max(i.folded[number.N], count)
			}
		}
	}
	for _, i := range all {
		i.sort()
		switch {
		case o.OneClock:
			i.Clock = "one"
		case i.Clock == "":
			i.Clock = "instance " + i.ID
		}
		for _, life := range o.Lives {
			if life.Host == i.Host && life.Begin <= i.Begin && i.Begin <= EndOf(life.End) {
				i.End = min(i.End, EndOf(life.End))
			}
		}
	}
	slices.SortStableFunc(all, func(a, b *Instance) int { return cmp.Compare(a.Begin, b.Begin) })
	return all
}

// sort brings the records into their order, and finds out which are missing.
func (i *Instance) sort() {
	numbered := !slices.ContainsFunc(i.Records, func(r history.Record) bool { return r.N == 0 })
	if numbered {
		slices.SortStableFunc(i.Records, func(a, b history.Record) int { return cmp.Compare(a.N, b.N) })
		i.Records = slices.CompactFunc(i.Records, func(a, b history.Record) bool {
			if a.N == b.N && !reflect.DeepEqual(a, b) {
				i.Differ++
			}
			return a.N == b.N
		})
		i.findGaps()
	}
	i.Begin = i.Records[0].BootNS
	i.Last = i.Begin
	for _, r := range i.Records {
		i.Last = max(i.Last, r.BootNS)
		i.Clock, i.Cluster = cmp.Or(i.Clock, r.Clock), cmp.Or(i.Cluster, r.Cluster)
		if r.Kind == history.Stop {
			i.End, i.Left = min(i.End, r.BootNS), true
		}
	}
}

// findGaps finds out which numbers are missing, of the records that are in order. Those that are
// folded are there.
func (i *Instance) findGaps() {
	type numbers struct{ first, last uint64 }
	var there []numbers
	for _, r := range i.Records {
		there = append(there, numbers{r.N - min(i.folded[r.N], r.N-1), r.N})
	}
	slices.SortFunc(there, func(a, b numbers) int { return cmp.Compare(a.first, b.first) })
	i.absent = make(map[int]uint64)
	last := uint64(0)
	for _, n := range there {
		if n.first > last+1 {
			k, _ := slices.BinarySearchFunc(i.Records, n.first, func(r history.Record, n uint64) int { return cmp.Compare(r.N, n) })
			i.absent[k] = n.first - last - 1
			if k == 0 {
				i.Cut = true
			} else {
				i.Gaps = append(i.Gaps, Gap{Records: i.absent[k], After: i.Records[k-1].BootNS, Till: i.Records[k].BootNS})
			}
		}
		last = max(last, n.last)
	}
}

// masterships reads those of an instance, and what is wrong with their order. complete says that
// no record is missing.
func (i *Instance) masterships(complete bool) (all []*Mastership, wrong []Violation) {
	violate := func(invariant string, r history.Record, format string, args ...any) {
		wrong = append(wrong, violation(invariant, i, r.BootNS, format, args...))
	}
	var open *Mastership
	finish := func(until int64) {
		if open != nil {
			open.Until = max(open.Begin, min(until, open.Deadline, i.End))
			open.Held = min(open.Held, open.Until)
			all = append(all, open)
			open = nil
		}
	}
	missing := false // records, since the mastership was known last
	for k, r := range i.Records {
		missing = missing || i.absent[k] > 0
		if missing && (r.Kind == history.Renewed || r.Kind == history.Ended) && (open == nil || open.Term != r.Term) {
			if open != nil {
				finish(open.Deadline)
			}
			// What is on record of it proves that it had begun by then.
			open = &Mastership{Instance: i, Term: r.Term, ClusterID: r.ClusterID, Begin: min(r.BootNS, EndOf(r.UntilNS)), Held: math.MinInt64, Deadline: r.DeadlineNS, Partial: true}
		}
		switch r.Kind {
		case history.Active:
			if open != nil {
				if !missing {
					violate("I7", r, "%s begins term %d at %s before the end of term %d", i.Node, r.Term, Stamp(r.BootNS), open.Term)
				}
				finish(r.BootNS)
			}
			open = &Mastership{Instance: i, Term: r.Term, ClusterID: r.ClusterID, Begin: r.BootNS, Held: r.BootNS + 1, Deadline: r.DeadlineNS}
			missing = false
		case history.Renewed:
			if open == nil || open.Term != r.Term {
				violate("I7", r, "%s renews term %d at %s, which is not its own", i.Node, r.Term, Stamp(r.BootNS))
				continue
			}
			// What is folded before it was in order, up to it.
			if next := r.N == 0 || k > 0 && r.N == i.Records[k-1].N+1; r.BootNS >= open.Deadline && !missing && next {
				violate("I6", r, "%s renews term %d at %s, which was over at %s", i.Node, r.Term, Stamp(r.BootNS), Stamp(open.Deadline))
			}
			open.Deadline = max(open.Deadline, r.DeadlineNS)
			open.Held = max(open.Held, r.BootNS+1)
			missing = false
		case history.Ended:
			if open == nil || open.Term != r.Term {
				violate("I7", r, "%s ends term %d at %s, which is not its own", i.Node, r.Term, Stamp(r.BootNS))
				continue
			}
			if missing {
				open.Deadline = max(open.Deadline, r.DeadlineNS)
			}
			if r.UntilNS > open.Deadline {
				violate("I6", r, "%s was master of term %d until %s, after its deadline %s", i.Node, r.Term, Stamp(r.UntilNS), Stamp(open.Deadline))
			}
			open.Reason = r.Reason
			open.Held = min(EndOf(r.UntilNS), r.BootNS)
			finish(EndOf(r.UntilNS))
			missing = false
		}
	}
	finish(i.End)
	if complete {
		for _, m := range all {
			m.Held = m.Until
		}
	}
	return all, wrong
}

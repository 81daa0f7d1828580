package checker

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/node/history"
	"github.com/musterhq/muster/node/history/check"
)

const second = int64(time.Second)

// sound is a run in which nothing is wrong: a is master until it is paused, then b,
// and c only follows. Everybody but a learns of it at once.
func sound() *Run {
	members := []history.Member{{NodeID: "a", InstanceID: "a1"}, {NodeID: "b", InstanceID: "b1"}, {NodeID: "c", InstanceID: "c1"}}
	view := func(at int64, term uint64, master string) history.Record {
		v := &history.ViewState{Term: term, ClusterID: "x", Majority: true, Members: members}
		if master != "" {
			v.Master = &history.Master{NodeID: master[:1], InstanceID: master, Term: term}
		}
		return history.Record{BootNS: at * second, Kind: history.View, View: v}
	}
	start := history.Record{BootNS: second, Kind: history.Start, Cluster: "orders"}
	r := &Run{
		Bounds: Bounds{
			Voters: []string{"ha", "hb", "hc"}, Isolation: 3 * time.Second, Clear: 4 * time.Second,
			Master: 10 * time.Second, Component: 5 * time.Second, Registry: 4 * time.Second,
		},
		Logs: []Log{
			{Host: "ha", Records: []history.Record{start,
				{BootNS: 2 * second, Kind: history.Active, Term: 1, ClusterID: "x", DeadlineNS: 4 * second},
				view(2, 1, "a1"),
				{BootNS: 3 * second, Kind: history.Renewed, Term: 1, ClusterID: "x", SentNS: 3 * second, DeadlineNS: 5 * second},
				{BootNS: 9 * second, Kind: history.Ended, Term: 1, ClusterID: "x", DeadlineNS: 5 * second, UntilNS: 5 * second, Reason: "deadline"},
				view(9, 2, "b1"),
			}},
			{Host: "hb", Records: []history.Record{start, view(2, 1, "a1"), view(5, 1, ""),
				{BootNS: 6 * second, Kind: history.Active, Term: 2, ClusterID: "x", DeadlineNS: 8 * second},
				view(6, 2, "b1"),
				{BootNS: 7 * second, Kind: history.Renewed, Term: 2, ClusterID: "x", SentNS: 7 * second, DeadlineNS: 30 * second},
			}},
			{Host: "hc", Records: []history.Record{start, view(2, 1, "a1"), view(5, 1, ""), view(6, 2, "b1")}},
		},
		Lives:  []Life{{Host: "ha"}, {Host: "hb"}, {Host: "hc"}},
		Faults: []Fault{{Kind: Pause, Host: "ha", Begin: 35 * second / 10, End: 9 * second}},
		Notes: []Note{
			{Kind: WorkBegin, BootNS: 2 * second, InstanceID: "a1", Term: 1},
			{Kind: Sample, BootNS: 3 * second, InstanceID: "a1", Term: 1},
			{Kind: Write, BootNS: 3 * second, ReturnNS: 3*second + 10, InstanceID: "a1", Term: 1, Value: "one", Accepted: true},
			{Kind: Write, BootNS: 3*second + 20, InstanceID: "a1", Term: 1, Value: "two"}, // never answered
			{Kind: Read, BootNS: 4 * second, ReturnNS: 4*second + 10, InstanceID: "c1", Seen: "two", SeenTerm: 1},
			{Kind: WorkBegin, BootNS: 6 * second, InstanceID: "b1", Term: 2},
			{Kind: Sample, BootNS: 6 * second, InstanceID: "b1", Term: 2},
			{Kind: Write, BootNS: 7 * second, ReturnNS: 7*second + 10, InstanceID: "b1", Term: 2, Value: "three", Accepted: true, Seen: "two", SeenTerm: 1},
			{Kind: Write, BootNS: 9 * second, ReturnNS: 9*second + 10, InstanceID: "a1", Term: 1, Value: "late", Seen: "three", SeenTerm: 2},
			{Kind: WorkEnd, BootNS: 9*second + 20, InstanceID: "a1", Term: 1},
		},
		Applied:  []Applied{{3*second + 5, 1, "one"}, {3*second + 25, 1, "two"}, {7*second + 5, 2, "three"}},
		Listings: []Listing{{11 * second, []string{"b1", "c1"}}, {12 * second, []string{"c1", "b1", "a1"}}},
		Quiet:    9 * second,
		End:      20 * second,
	}
	for _, l := range r.Logs {
		for i := range l.Records {
			l.Records[i].NodeID, l.Records[i].InstanceID = l.Host[1:], l.Host[1:]+"1"
		}
	}
	return r
}

func (r *Run) log(host string) *Log {
	return &r.Logs[slices.IndexFunc(r.Logs, func(l Log) bool { return l.Host == host })]
}

func TestSoundRun(t *testing.T) {
	got := Check(*sound())
	for _, v := range got.Violations {
		t.Error(v)
	}
	if got.Masterships != 2 || got.Writes != 3 || got.Refused != 1 || got.Gap != time.Second || got.Available < 0.8 || got.Available > 0.9 {
		t.Errorf("the report is %+v", got)
	}
	if got.ToMaster != 0 || got.ToComponent != 0 {
		t.Errorf("all agreed %v and %v after the end of the fault, want at once", got.ToMaster, got.ToComponent)
	}
}

// Every invariant is broken by hand, and named.
func TestBrokenRuns(t *testing.T) {
	for _, test := range []struct {
		name string
		want string // all that is named, in order
		text string // in one of them
		ruin func(*Run)
	}{
		{"nothing happened", "I9", "no mastership at all", func(r *Run) {
			for i := range r.Logs {
				r.Logs[i].Records = r.Logs[i].Records[:1]
			}
			r.Notes, r.Applied, r.Listings, r.Quiet = nil, nil, nil, 0
		}},
		{"a term begun twice", "I1 I4", "term 1 was begun twice", func(r *Run) {
			setTerm(r, "hb", 1)
		}},
		{"a term that goes back", "I4", "the term did not rise", func(r *Run) {
			setTerm(r, "ha", 3)
			for _, host := range []string{"hb", "hc"} {
				l := r.log(host)
				l.Records = slices.DeleteFunc(l.Records, func(x history.Record) bool { return x.View != nil && x.BootNS < 6*second })
			}
			l := r.log("ha")
			l.Records = slices.DeleteFunc(l.Records, func(x history.Record) bool { return x.View != nil && x.View.Term == 3 })
		}},
		{"two masters", "I2", "two masters for 500ms", func(r *Run) {
			r.log("hb").Records[3].BootNS = 45 * second / 10
		}},
		{"a master that was killed late", "I2", "two masters", func(r *Run) {
			l := r.log("ha")
			l.Records = l.Records[:4] // no end on record
			l.Records[3].DeadlineNS = 7 * second
			r.Lives[0].End = 65 * second / 10
			r.Quiet = 0
		}},
		{"work into another's mastership", "I2", "beside the mastership of b (instance b1 on hb) in term 2, from 6.000000 to 30.000000 for 500ms", func(r *Run) {
			l := r.log("ha")
			l.Records[4].BootNS, l.Records[4].UntilNS, l.Records[4].DeadlineNS = 4*second, 4*second, 9*second
			l.Records[3].DeadlineNS = 9 * second
			r.Notes[len(r.Notes)-1].BootNS = 65 * second / 10
			r.Notes[len(r.Notes)-2] = Note{Kind: Read, BootNS: 10 * second, InstanceID: "a1"}
		}},
		{"a register without a fence", "I3 REG", "accepted \"late\" of term 1", func(r *Run) {
			r.Notes[8].Accepted, r.Notes[8].Seen = true, "three"
			r.Applied = append(r.Applied, Applied{9*second + 5, 1, "late"})
		}},
		{"a master by itself", "I5", "reached no majority of 3", func(r *Run) {
			r.Faults = append(r.Faults,
				Fault{Kind: Cut, From: "hb", To: "ha", Begin: 10 * second}, Fault{Kind: Cut, From: "ha", To: "hb", Begin: 10 * second},
				Fault{Kind: Cut, From: "hb", To: "hc", Begin: 10 * second}, Fault{Kind: Cut, From: "hc", To: "hb", Begin: 10 * second})
		}},
		{"a master whose voters are dead", "I5", "reached no majority", func(r *Run) {
			r.Lives[0].End, r.Lives[2].End = 10*second, 10*second
			r.Quiet = 0
		}},
		{"master after the deadline, by its own word", "I6", "4s after its deadline", func(r *Run) {
			r.Notes = append(r.Notes, Note{Kind: Sample, BootNS: 9 * second, InstanceID: "a1", Term: 1})
		}},
		{"an end after the deadline", "I6", "after its deadline", func(r *Run) {
			r.log("ha").Records[4].UntilNS = 55 * second / 10
		}},
		{"a mastership revived", "I6", "which was over at 5.0", func(r *Run) {
			l := r.log("ha")
			l.Records = slices.Insert(l.Records, 4, l.Records[3])
			l.Records[4].BootNS, l.Records[4].DeadlineNS = 52*second/10, 58*second/10
			l.Records[5].DeadlineNS, l.Records[5].UntilNS = 58*second/10, 58*second/10
		}},
		{"master off the record", "I6", "not on record", func(r *Run) {
			r.Notes = append(r.Notes, Note{Kind: Sample, BootNS: 9 * second, InstanceID: "c1", Term: 1})
		}},
		{"begun twice on one node", "I1 I4 I7", "before the end of term 1", func(r *Run) {
			l := r.log("ha")
			again := l.Records[1]
			again.BootNS = 25 * second / 10
			l.Records = slices.Insert(l.Records, 3, again)
		}},
		{"two functions at once", "I7", "while its function of term 1 runs", func(r *Run) {
			r.Notes[9].BootNS = 30 * second
			r.Notes = append(r.Notes, Note{Kind: WorkBegin, BootNS: 12 * second, InstanceID: "a1", Term: 3, EarlierDone: true},
				Note{Kind: WorkEnd, BootNS: 13 * second, InstanceID: "a1", Term: 3})
			r.Notes = slices.Delete(r.Notes, 9, 10)
		}},
		{"a context that did not end", "I7", "before the context of term 1 has ended", func(r *Run) {
			r.Notes = append(r.Notes, Note{Kind: WorkBegin, BootNS: 12 * second, InstanceID: "a1", Term: 3})
		}},
		{"a master of before", "I8", "knew a master of term 2, and names a of term 1", func(r *Run) {
			l := r.log("hc")
			back := l.Records[1]
			v := *back.View
			v.Term, back.View, back.BootNS = 2, &v, 6*second+1
			r.Quiet = 0
			l.Records = append(l.Records, back)
			r.End = 7 * second
		}},
		{"a term forgotten", "I8", "knew term 2, and knows of 1 only", func(r *Run) {
			l := r.log("hc")
			l.Records = append(l.Records, l.Records[2])
			l.Records[len(l.Records)-1].BootNS = 7 * second
			r.Quiet = 0
		}},
		{"a name that stays", "I8", "longer than the 4s after its end", func(r *Run) {
			l := r.log("hc")
			l.Records = slices.Delete(l.Records, 2, 4)
			r.Quiet = 0
		}},
		{"a master who was only granted", "I12", "c names b master of term 2 at 5.500000, 500ms before it was active", func(r *Run) {
			r.log("hc").Records[3].BootNS = 55 * second / 10
		}},
		{"a master who never claimed it", "I12", "c names c (instance c1) master of term 3 from 7.000000 on, in which it never was active", func(r *Run) {
			l := r.log("hc")
			for k, at := range []int64{7, 8} { // and then b again
				record := l.Records[3]
				v := *record.View
				v.Term, record.View, record.BootNS = 3, &v, at*second
				v.Master = &history.Master{NodeID: "c", InstanceID: "c1", Term: 3}
				if k == 1 {
					v.Master = nil
				}
				l.Records = append(l.Records, record)
			}
			r.Quiet = 0
		}},
		{"a master of an instance before", "I12", "in which it never was active", func(r *Run) {
			for _, host := range []string{"hb", "hc"} {
				for _, record := range r.log(host).Records {
					if record.View != nil && record.View.Master != nil && record.View.Master.Term == 1 {
						record.View.Master.InstanceID = "a0"
					}
				}
			}
		}},
		{"no master in the end", "I9", "no master in the end", func(r *Run) {
			l := r.log("hb")
			l.Records = append(l.Records, history.Record{BootNS: 12 * second, Kind: history.Ended, Term: 2, UntilNS: 12 * second, NodeID: "b", InstanceID: "b1"})
			r.Bounds.Clear = 0
		}},
		{"somebody who does not know", "I9", "c does not know b", func(r *Run) {
			l := r.log("hc")
			l.Records = l.Records[:3]
		}},
		{"recovery too slow", "I9", "all see all 6s after", func(r *Run) {
			l := r.log("hc")
			part := l.Records[3]
			v := *part.View
			v.Members, part.View, part.BootNS = v.Members[1:], &v, 10*second
			whole := l.Records[3]
			whole.BootNS = 15 * second
			l.Records = append(l.Records, part, whole)
		}},
		{"two clusters", "I10", "two clusters: x at first, and y", func(r *Run) {
			r.log("hc").Records[3].View.ClusterID = "y"
		}},
		{"a ghost in the registry", "I11", "lists a1 b1 c1 ghost", func(r *Run) {
			r.Listings = append(r.Listings, Listing{14 * second, []string{"a1", "b1", "c1", "ghost"}})
		}},
		{"a registration that comes late", "I11", "may take 4s", func(r *Run) {
			r.Listings = []Listing{{15 * second, []string{"a1", "b1", "c1"}}}
		}},
		{"a read of the past", "REG", "no order", func(r *Run) {
			r.Notes = append(r.Notes, Note{Kind: Read, BootNS: 8 * second, ReturnNS: 8*second + 10, InstanceID: "c1", Seen: "two", SeenTerm: 1})
		}},
		{"an acknowledged write lost", "REG", "the register's log has it false", func(r *Run) {
			r.Applied = slices.Delete(r.Applied, 0, 1)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			run := sound()
			test.ruin(run)
			got := Check(*run)
			if names := strings.Join(got.Broken(), " "); names != test.want {
				t.Errorf("broken: %s, want %s", names, test.want)
			}
			if !slices.ContainsFunc(got.Violations, func(v Violation) bool { return strings.Contains(v.Text, test.text) }) {
				t.Errorf("nothing says %q", test.text)
			}
			for _, v := range got.Violations {
				t.Log(v)
			}
		})
	}
}

// setTerm gives the masterships of a host another term.
func setTerm(r *Run, host string, term uint64) {
	id := r.log(host).Records[0].InstanceID
	for i := range r.Logs {
		for j := range r.Logs[i].Records {
			record := &r.Logs[i].Records[j]
			if record.InstanceID == id && record.Term != 0 {
				record.Term = term
			}
			if v := record.View; v != nil && v.Master != nil && v.Master.InstanceID == id {
				clone := *v
				master := *v.Master
				master.Term = term
				clone.Master = &master
				if clone.Term < term {
					clone.Term = term
				}
				record.View = &clone
			}
		}
	}
	for i := range r.Notes {
		if n := &r.Notes[i]; n.InstanceID == id && (n.Kind == WorkBegin || n.Kind == WorkEnd || n.Kind == Sample) {
			n.Term = term
		}
	}
}

// With clocks that run at other rates than mastership assumes, masterships may
// overlap, and nothing else may go wrong.
func TestBrokenClocks(t *testing.T) {
	r := sound()
	r.log("hb").Records[3].BootNS = 45 * second / 10
	r.Bounds.ClocksBroken = true
	if got := Check(*r); len(got.Violations) > 0 {
		t.Errorf("violations: %v", got.Violations)
	}
	r.Applied[2].Term = 0
	if got := Check(*r).Broken(); !slices.Contains(got, "I3") {
		t.Errorf("broken: %v, want I3", got)
	}
}

// Where a member lies, a node may name what it was told for a moment, and no longer. The
// instants of clocks that run wrong say nothing of who came first.
func TestNamedByHearsay(t *testing.T) {
	r := sound()
	l := r.log("hc")
	lie, back := l.Records[3], l.Records[3]
	v := *lie.View
	v.Master = &history.Master{NodeID: "x", InstanceID: "x1", Term: 2}
	lie.View, lie.BootNS, back.BootNS = &v, 7*second, 9*second
	l.Records = append(l.Records, lie, back)
	for hearsay, want := range map[time.Duration][]string{0: {"I12"}, time.Second: {"I12"}, 2 * time.Second: nil} {
		r.Bounds.Hearsay = hearsay
		if got := Check(*r).Broken(); !slices.Equal(got, want) {
			t.Errorf("within %v: broken %v, want %v", hearsay, got, want)
		}
	}
	r.Bounds.Hearsay, r.Bounds.ClocksBroken = 0, true
	if got := Check(*r).Broken(); len(got) > 0 {
		t.Errorf("with wrong clocks: broken %v", got)
	}
}

// A lie of a higher term is no master of before: who is master is named after it, unless no member
// lies.
func TestNamedAfterHearsay(t *testing.T) {
	r := sound()
	l := r.log("hc")
	lie, back := l.Records[3], l.Records[3]
	forged, sound := *lie.View, *lie.View
	forged.Term, sound.Term = 9, 9
	forged.Master = &history.Master{NodeID: "x", InstanceID: "x1", Term: 9}
	lie.View, lie.BootNS = &forged, 7*second
	back.View, back.BootNS = &sound, 8*second
	l.Records = append(l.Records, lie, back)
	for hearsay, want := range map[time.Duration][]string{0: {"I12", "I8"}, 2 * time.Second: nil} {
		r.Bounds.Hearsay = hearsay
		got := Check(*r).Broken()
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("within %v: broken %v, want %v", hearsay, got, want)
		}
	}
}

// A pause excuses a node that says nothing, and a master that is paused is no master
// for longer than its deadline.
func TestPausedViewer(t *testing.T) {
	r := sound()
	l := r.log("hc")
	l.Records[2].BootNS, l.Records[3].BootNS = 15*second, 16*second
	r.Faults = append(r.Faults, Fault{Kind: Pause, Host: "hc", Begin: 4 * second, End: 14 * second})
	r.Quiet = 14 * second
	r.Listings = []Listing{{16 * second, []string{"a1", "b1", "c1"}}}
	r.Bounds.Isolation = 0
	if got := Check(*r); len(got.Violations) > 0 {
		t.Errorf("violations: %v", got.Violations)
	}
}

// Where an operator takes a grant away, work may go on beside the next master, but the
// masterships themselves may not overlap.
func TestRevoked(t *testing.T) {
	r := sound()
	l := r.log("ha")
	l.Records[3].DeadlineNS = 9 * second
	l.Records[4].BootNS, l.Records[4].UntilNS, l.Records[4].DeadlineNS, l.Records[4].Reason = 4*second, 4*second, 9*second, "lost"
	r.Notes[9].BootNS = 65 * second / 10
	r.Notes = slices.Delete(r.Notes, 8, 9)
	if got := Check(*r).Broken(); !slices.Equal(got, []string{"I2"}) {
		t.Errorf("broken: %v, want I2", got)
	}
	r.Bounds.Revoked = true
	if got := Check(*r); len(got.Violations) > 0 {
		t.Errorf("violations: %v", got.Violations)
	}
	r.log("hb").Records[3].BootNS = 35 * second / 10
	if got := Check(*r).Broken(); !slices.Contains(got, "I2") {
		t.Errorf("broken: %v, want I2", got)
	}
}

// The time in which there can be no master is left out, and no more of it.
func TestPossible(t *testing.T) {
	for _, test := range []struct {
		name string
		ruin func(*Run)
		gap  time.Duration
		part float64
	}{
		// From 2 s to 9 s, with no master from 5 s to 6 s.
		{"nothing", func(*Run) {}, time.Second, 6.0 / 7},
		{"the store takes no writes", func(r *Run) {
			r.Faults = append(r.Faults, Fault{Kind: StoreOut, Begin: 45 * second / 10, End: 55 * second / 10})
		}, 500 * time.Millisecond, 5.5 / 6},
		{"one host does not reach the store", func(r *Run) {
			r.Faults = append(r.Faults, Fault{Kind: StoreCut, Host: "hc", Begin: 5 * second, End: 6 * second})
		}, time.Second, 6.0 / 7},
		{"no host reaches the store", func(r *Run) {
			for _, host := range []string{"ha", "hb", "hc"} {
				r.Faults = append(r.Faults, Fault{Kind: StoreCut, Host: host, Begin: 5 * second, End: 6 * second})
			}
		}, 0, 1},
		{"two of three are paused", func(r *Run) { // the other is from 3.5 s to 9 s
			r.Faults = append(r.Faults, Fault{Kind: Pause, Host: "hc", Begin: 52 * second / 10, End: 62 * second / 10})
		}, 200 * time.Millisecond, 5.8 / 6},
		{"two of three are dead", func(r *Run) {
			r.Lives[2].End = 55 * second / 10 // while ha is paused
		}, 500 * time.Millisecond, 3.0 / 3.5},
		{"all are cut from each other", func(r *Run) {
			for _, from := range []string{"ha", "hb", "hc"} {
				for _, to := range []string{"ha", "hb", "hc"} {
					if from != to {
						r.Faults = append(r.Faults, Fault{Kind: Cut, From: from, To: to, Begin: 5 * second, End: 6 * second})
					}
				}
			}
		}, 0, 1},
	} {
		r := sound()
		test.ruin(r)
		if got := Check(*r); got.PossibleGap != test.gap || math.Abs(got.Possible-test.part) > 1e-6 {
			t.Errorf("%s: a master for %.4f of the time in which there could be one, longest without %v, want %.4f and %v",
				test.name, got.Possible, got.PossibleGap, test.part, test.gap)
		}
	}
}

// What takes long because the machine stood still has not taken long, and two masters
// are two masters all the same.
func TestStall(t *testing.T) {
	r := sound()
	l := r.log("hc")
	l.Records[2].BootNS, l.Records[3].BootNS = 25*second, 26*second
	r.Faults = append(r.Faults, Fault{Kind: Stall, Begin: 9 * second, End: 25 * second})
	r.Listings = []Listing{{26 * second, []string{"a1", "b1", "c1"}}}
	r.End = 28 * second
	got := Check(*r)
	if len(got.Violations) > 0 || got.ToMaster != time.Second || got.Stalled != 0 {
		t.Errorf("%+v", got)
	}
	r.Quiet = 26 * second
	if got := Check(*r); got.Gap != time.Second || got.Stalled != 16*time.Second {
		t.Errorf("longest without a master %v, stalled %v", got.Gap, got.Stalled)
	}
	r.log("hb").Records[3].BootNS = 45 * second / 10
	r.Faults = append(r.Faults, Fault{Kind: Stall, Begin: 4 * second, End: 6 * second})
	if got := Check(*r).Broken(); !slices.Contains(got, "I2") {
		t.Errorf("broken: %v, want I2", got)
	}
}

func TestIsolated(t *testing.T) {
	c := &run{Run: *sound()}
	c.Lives[1].End = 20
	c.Lives = append(c.Lives, Life{Host: "hb", Begin: 30})
	c.Faults = []Fault{
		{Kind: Cut, From: "hc", To: "ha", Begin: 10, End: 25},
		{Kind: Cut, From: "ha", To: "hc", Begin: 5, End: 45},
		{Kind: Cut, From: "ha", To: "hb", Begin: 40},
	}
	if got, want := c.isolated("ha"), []check.Span{{Begin: 20, End: 25}}; !slices.Equal(got, want) {
		t.Errorf("isolated = %v, want %v", got, want)
	}
	if got, want := c.isolated("hc"), []check.Span{{Begin: 20, End: 25}}; !slices.Equal(got, want) {
		t.Errorf("isolated = %v, want %v", got, want)
	}
}

// A long run is looked at in pieces, and what is wrong in the last is found.
func TestLongRegister(t *testing.T) {
	r := sound()
	r.Notes, r.Applied = nil, nil
	at, seen := 10*second, ""
	for i := range 5 * pieceSize {
		value := strconv.Itoa(i)
		// Every operation is under way with the next one, but for a pause now and then.
		at += 10
		if i%100 == 0 {
			at += 100
		}
		r.Notes = append(r.Notes,
			Note{Kind: Write, BootNS: at, ReturnNS: at + 15, InstanceID: "b1", Term: 2, Value: value, Accepted: true, Seen: seen},
			Note{Kind: Read, BootNS: at + 1, ReturnNS: at + 14, InstanceID: "c1", Seen: value, SeenTerm: 2})
		r.Applied = append(r.Applied, Applied{at + 5, 2, value})
		seen = value
	}
	if got := Check(*r); len(got.Violations) > 0 {
		t.Errorf("violations: %v", got.Violations)
	}
	r.Notes[len(r.Notes)-1].Seen = "4990"
	if got := Check(*r).Broken(); !slices.Equal(got, []string{"REG"}) {
		t.Errorf("broken: %v, want REG", got)
	}
}

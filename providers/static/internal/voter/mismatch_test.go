package voter

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/static/internal/voterdir"
)

// established returns a voter that has a directory, lists voters a, b and c, and is a.
func established() *Voter {
	a := &Voter{
		voters: electorate{list: []string{"a:1", "b:1", "c:1"}},
		disk:   directory{phase: phaseEstablished, proven: voterdir.Identity{Founding: "f", ClusterID: "id", Term: 5}},
	}
	self := "a:1"
	a.self.entry.Store(&self)
	return a
}

// TestNoteMismatches: a voter that contradicts this one's directory does so until it answers
// otherwise. Its silence proves nothing, neither for it nor against one that never did.
func TestNoteMismatches(t *testing.T) {
	agrees := Status{Phase: phaseEstablished, Founding: "f", Term: 5}
	other := Status{Phase: phaseEstablished, Founding: "g", Term: 9}
	forgot := Status{Phase: phaseEstablished, Founding: "f", ID: "b", Leader: "b", Term: 4, Holder: &driver.Holder{}}
	fresh := Status{Phase: phaseFresh}
	silent := errors.New("no answer")
	for _, v := range []struct {
		says string
		b    []PeerStatus
		want bool
	}{
		{"another founding", []PeerStatus{{other, nil}}, true},
		{"a leader that has forgotten", []PeerStatus{{forgot, nil}}, true},
		{"the same founding", []PeerStatus{{agrees, nil}}, false},
		{"none yet", []PeerStatus{{fresh, nil}}, false},
		{"nothing", []PeerStatus{{Status{}, silent}}, false},
		{"nothing, with what looks like another founding", []PeerStatus{{other, silent}}, false},
		{"another, and then nothing", []PeerStatus{{other, nil}, {Status{}, silent}, {Status{}, silent}}, true},
		{"another, nothing, and then the same", []PeerStatus{{other, nil}, {Status{}, silent}, {agrees, nil}}, false},
		{"the same, and then nothing", []PeerStatus{{agrees, nil}, {Status{}, silent}}, false},
		{"another, and then none", []PeerStatus{{other, nil}, {fresh, nil}}, false},
	} {
		a := established()
		for _, s := range v.b {
			a.voters.answers = map[string]PeerStatus{"b:1": s, "c:1": {agrees, nil}}
			a.noteMismatches()
		}
		kept, is := a.voters.mismatched["b:1"]
		if is != v.want || len(a.voters.mismatched) > 1 {
			t.Errorf("b says %s: mismatched are %v, want b to be one: %v", v.says, a.voters.mismatched, v.want)
		}
		if is && kept.Founding != v.b[0].Founding {
			t.Errorf("b says %s: kept is %+v", v.says, kept)
		}
		// One that is gone from what was asked is none.
		a.voters.answers = map[string]PeerStatus{"c:1": {agrees, nil}}
		if a.noteMismatches(); len(a.voters.mismatched) > 0 {
			t.Errorf("b is not asked any more: mismatched are %v", a.voters.mismatched)
		}
	}
	// A voter without a directory of its own has nothing to contradict.
	a := established()
	a.voters.answers = map[string]PeerStatus{"b:1": {other, nil}}
	a.noteMismatches()
	a.disk.phase = phaseFresh
	if a.noteMismatches(); len(a.voters.mismatched) > 0 {
		t.Errorf("a fresh voter has mismatches %v", a.voters.mismatched)
	}
}

// TestMismatch pins when a voter may not vote: beside a majority of another founding, or a
// leader that has forgotten; and what it says of that.
func TestMismatch(t *testing.T) {
	other := Status{Phase: phaseEstablished, Founding: "g", ClusterID: "other", Term: 9}
	forgot := Status{Phase: phaseEstablished, Founding: "f", Term: 4}
	for _, v := range []struct {
		who    map[string]Status
		says   []string
		kind   driver.Block
		barred bool
	}{
		{nil, nil, "", false},
		{map[string]Status{"b:1": other}, []string{"voter b:1 is of another cluster", "cluster id other, term 9", "cluster id id, term 5", "no voter leads"}, driver.BlockCluster, false},
		{map[string]Status{"b:1": other, "c:1": other}, []string{"voters b:1 and c:1 are of another cluster", "this voter takes no part"}, driver.BlockCluster, true},
		{map[string]Status{"b:1": forgot}, []string{"voter b:1 leads with term 4", "proves term 5", "takes no part"}, driver.BlockTerm, true},
		{map[string]Status{"b:1": other, "c:1": forgot}, []string{"voter c:1 leads with term 4"}, driver.BlockTerm, true},
		{map[string]Status{"x:1": other, "y:1": other}, nil, "", false}, // none of the list
	} {
		a := established()
		a.voters.mismatched = v.who
		why, kind, barred := a.Mismatch()
		if barred != v.barred || kind != v.kind || (why == "") != (len(v.says) == 0) ||
			slices.ContainsFunc(v.says, func(part string) bool { return !strings.Contains(why, part) }) {
			t.Errorf("%v: barred %v, %s, %q; want %v, %s, %q", v.who, barred, kind, why, v.barred, v.kind, v.says)
		}
		// It keeps the node from being ready where it may not vote, and where nobody leads.
		if got, of := a.Blocked(nil); got != why || of != kind {
			t.Errorf("%v: blocked is %q of kind %s, want %q", v.who, got, of, why)
		}
	}
	// In a list of four, two are no majority.
	a := established()
	a.voters.list = append(a.voters.list, "d:1")
	a.voters.mismatched = map[string]Status{"b:1": other, "c:1": other}
	if _, _, barred := a.Mismatch(); barred {
		t.Error("two of four bar a voter")
	}
	a.voters.mismatched["d:1"] = other
	if _, _, barred := a.Mismatch(); !barred {
		t.Error("three of four do not bar a voter")
	}
}

// TestVoters pins what is reported of each voter: of those that are listed and of those in
// force, from what they answered last and from what this one knows of itself.
func TestVoters(t *testing.T) {
	silent := errors.New("no answer")
	a := established()
	a.voters.list = []string{"a:1", "b:1", "d:1"}
	a.voters.answers = map[string]PeerStatus{
		// It leads, with c in force and not yet d.
		"b:1": {Status{Addr: "b:1", Phase: phaseEstablished, Founding: "f", ClusterID: "id", Term: 7, ID: "b:1#2", Leader: "b:1#2", RaftTerm: 9,
			LastIndex: 100, Servers: []string{"a:1#1", "b:1#2", "c:1#3"}}, nil},
		"c:1": {Status{Addr: "c:1", Phase: phaseEstablished, Founding: "f", ClusterID: "id", Term: 6, ID: "c:1#4", RaftTerm: 8, LastIndex: 90}, nil}, // its place was another's
		"d:1": {Status{Addr: "d:1"}, silent},
		"e:1": {Status{Addr: "elsewhere:1", Phase: phaseFresh}, nil},
	}
	got := a.Voters()
	want := []driver.Voter{
		{Addr: "a:1", Self: true, Listed: true, Reached: true, Votes: true, State: string(phaseEstablished), Term: 5, ClusterID: "id", Founding: "f", Known: true, Behind: 100},
		{Addr: "b:1", Listed: true, Reached: true, Votes: true, Leader: true, State: string(phaseEstablished), Term: 7, ClusterID: "id", Founding: "f", Known: true},
		{Addr: "c:1", Reached: true, State: string(phaseEstablished), Term: 6, ClusterID: "id", Founding: "f", Known: true, Behind: 10},
		{Addr: "d:1", Listed: true, Problem: "no answer"},
	}
	if diff := cmp.Diff(want, got.Voters); diff != "" {
		t.Error(diff)
	}
	// Without a leader it is not known how far anybody is behind, and nothing of this one
	// is taken from what others say at its address.
	a.voters.answers = map[string]PeerStatus{"a:1": {Status{Addr: "a:1", Phase: phaseFresh}, silent}}
	got = a.Voters()
	want = []driver.Voter{
		{Addr: "a:1", Self: true, Listed: true, Reached: true, State: string(phaseEstablished), Term: 5, ClusterID: "id", Founding: "f"},
		{Addr: "b:1", Listed: true}, {Addr: "d:1", Listed: true},
	}
	if diff := cmp.Diff(want, got.Voters); diff != "" {
		t.Error(diff)
	}
	// One that answers at an address that it does not say is its own has not answered for it.
	a.voters.answers = map[string]PeerStatus{"b:1": {Status{Addr: "elsewhere:1", Phase: phaseFresh}, nil}}
	if b := a.Voters().Voters[1]; b.Reached || b.State != "" {
		t.Errorf("at another's address: %+v", b)
	}
	if len(a.Voters().Warning) == 0 { // its list is another one
		t.Error("there is no warning of a list that differs")
	}
}

// TestBehindCommitted pins when a leader is taken to have forgotten what was committed.
func TestBehindCommitted(t *testing.T) {
	own := voterdir.Identity{Founding: "f", ClusterID: "id", Term: 5}
	leader := Status{Phase: phaseEstablished, Founding: "f", ID: "b", Leader: "b", RaftTerm: 7, Term: 4, Holder: &driver.Holder{}}
	for _, c := range []struct {
		says string
		edit func(*Status)
		want bool
	}{
		{"a leader with a lower term", func(*Status) {}, true},
		{"of another founding", func(s *Status) { s.Founding = "g" }, false},
		{"one that follows", func(s *Status) { s.Leader = "c" }, false},
		{"one that has no part", func(s *Status) { s.ID, s.Leader = "", "" }, false},
		{"one that has lost its place", func(s *Status) { s.RaftTerm = 6 }, false},
		{"one whose state is being replayed", func(s *Status) { s.Holder = nil }, false},
		{"the same term", func(s *Status) { s.Term = 5 }, false},
		{"one that founds", func(s *Status) { s.Phase = phaseFresh }, false},
	} {
		s := leader
		c.edit(&s)
		if got := behindCommitted(own, 7, s); got != c.want {
			t.Errorf("%s: %v", c.says, got)
		}
	}
}

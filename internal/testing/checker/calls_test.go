package checker

import (
	"slices"
	"strings"
	"testing"
)

// called is a sound run with calls: one to b, which c makes, one to the master, which ends with
// the deadline while a is paused, and one that each makes in the end.
func called() *Run {
	r := sound()
	begin := func(at int64, from, id, way, to string, again bool) {
		r.Notes = append(r.Notes, Note{Kind: CallBegin, BootNS: at, InstanceID: from, Value: id, Name: way, To: to, Again: again, DeadlineNS: at + 2*second})
	}
	end := func(at int64, from, id, way, to, result string, ran bool, by string, term uint64) {
		r.Notes = append(r.Notes, Note{
			Kind: CallEnd, BootNS: at, InstanceID: from, Value: id, Name: way, To: to, Result: result, OK: result == "ok",
			MayHaveRun: ran, Seen: by, SeenTerm: term,
		})
	}
	run := func(kind NoteKind, at int64, by, id string, term uint64, caller string) {
		r.Notes = append(r.Notes, Note{Kind: kind, BootNS: at, InstanceID: by, Value: id, Term: term, Caller: caller})
	}
	begin(2*second, "c1", "member", ToMember, "b1", true)
	run(CallRun, 2*second+1, "b1", "member", 0, "c1")
	run(CallRan, 2*second+2, "b1", "member", 0, "c1")
	end(2*second+3, "c1", "member", ToMember, "b1", "ok", true, "b1", 0)

	begin(2*second, "c1", "node", ToNode, "b", false)
	run(CallRun, 2*second+1, "b1", "node", 0, "c1")
	run(CallRan, 4*second+2, "b1", "node", 0, "c1")
	end(4*second+1, "c1", "node", ToNode, "b", "deadline", true, "", 0)

	begin(3*second, "c1", "paused", ToMaster, "", false)
	run(CallRun, 3*second+1, "a1", "paused", 1, "c1")
	run(CallRan, 9*second+1, "a1", "paused", 1, "c1")
	end(5*second+1, "c1", "paused", ToMaster, "", "deadline", true, "", 0)

	begin(3*second, "c1", "nowhere", ToMaster, "", false)
	end(5*second+1, "c1", "nowhere", ToMaster, "", "no master", false, "", 0)

	for _, id := range []string{"a1", "b1", "c1"} {
		begin(10*second, id, "last "+id, ToMaster, "", false)
		run(CallRun, 10*second+1, "b1", "last "+id, 2, id)
		run(CallRan, 10*second+2, "b1", "last "+id, 2, id)
		end(10*second+3, id, "last "+id, ToMaster, "", "ok", true, "b1", 2)
	}
	return r
}

// noteOf returns the note of the kind of a call.
func (r *Run) noteOf(kind NoteKind, call string) *Note {
	return &r.Notes[slices.IndexFunc(r.Notes, func(n Note) bool { return n.Kind == kind && n.Value == call })]
}

func TestSoundCalls(t *testing.T) {
	for name, change := range map[string]func(*Run){
		"as it is": func(*Run) {},
		"begun before a pause, and noted after it": func(r *Run) {
			r.noteOf(CallRun, "paused").BootNS = 9*second + 1
		},
		"its caller was killed": func(r *Run) {
			r.Notes = slices.DeleteFunc(r.Notes, func(n Note) bool { return n.Kind == CallEnd && n.Value == "last c1" })
			r.Lives[2].End = 10*second + 2
			r.Quiet = 0
		},
		"its handler was killed": func(r *Run) {
			r.Notes = slices.DeleteFunc(r.Notes, func(n Note) bool { return n.Kind == CallRan && n.Value == "paused" })
			r.Lives[0].End = 10 * second
			r.Quiet = 0
		},
		"may be sent again, and was": func(r *Run) {
			r.noteOf(CallBegin, "paused").Again = true
			r.add(*r.noteOf(CallRun, "paused"), func(n *Note) { n.BootNS, n.InstanceID, n.Term = 6*second, "b1", 2 })
			r.add(*r.noteOf(CallRan, "paused"), func(n *Note) { n.BootNS, n.InstanceID, n.Term = 6*second+1, "b1", 2 })
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := called()
			change(r)
			report := Check(*r)
			for _, v := range report.Violations {
				t.Error(v)
			}
			if report.Calls != 7 || report.CallRuns < 6 {
				t.Errorf("%d calls, %d runs", report.Calls, report.CallRuns)
			}
		})
	}
}

// Every way to break what is promised of calls is named.
func TestBrokenCalls(t *testing.T) {
	for _, test := range []struct {
		name, want, text string
		ruin             func(*Run)
	}{
		{"a call that does not end", "I20", "it has not ended", func(r *Run) {
			r.Notes = slices.DeleteFunc(r.Notes, func(n Note) bool { return n.Kind == CallEnd && n.Value == "node" })
		}},
		{"a call that ends late", "I20", "it ended 3.100000001s after its deadline", func(r *Run) {
			r.noteOf(CallEnd, "node").BootNS += 31 * tick
		}},
		{"a call that ends twice", "I20", "it has ended 2 times", func(r *Run) {
			r.add(*r.noteOf(CallEnd, "node"), func(n *Note) {})
		}},
		{"a result without a name", "I20", "its result has no name", func(r *Run) { r.noteOf(CallEnd, "node").Result = "" }},
		{"a call that has not run, and was served", "I20", "which has not run", func(r *Run) { r.noteOf(CallEnd, "node").MayHaveRun = false }},
		{"a call to a member served twice", "I20", "it may be sent once", func(r *Run) {
			r.add(*r.noteOf(CallRun, "member"), func(n *Note) { n.BootNS++ })
			r.add(*r.noteOf(CallRan, "member"), func(n *Note) {})
		}},
		{"a call to the master served twice", "I20", "it may be sent once", func(r *Run) {
			r.add(*r.noteOf(CallRun, "paused"), func(n *Note) { n.BootNS, n.InstanceID, n.Term = 6*second, "b1", 2 })
		}},
		{"a call that nobody made", "I20", "which nobody made", func(r *Run) {
			r.add(*r.noteOf(CallRun, "node"), func(n *Note) { n.Value = "other" })
		}},
		{"served by another instance", "I19", "instance a1 has served it", func(r *Run) {
			r.noteOf(CallRun, "node").InstanceID, r.noteOf(CallRan, "node").InstanceID = "a1", "a1"
		}},
		{"served as one of another caller", "I19", "it was served as one of a1", func(r *Run) { r.noteOf(CallRun, "node").Caller = "a1" }},
		{"the answer of another instance", "I19", "instance c1 has answered", func(r *Run) { r.noteOf(CallEnd, "member").Seen = "c1" }},
		{"an answer of nobody", "I19", "which has not served it", func(r *Run) { r.noteOf(CallEnd, "last c1").Seen = "c1" }},
		{"an error of nobody", "I20", "none has run", func(r *Run) { r.noteOf(CallEnd, "nowhere").Result = HandlerError }},
		{"a call to a member in a term", "I20", "it was served in term 1", func(r *Run) { r.noteOf(CallRun, "node").Term = 1 }},
		{"a master that never was", "I20", "no such mastership", func(r *Run) { r.noteOf(CallRun, "paused").Term = 7 }},
		{"a master whose grant is over", "I20", "after the deadline", func(r *Run) {
			r.noteOf(CallBegin, "paused").BootNS = 4 * second // it was paused by then
			r.noteOf(CallRun, "paused").BootNS = 9*second + 1
		}},
		{"a handler that is not told", "I20", "went on for", func(r *Run) { r.noteOf(CallRan, "node").BootNS = 8 * second }},
		{"nobody gets through", "I20", "no call of c", func(r *Run) { r.noteOf(CallEnd, "last c1").OK = false }},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := called()
			test.ruin(r)
			report := Check(*r)
			if got := strings.Join(report.Broken(), " "); got != test.want {
				t.Errorf("broken are %q, want %q", got, test.want)
			}
			if !slices.ContainsFunc(report.Violations, func(v Violation) bool { return strings.Contains(v.Text, test.text) }) {
				t.Errorf("nothing says %q: %v", test.text, report.Violations)
			}
		})
	}
}

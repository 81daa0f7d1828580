package checker

import (
	"slices"
	"strings"
	"testing"
	"time"
)

const tick = int64(time.Second) / 10

// working is a sound run in which a runs steps and jobs until it is paused, and then b does: of
// step 2, which may run again, a has not recorded the end.
func working() *Run {
	r := sound()
	step := func(kind NoteKind, at int64, id string, term uint64, version int, again bool) Note {
		return Note{Kind: kind, BootNS: at, InstanceID: id, Term: term, Name: "schema", Version: version, Again: again, OK: true}
	}
	job := func(kind NoteKind, at int64, id string, term uint64, scheduled int64) Note {
		return Note{Kind: kind, BootNS: at, InstanceID: id, Term: term, Name: "report", Scheduled: scheduled * second, OK: true}
	}
	gate := func(at int64, id string, term uint64, version int) Note {
		return Note{Kind: GateOpen, BootNS: at, InstanceID: id, Term: term, Name: "schema", Version: version}
	}
	r.Notes = append(r.Notes,
		step(StepBegin, 2*second, "a1", 1, 1, false), step(StepEnd, 2*second+tick, "a1", 1, 1, false),
		gate(2*second+2*tick, "a1", 1, 1), gate(2*second+3*tick, "b1", 1, 1), gate(2*second+3*tick, "c1", 1, 1),
		step(StepBegin, 3*second, "a1", 1, 2, true), step(StepEnd, 9*second+tick, "a1", 1, 2, true),
		step(StepBegin, 6*second, "b1", 2, 2, true), step(StepEnd, 7*second, "b1", 2, 2, true),
		gate(7*second+tick, "b1", 2, 2), gate(7*second+tick, "c1", 2, 2), gate(9*second+tick, "a1", 2, 2),
		job(JobBegin, 2*second, "a1", 1, 102), job(JobEnd, 2*second+tick, "a1", 1, 102),
		job(JobBegin, 3*second, "a1", 1, 103), job(JobEnd, 9*second+tick, "a1", 1, 103),
		job(JobBegin, 6*second, "b1", 2, 106), job(JobEnd, 6*second+tick, "b1", 2, 106),
	)
	return r
}

// note returns the first note of the kind from an instance in a term.
func (r *Run) note(kind NoteKind, id string, version int) *Note {
	return &r.Notes[slices.IndexFunc(r.Notes, func(n Note) bool {
		return n.Kind == kind && n.InstanceID == id && n.Version == version
	})]
}

func (r *Run) add(n Note, change func(*Note)) {
	change(&n)
	r.Notes = append(r.Notes, n)
}

func TestSoundWork(t *testing.T) {
	report := Check(*working())
	for _, v := range report.Violations {
		t.Error(v)
	}
	if report.Steps != 3 || report.Fires != 3 || report.FireGap != 3*time.Second {
		t.Errorf("%d steps, %d fires, %v between two", report.Steps, report.Fires, report.FireGap)
	}
}

// What the records forget may run again, and what an operator decides counts.
func TestWorkThatMayRunAgain(t *testing.T) {
	for name, change := range map[string]func(*Run){
		"wiped": func(r *Run) {
			r.Forgotten = []int64{10 * second}
			r.add(*r.note(StepBegin, "b1", 2), func(n *Note) { n.BootNS, n.Version, n.Again = 11*second, 1, false })
			r.add(*r.note(StepEnd, "b1", 2), func(n *Note) { n.BootNS, n.Version = 12*second, 1 })
			for _, id := range []string{"a1", "b1", "c1"} {
				r.add(*r.note(GateOpen, "b1", 2), func(n *Note) { n.BootNS, n.InstanceID, n.Version = 13*second, id, 1 })
			}
			r.add(*r.note(JobBegin, "b1", 0), func(n *Note) { n.BootNS = 11 * second })
		},
		"retried": func(r *Run) {
			r.note(StepBegin, "b1", 2).Again, r.note(StepBegin, "a1", 2).Again = false, false
			r.Notes = append(r.Notes, Note{Kind: Retried, BootNS: 5 * second, InstanceID: "c1", Name: "schema", Version: 2})
		},
		"resolved": func(r *Run) {
			r.Notes = append(r.Notes, Note{Kind: Resolved, BootNS: 10 * second, InstanceID: "c1", Name: "schema", Version: 3})
			for _, id := range []string{"a1", "b1", "c1"} {
				r.add(*r.note(GateOpen, "b1", 2), func(n *Note) { n.BootNS, n.InstanceID, n.Version, n.Term = 11*second, id, 3, 0 })
			}
		},
		"read before a gate was open, and answered later": func(r *Run) {
			r.add(*r.note(GateOpen, "c1", 2), func(n *Note) { n.Kind, n.AskedNS, n.BootNS = GateFailed, 7*second, 8*second })
		},
		"noted after a pause, which came before its first instruction": func(r *Run) {
			r.note(StepBegin, "a1", 2).BootNS = 9*second + 1
		},
		"interrupted, and run again in a later term": func(r *Run) {
			again := r.note(JobBegin, "b1", 0)
			first := &r.Notes[slices.IndexFunc(r.Notes, func(n Note) bool { return n.Kind == JobBegin && n.Scheduled == 103*second })]
			first.Again, again.Again, again.Scheduled = true, true, first.Scheduled
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := working()
			change(r)
			for _, v := range Check(*r).Violations {
				t.Error(v)
			}
		})
	}
}

// Every way to break what is promised of steps and jobs is named.
func TestBrokenWork(t *testing.T) {
	for _, test := range []struct {
		name, want, text string
		ruin             func(*Run)
	}{
		{"a step that may not run again does", "I14", "may be 1 times", func(r *Run) {
			r.note(StepBegin, "a1", 2).Again, r.note(StepBegin, "b1", 2).Again = false, false
		}},
		{"a step twice in one term", "I14", "again in one term", func(r *Run) {
			r.add(*r.note(StepBegin, "b1", 2), func(n *Note) { n.BootNS = 7*second + tick/2 })
		}},
		{"a step runs after its gate was open", "I14", "its gate was open", func(r *Run) {
			r.add(*r.note(StepBegin, "b1", 2), func(n *Note) { n.BootNS, n.Version, n.Again = 8*second, 1, true })
		}},
		{"a version runs after a later one", "I14", "it was done before", func(r *Run) {
			r.Notes = slices.DeleteFunc(r.Notes, func(n Note) bool { return n.Kind == GateOpen })
			r.add(*r.note(StepBegin, "b1", 2), func(n *Note) { n.BootNS, n.Version, n.Again = 8*second, 1, true })
		}},
		{"two steps at a time", "I14", "beside", func(r *Run) {
			r.add(*r.note(StepBegin, "b1", 2), func(n *Note) { n.BootNS, n.Version = 65*tick, 3 })
		}},
		{"a step begins after its deadline", "I14", "after the deadline", func(r *Run) {
			r.Faults = nil
			r.note(StepBegin, "a1", 2).BootNS = 62 * tick
			r.note(StepBegin, "b1", 2).BootNS = 63 * tick
		}},
		{"a step without a mastership", "I14", "no such mastership", func(r *Run) {
			r.note(StepBegin, "a1", 1).InstanceID = "c1"
			r.note(StepEnd, "a1", 1).InstanceID = "c1"
		}},
		{"an earlier master runs a step after a later one", "I14", "after schema 2", func(r *Run) {
			r.add(*r.note(StepBegin, "a1", 2), func(n *Note) { n.BootNS, n.Version = 11*second, 3 })
		}},
		{"an end is recorded over a later claim", "I14", "for an end in term 1", func(r *Run) {
			r.note(GateOpen, "a1", 2).Term = 1
		}},
		{"a gate opens before the end", "I14", "no run of it has ended well", func(r *Run) {
			r.note(GateOpen, "c1", 1).BootNS = 2*second + tick/2
		}},
		{"a gate opens although the step failed", "I14", "no run of it has ended well", func(r *Run) {
			r.note(StepEnd, "a1", 1).OK = false
		}},
		{"a gate does not open", "I14", "has not opened on a in the end", func(r *Run) {
			r.note(GateOpen, "a1", 2).BootNS, r.note(GateOpen, "a1", 2).Version = 9*second, 1
		}},
		{"a gate fails that was open", "I14", "and was open at", func(r *Run) {
			r.add(*r.note(GateOpen, "c1", 2), func(n *Note) { n.Kind, n.AskedNS, n.BootNS = GateFailed, 75*tick, 8*second })
		}},
		{"a scheduled time runs twice", "I15", "it is run twice", func(r *Run) {
			r.note(JobBegin, "b1", 0).Scheduled = 103 * second
		}},
		{"a clock that is set back repeats a time", "I15", "scheduled for later", func(r *Run) {
			r.note(JobBegin, "b1", 0).Scheduled = 101 * second
		}},
		{"two commands at a time", "I2", "begins at", func(r *Run) {
			r.Notes = append(r.Notes, Note{Kind: Beat, BootNS: 65 * tick, InstanceID: "x", Term: 2}, Note{Kind: Beat, BootNS: 70 * tick, InstanceID: "x", Term: 2},
				Note{Kind: Beat, BootNS: 68 * tick, InstanceID: "y", Term: 2}, Note{Kind: Beat, BootNS: 75 * tick, InstanceID: "y", Term: 2})
		}},
		{"a command outlives its mastership", "I2", "after the deadline of that term", func(r *Run) {
			r.Notes = append(r.Notes, Note{Kind: Beat, BootNS: 4 * second, InstanceID: "x", Term: 1}, Note{Kind: Beat, BootNS: 65 * tick, InstanceID: "x", Term: 1})
		}},
		{"two of one job at a time", "I15", "beside", func(r *Run) {
			r.note(JobEnd, "b1", 0).BootNS = 8 * second
			r.add(*r.note(JobBegin, "b1", 0), func(n *Note) { n.BootNS, n.Scheduled = 7*second, 107*second })
		}},
		{"a job begins after its deadline", "I15", "after the deadline", func(r *Run) {
			r.Faults = nil
			r.add(*r.note(JobBegin, "a1", 0), func(n *Note) { n.BootNS, n.Scheduled = 62*tick, 105*second })
			r.note(JobBegin, "b1", 0).BootNS = 63 * tick
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := working()
			test.ruin(r)
			got := Check(*r)
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

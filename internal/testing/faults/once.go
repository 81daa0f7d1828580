package faults

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/musterhq/muster/internal/testing/checker"
	"github.com/musterhq/muster/internal/testing/netlab"
)

// The phases of a run at which a host can be held: see heldStore in the worker.
const (
	claimed = "claimed" // the claim is recorded, and the master does not know yet
	running = "running"
	ended   = "ended" // it has run, and that is not recorded yet
)

var phases = []string{claimed, running, ended}

// The records whose runs can be held.
const (
	ofSteps = "upgrade/steps/"
	ofSkip  = "cron/runs/skip"
	ofAgain = "cron/runs/again"
)

// casesOfOnce are those of the steps and jobs that a cluster does once. All other cases have both
// as well.
var casesOfOnce = []Case{
	{Name: "step-killed", Faults: []int{44}, Short: []string{"static"}, Run: func(l *Lab) { killInEachPhase(l, ofSteps) }},
	{Name: "job-killed", Faults: []int{45, 1}, Short: []string{"etcd"}, Run: func(l *Lab) { killInEachPhase(l, ofSkip) }},
	{Name: "job-that-may-run-again-killed", Faults: []int{45, 1}, Run: func(l *Lab) { killInEachPhase(l, ofAgain) }},
	{Name: "step-paused", Faults: []int{44, 3}, Run: func(l *Lab) { pauseInEachPhase(l, ofSteps) }},
	{Name: "job-paused", Faults: []int{45, 3}, Run: func(l *Lab) { pauseInEachPhase(l, ofSkip) }},
	{Name: "job-that-may-run-again-paused", Faults: []int{45, 3}, Run: func(l *Lab) { pauseInEachPhase(l, ofAgain) }},
	// Nobody decides: what is claimed by the master of this moment, and by the next, is the same.
	{Name: "step-two-masters-in-sequence", Faults: []int{44, 2}, Run: func(l *Lab) {
		l.Form()
		for range 3 {
			m := l.Hold(running, ofSteps)
			m.release()
			m.Stop()
			l.Master(l.Others(m), m)
			m.Start()
			l.Well()
		}
	}},
	{Name: "step-fails", Faults: []int{44}, Run: func(l *Lab) {
		for _, h := range l.Hosts {
			h.args = append(h.args, "-decides=false")
		}
		l.Form()
		l.eventually("the gates of all nodes have failed", func(context.Context) bool {
			return !slices.ContainsFunc(l.Hosts, func(h *Host) bool {
				return !slices.ContainsFunc(l.notesOf(h), func(n checker.Note) bool { return n.Kind == checker.GateFailed })
			})
		})
		l.Sleep(2 * time.Second)
		for _, h := range l.Hosts {
			for _, n := range l.notesOf(h) {
				if n.Kind == checker.StepBegin && n.Version > failing || n.Kind == checker.GateOpen && n.Version >= failing {
					l.t.Errorf("%s: %s of version %d, and version %d has failed", h.Name(), n.Kind, n.Version, failing)
				}
			}
		}
		for _, h := range l.Hosts {
			h.Stop()
			h.args = nil
			h.Start() // it decides
		}
		l.progress(failing + 1)
	}},
	{Name: "store-away-when-claimed", Faults: []int{44, 45, 6}, Run: func(l *Lab) { storeAway(l, claimed) }},
	{Name: "store-away-in-a-run", Faults: []int{44, 45, 6}, Run: func(l *Lab) { storeAway(l, running) }},
	{Name: "store-away-before-the-end-is-recorded", Faults: []int{44, 45, 6}, Run: func(l *Lab) { storeAway(l, ended) }},
	{Name: "steps-run-again-once-wiped", Faults: []int{44, 8}, Providers: withStore, LateMaster: forgotten, Run: func(l *Lab) {
		for _, h := range l.Hosts {
			h.args = []string{"-steps", "2"}
		}
		l.Form()
		l.progress(2)
		l.store.wipe()
		l.NoMaster(l.Hosts)
		l.Sleep(l.validity())
		l.store.restore()
		l.Well()
		l.eventually("the steps run again", func(context.Context) bool {
			runs := make(map[int]int)
			for _, h := range l.Hosts {
				for _, n := range l.notesOf(h) {
					if n.Kind == checker.StepEnd && n.OK {
						runs[n.Version]++
					}
				}
			}
			return runs[1] == 2 && runs[2] == 2
		})
	}},
	{Name: "wall-clocks-set", Faults: []int{45, 20}, Run: func(l *Lab) {
		for i, h := range l.Hosts {
			h.args = append(h.args, "-wall", h.file(".wall"))
			h.setWall([]time.Duration{0, 3 * time.Second, -3 * time.Second}[i])
		}
		m := l.Form()
		l.fires(m, "skip", 2)
		m.Kill()
		next := l.Master(l.Others(m), m)
		for _, by := range []time.Duration{-8 * time.Second, 30 * time.Second, -4 * time.Second} {
			for _, h := range l.Hosts {
				h.setWall(by)
			}
			l.Sleep(4 * time.Second)
		}
		next.setWall(10 * 365 * 24 * time.Hour) // no job runs on it any more
		l.Sleep(2 * time.Second)
		for _, h := range l.Hosts {
			h.setWall(31 * time.Second)
		}
		m.Start()
		l.Well()
		l.fires(nil, "skip", 2)
	}},
	{Name: "while-master-attacked", Faults: []int{1, 3}, Run: func(l *Lab) { commandsAttacked(l) }},
	{Name: "while-master-without-namespace-attacked", Faults: []int{1, 3}, Run: func(l *Lab) { commandsAttacked(l, "--no-namespace") }},
	{Name: "jobs-across-daylight-saving", Faults: []int{45}, Run: acrossDaylightSaving},
}

// failing is the version whose first run fails on each node: see failsAt in the worker.
const failing = 3

// Hold waits until the master is in the phase of a run whose record has the prefix, and has it stay
// there. It returns that host.
func (l *Lab) Hold(phase, prefix string) (held *Host) {
	l.t.Helper()
	for _, h := range l.running() {
		if err := os.WriteFile(h.file(".hold"), []byte(phase+" "+prefix), 0o600); err != nil {
			l.t.Fatal(err)
		}
	}
	l.eventually("the master is held: "+phase+" "+prefix, func(context.Context) bool {
		i := slices.IndexFunc(l.Hosts, func(h *Host) bool { _, err := os.Stat(h.file(".hold.held")); return err == nil })
		if i >= 0 {
			held = l.Hosts[i]
		}
		return i >= 0
	})
	for _, h := range l.Hosts {
		_ = os.Remove(h.file(".hold")) // there may be none any more
	}
	l.logf("%s is held: %s %s", held.Name(), phase, prefix)
	return held
}

// release ends what Hold has begun.
func (h *Host) release() { _ = os.Remove(h.file(".hold.held")) }

// notesOf are the notes of a host by now.
func (l *Lab) notesOf(h *Host) []checker.Note {
	l.t.Helper()
	notes, err := h.readNotes()
	if err != nil {
		l.t.Fatal(err)
	}
	return notes
}

// progress waits until all nodes that run have got to the gate of a version.
func (l *Lab) progress(version int) {
	l.t.Helper()
	l.eventually(fmt.Sprintf("all gates of version %d are open", version), func(context.Context) bool {
		return !slices.ContainsFunc(l.running(), func(h *Host) bool {
			return !slices.ContainsFunc(l.notesOf(h), func(n checker.Note) bool { return n.Kind == checker.GateOpen && n.Version >= version })
		})
	})
}

// fires waits until a job has begun so often from now on, on a host or, if that is nil, on any.
func (l *Lab) fires(on *Host, job string, times int) {
	l.t.Helper()
	count := func() (n int) {
		for _, h := range l.Hosts {
			if on == nil || on == h {
				n += len(begun(l.notesOf(h), job))
			}
		}
		return n
	}
	before := count()
	l.eventually("job "+job+" runs", func(context.Context) bool { return count() >= before+times })
}

func begun(notes []checker.Note, job string) (all []checker.Note) {
	for _, n := range notes {
		if n.Kind == checker.JobBegin && n.Name == job {
			all = append(all, n)
		}
	}
	return all
}

func killInEachPhase(l *Lab, prefix string) {
	l.Form()
	for _, phase := range phases {
		m := l.Hold(phase, prefix)
		m.Kill()
		m.release()
		l.Master(l.Others(m), m)
		m.Start()
		l.Well()
	}
}

func pauseInEachPhase(l *Lab, prefix string) {
	l.Form()
	for _, phase := range phases {
		m := l.Hold(phase, prefix)
		m.Pause()
		l.Master(l.Others(m), m)
		l.fires(nil, "skip", 1)
		m.release()
		m.Resume() // it goes on where it was
		l.Well()
	}
}

// storeAway has nobody reach the store, or a majority of the voters, from a phase on: for a minute
// from that of a step, and for some seconds from that of a job.
func storeAway(l *Lab, phase string) {
	for _, away := range []struct {
		prefix string
		lasts  time.Duration
	}{{ofSteps, time.Minute}, {ofSkip, 15 * time.Second}} {
		l.Form()
		m := l.Hold(phase, away.prefix)
		if l.store.has() {
			l.CutStore(netlab.Drop, l.Hosts...)
		} else {
			var alone [][]*Host
			for _, h := range l.Hosts {
				alone = append(alone, []*Host{h})
			}
			l.Part(netlab.Drop, alone...)
		}
		m.release()
		l.Sleep(away.lasts)
		l.HealNet()
		l.Well()
		l.fires(nil, "skip", 2)
	}
}

// setWall sets the wall clock of a host's jobs, beside that of the test.
func (h *Host) setWall(by time.Duration) {
	h.lab.t.Helper()
	h.lab.logf("the wall clock of %s is set by %v", h.Name(), by)
	name := h.file(".wall")
	err := os.WriteFile(name+".new", []byte(by.String()), 0o600)
	if err == nil {
		err = os.Rename(name+".new", name)
	}
	if err != nil {
		h.lab.t.Fatal(err)
	}
}

// acrossDaylightSaving has a job of 02:20 in Berlin, and kills the master just before it is due: on
// the day that has no 02:20, where it is due as the hour is over, and on the one that has two.
func acrossDaylightSaving(l *Lab) {
	spring := time.Date(2027, 3, 28, 1, 0, 0, 0, time.UTC) // 02:00 is 03:00
	autumn := time.Date(2027, 10, 31, 0, 20, 0, 0, time.UTC)
	const before, after = 8 * time.Second, 12 * time.Second
	for _, h := range l.Hosts {
		h.args = append(h.args, "-wall", h.file(".wall"), "-zone", "Europe/Berlin", "-schedule", "20 2 * * *")
	}
	for _, at := range []time.Time{spring, autumn, autumn.Add(time.Hour)} {
		began := time.Now()
		set := func() {
			for _, h := range l.Hosts {
				h.setWall(at.Add(-before).Sub(began))
			}
		}
		set()
		l.Form()
		l.fires(nil, "skip", 1)
		began = time.Now()
		set() // by less than a day
		l.Sleep(before - 1500*time.Millisecond)
		m := l.Well()
		m.Kill()
		l.Sleep(after)
		for _, h := range l.Hosts {
			h.Stop()
		}
	}
	var fired []time.Time
	for _, h := range l.Hosts {
		for _, n := range begun(l.notesOf(h), "daily") {
			fired = append(fired, time.Unix(0, n.Scheduled).UTC())
		}
	}
	slices.SortFunc(fired, time.Time.Compare)
	if !slices.Equal(fired, []time.Time{spring, autumn}) {
		l.t.Errorf("the job was due at %v, and ran at %v", []time.Time{spring, autumn}, fired)
	}
}

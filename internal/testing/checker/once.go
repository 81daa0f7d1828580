package checker

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/musterhq/muster/node/history/check"
)

// beginSlack is how late after a deadline a run may be noted that began before it: its goroutine
// has to be scheduled first.
const beginSlack = int64(time.Second)

// doing is one run of a step or of a job.
type doing struct {
	Note
	step       bool
	end        int64 // forever if none is on record
	ok         bool
	epoch      int // how often the ledger had forgotten everything before
	mastership *check.Mastership
	// until is when it has ended, or its deadline: up to then nothing may run beside it.
	until int64
}

// epoch is how often the ledger was wiped, or restored, before t.
func (c *run) epoch(t int64) (n int) {
	for _, at := range c.Forgotten {
		if at <= t {
			n++
		}
	}
	return n
}

// doings pairs the beginnings and ends of steps and jobs, and returns them by their beginning.
func (c *run) doings() (all []*doing) {
	type key struct {
		step           bool
		instance, name string
		version        int
		scheduled      int64
	}
	open := make(map[key]*doing)
	for _, n := range c.sortedNotes() {
		k := key{n.Kind == StepBegin || n.Kind == StepEnd, n.InstanceID, n.Name, n.Version, n.Scheduled}
		switch n.Kind {
		case StepBegin, JobBegin:
			d := &doing{Note: n, step: k.step, end: forever, epoch: c.epoch(n.BootNS), mastership: c.intervalOf(n.InstanceID, n.Term)}
			open[k] = d
			all = append(all, d)
		case StepEnd, JobEnd:
			if d := open[k]; d != nil {
				d.end, d.ok = n.BootNS, n.OK
				delete(open, k)
			}
		}
	}
	for _, d := range all {
		d.BootNS = c.counted(d)
		d.until = d.end
		if m := d.mastership; m != nil {
			d.until = min(d.end, m.Deadline, m.End)
		}
	}
	slices.SortStableFunc(all, func(a, b *doing) int { return cmp.Compare(a.BootNS, b.BootNS) })
	return all
}

// counted returns when a run counts as begun: when its host was paused, if that came between the
// look at the mastership and the first instruction of the run, which nothing can keep apart. The
// records do not take its end.
func (c *run) counted(d *doing) int64 {
	m := d.mastership
	if m == nil || d.BootNS <= m.Deadline {
		return d.BootNS
	}
	for _, f := range c.Faults {
		if f.Kind == Pause && f.Host == m.Host && m.Begin <= f.Begin && f.Begin <= m.Deadline && endOf(f.End) <= d.BootNS &&
			c.awake(m.Host, f.Begin, d.BootNS) <= beginSlack {
			return f.Begin
		}
	}
	return d.BootNS
}

// once verifies I14 and I15.
func (c *run) once() {
	byName := make(map[string][]*doing)
	for _, d := range c.doings() {
		if d.step {
			c.Steps++
		} else {
			c.Fires++
		}
		c.fencedRun(d)
		byName[d.Name] = append(byName[d.Name], d)
	}
	for _, all := range byName {
		c.apart(all)
		c.rising(all)
		if all[0].step {
			c.stepsOnce(all)
		} else {
			c.firesOnce(all)
		}
	}
	c.gates(byName)
}

func (d *doing) invariant() string {
	if d.step {
		return "I14"
	}
	return "I15"
}

// violateRun is violate for the invariant of a run.
func (c *run) violateRun(d *doing, format string, args ...any) {
	c.violate(d.invariant(), format, args...)
}

// String names the run.
func (d *doing) String() string {
	text := d.Name + " " + time.Unix(0, d.Scheduled).UTC().Format("15:04:05.000")
	if d.step {
		text = d.Name + " " + strconv.Itoa(d.Version)
	}
	return text + " of instance " + d.InstanceID[:min(8, len(d.InstanceID))] + " in term " + strconv.FormatUint(d.Term, 10) + ", which began at " + stamp(d.BootNS)
}

// fencedRun verifies that a run begins while its mastership lasts.
func (c *run) fencedRun(d *doing) {
	if c.Bounds.ClocksBroken {
		return
	}
	m := d.mastership
	if m == nil {
		c.violateRun(d, "%v: no such mastership is on record", d)
		return
	}
	if late := c.awake(m.Host, m.Deadline, d.BootNS); d.BootNS > m.Deadline && late > beginSlack {
		c.violateRun(d, "%v, %v after the deadline of its mastership", d, time.Duration(late))
	}
}

// apart verifies that no two runs of one name go on at a time in what terms fence.
func (c *run) apart(all []*doing) {
	if c.Bounds.ClocksBroken {
		return
	}
	var last *doing // that which ends last
	for _, d := range all {
		if d.mastership == nil || c.Bounds.Revoked && d.mastership.Reason == "lost" {
			continue
		}
		if last != nil && min(d.until, last.until) > d.BootNS {
			c.violateRun(d, "%v, beside %v", d, last)
		}
		if last == nil || d.until > last.until {
			last = d
		}
	}
}

// rising verifies that nothing begins in a term that is lower than one in which a run of the same
// name has begun before: the record is fenced by the term.
func (c *run) rising(all []*doing) {
	for i, d := range all[1:] {
		if before := all[i]; d.Term < before.Term {
			c.violateRun(d, "%v, after %v", d, before)
		}
	}
}

// stepsOnce verifies that a step runs as often as it may, and not after it was done.
func (c *run) stepsOnce(all []*doing) {
	type key struct{ version, epoch int }
	type begun struct {
		key
		term uint64
	}
	retries := make(map[key]int)
	for _, n := range c.Notes {
		if n.Kind == Retried && n.Name == all[0].Name {
			retries[key{n.Version, c.epoch(n.BootNS)}]++
		}
	}
	times, inTerm := make(map[key]int), make(map[begun]int)
	for _, d := range all {
		k := key{d.Version, d.epoch}
		times[k]++
		inTerm[begun{k, d.Term}]++
		switch allowed := 1 + retries[k]; {
		case !d.Again && times[k] > allowed:
			c.violateRun(d, "%v: it is run for the %d. time, and may be %d times", d, times[k], allowed)
		case inTerm[begun{k, d.Term}] > allowed:
			c.violateRun(d, "%v: it is run again in one term", d)
		}
		// A later version begins when this one is done.
		for _, later := range all {
			if later.epoch == d.epoch && later.Version > d.Version && later.BootNS < d.BootNS {
				c.violateRun(d, "%v: it was done before %v", d, later)
				break
			}
		}
	}
}

// firesOnce verifies that no scheduled time is run twice, but for what may run again in a later
// term, and that they follow one another.
func (c *run) firesOnce(all []*doing) {
	for i, d := range all[1:] {
		before := all[i]
		if before.epoch != d.epoch {
			continue
		}
		switch {
		case d.Scheduled > before.Scheduled:
		case d.Scheduled == before.Scheduled && d.Again && d.Term > before.Term:
		case d.Scheduled == before.Scheduled:
			c.violateRun(d, "%v: it is run twice, also by %v", d, before)
		default:
			c.violateRun(d, "%v, after %v, which was scheduled for later", d, before)
		}
	}
}

// gates verifies that gates say what is so, and that all that live have opened in the end.
func (c *run) gates(byName map[string][]*doing) {
	type key struct {
		name           string
		version, epoch int
	}
	done := make(map[key]int64) // when a gate was first seen open
	resolved := make(map[key]bool)
	opened := make(map[string]map[string]int) // by instance and name: the highest version
	highest := make(map[string]int)           // of those that were open before Quiet, and are recorded
	for _, n := range c.sortedNotes() {
		k := key{n.Name, n.Version, c.epoch(n.BootNS)}
		switch n.Kind {
		case Resolved:
			resolved[k] = true
		case GateFailed:
			if at, ok := done[k]; ok && at < n.AskedNS {
				c.violate("I14", "the gate of %s %d, asked on instance %.8s at %s, fails, and was open at %s", n.Name, n.Version, n.InstanceID, stamp(n.AskedNS), stamp(at))
			}
		case GateOpen:
			if _, ok := done[k]; !ok {
				done[k] = n.BootNS
			}
			if opened[n.InstanceID] == nil {
				opened[n.InstanceID] = make(map[string]int)
			}
			opened[n.InstanceID][n.Name] = max(opened[n.InstanceID][n.Name], n.Version)
			if n.BootNS < c.Quiet && k.epoch == len(c.Forgotten) {
				highest[n.Name] = max(highest[n.Name], n.Version)
			}
			c.truthful(n, byName[n.Name], resolved[k])
		}
	}
	for k, at := range done {
		for _, d := range byName[k.name] {
			if d.epoch == k.epoch && d.Version <= k.version && d.BootNS > at {
				c.violateRun(d, "%v: its gate was open at %s", d, stamp(at))
			}
		}
	}
	for name, version := range highest {
		for _, i := range c.live() {
			if at := opened[i.ID][name]; at < version {
				c.violate("I14", "the gate of %s %d has not opened on %s in the end, which got to %d", name, version, i.Node, at)
			}
		}
	}
}

// truthful verifies that what a gate says to be done was done by the run whose term is recorded,
// and is not run again in a later one.
func (c *run) truthful(gate Note, all []*doing, resolved bool) {
	if resolved {
		return
	}
	ended := false
	for _, d := range all {
		if d.Version != gate.Version || d.BootNS > gate.BootNS {
			continue
		}
		ended = ended || d.ok && d.end <= gate.BootNS
		if gate.Term != 0 && d.Term > gate.Term && d.epoch == c.epoch(gate.BootNS) {
			c.violate("I14", "the gate of %s %d opens on instance %.8s at %s for an end in term %d, after %v",
				gate.Name, gate.Version, gate.InstanceID, stamp(gate.BootNS), gate.Term, d)
		}
	}
	if !ended {
		c.violate("I14", "the gate of %s %d opens on instance %.8s at %s, and no run of it has ended well", gate.Name, gate.Version, gate.InstanceID, stamp(gate.BootNS))
	}
}

// fireGap works out the longest time between the beginnings of two runs of one job, without that
// in which there could be no master.
func (c *run) fireGap() {
	none := c.impossible()
	last := make(map[string]int64)
	var notes []Note
	for _, n := range c.Notes {
		if n.Kind == JobBegin && (c.Quiet == 0 || n.BootNS < c.Quiet) {
			notes = append(notes, n)
		}
	}
	slices.SortFunc(notes, func(a, b Note) int { return cmp.Compare(a.BootNS, b.BootNS) })
	for _, n := range notes {
		if before, ok := last[n.Name]; ok {
			c.FireGap = max(c.FireGap, c.possible(before, n.BootNS, none))
		}
		last[n.Name] = n.BootNS
	}
}

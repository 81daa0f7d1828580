package checker

import "time"

// callSlack is how late a call may end, and a handler that is told to stop, on a machine that has
// a lot else to do.
const callSlack = int64(3 * time.Second)

// calling is one call: its beginning, and what else is on record of it.
type calling struct {
	Note
	ends []Note
	runs []Note
}

// calls verifies I19 and I20.
func (c *run) calls() {
	byID := make(map[string]*calling)
	var all []*calling
	for _, n := range c.Notes {
		if n.Kind == CallBegin {
			byID[n.Value] = &calling{Note: n}
			all = append(all, byID[n.Value])
		}
	}
	c.Calls, c.CallResults = len(all), make(map[string]int)
	type key struct{ id, instance string }
	ran := make(map[key][]int64)
	for _, n := range c.Notes {
		switch n.Kind {
		case CallEnd:
			c.CallResults[n.Result]++
			if d := byID[n.Value]; d != nil {
				d.ends = append(d.ends, n)
			}
		case CallRun:
			c.CallRuns++
			d := byID[n.Value]
			if d == nil {
				c.violate("I20", "instance %.8s served call %s at %s, which nobody made", n.InstanceID, n.Value, stamp(n.BootNS))
				continue
			}
			d.runs = append(d.runs, n)
		case CallRan:
			ran[key{n.Value, n.InstanceID}] = append(ran[key{n.Value, n.InstanceID}], n.BootNS)
		}
	}
	for _, d := range all {
		c.callEnds(d)
		c.callRuns(d)
		c.callAnswer(d)
		for _, r := range d.runs {
			c.handlerEnds(d, r, ran[key{r.Value, r.InstanceID}])
		}
	}
	c.callsInTheEnd(all)
}

// String names the call.
func (d *calling) String() string {
	return "call " + d.Value + " to " + d.Name + " " + d.To + ", which began at " + stamp(d.BootNS)
}

// lateness is for how long an instance has run, and lived, between two moments.
func (c *run) lateness(instance string, from, to int64) int64 {
	i := c.byID[instance]
	if i == nil || c.Bounds.ClocksBroken {
		return 0
	}
	if to = min(to, i.End, endOf(c.End)); to <= from {
		return 0
	}
	return c.awake(i.Host, from, to)
}

// callEnds verifies that a call has ended once, in time, in a result that has a name.
func (c *run) callEnds(d *calling) {
	if len(d.ends) == 0 {
		if late := c.lateness(d.InstanceID, d.DeadlineNS, forever); late > callSlack {
			c.violate("I20", "%v: it has not ended %v after its deadline", d, time.Duration(late))
		}
		return
	}
	if len(d.ends) > 1 {
		c.violate("I20", "%v: it has ended %d times", d, len(d.ends))
	}
	end := d.ends[0]
	late := c.lateness(d.InstanceID, d.DeadlineNS, end.BootNS)
	if c.CallLate = max(c.CallLate, time.Duration(late)); late > callSlack {
		c.violate("I20", "%v: it ended %v after its deadline", d, time.Duration(late))
	}
	if end.Result == "" {
		c.violate("I20", "%v: its result has no name", d)
	}
}

// callRuns verifies that handlers have run as often as they may, and where.
func (c *run) callRuns(d *calling) {
	if len(d.ends) > 0 && !d.ends[0].MayHaveRun && len(d.runs) > 0 {
		c.violate("I20", "%v: it ended as %q, which has not run, and instance %.8s has served it", d, d.ends[0].Result, d.runs[0].InstanceID)
	}
	if len(d.runs) > 1 && (!d.Again || d.Name != ToMaster) {
		c.violate("I20", "%v: it may be sent once, and was served %d times, by %.8s and %.8s", d, len(d.runs), d.runs[0].InstanceID, d.runs[1].InstanceID)
	}
	for _, r := range d.runs {
		if !c.meant(d, r.InstanceID) {
			c.violate("I19", "%v: instance %.8s has served it", d, r.InstanceID)
		}
		if r.Caller != d.InstanceID {
			c.violate("I19", "%v: it was served as one of %.8s, and is of %.8s", d, r.Caller, d.InstanceID)
		}
		switch {
		case d.Name != ToMaster && r.Term != 0:
			c.violate("I20", "%v: it was served in term %d", d, r.Term)
		case d.Name == ToMaster && !c.Bounds.ClocksBroken:
			c.servedByMaster(d, r)
		}
	}
}

// meant reports whether a call may be served by an instance.
func (c *run) meant(d *calling, instance string) bool {
	switch d.Name {
	case ToMember:
		return instance == d.To
	case ToNode:
		i := c.byID[instance]
		// Which instance it is was decided after the beginning was noted, and soon.
		return i != nil && i.Node == d.To && c.lateness(d.InstanceID, d.BootNS, i.Begin) <= beginSlack
	}
	return true
}

// servedByMaster verifies that a handler of a call to the master has begun while the grant was
// valid. What was let in before may be noted late, but no call that was made after.
func (c *run) servedByMaster(d *calling, r Note) {
	m := c.intervalOf(r.InstanceID, r.Term)
	if m == nil {
		c.violate("I20", "%v: instance %.8s has served it in term %d, and has no such mastership on record", d, r.InstanceID, r.Term)
		return
	}
	if r.BootNS <= m.Deadline {
		return
	}
	last := m.Deadline // at which it can have been let in
	for _, f := range c.Faults {
		if f.Kind == Pause && f.Host == m.Host && f.Begin <= m.Deadline && m.Deadline <= endOf(f.End) {
			last = min(last, f.Begin)
		}
	}
	if d.BootNS > last || c.awake(m.Host, last, r.BootNS) > beginSlack {
		c.violate("I20", "%v: it was served at %s, %v after the deadline of %v", d, stamp(r.BootNS), time.Duration(r.BootNS-m.Deadline), m)
	}
}

// callAnswer verifies that an answer is that of the instance which was called, and has run.
func (c *run) callAnswer(d *calling) {
	if len(d.ends) == 0 {
		return
	}
	end, runs := d.ends[0], 0
	for _, r := range d.runs {
		if !end.OK || r.InstanceID == end.Seen && r.Term == end.SeenTerm {
			runs++
		}
	}
	switch {
	case end.OK && !c.meant(d, end.Seen):
		c.violate("I19", "%v: instance %.8s has answered", d, end.Seen)
	case end.OK && runs == 0:
		c.violate("I19", "%v: the answer is that of instance %.8s in term %d, which has not served it", d, end.Seen, end.SeenTerm)
	case end.Result == HandlerError && runs == 0:
		c.violate("I20", "%v: it ended with an error of its handler, and none has run", d)
	}
}

// handlerEnds verifies that a handler is told the deadline of the call. All of them obey.
func (c *run) handlerEnds(d *calling, r Note, ends []int64) {
	end := int64(forever)
	for _, at := range ends {
		if at >= r.BootNS {
			end = min(end, at)
		}
	}
	if late := c.lateness(r.InstanceID, max(d.DeadlineNS, r.BootNS), end); late > callSlack {
		c.violate("I20", "%v: its handler on instance %.8s went on for %v after the deadline", d, r.InstanceID, time.Duration(late))
	}
}

// callsInTheEnd verifies that all that live get through to the master in the end.
func (c *run) callsInTheEnd(all []*calling) {
	if c.Quiet == 0 || len(all) == 0 {
		return
	}
	through := make(map[string]bool)
	for _, d := range all {
		if d.Name == ToMaster && len(d.ends) > 0 && d.ends[0].OK && d.ends[0].BootNS > c.Quiet {
			through[d.InstanceID] = true
		}
	}
	for _, i := range c.live() {
		if !through[i.ID] {
			c.violate("I20", "no call of %s to the master has succeeded since the last fault has healed", i.Node)
		}
	}
}

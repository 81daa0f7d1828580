package checker

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// commandRun is a run of a command, from its first beat to its last.
type commandRun struct {
	id          string
	term        uint64
	begin, last int64
}

// killSlack is how long after a deadline a command may still run: what kills it is a process, which
// a machine with much else to do lets run late. The term protects then.
const killSlack = time.Second

// commands verifies the part of I2 that is about commands: no two at a time, and none for long
// after the deadline of its mastership.
func (c *run) commands() {
	byID := make(map[string]commandRun)
	for _, n := range c.sortedNotes() {
		if n.Kind != Beat {
			continue
		}
		r, known := byID[n.InstanceID]
		if !known {
			r = commandRun{n.InstanceID, n.Term, n.BootNS, n.BootNS}
		}
		r.last = n.BootNS
		byID[n.InstanceID] = r
	}
	c.Commands = len(byID)
	all := slices.SortedFunc(maps.Values(byID), func(a, b commandRun) int { return cmp.Compare(a.begin, b.begin) })
	for i, r := range all {
		if i > 0 && r.begin <= all[i-1].last {
			c.violate("I2", "command %.8s of term %d begins at %s, while command %.8s of term %d runs until %s",
				r.id, r.term, stamp(r.begin), all[i-1].id, all[i-1].term, stamp(all[i-1].last))
		}
		deadline := int64(0)
		for _, m := range c.intervals {
			if m.Term == r.term {
				deadline = max(deadline, m.Deadline)
			}
		}
		late := c.took(deadline, r.last)
		c.CommandLate = max(c.CommandLate, late)
		if late > killSlack {
			c.violate("I2", "command %.8s of term %d runs until %s, after the deadline of that term at %s", r.id, r.term, stamp(r.last), stamp(deadline))
		}
	}
}

package checker

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/musterhq/muster/node/history"
)

// instance is one start of a node.
type instance struct {
	id, node, host string
	begin          int64
	end            int64 // of its life; forever while it lives
	left           bool  // by itself
	records        []history.Record
}

// reign is one mastership.
type reign struct {
	*instance
	term      uint64
	clusterID string
	begin     int64
	until     int64 // when it was certainly over
	deadline  int64 // the last one
	reason    string
}

func (r *reign) String() string {
	return fmt.Sprintf("%s (instance %.8s on %s) in term %d, from %s to %s", r.node, r.id, r.host, r.term, stamp(r.begin), stamp(r.until))
}

func stamp(t int64) string {
	if t == forever {
		return "now"
	}
	return fmt.Sprintf("%.6f", time.Duration(t).Seconds())
}

// instances sorts the records by instance.
func (r Run) instances() []*instance {
	var all []*instance
	for _, log := range r.Logs {
		byID := make(map[string]*instance)
		for _, record := range log.Records {
			i := byID[record.InstanceID]
			if i == nil {
				i = &instance{id: record.InstanceID, node: record.NodeID, host: log.Host, begin: record.BootNS, end: forever}
				byID[i.id] = i
				all = append(all, i)
			}
			i.records = append(i.records, record)
			if record.Kind == history.Stop {
				i.end, i.left = min(i.end, record.BootNS), true
			}
		}
		for _, i := range byID {
			for _, life := range r.Lives {
				if life.Host == i.host && life.Begin <= i.begin && i.begin <= endOf(life.End) {
					i.end = min(i.end, endOf(life.End))
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b *instance) int { return cmp.Compare(a.begin, b.begin) })
	return all
}

// reigns reads the masterships of an instance, and what is wrong with their order.
func (i *instance) reigns() (all []*reign, wrong []Violation) {
	var open *reign
	finish := func(until int64) {
		if open != nil {
			open.until = min(until, open.deadline, i.end)
			all = append(all, open)
			open = nil
		}
	}
	for _, r := range i.records {
		switch r.Kind {
		case history.Active:
			if open != nil {
				wrong = append(wrong, violation("I7", "%s begins term %d at %s before the end of term %d", i.node, r.Term, stamp(r.BootNS), open.term))
				finish(r.BootNS)
			}
			open = &reign{instance: i, term: r.Term, clusterID: r.ClusterID, begin: r.BootNS, deadline: r.DeadlineNS}
		case history.Renewed:
			if open == nil || open.term != r.Term {
				wrong = append(wrong, violation("I7", "%s renews term %d at %s, which is not its own", i.node, r.Term, stamp(r.BootNS)))
				continue
			}
			if r.BootNS >= open.deadline {
				wrong = append(wrong, violation("I6", "%s renews term %d at %s, which was over at %s", i.node, r.Term, stamp(r.BootNS), stamp(open.deadline)))
			}
			open.deadline = max(open.deadline, r.DeadlineNS)
		case history.Ended:
			if open == nil || open.term != r.Term {
				wrong = append(wrong, violation("I7", "%s ends term %d at %s, which is not its own", i.node, r.Term, stamp(r.BootNS)))
				continue
			}
			if r.UntilNS > open.deadline {
				wrong = append(wrong, violation("I6", "%s was master of term %d until %s, after its deadline %s", i.node, r.Term, stamp(r.UntilNS), stamp(open.deadline)))
			}
			open.reason = r.Reason
			finish(r.UntilNS)
		}
	}
	finish(i.end)
	return all, wrong
}

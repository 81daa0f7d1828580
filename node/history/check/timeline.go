package check

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/node/history"
)

// Entry is one line of a timeline.
type Entry struct {
	Time     time.Time `json:"time"`
	Node     string    `json:"node_id"`
	Instance string    `json:"instance_id"`
	// Event is the kind of the record, or of the event of a view, or "end" for a history that ends
	// without a stop.
	Event string `json:"event"`
	Text  string `json:"text"`
}

// reasons are those of the end of a mastership, in plain words.
var reasons = map[string]string{
	"resigned": "it resigned", "stopped": "it was stopped", "draining": "it is leaving", "ineligible": "it may no longer be master",
	"majority-lost": "it no longer saw a majority of the members", "renewal-failed": "renewals failed",
	"failed": "a function of the application failed", "deadline": "its deadline had passed, as after a pause of the process",
	"lost": "the authority says that the grant is over",
}

// ReasonText is why a mastership ended, in plain words.
func ReasonText(reason string) string { return cmp.Or(reasons[reason], reason) }

// Timeline returns what happened on all nodes, by time. Renewals are left out.
func (r *Report) Timeline() []Entry {
	var all []Entry
	for _, i := range r.Instances {
		add := func(at int64, event, format string, args ...any) {
			if r.inside(i, at, at) {
				all = append(all, Entry{r.Wall(i, at), i.Node, i.ID, event, fmt.Sprintf(format, args...)})
			}
		}
		master := uint64(0) // the term in which it is master
		for k, record := range i.Records {
			if missing := i.absent[k]; missing > 0 && k > 0 {
				add(record.BootNS, "gap", "%d records are missing before this", missing)
			}
			switch record.Kind {
			case history.Start:
				add(record.BootNS, "start", "started as %s, instance %.8s", record.Addr, i.ID)
			case history.Active:
				master = record.Term
				add(record.BootNS, "active", "is master of term %d", record.Term)
			case history.Ended:
				master = 0
				late := ""
				if d := time.Duration(record.BootNS - record.UntilNS); d >= time.Millisecond && record.UntilNS > 0 {
					late = fmt.Sprintf(", and was not for the %v before this", d.Round(time.Millisecond))
				}
				add(record.BootNS, "ended", "is no longer master of term %d: %s%s", record.Term, ReasonText(record.Reason), late)
			case history.Renewed:
				master = record.Term
			case history.Leaving:
				add(record.BootNS, "leaving", "is leaving")
			case history.Stop:
				add(record.BootNS, "stop", "has stopped")
			case history.View:
				for _, e := range record.Events {
					if text := eventText(e, i, record.View); text != "" {
						add(record.BootNS, e.Kind, "%s", text)
					}
				}
			}
		}
		if !i.Left {
			text := "its history ends: it was killed, or still runs"
			if master != 0 {
				text = fmt.Sprintf("its history ends as master of term %d: it was killed, or still runs", master)
			}
			add(i.Last, "end", "%s", text)
		}
	}
	slices.SortStableFunc(all, func(a, b Entry) int { return a.Time.Compare(b.Time) })
	return all
}

// eventText is an event that led to a view of an instance, in plain words.
func eventText(e history.Event, i *Instance, v *history.ViewState) string {
	who, self := e.NodeID, e.InstanceID == i.ID
	switch e.Kind {
	case "member_joined":
		if self {
			return ""
		}
		return fmt.Sprintf("sees %s as a member (instance %.8s)", who, e.InstanceID)
	case "member_updated":
		return fmt.Sprintf("sees that %s has changed its %s", who, strings.Join(e.Changed, ", "))
	case "member_left":
		return fmt.Sprintf("sees that %s has left", who)
	case "member_failed":
		return fmt.Sprintf("considers %s failed", who)
	case "cluster_formed":
		return "knows the cluster's id"
	case "quorum_changed":
		if v != nil && v.Majority {
			return "sees a majority of the members"
		}
		return "sees no majority of the members"
	case "master_changed":
		if self {
			return "" // it is master: that has a line of its own
		}
		return fmt.Sprintf("knows %s as master of term %d", who, e.Term)
	case "master_lost":
		if self {
			return fmt.Sprintf("knows no master, and was master of term %d itself", e.Term)
		}
		return fmt.Sprintf("knows no master: %s was master of term %d", who, e.Term)
	}
	return e.Kind
}

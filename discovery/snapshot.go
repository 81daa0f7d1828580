package discovery

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// Instance is one running process of a service, as a provider knows it.
type Instance = driver.Instance

// Query selects instances: all those of Service that have all the Tags, all the
// Meta and, if it is set, the Zone.
type Query = driver.Query

// Snapshot is what is known of a set of instances. It is the reader's own to sort
// and to filter; the tags and maps of its instances are shared and must not be
// changed.
type Snapshot struct {
	// Instances is the whole set, each instance once, sorted by Key. Of several
	// entries with one key the first by address, then by JSON form, stands for all,
	// so that all readers choose alike. Instances with one NodeID and different
	// InstanceIDs are different: which of them lives is known to the membership.
	Instances []Instance

	// Revision is the provider's, at which the set was read.
	Revision driver.Revision

	// Skipped are the entries that could not be read, sorted by Key.
	Skipped []driver.Skipped

	// Known is false until one read has succeeded. Then Instances is nil and means
	// nothing: not that there are none.
	Known bool

	// Stale means that the provider fails now, and that Instances is the last good
	// set.
	Stale bool

	// Err says why the set is stale or unknown. It is nil otherwise.
	Err error

	// At is when the set was asked for, or was told of by a watch, which may lag
	// behind the provider.
	At time.Time
}

// Others returns the instances but the one whose InstanceID is instanceID, which
// is the caller's own. An instance that the provider knows by its address alone
// has no InstanceID and is always among the others, the caller too where the
// provider lists it so.
func (s Snapshot) Others(instanceID string) []Instance {
	others := make([]Instance, 0, len(s.Instances))
	for _, i := range s.Instances {
		if i.InstanceID == "" || i.InstanceID != instanceID {
			others = append(others, i)
		}
	}
	return others
}

// snapshot makes of the driver's set what users see: valid, matching, each
// instance once, sorted. It was asked for, or told of, at.
func (r *Registry) snapshot(q Query, raw driver.Snapshot, at time.Time) Snapshot {
	s := Snapshot{
		Instances: make([]Instance, 0, len(raw.Instances)),
		Revision:  raw.Revision,
		Skipped:   slices.Clone(raw.Skipped),
		Known:     true,
		At:        at,
	}
	for _, i := range raw.Instances {
		if i.Service != q.Service {
			continue
		}
		if err := i.Validate(); err != nil {
			s.Skipped = append(s.Skipped, driver.Skipped{Key: i.Key(), Reason: err})
			continue
		}
		if matches(q, i) {
			s.Instances = append(s.Instances, i)
		}
	}
	slices.SortFunc(s.Instances, compare)
	s.Instances = slices.CompactFunc(s.Instances, func(a, b Instance) bool { return a.Key() == b.Key() })
	slices.SortFunc(s.Skipped, func(a, b driver.Skipped) int { return cmp.Compare(a.Key, b.Key) })
	r.stats.snapshot(len(s.Skipped))
	for _, skipped := range s.Skipped {
		if r.skipped.first(skipped) {
			r.log.Warn("entry skipped", "service", q.Service, "key", skipped.Key, "reason", skipped.Reason)
		}
	}
	return s
}

func matches(q Query, i Instance) bool {
	if q.Zone != "" && q.Zone != i.Zone {
		return false
	}
	for _, tag := range q.Tags {
		if !slices.Contains(i.Tags, tag) {
			return false
		}
	}
	for key, value := range q.Meta {
		if have, ok := i.Meta[key]; !ok || have != value {
			return false
		}
	}
	return true
}

// compare orders by key, and the duplicates of a key so that the choice among
// them is the same for every reader.
func compare(a, b Instance) int {
	if c := cmp.Or(cmp.Compare(a.Key(), b.Key()), cmp.Compare(a.Addr, b.Addr)); c != 0 {
		return c
	}
	return cmp.Compare(canonical(a), canonical(b))
}

func canonical(i Instance) string {
	// An Instance holds nothing that JSON cannot express but a year beyond 9999,
	// which then sorts as if it were empty.
	b, _ := json.Marshal(i)
	return string(b)
}

// same reports whether b tells its reader nothing new after a.
func same(a, b Snapshot) bool {
	return a.Known == b.Known && a.Stale == b.Stale && Kind(a.Err) == Kind(b.Err) &&
		slices.EqualFunc(a.Instances, b.Instances, equal) &&
		slices.EqualFunc(a.Skipped, b.Skipped, func(a, b driver.Skipped) bool { return skipKey(a) == skipKey(b) })
}

func equal(a, b Instance) bool {
	return a.Service == b.Service && a.NodeID == b.NodeID && a.InstanceID == b.InstanceID &&
		a.Addr == b.Addr && a.Zone == b.Zone && a.Version == b.Version &&
		a.RegisteredAt.Equal(b.RegisteredAt) && slices.Equal(a.Tags, b.Tags) &&
		maps.Equal(a.Meta, b.Meta) && maps.Equal(a.AppAddrs, b.AppAddrs)
}

// skipLog remembers which entries were complained of, so that each is logged once
// however often it is read.
type skipLog struct {
	mu   sync.Mutex
	seen map[[2]string]bool
}

// maxSkipLog bounds the memory, and the log, against a writer of ever new garbage.
// What is beyond it is still counted.
const maxSkipLog = 1000

// skipKey is what tells one complaint from another.
func skipKey(s driver.Skipped) [2]string {
	if s.Reason == nil {
		return [2]string{s.Key}
	}
	return [2]string{s.Key, s.Reason.Error()}
}

func (l *skipLog) first(s driver.Skipped) bool {
	key := skipKey(s)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen[key] || len(l.seen) >= maxSkipLog {
		return false
	}
	if l.seen == nil {
		l.seen = make(map[[2]string]bool)
	}
	l.seen[key] = true
	return true
}

package discovery

import (
	"cmp"
	"encoding/json"
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
	instances []Instance // sorted by Key

	// Revision is the provider's, at which the set was read.
	Revision Revision

	// Skipped are the entries that could not be read, sorted by Key.
	Skipped []Skipped

	// Known is false until one read has succeeded, as in the zero Snapshot. Then it has no
	// instances, which does not mean that there are none.
	Known bool

	// Stale means that the provider fails now, and that Instances returns the last good
	// set.
	Stale bool

	// Err says why the set is stale or unknown. It is nil otherwise.
	Err error

	// At is when the set was asked for, or was reported by a watch, which may lag
	// behind the provider.
	At time.Time
}

// Instances returns the whole set, each instance once, sorted by Key, and whether it is known:
// a set that is not must not be treated as an empty one. Of several entries with one key the
// first by address, then by JSON form, is returned, so that all readers choose alike. Instances
// with one NodeID and different InstanceIDs are different: which of them lives is known to the
// membership.
func (s Snapshot) Instances() (instances []Instance, known bool) { return s.instances, s.Known }

// Others returns the instances but the one whose InstanceID is instanceID, which
// is the caller's own, and whether the set is known. An instance that the provider knows by its
// address alone has no InstanceID and is always among the others, the caller too if the
// provider lists it so.
func (s Snapshot) Others(instanceID string) (others []Instance, known bool) {
	others = make([]Instance, 0, len(s.instances))
	for _, i := range s.instances {
		if i.InstanceID == "" || i.InstanceID != instanceID {
			others = append(others, i)
		}
	}
	return others, s.Known
}

// snapshot makes of the driver's set what users see: valid, matching, each
// instance once, sorted. It was asked for, or reported, at.
func (r *Registry) snapshot(q Query, raw driver.Snapshot, at time.Time) Snapshot {
	s := Snapshot{
		instances: make([]Instance, 0, len(raw.Instances)),
		Revision:  raw.Revision,
		Skipped:   slices.Clone(raw.Skipped),
		Known:     true,
		At:        at,
	}
	for _, i := range r.lenient(q.Service, raw) {
		if i.Service != q.Service {
			continue
		}
		if err := i.Validate(); err != nil {
			s.Skipped = append(s.Skipped, driver.Skipped{Key: i.Key(), Reason: err})
			continue
		}
		if matches(q, i) {
			s.instances = append(s.instances, i)
		}
	}
	slices.SortFunc(s.instances, compare)
	s.instances = slices.CompactFunc(s.instances, func(a, b Instance) bool { return a.Key() == b.Key() })
	slices.SortFunc(s.Skipped, func(a, b driver.Skipped) int { return cmp.Compare(a.Key, b.Key) })
	r.stats.snapshot(len(s.Skipped))
	r.reportSkipped(q.Service, s.Skipped)
	return s
}

// lenient returns the instances that readers find. When all start at once nobody passes its check
// yet, and nobody ever would if that kept the others from finding it: so those that fail are found
// as well until an instance of another process was seen to pass.
func (r *Registry) lenient(service string, raw driver.Snapshot) []Instance {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(raw.Instances) > raw.Own {
		r.settled[service] = true
	}
	if r.settled[service] {
		return raw.Instances
	}
	return slices.Concat(raw.Instances, raw.Failing)
}

// unwatched forgets what was wrong with a service that nobody follows any more.
func (r *Registry) unwatched(service string) {
	l := &r.skipped
	l.mu.Lock()
	defer l.mu.Unlock()
	for key := range l.seen[service] {
		r.alarms.Forget(entrySkipped, key)
	}
	l.size -= len(l.seen[service])
	delete(l.seen, service)
	r.alarms.Forget(providerFails, service)
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
		slices.EqualFunc(a.instances, b.instances, Instance.SameAs) &&
		slices.EqualFunc(a.Skipped, b.Skipped, func(a, b driver.Skipped) bool { return skipKey(a) == skipKey(b) })
}

// skipLog remembers which entries of a service were complained of, so that it is said
// when they are gone or can be read.
type skipLog struct {
	mu   sync.Mutex
	seen map[string]map[string]bool // by service and key
	size int
}

// maxSkipLog bounds the memory, and the log, against a writer of ever new garbage.
// What is beyond it is still counted.
const maxSkipLog = 1000

// reportSkipped logs each entry of a service once for as long as it cannot be read.
func (r *Registry) reportSkipped(service string, skipped []driver.Skipped) {
	l := &r.skipped
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.seen[service]
	now := make(map[string]bool, len(skipped))
	l.size -= len(before)
	for _, s := range skipped {
		if l.size+len(now) >= maxSkipLog {
			break
		}
		now[s.Key] = true
		r.alarms.Raise(entrySkipped, s.Key, "service", service, "error", s.Reason)
	}
	l.size += len(now)
	for key := range before {
		if !now[key] {
			r.alarms.Clear(entrySkipped, key, "service", service)
		}
	}
	if l.seen == nil {
		l.seen = make(map[string]map[string]bool)
	}
	l.seen[service] = now
	if len(now) == 0 {
		delete(l.seen, service)
	}
}

// skipKey is what tells one complaint from another.
func skipKey(s driver.Skipped) [2]string {
	if s.Reason == nil {
		return [2]string{s.Key}
	}
	return [2]string{s.Key, s.Reason.Error()}
}

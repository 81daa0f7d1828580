package registrar

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
)

// key is what a provider keeps an instance under.
type key struct{ service, id string }

func keyOf(i discovery.Instance) key { return key{i.Service, i.Key()} }

// entry is one instance, desired or still to be deregistered. It is guarded by
// the lock of the Registrar.
type entry struct {
	instance discovery.Instance
	shown    discovery.Instance // the same as readers see it
	wanted   bool
	evict    bool   // wanted only until it is registered here, and thereby ours to deregister
	invalid  error  // why it cannot be published although it is wanted
	version  uint64 // counts the changes of what is desired

	registered bool
	since      time.Time // of registered
	err        error
	attempts   int
	confirmed  time.Time // when the provider last confirmed it
	warning    string    // who does not find it once it is registered

	repair bool   // it is due because it was found missing or changed
	doubts uint64 // counts the snapshots that did not show it as it should be

	next     schedule
	presence presence
	record   record
	contest  contest
}

// presence is whether the own session may have the instance registered at the provider.
type presence struct {
	sent    bool // a Register was sent on this session: there may be something to remove
	unsure  bool // one of them got no answer, and may yet take effect
	recheck bool // deregistered while unsure: to be deregistered again
}

// removed records that a Deregister was answered, and reports whether another is to follow: a
// Register without an answer may yet arrive, behind it.
func (p *presence) removed() (again bool) {
	if p.unsure {
		p.unsure, p.recheck = false, true
		return true
	}
	p.sent, p.recheck = false, false
	return false
}

// want makes i desired. err says why it cannot be published, if so. It reports whether that is
// a change.
func (e *entry) want(i discovery.Instance, err error, now time.Time) bool {
	e.evict = false
	if e.wanted && err == nil && e.invalid == nil && samePublished(e.instance, i) {
		return false
	}
	registeredAt := e.instance.RegisteredAt
	if !e.wanted {
		// Precise enough for people, and the same after a round trip through JSON.
		registeredAt = now.UTC().Truncate(time.Millisecond)
	}
	i.Tags = slices.Clone(i.Tags)
	i.Meta = maps.Clone(i.Meta)
	i.AppAddrs = maps.Clone(i.AppAddrs)
	i.RegisteredAt = registeredAt
	e.instance, e.wanted, e.invalid = i, true, err
	e.presence.recheck = false
	e.repair = false
	e.begin(err)
	e.retryNow()
	return true
}

// begin starts over, as something else is desired. err is why that cannot be registered, or nil.
func (e *entry) begin(err error) {
	e.version++
	e.setRegistered(false)
	e.err, e.attempts = err, 0
	e.contest.yielding = false
	e.next.retry.Reset()
}

// retryNow has the instance registered or confirmed at once, unless it yields.
func (e *entry) retryNow() {
	if !e.contest.yielding {
		e.next.now()
	}
}

// shadow says whether another of the desired state is registered in the record of e, and which
// others have that.
func (e *entry) shadow(shadowed bool, conflict string) {
	was := e.record.shadowed
	e.record.shadowed, e.record.conflict = shadowed, conflict
	switch {
	case shadowed && was:
		e.err = e.record.err()
	case shadowed:
		e.begin(e.record.err())
		e.next.none()
	case was:
		e.begin(nil)
		e.retryNow()
	}
}

// unwant makes the instance one to be deregistered.
func (e *entry) unwant() {
	e.wanted, e.evict, e.invalid = false, false, nil
	e.record.shadowed, e.record.conflict = false, ""
	e.repair = false
	e.begin(nil)
	e.next.none()
}

// publishable reports whether the instance ought to be registered.
func (e *entry) publishable() bool { return e.wanted && e.invalid == nil && !e.record.shadowed }

// forgotten reports whether nothing is left to do.
func (e *entry) forgotten() bool { return !e.wanted && !e.presence.sent }

// setRegistered wants to be called for each change of registered.
func (e *entry) setRegistered(registered bool) {
	if e.registered != registered || e.since.IsZero() {
		e.registered, e.since = registered, time.Now()
	}
}

// expired records that the registration is gone, or must be taken to be.
func (e *entry) expired(err error) {
	e.setRegistered(false)
	if e.invalid == nil && !e.record.shadowed && !e.contest.yielding {
		e.err = err
	}
	if e.publishable() {
		e.retryNow()
	}
}

// sessionLost records that what was sent went with its session.
func (e *entry) sessionLost(err error) {
	e.expired(err)
	e.presence = presence{}
	e.repair = false
	e.next.retry.Reset()
}

// doubt records that a snapshot does not show the registration as it should be. The
// provider is asked at once; if there is doubt again and again, because somebody undoes
// each repair, the next ones wait.
func (e *entry) doubt(now time.Time, bound time.Duration) {
	e.contest.unlooked = true
	e.next.doubted(now, bound)
}

// dispute is a doubt that is justified.
func (e *entry) dispute(now time.Time, bound time.Duration) {
	e.doubt(now, bound)
	e.repair = true
	e.setRegistered(false)
}

// yield leaves the registration to the rival until it goes, or until it is time to see
// whether it is alive.
func (e *entry) yield(now time.Time) {
	e.contest.yielding, e.contest.yieldedAt = true, now
	e.repair = false
	e.next.later(now.Add(yieldFor))
	e.setRegistered(false)
	e.err = fmt.Errorf("%w: it is left to another registrar, which keeps the same id registered at %s", driver.ErrConflict, e.contest.rival)
}

// resume ends the yielding.
func (e *entry) resume() {
	e.contest.yielding, e.err = false, nil
	e.retryNow()
}

// failed records a call that failed, and when the next may be made.
func (e *entry) failed(err error, bound time.Duration) {
	e.err = err
	e.next.failed(bound)
}

func (e *entry) succeeded() {
	e.err, e.attempts = nil, 0
	e.next.retry.Reset()
}

func (e *entry) status() InstanceStatus {
	i := e.instance
	i.Tags = slices.Clone(i.Tags)
	i.Meta = maps.Clone(i.Meta)
	i.AppAddrs = maps.Clone(i.AppAddrs)
	s := InstanceStatus{
		Instance: i, Registered: e.registered, Since: e.since,
		Err: e.err, Attempts: e.attempts, Leaving: !e.wanted || e.evict,
		Conflict: e.record.conflict, Yields: e.record.shadowed || e.contest.yielding, Warning: e.warning,
	}
	if e.contest.established(time.Now()) {
		s.Contested, s.Rival = true, e.contest.rival
	}
	return s
}

// samePublished reports whether readers of a and b see the same. RegisteredAt is
// the registrar's own, and providers differ in whether they keep the order of
// tags and what is empty.
func samePublished(a, b discovery.Instance) bool {
	return a.Service == b.Service && a.NodeID == b.NodeID && a.InstanceID == b.InstanceID &&
		a.Addr == b.Addr && a.Zone == b.Zone && a.Version == b.Version &&
		maps.Equal(a.Meta, b.Meta) && maps.Equal(a.AppAddrs, b.AppAddrs) &&
		slices.Equal(tagSet(a.Tags), tagSet(b.Tags))
}

func tagSet(tags []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(tags)))
}

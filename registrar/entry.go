package registrar

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/backoff"
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

	sent    bool // a Register was sent on this session: there may be something to remove
	unsure  bool // one of them got no answer, and may yet take effect
	recheck bool // deregistered while unsure: to be deregistered again

	due       bool      // to be registered, or confirmed
	repair    bool      // because it was found missing or changed
	doubts    uint64    // counts the snapshots that did not show it as it should be
	notBefore time.Time // when the next call may be made
	retry     backoff.Backoff

	disputes   backoff.Backoff // spaces the repairs where somebody undoes them
	disputedAt time.Time

	record   string // where the provider keeps it, if that may be another's place, too
	conflict string // names those of the desired state that have the same record
	shadowed bool   // one of them is registered there, and this one is not

	warning string // who does not find it once it is registered

	contests    int // repairs that somebody has undone
	row         int // of these, one soon after the other
	contestedAt time.Time
	rival       string              // the address that stood in its place
	occupant    *discovery.Instance // of another service, which stood there when it was asked for last
	unlooked    bool                // it was not asked for since readers did not see the registration
	yielding    bool                // to the rival, until notBefore
	yieldedAt   time.Time
}

const (
	// contestedFrom is how many repairs are undone before it is held for a contest, and
	// no accident, nor a predecessor that is about to end.
	contestedFrom = 3
	// yieldFrom is how many are undone before one of the two yields, so that both know of it.
	yieldFrom = contestedFrom + 3
	// hopelessFrom is how many are undone before it is left to a rival that never yields.
	hopelessFrom = 10
	// yieldFor is how long a registration is left to the rival until it is tried once
	// whether that is still alive: what others leave behind may have no TTL.
	yieldFor = 5 * time.Minute
	// contestQuiet is how long after the last repair that was undone it is over. A rival
	// that yields tries again before that.
	contestQuiet = yieldFor + time.Minute
)

// maxRetry bounds the wait between two tries at anything, together with half the
// TTL.
const maxRetry = 5 * time.Second

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
	e.version++
	e.recheck = false
	e.setRegistered(false)
	e.err, e.attempts = err, 0
	e.yielding = false
	e.repair = false
	e.retryNow()
	e.retry.Reset()
	return true
}

// retryNow has the instance registered or confirmed at once, unless it yields.
func (e *entry) retryNow() {
	if !e.yielding {
		e.due, e.notBefore = true, time.Time{}
	}
}

// shadow says whether another of the desired state, other, is registered in the record of e.
func (e *entry) shadow(shadowed bool, conflict string) {
	e.conflict = conflict
	if e.shadowed == shadowed {
		if shadowed {
			e.err = fmt.Errorf("%w: %s", driver.ErrConflict, conflict)
		}
		return
	}
	e.shadowed = shadowed
	e.version++
	e.setRegistered(false)
	e.err, e.attempts = nil, 0
	e.yielding = false
	if shadowed {
		e.err = fmt.Errorf("%w: %s", driver.ErrConflict, conflict)
		e.due, e.notBefore = false, time.Time{}
	} else {
		e.retryNow()
	}
	e.retry.Reset()
}

// unwant makes the instance one to be deregistered.
func (e *entry) unwant() {
	e.wanted, e.evict, e.invalid = false, false, nil
	e.conflict, e.shadowed, e.yielding = "", false, false
	e.version++
	e.setRegistered(false)
	e.err, e.attempts = nil, 0
	e.due, e.repair, e.notBefore = false, false, time.Time{}
	e.retry.Reset()
}

// publishable reports whether the instance ought to be registered.
func (e *entry) publishable() bool { return e.wanted && e.invalid == nil && !e.shadowed }

// forgotten reports whether nothing is left to do.
func (e *entry) forgotten() bool { return !e.wanted && !e.sent }

// setRegistered wants to be called for each change of registered.
func (e *entry) setRegistered(registered bool) {
	if e.registered != registered || e.since.IsZero() {
		e.registered, e.since = registered, time.Now()
	}
}

// expired records that the registration is gone, or must be taken to be.
func (e *entry) expired(err error) {
	e.setRegistered(false)
	if e.invalid == nil && !e.shadowed && !e.yielding {
		e.err = err
	}
	if e.publishable() {
		e.retryNow()
	}
}

// sessionLost records that what was sent went with its session.
func (e *entry) sessionLost(err error) {
	e.expired(err)
	e.sent, e.unsure, e.recheck, e.repair = false, false, false, false
	e.retry.Reset()
}

// doubt records that a snapshot does not show the registration as it should be. The
// provider is asked at once; if there is doubt again and again, because somebody undoes
// each repair, the next ones wait.
func (e *entry) doubt(now time.Time, bound time.Duration) {
	e.due, e.unlooked = true, true
	e.notBefore = now
	if now.Sub(e.disputedAt) > 2*bound {
		e.disputes.Reset()
	} else {
		e.disputes.Max = bound
		e.notBefore = now.Add(e.disputes.Next())
	}
	e.disputedAt = now
}

// dispute is a doubt that is justified.
func (e *entry) dispute(now time.Time, bound time.Duration) {
	e.doubt(now, bound)
	e.repair = true
	e.setRegistered(false)
}

// contest records that somebody has undone a registration: rival is the address that
// stands in its place, if one does. Between two who undo each other lie two waits at most.
func (e *entry) contest(now time.Time, rival string) {
	if !e.contestGoesOn(now) {
		e.contests = 0
	}
	if now.Sub(e.contestedAt) > 4*maxRetry {
		e.row = 0
	}
	e.contests++
	e.row++
	e.contestedAt, e.rival = now, rival
}

// contestGoesOn reports whether the contest is not over. A rival that yields tries again
// after yieldFor, and is not gone before.
func (e *entry) contestGoesOn(now time.Time) bool {
	if e.rival == "" {
		return now.Sub(e.contestedAt) <= 4*maxRetry
	}
	return e.yielding || now.Sub(e.contestedAt) <= contestQuiet
}

// mustYield reports whether the registration is left to rival, which readers see in its
// place, for now: two that replace each other without end serve nobody. Both see the
// two forms, and of these the lower one stays. A rival that does not keep to that is left
// alone in the end.
func (e *entry) mustYield(now time.Time, want, rival discovery.Instance) bool {
	again := !e.yieldedAt.IsZero() && now.Sub(e.yieldedAt) < 2*yieldFor // it is still there
	return again || e.row >= hopelessFrom || e.contests >= yieldFrom && rank(rival) < rank(want)
}

// yield leaves the registration to the rival until it goes, or until it is time to see
// whether it is alive.
func (e *entry) yield(now time.Time) {
	e.yielding, e.yieldedAt = true, now
	e.due, e.repair = true, false
	e.notBefore = now.Add(yieldFor)
	e.setRegistered(false)
	e.err = fmt.Errorf("%w: it is left to another registrar, which keeps the same id registered at %s", driver.ErrConflict, e.rival)
}

// resume ends the yielding.
func (e *entry) resume() {
	e.yielding, e.err = false, nil
	e.retryNow()
}

// rank orders the forms of an instance as all that see them do.
func rank(i discovery.Instance) string {
	i.RegisteredAt = time.Time{}
	i.Tags = tagSet(i.Tags)
	text, err := json.Marshal(i)
	if err != nil {
		return i.Addr
	}
	return i.Addr + " " + string(text)
}

// contested reports whether somebody undoes each repair.
func (e *entry) contested(now time.Time) bool {
	return (e.contests >= contestedFrom || e.contests > 0 && e.occupant != nil) && e.contestGoesOn(now)
}

// occupied records what stands in the place of the registration: a live one of somebody else,
// so that it is a contest however seldom readers have seen it.
func (e *entry) occupied(now time.Time, by discovery.Instance) {
	e.occupant = &by
	e.rival = fmt.Sprintf("%s as service %s", by.Addr, by.Service)
	e.contests, e.contestedAt = max(e.contests, 1), now
}

// failed records a call that failed, and when the next may be made.
func (e *entry) failed(err error, bound time.Duration) {
	e.err = err
	e.retry.Max = bound
	e.notBefore = time.Now().Add(e.retry.Next())
}

func (e *entry) succeeded() {
	e.err, e.attempts = nil, 0
	e.retry.Reset()
}

func (e *entry) status() InstanceStatus {
	i := e.instance
	i.Tags = slices.Clone(i.Tags)
	i.Meta = maps.Clone(i.Meta)
	i.AppAddrs = maps.Clone(i.AppAddrs)
	s := InstanceStatus{
		Instance: i, Registered: e.registered, Since: e.since,
		Err: e.err, Attempts: e.attempts, Leaving: !e.wanted || e.evict,
		Conflict: e.conflict, Yields: e.shadowed || e.yielding, Warning: e.warning,
	}
	if e.contested(time.Now()) {
		s.Contested, s.Rival = true, e.rival
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

package registrar

import (
	"maps"
	"slices"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/internal/backoff"
)

// key is what a provider keeps an instance under.
type key struct{ service, id string }

func keyOf(i discovery.Instance) key { return key{i.Service, i.Key()} }

// entry is one instance, desired or still to be deregistered. It is guarded by
// the lock of the Registrar.
type entry struct {
	instance discovery.Instance
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
	recheck bool // deregistered while unsure: to be deregistered once more

	due       bool      // to be registered, or confirmed
	repair    bool      // because it was found missing or changed
	doubts    uint64    // counts the snapshots that did not show it as it should be
	notBefore time.Time // when the next call may be made
	retry     backoff.Backoff

	disputes   backoff.Backoff // spaces the repairs where somebody undoes them
	disputedAt time.Time

	contests    int // repairs that somebody has undone
	contestedAt time.Time
	rival       string    // the address that stood in its place
	toldAt      time.Time // when the log told of that
}

const (
	// contestedFrom is how many repairs are undone before it is held for a contest, and
	// no accident, nor a predecessor that is about to end.
	contestedFrom = 3
	// contestTells is how often the log tells of one.
	contestTells = time.Minute
)

// maxRetry bounds the wait between two tries at anything, together with half the
// TTL.
const maxRetry = 5 * time.Second

// want makes i desired. err says why it cannot be published, if so.
func (e *entry) want(i discovery.Instance, err error, now time.Time) {
	e.evict = false
	if e.wanted && err == nil && e.invalid == nil && samePublished(e.instance, i) {
		return
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
	e.due, e.repair, e.notBefore = true, false, time.Time{}
	e.retry.Reset()
}

// unwant makes the instance one to be deregistered.
func (e *entry) unwant() {
	e.wanted, e.evict, e.invalid = false, false, nil
	e.version++
	e.setRegistered(false)
	e.err, e.attempts = nil, 0
	e.due, e.repair, e.notBefore = false, false, time.Time{}
	e.retry.Reset()
}

// publishable reports whether the instance ought to be registered.
func (e *entry) publishable() bool { return e.wanted && e.invalid == nil }

// forgotten reports whether nothing is left to do.
func (e *entry) forgotten() bool { return !e.wanted && !e.sent }

// setRegistered wants to be called for each change of registered.
func (e *entry) setRegistered(registered bool) {
	if e.registered != registered || e.since.IsZero() {
		e.registered, e.since = registered, time.Now()
	}
}

// lapsed records that the registration is gone, or must be taken to be.
func (e *entry) lapsed(err error) {
	e.setRegistered(false)
	if e.invalid == nil {
		e.err = err
	}
	if e.publishable() {
		e.due, e.notBefore = true, time.Time{}
	}
}

// sessionLost records that what was sent went with its session.
func (e *entry) sessionLost(err error) {
	e.lapsed(err)
	e.sent, e.unsure, e.recheck, e.repair = false, false, false, false
	e.retry.Reset()
}

// doubt records that a snapshot does not show the registration as it should be. The
// provider is asked at once; if there is doubt again and again, because somebody undoes
// each repair, the next ones wait.
func (e *entry) doubt(now time.Time, bound time.Duration) {
	e.due = true
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
	e.contests++
	e.contestedAt, e.rival = now, rival
}

func (e *entry) contestGoesOn(now time.Time) bool { return now.Sub(e.contestedAt) <= 4*maxRetry }

// contested reports whether somebody undoes each repair.
func (e *entry) contested(now time.Time) bool {
	return e.contests >= contestedFrom && e.contestGoesOn(now)
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

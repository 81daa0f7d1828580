package mastership

import (
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
)

// known works out who is named master, from what the authority records and from what the
// holders announce by gossip. It has no say in who is master.
//
// The authority's record says who was granted mastership; gossip says who uses it. While
// the authority can be observed, a node is named that is recorded and has announced
// that it is active. What is announced ahead of the record is named for a short time
// only, in which the record has to follow. While the authority cannot be observed, gossip
// alone names, for as long as the holder repeats it.
//
// Gossip is hearsay: whatever it says, the holder that is recorded and announces itself
// is named again within outranksFor.
type known struct {
	// announced says that holders announce themselves to this node. If they do not, the
	// record alone names.
	announced bool

	// The authority's record, and since when it cannot be observed, 0 if it can.
	observed driver.Mastership
	seen     bool
	failedAt clock.Instant
	// floor is the highest term that was named by the record; lower ones are not named any
	// more. over is the highest term of this node's own that has ended.
	floor, over driver.Term

	// What the recorded holder has announced of the recorded term.
	claimed  bool          // that it is active
	vouched  clock.Instant // until when that counts without the authority
	expects  clock.Instant // until when it has announced it again, if it still is
	endedAt  clock.Instant // when it was first heard that it has ended, 0 if it was not
	falseEnd bool          // it renewed after its end was announced: another had announced that

	// claims are the last announcements of instances.
	claims map[string]claim

	// trialUntil is until when a claim ahead of the record is named, 0 if there was none
	// since the record changed. heardTerm is the highest term that gossip alone has named;
	// lower ones are not named before heardUntil.
	trialUntil, heardUntil clock.Instant
	heardTerm              driver.Term

	// gone are the instances that left while they were named, with the time.
	gone map[string]clock.Instant
}

// claim is the last word of an instance.
type claim struct {
	Announcement
	at, until clock.Instant // when it was heard, and until when it counts
}

// next is until when the holder has announced itself again.
func (c claim) next() clock.Instant {
	if c.Next == 0 {
		return c.until
	}
	return min(c.until, c.at.Add(c.Next))
}

func (c claim) active(now clock.Instant) bool { return c.Active && now.Before(c.until) }

const (
	// observationGrace is how long the record of an authority that cannot be observed any
	// longer names its holder, where holders do not announce themselves.
	observationGrace = 10 * time.Second

	// trialTime is how long the record may lag behind gossip.
	trialTime = 2 * time.Second

	// outranksFor is how long the last announcement of an instance outranks an earlier one that
	// arrives later. An earlier one that is still on its way arrives before that; so one
	// that comes after it is no earlier one.
	outranksFor = 10 * time.Second

	// maxClaims bounds the instances whose word is remembered, and maxGone those that
	// left. An instance id is never used again, so that only what is still on its way
	// can name one that has gone.
	maxClaims = 64
	maxGone   = 64
)

// observe takes over what the authority records.
func (k *known) observe(now clock.Instant, m driver.Mastership) {
	same := k.seen && sameHolder(k.observed, m)
	recovered := k.failedAt != 0
	k.observed, k.seen, k.failedAt = m, true, 0
	if recovered && !now.Before(k.vouched) {
		k.claimed = false // that may be long past
	}
	k.heardUntil = min(k.heardUntil, now.Add(trialTime))
	if same {
		return
	}
	k.trialUntil = 0
	if m.Term >= k.heardTerm {
		k.heardUntil, k.heardTerm = 0, 0
	}
	k.claimed, k.vouched, k.expects, k.endedAt, k.falseEnd = false, 0, 0, 0, false
	if m.Holder == nil {
		return
	}
	switch c := k.claims[m.Holder.InstanceID]; {
	case c.Term != m.Term:
	case c.active(now):
		k.claimed, k.vouched, k.expects = true, c.until, c.next()
	case !c.Active:
		k.endedAt = c.at
	}
}

func sameHolder(a, b driver.Mastership) bool {
	if a.Holder == nil || b.Holder == nil {
		return a.Holder == b.Holder && a.Term == b.Term
	}
	return a.Term == b.Term && a.Holder.InstanceID == b.Holder.InstanceID
}

// observeFailed notes that the authority cannot be observed.
func (k *known) observeFailed(now clock.Instant) {
	if k.failedAt == 0 {
		k.failedAt = now
	}
}

// learn takes over what an instance announces of itself.
func (k *known) learn(now clock.Instant, a Announcement) {
	if a.Holder.InstanceID == "" {
		return // says nothing of a holder
	}
	if k.recorded(a.Holder.InstanceID, a.Term) {
		k.learnOfRecorded(now, a)
	}
	last, ok := k.claims[a.Holder.InstanceID]
	news := !ok || a.Term > last.Term || a.Term == last.Term && a.Seq > last.Seq ||
		!now.Before(last.at.Add(outranksFor))
	if !news {
		return
	}
	delete(k.gone, a.Holder.InstanceID) // a sign of life
	k.remember(claim{a, now, now.Add(a.ValidFor)})
	if a.Active && k.seen && k.failedAt == 0 && a.Term > k.observed.Term && k.trialUntil == 0 {
		k.trialUntil = now.Add(trialTime)
	}
}

func (k *known) recorded(instance string, t driver.Term) bool {
	h := k.observed.Holder
	return h != nil && h.InstanceID == instance && k.observed.Term == t
}

// learnOfRecorded takes over what is said of the recorded holder in its term, without
// regard to its Seq, which another can forge. One that has ended does not go on to
// announce itself, nor does one that is gone.
func (k *known) learnOfRecorded(now clock.Instant, a Announcement) {
	if at, gone := k.gone[a.Holder.InstanceID]; gone && a.Active && !now.Before(at.Add(outranksFor)) {
		delete(k.gone, a.Holder.InstanceID)
	}
	switch {
	case a.Active && (k.endedAt == 0 || !now.Before(k.endedAt.Add(outranksFor))):
		k.falseEnd = k.falseEnd || k.endedAt != 0
		k.claimed, k.endedAt = true, 0
		k.vouched = max(k.vouched, now.Add(a.ValidFor))
		k.expects = max(k.expects, claim{a, now, now.Add(a.ValidFor)}.next())
	case !a.Active && !k.falseEnd:
		k.claimed = false
		if k.endedAt == 0 {
			k.endedAt = now
		}
	}
}

func (k *known) remember(c claim) {
	id := c.Holder.InstanceID
	if _, ok := k.claims[id]; !ok && len(k.claims) >= maxClaims {
		oldest := id
		for other, have := range k.claims {
			if oldest == id || have.at < k.claims[oldest].at {
				oldest = other
			}
		}
		delete(k.claims, oldest)
	}
	if k.claims == nil {
		k.claims = make(map[string]claim)
	}
	k.claims[id] = c
}

// forget drops all that was heard.
func (k *known) forget() {
	k.claims, k.gone = nil, nil
	k.claimed, k.vouched, k.expects, k.endedAt, k.falseEnd = false, 0, 0, 0, false
	k.trialUntil, k.heardUntil, k.heardTerm = 0, 0, 0
}

// end notes that a term of this node has ended.
func (k *known) end(t driver.Term) { k.over = max(k.over, t) }

// memberGone withdraws the name of an instance until it shows a sign of life. Of
// instances that could not be named there is nothing to withdraw.
func (k *known) memberGone(now clock.Instant, instance string) {
	c, claims := k.claims[instance]
	h := k.observed.Holder
	if recorded := h != nil && h.InstanceID == instance; !recorded && !(claims && c.Active) {
		return
	}
	if k.isGone(instance) {
		return
	}
	if k.gone == nil || len(k.gone) >= maxGone {
		k.gone = make(map[string]clock.Instant)
	}
	k.gone[instance] = now
}

func (k *known) isGone(instance string) bool {
	_, gone := k.gone[instance]
	return gone
}

// best returns the claim of the highest term that counts now and is above t.
func (k *known) best(now clock.Instant, self string, t driver.Term) (best claim, ok bool) {
	for id, c := range k.claims {
		if c.active(now) && c.Term > max(t, best.Term, k.over) && id != self && !k.isGone(id) {
			best, ok = c, true
		}
	}
	return best, ok
}

// master returns the node that is named master now, nil if none is. self is never named here: a
// node knows itself whether it is master.
func (k *known) master(now clock.Instant, self string) (*driver.Holder, driver.Term) {
	if !now.Before(k.heardUntil) {
		k.heardTerm = 0
	}
	if h, t := k.observed.Holder, k.observed.Term; h != nil && h.InstanceID != self && k.names(now) {
		k.floor = max(k.floor, t)
		return h, t
	}
	observable := k.seen && k.failedAt == 0
	if observable && !now.Before(k.trialUntil) {
		return nil, 0
	}
	c, ok := k.best(now, self, k.observed.Term)
	if !ok || c.Term < max(k.heardTerm, k.floor) {
		return nil, 0
	}
	k.heardTerm, k.heardUntil = c.Term, c.until
	// What lower terms claimed before counts no more, also when this name is withdrawn: a
	// master that is still there claims it again.
	for id, o := range k.claims {
		if o.Term < c.Term && o.at <= c.at {
			o.until = min(o.until, now)
			k.claims[id] = o
		}
	}
	if observable {
		k.heardUntil = k.trialUntil
	}
	return &c.Holder, c.Term
}

// names reports whether the record's holder, which is another node, is to be named.
func (k *known) names(now clock.Instant) bool {
	h, t := k.observed.Holder, k.observed.Term
	if t < max(k.floor, k.heardTerm) || t <= k.over || k.endedAt != 0 || k.isGone(h.InstanceID) {
		return false
	}
	switch {
	case k.failedAt == 0:
		return k.claimed || !k.announced
	case k.announced:
		return k.claimed && now.Before(k.vouched)
	}
	return now.Before(max(k.vouched, k.failedAt.Add(observationGrace)))
}

// counts returns until when the node that master names counts, if nothing more is learned. Where
// holders announce themselves that is bounded also while the record is seen: who is cut off from
// the holder does not know what has become of it.
func (k *known) counts(h *driver.Holder, t driver.Term) clock.Instant {
	if !k.recorded(h.InstanceID, t) {
		until := k.claims[h.InstanceID].until
		if k.seen && k.failedAt == 0 {
			until = min(until, k.trialUntil)
		}
		return until
	}
	switch {
	case k.announced:
		return k.vouched
	case k.failedAt == 0:
		return never
	}
	return max(k.vouched, k.failedAt.Add(observationGrace))
}

// vouches returns until when gossip vouches for the recorded holder: it has announced that
// it is active. 0 if it does not.
func (k *known) vouches() clock.Instant {
	h := k.observed.Holder
	if h == nil || !k.claimed || k.isGone(h.InstanceID) {
		return 0
	}
	return k.vouched
}

// trusts returns until when there is no reason to look whether the recorded holder is still
// there: it vouches for itself, and has not been silent for longer than usual.
func (k *known) trusts() clock.Instant { return min(k.vouches(), k.expects) }

// doubt notes a reason to look: until the instance announces itself again it is not trusted.
func (k *known) doubt(now clock.Instant, instance string) {
	if h := k.observed.Holder; h != nil && h.InstanceID == instance {
		k.expects = min(k.expects, now)
	}
}

// silent returns the recorded holder if it has not announced itself.
func (k *known) silent() *driver.Holder {
	if h := k.observed.Holder; k.announced && h != nil && !k.claimed {
		return h
	}
	return nil
}

// nextChange returns the first instant after now at which master may answer differently.
func (k *known) nextChange(now clock.Instant) clock.Instant {
	next := never
	at := func(t clock.Instant) {
		if now.Before(t) {
			next = min(next, t)
		}
	}
	at(k.vouched)
	at(k.expects)
	at(k.trialUntil)
	at(k.heardUntil)
	if k.failedAt != 0 {
		at(k.failedAt.Add(observationGrace))
	}
	for _, c := range k.claims {
		if c.Active {
			at(c.until)
		}
	}
	return next
}

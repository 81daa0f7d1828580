package mastership

import (
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
)

// known works out whom to take for the master, from what the authority shows and
// what gossip brings. It has no say in who is master.
//
// The named term never falls. A name is withdrawn when the authority shows a
// vacancy of that term or a higher one, when the holder itself announced its end,
// when gossip alone named it and did not repeat it in time, or when the member is
// gone.
type known struct {
	// floor is the highest term ever named; lower ones are not named any more.
	floor driver.Term
	// ended is the highest term that is known to be over for good.
	ended driver.Term

	// The authority's word: the last observation, and until when it counts if the
	// authority cannot be observed any longer.
	observed      driver.Mastership
	observedUntil clock.Instant // 0: it can be observed now

	// Gossip's word: the best announcement, and until when it counts.
	heard      Announcement
	heardUntil clock.Instant

	// gone are the instances that left while they were named, with the last
	// announcement that each had made by then. Nothing older brings a name back.
	gone map[string]lastSign
}

// lastSign is the last that was heard of an instance.
type lastSign struct {
	term driver.Term
	seq  uint64
}

// maxGone bounds how many of those that left are remembered. An instance id is never
// used again, so that only what is still on its way can name one.
const maxGone = 64

// observationGrace is how long a name that the authority gave stands after the
// authority could no longer be observed, where gossip does not tell the validity.
const observationGrace = 10 * time.Second

func (k *known) observe(m driver.Mastership) {
	k.observed, k.observedUntil = m, 0
}

// observeFailed starts the clock on the last observation.
func (k *known) observeFailed(now clock.Instant) {
	if k.observedUntil == 0 {
		grace := observationGrace
		if k.heard.Term == k.observed.Term && k.heard.ValidFor > 0 {
			grace = k.heard.ValidFor
		}
		k.observedUntil = now.Add(grace)
	}
}

func (k *known) learn(now clock.Instant, a Announcement) {
	if a.Holder.InstanceID == "" {
		return // says nothing of a holder
	}
	if !a.Active {
		k.end(a.Term)
		return
	}
	if a.Term < k.heard.Term || a.Term == k.heard.Term && a.Seq <= k.heard.Seq && k.heard.Holder.InstanceID != "" {
		return // older, or a repetition
	}
	k.heard, k.heardUntil = a, now.Add(a.ValidFor)
}

func (k *known) end(t driver.Term) { k.ended = max(k.ended, t) }

// memberGone takes back the name of an instance. Of other instances than the one
// that is named there is nothing to take back.
func (k *known) memberGone(instance string) {
	if h := k.observed.Holder; k.heard.Holder.InstanceID != instance && (h == nil || h.InstanceID != instance) {
		return
	}
	last := lastSign{term: k.floor}
	if k.heard.Holder.InstanceID == instance {
		last = lastSign{max(k.floor, k.heard.Term), k.heard.Seq}
	}
	if k.gone == nil || len(k.gone) >= maxGone {
		k.gone = make(map[string]lastSign)
	}
	k.gone[instance] = last
}

// isGone reports whether the member is gone and has shown no sign of life since.
func (k *known) isGone(instance string) bool {
	last, gone := k.gone[instance]
	if !gone {
		return false
	}
	back := k.heard.Holder.InstanceID == instance &&
		(k.heard.Term > last.term || k.heard.Term == last.term && k.heard.Seq > last.seq)
	return !back
}

// master returns whom to take for the master now, nil if nobody, and raises the
// floor. self is never named here: a node knows itself whether it is master.
func (k *known) master(now clock.Instant, self string) (*driver.Holder, driver.Term) {
	var holder *driver.Holder
	var term driver.Term
	name := func(h *driver.Holder, t driver.Term) {
		if t >= k.floor && t > k.ended && t > term && h.InstanceID != self && !k.isGone(h.InstanceID) {
			holder, term = h, t
		}
	}
	if k.observed.Holder != nil && (k.observedUntil == 0 || now.Before(k.observedUntil)) {
		name(k.observed.Holder, k.observed.Term)
	}
	vacant := k.observed.Holder == nil && k.observed.Term >= k.heard.Term
	if k.heard.Active && now.Before(k.heardUntil) && !vacant {
		name(&k.heard.Holder, k.heard.Term)
	}
	k.floor = max(k.floor, term)
	return holder, term
}

// vouched returns until when gossip vouches for the master whom the authority shows: it
// says of itself that it stands. 0 if it does not.
func (k *known) vouched() clock.Instant {
	h := k.observed.Holder
	if h == nil || !k.heard.Active || k.heard.Term != k.observed.Term || k.heard.Holder.InstanceID != h.InstanceID || k.isGone(h.InstanceID) {
		return 0
	}
	return k.heardUntil
}

// expiries returns the instants after which master may answer differently.
func (k *known) expiries() [2]clock.Instant {
	return [2]clock.Instant{k.observedUntil, k.heardUntil}
}

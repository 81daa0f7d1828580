package share

import (
	"slices"
	"time"

	"github.com/musterhq/muster/internal/clock"
)

const (
	// demandWindow is for how long a demand that has passed still counts, at least, and twice that
	// at most: a share does not follow each call.
	demandWindow = 300 * time.Millisecond
	// askAgain is the least time between two requests of one holder.
	askAgain = 5 * time.Millisecond
	// firstRetry is the pause after a request without an answer. It doubles.
	firstRetry = 20 * time.Millisecond
	// idleLeases is after how many leases without a demand a holder leaves.
	idleLeases = 6
)

// Holder is one node's part of a cap: it asks the master for a share, and admits as many as that
// allows. It has no clock and no goroutine: what happens goes in with the time, and what to do can
// be asked for. At most one request is under way.
type Holder struct {
	id    string
	rules rules

	bands      bands
	admit      int
	admitUntil clock.Instant
	serial     uint64
	token      string
	lease      time.Duration // of the last answer, or what this node is configured with
	grace      time.Duration
	total      int

	live, lost, waiting int
	demand, demandWas   int // the largest in this window, and in the one before
	windowEnd           clock.Instant

	seq      uint64
	out      bool // a request is under way
	sent     clock.Instant
	last     Request // the last one that was sent
	retryAt  clock.Instant
	failures int
	nudged   bool
	busyAt   clock.Instant // when there was a demand last
	here     bool          // the master counts on further requests
	closed   bool
}

// NewHolder returns a holder that has nothing. The id is a random text that was never used before.
func NewHolder(id string, p Params) *Holder {
	return &Holder{id: id, lease: p.Lease, rules: soundRules()}
}

// Counts are what a Holder has.
type Counts struct {
	// Total is that of the last answer, Share how many may begin, Using how many are in use, and
	// Lost how many of those that had to end have not done so yet.
	Total, Share, Using, Lost, Waiting int
}

// Counts returns what the holder has now.
func (h *Holder) Counts(now clock.Instant) Counts {
	h.expire(now)
	return Counts{Total: h.total, Share: h.admit, Using: h.live, Lost: h.lost, Waiting: h.waiting}
}

func (h *Holder) expire(now clock.Instant) {
	h.bands.expire(now)
	if !now.Before(h.admitUntil) {
		h.admit = 0
	}
	if len(h.bands) == 0 && h.live == 0 && h.admitUntil != 0 && !now.Before(h.admitUntil) {
		// It has nothing, which is true in any reign.
		h.serial, h.token, h.admitUntil = 0, "", 0
	}
}

// grace is how long before the end of a lease places are lost: what is in use needs time to end.
func grace(lease time.Duration) time.Duration { return lease / 20 }

// places returns how many there are to be had.
func (h *Holder) places(now clock.Instant) (n int) {
	for _, b := range h.bands {
		if now.Before(b.until.Add(-h.grace)) {
			n = max(n, b.limit)
		}
	}
	return n
}

// Take takes a place if there is one. What had to end and has not counts as in use: it is.
func (h *Holder) Take(now clock.Instant) bool {
	h.expire(now)
	if h.closed || h.live+h.lost >= h.admit || h.live >= h.places(now) {
		return false
	}
	h.live++
	h.want(now)
	return true
}

// Put gives a place back, which was lost or not.
func (h *Holder) Put(now clock.Instant, lost bool) {
	h.want(now)
	if lost {
		h.lost--
		return
	}
	h.live--
}

// Excess returns how many of those in use have no place any more. The caller ends them, and says
// so with Lose.
func (h *Holder) Excess(now clock.Instant) int {
	h.expire(now)
	if !h.rules.end {
		return 0
	}
	return max(0, h.live-h.places(now))
}

// Lose notes that n of those in use have lost their places.
func (h *Holder) Lose(n int) { h.live, h.lost = h.live-n, h.lost+n }

// Wait notes how many wait for a place.
func (h *Holder) Wait(now clock.Instant, n int) {
	h.waiting = n
	h.want(now)
}

// want notes how many places are wanted now.
func (h *Holder) want(now clock.Instant) {
	h.turn(now)
	if n := h.live + h.lost + h.waiting; n > 0 {
		h.demand = max(h.demand, n)
		h.busyAt = now
	}
}

// turn ends the window of demands.
func (h *Holder) turn(now clock.Instant) {
	if now.Before(h.windowEnd) {
		return
	}
	h.demandWas = h.demand
	if !now.Before(h.windowEnd.Add(demandWindow)) {
		h.demandWas = 0
	}
	h.demand = h.live + h.lost + h.waiting
	h.windowEnd = now.Add(demandWindow)
}

// demanded returns the largest demand of late.
func (h *Holder) demanded(now clock.Instant) int {
	h.want(now)
	return max(h.demand, h.demandWas)
}

// held is how many there may be in use until another answer is taken. What had to end may need the
// rest of its lease for that.
func (h *Holder) held() int { return min(max(h.admit, h.live+h.lost), h.bands.top()) }

// Nudge has the holder ask soon.
func (h *Holder) Nudge() { h.nudged = h.nudged || h.here }

// Close has the holder admit nobody. Once none is in use it leaves.
func (h *Holder) Close() { h.closed = true }

// Due returns when the next request is to be sent. It reports false if none is, as things are.
func (h *Holder) Due(now clock.Instant) (clock.Instant, bool) {
	h.expire(now)
	switch {
	case h.out:
		return 0, false
	case h.failures > 0 && (h.here || h.waiting > 0):
		return h.retryAt, true
	case h.leaving(now) && !h.here:
		return 0, false
	case h.hasNews(now):
		return h.sent.Add(askAgain), true
	case h.here:
		return h.sent.Add(h.lease / 4), true
	}
	return 0, false
}

// hasNews reports whether the master should know soon.
func (h *Holder) hasNews(now clock.Instant) bool {
	switch {
	case h.nudged, h.leaving(now):
		return true
	case !h.here:
		return h.waiting > 0
	case h.held() < h.last.Held:
		return true
	case h.waiting == 0 || h.admit >= h.total && h.admit > 0:
		return false
	}
	n := h.demanded(now)
	return n > h.admit && (h.last.Demand <= h.admit || n > h.last.Demand+h.last.Demand/8)
}

// Leaves reports whether the next request says that the holder leaves, and is of use.
func (h *Holder) Leaves(now clock.Instant) bool { return h.here && h.leaving(now) }

func (h *Holder) leaving(now clock.Instant) bool {
	return h.live+h.lost+h.waiting == 0 && (h.closed || !now.Before(h.busyAt.Add(idleLeases*h.lease)))
}

// Ends returns when those in use may lose their places, unless an answer comes before. It reports
// false if none can.
func (h *Holder) Ends(now clock.Instant) (first clock.Instant, ok bool) {
	for _, b := range h.bands {
		if at := b.until.Add(-h.grace); now.Before(at) && (!ok || at.Before(first)) {
			first, ok = at, true
		}
	}
	return first, ok
}

// Send returns the request that is due. The caller sends it at once.
func (h *Holder) Send(now clock.Instant) Request {
	h.expire(now)
	leaving := h.leaving(now)
	if leaving {
		h.admit, h.admitUntil, h.bands = 0, now, nil
	}
	held := h.held()
	h.bands.clamp(held)
	part := h.bands.part()
	h.seq++
	h.out, h.sent, h.nudged, h.here = true, now, false, !leaving
	h.last = Request{
		Holder: h.id, Seq: h.seq, Serial: h.serial, Token: h.token,
		Held: held, Part: part.limit, Whole: part.of,
		Using: h.live, Waiting: h.waiting, Demand: h.demanded(now), Leaving: leaving,
	}
	return h.last
}

// Answered takes an answer.
func (h *Holder) Answered(a Answer, now clock.Instant) {
	if h.rules.latest && (!h.out || a.Seq != h.seq) || !a.sane() {
		return
	}
	h.out, h.failures = false, 0
	sent := h.sent
	if !h.rules.sent {
		sent = now
	}
	until := sent.Add(a.Lease)
	h.expire(now)
	if !now.Before(until.Add(-grace(a.Lease))) || a.Serial < h.serial || h.last.Leaving {
		return // too late, or of a reign that is over
	}
	h.serial, h.token, h.lease, h.total = a.Serial, a.Token, a.Lease, a.Total
	h.admit, h.admitUntil, h.grace = a.Admit, until.Add(-grace(a.Lease)), grace(a.Lease)
	// A smaller number that ends sooner is of no use any more, though it may be a larger part.
	h.bands = slices.DeleteFunc(h.bands, func(b band) bool { return b.limit <= a.Keep && b.until <= until })
	h.bands.push(band{a.Keep, a.Total, until})
	h.bands.clamp(max(h.admit, h.live+h.lost))
}

// Failed notes that there is no answer to the request under way, and that none will be taken.
func (h *Holder) Failed(now clock.Instant) {
	if !h.out {
		return
	}
	h.out = false
	h.retryAt = now.Add(min(firstRetry<<min(h.failures, 10), h.lease/8))
	h.failures++
}

// Timeout is for how long the answer to one request is waited for.
func (h *Holder) Timeout() time.Duration { return h.lease / 5 }

package share

import (
	"maps"
	"slices"
	"time"

	"github.com/musterhq/muster/internal/clock"
)

const (
	// maxHolders bounds what a master remembers.
	maxHolders = 10_000
	// nudgeAgain is the least time between two nudges of one holder.
	nudgeAgain = 50 * time.Millisecond
)

// Verdict is what becomes of a request.
type Verdict int

// The verdicts.
const (
	// Granted: there is an answer.
	Granted Verdict = iota
	// Unread: the record has to be read first, and perhaps written. Ask again then.
	Unread
	// Unset: there is no record, and so no total.
	Unset
	// Over: a later master divides the cap, or may do so.
	Over
	// Late: the holder has sent a later request, or gone over to another reign.
	Late
)

type phase int

const (
	reading  phase = iota // whose reign it is
	claiming              // that it is ours is being written, and perhaps recorded
	reigning
	over
)

// Divider is the master's part of a cap, in one term: it reads whose reign it is, records its own,
// and divides the total. It has no clock and no goroutine.
type Divider struct {
	self  Reign
	first bool // there can have been no master before
	rules rules

	phase   phase
	unset   bool
	total   int
	prior   *Reign        // the one on top of which ours is being written
	claimed clock.Instant // when that was sent
	asOf    clock.Instant // when the read was sent that has confirmed the reign last
	openAt  clock.Instant // from when on nothing is held that is not known
	doubt   bool          // a holder knows of a later reign

	holders map[string]*share
	known   []band          // what was held by those that have come over, when they did
	over    map[string]bool // those
}

// share is what the master knows of one holder.
type share struct {
	peer    string
	seq     uint64
	bands   bands
	last    Answer
	request Request
	at      clock.Instant // when the request was served
	adopted bool
	has     bool
	since   clock.Instant
	nudged  clock.Instant
}

// NewDivider returns the Divider of a mastership. The token of self is a random text that was never
// used before, and its Serial is set here. First says that no other one can have been master before
// this one in its first term, if there is no record of one.
func NewDivider(self Reign, first bool) *Divider {
	return &Divider{self: self, first: first, rules: soundRules(), holders: make(map[string]*share), over: make(map[string]bool)}
}

// maxLead is how many terms one master can be ahead of another one that still counts on its own. A
// record that is further ahead is of no master.
const maxLead = 1 << 32

// outranks reports whether r is of a later term than other.
func (r Reign) outranks(other Reign) bool {
	later := r.Term > other.Term || r.Term == other.Term && r.InstanceID != other.InstanceID
	return r.ClusterID == other.ClusterID && later && r.Term-other.Term <= maxLead
}

// Read says what is recorded, where the read was sent at a time. If write is true the caller writes
// the record that is returned, in place of the revision that was read.
func (d *Divider) Read(r Record, found bool, sent, now clock.Instant) (_ Record, write bool) {
	if d.phase == over {
		return Record{}, false
	}
	if !found {
		d.unset, d.total, d.phase = true, 0, reading
		return Record{}, false
	}
	ours := r.Reign != nil && r.Reign.Token == d.self.Token
	if !d.rules.identity {
		ours = ours || r.Reign != nil && d.phase == reigning
	}
	switch {
	case ours && d.phase != reading:
		if d.phase == claiming { // it was written, and the answer lost
			d.self.Serial = r.Reign.Serial
			d.begin(now)
		}
		d.confirm(r.Total, sent)
		return Record{}, false
	case r.Reign != nil && !ours && r.Reign.outranks(d.self):
		d.phase = over
		return Record{}, false
	}
	d.phase, d.prior, d.claimed = claiming, r.Reign, now
	next := d.self
	if next.Serial = 1; r.Reign != nil {
		next.Serial = r.Reign.Serial + 1
	}
	return Record{Total: r.Total, Reign: &next}, true
}

// Wrote says that the record which Read returned was written, and when the write was sent.
func (d *Divider) Wrote(r Record, sent, now clock.Instant) {
	if d.phase != claiming {
		return
	}
	d.self.Serial = r.Reign.Serial
	d.begin(now)
	d.confirm(r.Total, sent)
}

// begin starts the reign.
func (d *Divider) begin(now clock.Instant) {
	d.phase = reigning
	p := d.self.Params
	if d.prior != nil {
		p = d.prior.Params
	}
	p = p.bounded()
	d.openAt = now.Add(longer(p.Lease + p.Fresh))
	if d.prior == nil && d.first || !d.rules.recover {
		d.openAt = now
	}
	d.first = false
	d.known, d.over = nil, make(map[string]bool)
	for _, s := range d.holders { // of the same master, whose record was deleted
		s.adopted = false
	}
}

// confirm notes that the reign was ours still, and the total.
func (d *Divider) confirm(total int, sent clock.Instant) {
	d.unset, d.total, d.doubt = false, total, false
	d.asOf = max(d.asOf, sent)
}

// fresh reports whether shares may be granted now.
func (d *Divider) fresh(now clock.Instant) bool {
	return d.phase == reigning && (!d.rules.fresh || now.Before(d.asOf.Add(d.self.Fresh)))
}

// ReadAt returns when the record should be read again.
func (d *Divider) ReadAt(now clock.Instant) clock.Instant {
	if d.phase != reigning || d.doubt {
		return now
	}
	return d.asOf.Add(d.self.Fresh / 4)
}

// Over reports whether the reign of this master is over, and Idle whether nobody asks it.
func (d *Divider) Over() bool { return d.phase == over }

// Idle reports whether there is no holder.
func (d *Divider) Idle() bool { return len(d.holders) == 0 }

// expire drops the holders whose shares are over. That time passes is not enough: an earlier master
// could not have stopped otherwise, nor this one be sure that there is no later one. The reign was
// confirmed by a read that was sent after the share had expired.
func (d *Divider) expire(now clock.Instant) {
	asOf := d.asOf
	if !d.rules.expiry {
		asOf = now
	}
	for id, s := range d.holders {
		s.bands.expire(asOf)
		if len(s.bands) == 0 && s.at.Add(longer(d.self.Lease)).Before(now) {
			delete(d.holders, id) // it does not ask any more
		}
	}
}

// occupied returns how much of the total all holders but one may hold.
func (d *Divider) occupied(but *share) (n int) {
	for _, s := range d.holders {
		if s != but {
			n += d.heldBy(s)
		}
	}
	return n
}

func (d *Divider) heldBy(s *share) int {
	_, n := d.units(s.bands.part())
	return n
}

// units is how much of the total a part is, rounded down and up.
func (d *Divider) units(b band) (floor, ceil int) {
	if !d.rules.scale {
		return b.limit, b.limit
	}
	return b.in(d.total)
}

// capacity is how much of the total is known not to be held by one who has not come over yet.
func (d *Divider) capacity(now clock.Instant) (n int) {
	if !now.Before(d.openAt) {
		return d.total
	}
	for _, b := range d.known {
		floor, _ := d.units(b)
		n += floor
	}
	return min(n, d.total)
}

// Ask serves a request of a peer. The peer is the instance that has sent it.
func (d *Divider) Ask(peer string, q Request, now clock.Instant) (Answer, Verdict) {
	switch {
	case d.phase == over:
		return Answer{}, Over
	case d.unset:
		return Answer{}, Unset
	case !d.fresh(now):
		return Answer{}, Unread
	}
	q = q.sane()
	if q.Serial > d.self.Serial && d.rules.serial {
		d.doubt = true // it may be so: the record says
		return Answer{}, Over
	}
	d.expire(now)
	id := peer + "/" + q.Holder
	s := d.holders[id]
	came := q.Serial == d.self.Serial && q.Token == d.self.Token
	switch {
	case s == nil && len(d.holders) >= maxHolders:
		return Answer{}, Late
	case s == nil:
		s = &share{peer: peer, since: now}
		d.holders[id] = s
		if !came && q.Part > 0 && now.Before(d.openAt) {
			// It has it of an earlier master. Until when is not known.
			until := max(now.Add(longer(d.self.Lease)), d.openAt)
			s.bands = bands{{q.part().limit, q.Whole, until}}
		}
	case q.Seq <= s.seq && d.rules.order:
		return Answer{}, Late
	case s.adopted && !came && q.Token != "" && d.rules.serial:
		return Answer{}, Late
	}
	s.seq, s.request, s.at = q.Seq, q, now
	if d.rules.confirm {
		s.bands.clamp(q.Held)
	}
	if known := s.bands.part(); d.rules.says && known.above(q.part()) {
		// It has not taken what it was granted, or has let go of a larger part since.
		last := s.bands.until()
		s.bands = nil
		s.bands.push(band{q.part().limit, q.Whole, last})
	}
	s.adopted = s.adopted || came
	if came || !d.rules.adopt {
		if !d.over[id] && now.Before(d.openAt) {
			d.over[id] = true
			d.known = append(d.known, q.part())
		}
	}
	if q.Leaving {
		s.bands, s.has = nil, false
		delete(d.holders, id)
		return Answer{Seq: q.Seq, Serial: d.self.Serial, Token: d.self.Token, Total: d.total, Lease: d.self.Lease}, Granted
	}
	s.last = d.grant(s, now)
	if has := s.last.Admit > 0; has != s.has {
		s.has, s.since = has, now
	}
	lease := d.self.Lease
	if d.rules.drift {
		lease = longer(lease)
	}
	if !d.rules.confirm {
		s.bands = nil
	}
	s.bands.push(band{s.last.Keep, d.total, now.Add(lease)})
	return s.last, Granted
}

// grant returns what a holder may have from now on.
func (d *Divider) grant(s *share, now clock.Instant) Answer {
	ids, to := d.divide(now)
	target := 0
	for i, id := range ids {
		if d.holders[id] == s {
			target = to[i]
		}
	}
	// What it has it may keep, as the same part of the total: so the sum of all parts does not
	// grow, and it does not matter who else divides the rest.
	bound, _ := d.units(s.bands.part())
	if s.adopted || !now.Before(d.openAt) {
		bound = max(bound, d.capacity(now)-d.occupied(s))
	}
	bound = max(min(bound, d.total), 0)
	admit := target
	if was := s.last.Admit; admit < was && was <= admit+slack(admit) && admit > 0 && s.request.Demand >= was && !d.starves(ids, to, s) {
		admit = was
	}
	admit = min(admit, bound)
	keep := min(max(admit, s.request.Using), bound)
	return Answer{
		Seq: s.seq, Serial: d.self.Serial, Token: d.self.Token,
		Admit: admit, Keep: keep, Total: d.total, Lease: d.self.Lease,
	}
}

// divide returns the holders by id, and how much of the total each is to have.
func (d *Divider) divide(now clock.Instant) (ids []string, to []int) {
	ids = slices.Sorted(maps.Keys(d.holders))
	all := make([]claimant, len(ids))
	for i, id := range ids {
		s := d.holders[id]
		all[i] = claimant{id, s.request.Demand, s.has, s.since}
		if s.at.Add(d.self.Lease / 2).Before(now) {
			all[i].demand = 0 // it has not asked for two times: it may be gone
		}
	}
	return ids, divide(d.total, all, now)
}

// starves reports whether a holder, other than one, has much less than it should have.
func (d *Divider) starves(ids []string, to []int, but *share) bool {
	for i, id := range ids {
		if s := d.holders[id]; s != but && s.wants() && s.last.Admit < to[i] && (s.last.Admit == 0 || s.last.Admit < to[i]-slack(to[i])) {
			return true
		}
	}
	return false
}

// wants reports whether the holder could use more than it has.
func (s *share) wants() bool { return s.request.Demand > s.last.Admit }

// Nudge returns the peers that should ask soon: those that are to give something back for which
// others wait, or that can have more.
func (d *Divider) Nudge(now clock.Instant) (peers []string) {
	if !d.fresh(now) {
		return nil
	}
	d.expire(now)
	ids, to := d.divide(now)
	starves := d.starves(ids, to, nil)
	short := slices.ContainsFunc(ids, func(id string) bool { return d.holders[id].wants() })
	free := d.capacity(now) - d.occupied(nil)
	for i, id := range ids {
		s := d.holders[id]
		has := s.last.Keep
		change := s.last.Total != d.total && d.total < s.last.Total // lowered: all are to know
		switch {
		case s.wants() && s.last.Admit < to[i]:
			change = change || free > 0 && (s.adopted || !now.Before(d.openAt))
		case has > to[i] && short:
			change = change || starves || has > s.request.Demand
		}
		if change && !now.Before(s.nudged.Add(nudgeAgain)) {
			s.nudged = now
			peers = append(peers, s.peer)
		}
	}
	return peers
}

// Prompt has the record read soon: it may have changed.
func (d *Divider) Prompt() { d.doubt = true }

// Total returns the total that was read last, and false if there is none, or none was read.
func (d *Divider) Total() (int, bool) { return d.total, d.phase == reigning && !d.unset }

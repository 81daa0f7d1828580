package casauthority

import (
	"fmt"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
)

// machine is an election as one node sees it, without goroutines, clock or calls: the
// answers of the store go in, with the times at which the call was sent and the answer
// arrived. Attempts (attempt.go) decide by it.
type machine struct {
	p params
	r rules

	ttl time.Duration // of the terms that are acquired from now on

	// What the last answer showed.
	seen   bool
	value  Value
	record record
	bad    error         // why the value is no record
	at     clock.Instant // when the answer arrived
	since  clock.Instant // from when on the record is counted as unchanged
	first  clock.Instant // when an answer first showed this record, however far apart they came

	// The proofs that were learned last, the latest at the end.
	learned []learned

	// What may have been forgotten. epoch is raised each time that the series of reads
	// is broken; unsettled is when it was last, 0 if never.
	epoch            uint64
	unsettled        clock.Instant
	mayHaveForgotten bool        // no grant is known since
	highest          driver.Term // of all that was ever shown
	floor            driver.Term // granted terms are above it

	// The grant that was given here last.
	active activeGrant
	// released is the nonce of the grant whose release was begun: it is not given again.
	released string
	// founding says that the last claim knew of no cluster.
	founding bool
	// ceiling is the longest TTL that a grant may have had, as it was read last.
	ceiling time.Duration
}

// params do not change.
type params struct {
	name    string // of the provider, for errors
	key     string // of the record
	ceiling string // the key of the ceiling
	bounds  bounds
	nonce   func() string
}

// activeGrant is a grant in use.
type activeGrant struct {
	nonce string
	epoch uint64
	until clock.Instant // until then it has certainly not expired
}

func newMachine(p params, r rules, ttl time.Duration) *machine {
	return &machine{p: p, r: r, ttl: ttl, founding: true}
}

// see takes in what an answer showed. Answers may arrive in another order than the
// calls were sent.
func (m *machine) see(sent, now clock.Instant, v Value) {
	overlaps := m.seen && sent < m.at
	if overlaps && v.Incarnation == m.value.Incarnation && v.Revision < m.value.Revision {
		return // overtaken by a later one
	}
	var rec record
	var bad error
	if v.Revision != 0 {
		rec, bad = m.r.parse(m.p.bounds, v.Data)
	}
	present, was := v.Revision != 0 && bad == nil, m.seen && m.value.Revision != 0 && m.bad == nil
	switch {
	case !m.seen:
		if m.restamped(v, rec, present) {
			m.unsettle(now, rec)
		}
	case !m.r.continuous(m.value.Incarnation, v.Incarnation):
		if present && rec.Incarnation != "" && rec.Incarnation == v.Incarnation {
			m.epoch++ // a candidate has waited, and was granted in this incarnation
		} else {
			m.unsettle(now, rec)
		}
	case present && m.record.ClusterID != "" && rec.ClusterID != m.record.ClusterID:
		m.highest, m.floor = 0, 0 // an operator has replaced the cluster, and its terms
		m.unsettle(now, record{})
	case v.Revision < m.value.Revision, present && was && m.wentBack(rec):
		m.unsettle(now, rec)
	case m.unsettled == 0 && m.restamped(v, rec, present):
		m.unsettle(now, rec)
	}
	if !m.seen || !present || !was || m.unsettled == now || !m.r.alike(m.value, v, m.record, rec) ||
		!m.r.continuous(m.value.Incarnation, v.Incarnation) || now.Sub(m.at) > m.gap(rec) {
		m.since = m.r.first(sent, now)
	}
	if !present || !was || !m.r.alike(m.value, v, m.record, rec) {
		m.first = now
	}
	if at, proven := m.provenSince(now, v, rec); present && proven {
		m.since = min(m.since, at)
	}
	m.seen, m.value, m.record, m.bad, m.at = true, v, rec, bad, now
	m.highest = max(m.highest, rec.Term)
	if present && !rec.Unknown && rec.Incarnation != "" && rec.Incarnation == v.Incarnation && rec.Term == m.highest {
		m.settle() // it was granted in this incarnation, and has skipped a block if any had to
	}
}

// gap is how far apart two reads of a series may be. A store that cannot tell its
// incarnation may have forgotten what was written in between, and shows what was there
// before.
func (m *machine) gap(rec record) time.Duration {
	if rec.Holder == nil {
		return m.r.wait(m.p.bounds.max)
	}
	return m.r.wait(rec.TTL)
}

// restamped reports whether a record was granted in another incarnation than the one
// that it is found in.
func (m *machine) restamped(v Value, rec record, present bool) bool {
	return present && rec.Incarnation != "" && v.Incarnation != "" && !m.r.continuous(rec.Incarnation, v.Incarnation)
}

// wentBack reports whether a record that was read after the last one is older, or shows
// that the last one was forgotten.
func (m *machine) wentBack(rec record) bool {
	last := m.record
	if rec.before(last) {
		return true
	}
	granted := rec.Holder != nil && last.Holder != nil
	return granted && rec.Term == last.Term && rec.Nonce != last.Nonce
}

// unsettle notes that renewals and grants may have been forgotten.
func (m *machine) unsettle(now clock.Instant, rec record) {
	m.epoch++
	m.unsettled, m.mayHaveForgotten = now, true
	if highest := max(m.highest, rec.Term); highest > 0 {
		m.floor = max(m.floor, highest+termBlock)
	}
}

// settle notes that a term was granted since something may have been forgotten. It is
// above all that was.
func (m *machine) settle() { m.mayHaveForgotten, m.floor = false, m.highest }

// freeAt returns when the record that was shown last may be taken, if it does not
// change. Before the first answer, and for what is no record, that is never.
func (m *machine) freeAt() clock.Instant {
	if !m.seen || m.bad != nil || m.value.Revision == 0 {
		return never
	}
	var free clock.Instant
	switch {
	case m.record.Holder != nil:
		free = m.since.Add(m.r.wait(m.record.TTL))
	case m.record.Unknown && m.founding:
		free = m.since.Add(m.r.wait(m.r.founding(m.ttl, m.ceiling)))
	case m.record.Unknown:
		free = m.since.Add(m.r.wait(m.r.unknown(m.p.bounds.max)))
	}
	if m.unsettled != 0 {
		free = max(free, m.unsettled.Add(m.r.wait(m.r.unknown(m.p.bounds.max))))
	}
	return free
}

const never = clock.Instant(1<<63 - 1)

// mastership is what is known now, and when that changes by itself.
func (m *machine) mastership(now clock.Instant) (driver.Mastership, clock.Instant) {
	state := driver.Mastership{Term: m.record.Term, ClusterID: m.record.ClusterID}
	free := m.freeAt()
	waits := now < free
	switch {
	case !m.seen:
		return driver.Mastership{}, never
	case m.bad != nil:
		state.Term = m.highest
		state.Warning = m.unreadable().Error()
		return state, never
	case m.value.Revision == 0:
		if m.highest > 0 {
			state.Warning = fmt.Sprintf("%s: %s is gone: nobody is granted for %v", m.p.name, m.p.key, m.p.bounds.max)
			state.Withheld = state.Warning
		}
		return state, never
	case !waits:
		return state, never
	case m.record.Holder != nil:
		holder := *m.record.Holder
		state.Holder = &holder
	}
	if m.unsettledFor(now) > 0 || m.record.Unknown && !m.founding {
		// How long is left is not said: each second would be another warning.
		state.Warning = fmt.Sprintf("%s: %s was lost or went back, and nobody is granted for %v after that", m.p.name, m.p.key, m.p.bounds.max)
		if state.Holder == nil {
			state.Withheld = state.Warning
		}
	}
	return state, free
}

// unsettledFor is how long it takes from now until nothing that may have been forgotten can
// count any more, 0 if nothing can.
func (m *machine) unsettledFor(now clock.Instant) time.Duration {
	if m.unsettled == 0 {
		return 0
	}
	return max(0, m.unsettled.Add(m.r.wait(m.p.bounds.max)).Sub(now))
}

// unreadable is the error of what is no record.
func (m *machine) unreadable() error {
	return fmt.Errorf("%s: %w: %s holds %.40q (%w): nobody takes it; if nothing that you know wrote it, reset the mastership",
		m.p.name, driver.ErrInvalid, m.p.key, m.value.Data, m.bad)
}

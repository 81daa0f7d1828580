package casauthority

import (
	"cmp"
	"fmt"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
)

// acquiring is an Acquire. It reads the record; where that may be taken it reads the
// ceiling, and writes it unless it is known to be high enough; and it writes the record.
type acquiring struct {
	m     *machine
	claim driver.Claim
	ttl   time.Duration // of the grant, whatever is configured meanwhile

	began   clock.Instant
	next    func(answer) command // takes the answer that is awaited
	covered bool                 // the ceiling is not below ttl
	writing record
	epoch   uint64
}

func (t *acquiring) start(now clock.Instant) command {
	t.began, t.ttl, t.next = now, t.m.ttl, t.recordRead
	t.m.founding = !t.claim.Known && t.claim.MinTerm == 0
	switch {
	case t.claim.Holder.InstanceID == "":
		return t.m.errorf(driver.ErrInvalid, "claim without an instance id")
	default:
		return command{op: read}
	}
}

func (t *acquiring) step(a answer) command { return t.next(a) }

func (t *acquiring) recordRead(a answer) command {
	if a.err != nil {
		return failed(a.err)
	}
	t.m.see(a.sent, a.at, a.value)
	return t.decide(a.at)
}

// decide goes by what was shown last, by this attempt or by another call.
func (t *acquiring) decide(now clock.Instant) command {
	m := t.m
	t.epoch = m.epoch
	rec := m.record
	switch {
	case m.bad != nil:
		return failed(m.unreadable())
	case m.value.Revision == 0:
		return t.write(record{
			Version: layout, Nonce: m.p.nonce(), Unknown: true, Term: m.highest, Incarnation: m.value.Incarnation,
		})
	case t.claim.Known && rec.ClusterID != "" && rec.ClusterID != t.claim.ClusterID:
		return m.errorf(driver.ErrClusterMismatch, "%s records cluster id %q, this node's cluster has %q", m.p.key, rec.ClusterID, t.claim.ClusterID)
	}
	settled := m.unsettled == 0 || !now.Before(m.unsettled.Add(m.r.wait(m.r.unknown(m.p.bounds.max))))
	ours := rec.Holder != nil && rec.Holder.InstanceID == t.claim.Holder.InstanceID && settled
	switch {
	case ours && rec.Term > t.claim.MinTerm && rec.Term >= m.floor && rec.Nonce != m.released:
		if m.r.byRead() {
			m.setActive(rec, t.began)
			return m.grant(rec, t.began, now)
		}
		return t.renew(rec)
	case !ours && now.Before(m.freeAt()):
		return t.conflict(now)
	case !t.covered:
		t.next = t.ceilingRead
		return command{op: read, key: m.p.ceiling}
	}
	return t.take(rec)
}

// ceilingRead goes by the ceiling. Where a cluster is founded it is written even if it is high
// enough: only a write proves that what was read is current.
func (t *acquiring) ceilingRead(a answer) command {
	m := t.m
	if a.err != nil {
		return failed(a.err)
	}
	m.ceiling = m.p.bounds.ceiling(a.value)
	t.covered = !m.r.notes(m.ceiling, t.ttl, m.record.Unknown && m.founding)
	if t.covered || a.at.Before(m.freeAt()) {
		return t.decide(a.at)
	}
	t.next = t.ceilingWritten
	m.ceiling = max(m.ceiling, t.ttl)
	return command{op: write, key: m.p.ceiling, data: ceiling{layout, m.ceiling}.encode(), prev: a.value.Revision}
}

func (t *acquiring) ceilingWritten(a answer) command {
	switch {
	case isConflict(a.err):
		return t.m.errorf(driver.ErrConflict, "another candidate was faster")
	case a.err != nil:
		return failed(a.err)
	}
	t.covered = true
	return t.decide(a.at)
}

func (t *acquiring) write(r record) command {
	t.next, t.writing = t.recordWritten, r
	return t.m.write(r)
}

// renew continues a grant in our own name. That it was read is no proof of how long
// it counts.
func (t *acquiring) renew(rec record) command {
	return t.write(t.m.renewal(rec))
}

func (t *acquiring) take(rec record) command {
	m := t.m
	floor := m.floor
	if m.mayHaveForgotten || rec.Unknown && !m.founding {
		floor = max(floor, t.claim.MinTerm+termBlock)
	}
	term, err := m.r.next(rec.Term, t.claim.MinTerm, floor)
	if err != nil {
		return failed(fmt.Errorf("%s: acquire: %w", m.p.name, err))
	}
	holder := t.claim.Holder
	return t.write(record{
		Version: layout, ClusterID: cmp.Or(rec.ClusterID, t.claim.ClusterID), Term: term, Holder: &holder, Nonce: m.p.nonce(), TTL: t.ttl,
		Incarnation: m.value.Incarnation, Proof: m.r.proof(m.p.nonce, 0),
	})
}

func (t *acquiring) conflict(now clock.Instant) command {
	m := t.m
	if h := m.record.Holder; h != nil {
		return m.errorf(driver.ErrConflict, "%s is master with term %d", h.NodeID, m.record.Term)
	}
	return m.errorf(driver.ErrConflict, "it is not known whether there is a master: nobody is granted for %v", m.freeAt().Sub(now).Round(time.Millisecond))
}

func (t *acquiring) recordWritten(a answer) command {
	m := t.m
	switch {
	case isConflict(a.err) && !m.r.granted(a.err):
		return m.errorf(driver.ErrConflict, "another candidate was faster")
	case !m.r.granted(a.err):
		return failed(a.err)
	case a.err == nil:
		m.wrote(a, t.writing)
	}
	switch {
	case t.writing.Holder == nil:
		return t.conflict(a.at)
	case m.epoch != t.epoch:
		// It was written in another incarnation than the one in which we have waited.
		return m.errorf(driver.ErrUnavailable, "acquire: the store has changed meanwhile, and may have forgotten a grant")
	}
	m.settle()
	m.setActive(t.writing, a.sent)
	return m.grant(t.writing, t.began, a.at)
}

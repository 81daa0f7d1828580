package casauthority

import (
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
)

// renewing is a Renew: a write, and where that meets a conflict a read and another one.
type renewing struct {
	m *machine
	g driver.Grant

	began   clock.Instant
	nonce   string
	writing record // zero while a read is awaited
	tries   int
}

// maxTries bounds the writes of one attempt: the record may be annotated meanwhile.
const maxTries = 4

func (t *renewing) start(now clock.Instant) command {
	t.began = now
	own, ok := t.g.Token.(token)
	if !ok {
		return t.m.errorf(driver.ErrInvalid, "a grant that was not given here")
	}
	t.nonce = own.nonce
	if t.m.shows(t.nonce) && !t.m.r.byRead() {
		return t.again()
	}
	return command{op: read}
}

// renewal is what renews rec.
func (m *machine) renewal(rec record) record {
	rec.Renewals++
	rec.Proof = m.r.proof(m.p.nonce, rec.Renewals)
	return rec
}

// shows reports whether the last answer showed the grant with that nonce.
func (m *machine) shows(nonce string) bool {
	return m.seen && m.bad == nil && m.value.Revision != 0 && m.record.Holder != nil && m.record.Nonce == nonce
}

func (t *renewing) again() command {
	m := t.m
	t.tries++
	t.writing = m.renewal(m.record)
	if m.active.nonce == t.nonce && m.active.epoch == m.epoch && m.value.Incarnation != "" {
		t.writing.Incarnation = m.value.Incarnation // it was found to go on in this one
	}
	return m.write(t.writing)
}

func (t *renewing) step(a answer) command {
	m := t.m
	if t.writing.Nonce != "" {
		wrote := t.writing
		t.writing = record{}
		switch {
		case a.err == nil:
			m.wrote(a, wrote)
			return t.renewed(a, wrote)
		case isConflict(a.err) && t.tries < maxTries:
			return command{op: read}
		case isConflict(a.err):
			return m.errorf(driver.ErrUnavailable, "renew: the record was changed by others %d times in a row", t.tries)
		}
		return failed(a.err)
	}
	if a.err != nil {
		return failed(a.err)
	}
	m.see(a.sent, a.at, a.value)
	switch {
	case m.bad != nil:
		return failed(m.unreadable())
	case !m.shows(t.nonce):
		return m.errorf(driver.ErrSessionLost, "%s does not record term %d of this node any more", m.p.key, t.g.Term)
	case m.r.byRead():
		m.setActive(m.record, t.began)
		return m.grant(m.record, t.began, a.at)
	}
	return t.again()
}

// renewed judges a renewal that was confirmed. In a new incarnation of the store it
// counts if nobody else can have been granted before it: neither in the old one, which
// it came before the end of the grant for, nor in the new one, where others wait.
func (t *renewing) renewed(a answer, wrote record) command {
	m := t.m
	mine := m.active.nonce == t.nonce
	if mine && m.active.epoch != m.epoch && !a.at.Before(m.active.until) || !mine && m.unsettled != 0 {
		return m.errorf(driver.ErrSessionLost, "the store has changed since term %d was renewed, and may have forgotten another grant", t.g.Term)
	}
	m.setActive(wrote, a.sent)
	return m.grant(wrote, t.began, a.at)
}

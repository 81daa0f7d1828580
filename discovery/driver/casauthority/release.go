package casauthority

import (
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
)

// releasing is a Release.
type releasing struct {
	m *machine
	g driver.Grant

	nonce   string
	writing record // zero while a read is awaited
	tries   int
}

func (t *releasing) start(clock.Instant) command {
	own, ok := t.g.Token.(token)
	if !ok {
		return t.m.errorf(driver.ErrInvalid, "a grant that was not given here")
	}
	t.nonce = own.nonce
	t.m.released = own.nonce
	if t.m.shows(t.nonce) {
		return t.again()
	}
	return command{op: read}
}

func (t *releasing) again() command {
	m := t.m
	t.tries++
	t.writing = record{Version: layout, ClusterID: m.record.ClusterID, Term: m.record.Term, Nonce: m.p.nonce(), Incarnation: m.record.Incarnation}
	return m.write(t.writing)
}

func (t *releasing) step(a answer) command {
	m := t.m
	if wrote := t.writing; wrote.Nonce != "" {
		t.writing = record{}
		switch {
		case a.err == nil:
			m.wrote(a, wrote)
			return command{op: done}
		case isConflict(a.err) && t.tries < maxTries:
			return command{op: read}
		case isConflict(a.err):
			return m.errorf(driver.ErrUnavailable, "release: the record was changed by others %d times in a row", t.tries)
		}
		return failed(a.err)
	}
	if a.err != nil {
		return failed(a.err)
	}
	m.see(a.sent, a.at, a.value)
	if m.shows(t.nonce) {
		return t.again()
	}
	return command{op: done} // it is over already
}

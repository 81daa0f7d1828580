package casauthority

import (
	"fmt"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
)

// resetting is a Reset.
type resetting struct {
	m *machine
	o driver.ResetOptions

	writing  record
	recorded driver.Recorded
}

func (t *resetting) start(clock.Instant) command {
	switch {
	case t.o.ClusterID == "":
		return t.m.errorf(driver.ErrInvalid, "reset: without the new cluster id")
	case t.o.Term > driver.MaxTerm:
		return t.m.errorf(driver.ErrInvalid, "reset: term %d is out of bounds", t.o.Term)
	}
	return command{op: read}
}

func (t *resetting) step(a answer) command {
	m := t.m
	if t.writing.Nonce != "" {
		if a.err == nil {
			m.wrote(a, t.writing)
		}
		return failed(a.err)
	}
	if a.err != nil {
		return failed(a.err)
	}
	m.see(a.sent, a.at, a.value)
	rec := m.record
	t.recorded = driver.Recorded{ClusterID: rec.ClusterID, Term: rec.Term, Holder: rec.Holder}
	var err error
	switch {
	case m.bad != nil:
		t.recorded.Problems = []string{m.unreadable().Error()}
		err = fmt.Errorf("%s: reset: %w: what is recorded cannot be read, and may have a holder; force it if no node is master", m.p.name, driver.ErrConflict)
	case rec.ClusterID == t.o.ClusterID:
		return m.errorf(driver.ErrInvalid, "reset: cluster id %q is the one that is recorded", t.o.ClusterID)
	case rec.Holder != nil && a.at.Before(m.freeAt()):
		err = fmt.Errorf("%s: reset: %w: %s is recorded as master with term %d; stop it first, or force it if it is gone", m.p.name, driver.ErrConflict, rec.Holder.NodeID, rec.Term)
	}
	if err != nil && !t.o.Force || t.o.DryRun {
		if t.o.Force {
			err = nil
		}
		return failed(err)
	}
	t.writing = record{Version: layout, ClusterID: t.o.ClusterID, Term: t.o.Term, Nonce: m.p.nonce(), Incarnation: m.value.Incarnation}
	return m.write(t.writing)
}

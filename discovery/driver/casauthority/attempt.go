package casauthority

import (
	"fmt"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
)

// command is what an attempt wants next: a call to the store, or nothing more.
type command struct {
	op   op
	key  string          // empty: that of the record
	data []byte          // to write
	prev driver.Revision // that it demands

	// When it is done:
	grant driver.Grant
	err   error
}

type op int

const (
	read op = iota
	write
	done
)

// answer is that of a call to the store.
type answer struct {
	sent, at clock.Instant
	value    Value
	err      error
}

// attempt is one Acquire, Renew or Release: start says which call to make first, step
// which one after each answer.
type attempt interface {
	start(now clock.Instant) command
	step(a answer) command
}

// token is what Grant.Token holds.
type token struct{ nonce string }

func failed(err error) command { return command{op: done, err: err} }

func (m *machine) errorf(kind error, format string, args ...any) command {
	return failed(fmt.Errorf("%s: %w: %s", m.p.name, kind, fmt.Sprintf(format, args...)))
}

// write is a write on top of what was shown last.
func (m *machine) write(r record) command {
	return command{op: write, data: r.encode(), prev: m.r.prev(m.value.Revision)}
}

// wrote takes in a write that was confirmed.
func (m *machine) wrote(a answer, r record) {
	a.value.Data = r.encode()
	m.see(a.sent, a.at, a.value)
}

// setActive notes a grant that a write has confirmed.
func (m *machine) setActive(r record, sent clock.Instant) {
	m.active = activeGrant{nonce: r.Nonce, epoch: m.epoch, until: sent.Add(usable(r.TTL))}
}

func (m *machine) grant(r record, began, now clock.Instant) command {
	return command{op: done, grant: driver.Grant{
		Term: r.Term, ClusterID: r.ClusterID, ValidFor: m.r.validFor(r.TTL, m.ttl, now.Sub(began)), Token: token{r.Nonce}, Proof: r.Proof,
	}}
}

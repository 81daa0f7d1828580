package quorum

import (
	"errors"
	"sync"
	"time"

	"github.com/musterhq/muster/internal/clock"
)

// leadership is one reign of one voter over Raft. Raft elects at most one leader
// for a term. A copy of the leader's directory that runs beside it would pass for
// the leader, to Raft; the start, which is random, tells the two apart.
type leadership struct {
	id, start string
	term      uint64
}

// errPromised is why a vote is not cast.
var errPromised = errors.New("a promise to the present leader is running")

// ledger holds the promises of this voter: until a promise has ended the voter
// helps nobody, itself included, to lead a higher term. DESIGN.md shows why that
// makes a grant exclusive.
//
// The ledger outlives a restart of Raft within the process. Across processes it
// is replaced by the quiet time after a start.
type ledger struct {
	now func() clock.Instant

	mu       sync.Mutex
	promises map[leadership]promise
	voted    uint64 // the highest term in which this voter has voted
}

type promise struct {
	until clock.Instant
	// round is the highest one for which the promise was given.
	round uint64
	// withdrawn is the highest round that the leader took back: a request of an
	// earlier round that was held up on the way must not bring the promise back.
	withdrawn uint64
}

func newLedger(now func() clock.Instant) *ledger {
	return &ledger{now: now, promises: make(map[leadership]promise)}
}

// give promises l not to vote for a higher term for the duration d from now on,
// and reports whether it did. It does only while currentTerm is l's: a voter
// that has moved on may have voted already. currentTerm is called under the lock
// that vote takes, after the voter has moved on: whichever of the two comes
// first is seen by the other.
func (g *ledger) give(l leadership, round uint64, d time.Duration, currentTerm func() uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if currentTerm() != l.term || l.term < g.voted {
		return false
	}
	now := g.now()
	g.forget(now, l.term)
	for other := range g.promises {
		if other.term == l.term && other != l {
			return false // at most one of the two can have been elected
		}
	}
	p := g.promises[l]
	if round <= p.withdrawn {
		return false
	}
	p.round = max(p.round, round)
	if until := now.Add(d); p.until.Before(until) {
		p.until = until
	}
	g.promises[l] = p
	return true
}

// withdraw ends the promise to l of this round and of all earlier ones. A
// withdrawal that was held up on the way does not end what was promised since.
func (g *ledger) withdraw(l leadership, round uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.promises[l]
	p.withdrawn = max(p.withdrawn, round)
	if p.round <= round {
		p.until = 0
	}
	g.promises[l] = p
}

// vote returns errPromised while a promise is running, and otherwise notes that the
// voter votes in term: it promises nothing for a lower one any more, even should
// Raft's term fall back. A voter calls it after it has taken up the term and before
// its vote counts.
func (g *ledger) vote(term uint64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.longest() > 0 {
		return errPromised
	}
	g.voted = max(g.voted, term)
	return nil
}

// hasVoted notes a vote of which the disk tells.
func (g *ledger) hasVoted(term uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.voted = max(g.voted, term)
}

// remaining is how long the longest promise still runs.
func (g *ledger) remaining() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.longest()
}

// longest is remaining, for those that hold the lock.
func (g *ledger) longest() time.Duration {
	var most time.Duration
	now := g.now()
	for _, p := range g.promises {
		most = max(most, p.until.Sub(now))
	}
	return most
}

// forget drops what can no longer matter: promises that have ended and, as rounds
// are counted within a leadership, belong to an earlier term.
func (g *ledger) forget(now clock.Instant, term uint64) {
	for l, p := range g.promises {
		if l.term < term && !now.Before(p.until) {
			delete(g.promises, l)
		}
	}
}

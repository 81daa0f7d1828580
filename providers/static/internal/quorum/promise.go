package quorum

import (
	"errors"
	"sync"
	"time"

	"github.com/musterhq/muster/internal/clock"
)

// leadership is one reign of one voter over Raft. Raft elects at most one leader
// for a term.
type leadership struct {
	id   string
	term uint64
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
}

type promise struct {
	until clock.Instant
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
// that mayVote takes, after the voter has moved on: whichever of the two comes
// first is seen by the other.
func (g *ledger) give(l leadership, round uint64, d time.Duration, currentTerm func() uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if currentTerm() != l.term {
		return false
	}
	now := g.now()
	g.forget(now, l.term)
	p := g.promises[l]
	if round <= p.withdrawn {
		return false
	}
	if until := now.Add(d); p.until.Before(until) {
		p.until = until
	}
	g.promises[l] = p
	return true
}

// withdraw ends the promise to l, of this and of all earlier rounds.
func (g *ledger) withdraw(l leadership, round uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.promises[l] = promise{withdrawn: max(round, g.promises[l].withdrawn)}
}

// mayVote returns errPromised while a promise is running. A voter calls it after
// it has taken up the higher term and before its vote counts.
func (g *ledger) mayVote() error {
	if g.remaining() > 0 {
		return errPromised
	}
	return nil
}

// remaining is how long the longest promise still runs.
func (g *ledger) remaining() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
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

package votelease

import (
	"crypto/rand"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/musterhq/muster/internal/clock"
)

// Leadership is the time in which one process leads one term of Raft. Raft elects at most one
// leader for a term. To Raft a copy of the leader's directory that runs at the same time is the
// same leader. Start, which is random for each process, distinguishes the two.
type Leadership struct {
	ID, Start string
	Term      uint64
}

// ErrLeased is why a vote is not cast.
var ErrLeased = errors.New("a vote lease to the present leader is running")

// Table has the leases that this voter gave. Until they have ended the voter votes for no
// candidate, itself included, in a higher term.
//
// A Table outlives a restart of Raft within the process. After a restart of the process, keeping
// quiet replaces it: see the package comment. Its methods do not block.
type Table struct {
	now func() clock.Instant
	// Start is random: it distinguishes this process from every other that runs as this voter.
	Start string
	// rounds numbers what this voter asks of others as their leader.
	rounds atomic.Uint64

	mu     sync.Mutex
	leases map[Leadership]lease
	voted  uint64 // the highest term in which this voter has voted
}

// lease is the last lease that a leadership was given.
type lease struct {
	until clock.Instant
	// round is the highest one for which it was given.
	round uint64
	// revoked is the highest round that the leader revoked. A request of an earlier round that
	// arrives late does not bring the lease back.
	revoked uint64
}

// NewTable returns an empty table that reads the time from now.
func NewTable(now func() clock.Instant) *Table {
	return &Table{now: now, Start: rand.Text(), leases: make(map[Leadership]lease)}
}

// NextRound returns the number of a new round of requests, of which each is higher than the
// last.
func (g *Table) NextRound() uint64 { return g.rounds.Add(1) }

// give gives l a lease for d from now on, and reports whether it did. It does so only while
// currentTerm returns l's term, as a voter in a higher term may have voted in it. currentTerm is
// called under the lock that vote takes, and a voter calls vote after it has taken up the higher
// term: the later of the two sees the effect of the earlier.
func (g *Table) give(l Leadership, round uint64, d time.Duration, currentTerm func() uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if currentTerm() != l.Term || l.Term < g.voted {
		return false
	}
	now := g.now()
	g.forget(now, l.Term)
	for other := range g.leases {
		if other.Term == l.Term && other != l {
			return false // at most one of the two can have been elected
		}
	}
	p := g.leases[l]
	if round <= p.revoked {
		return false
	}
	if d > 0 { // or it is no lease, and must not keep an earlier one from being revoked
		p.round = max(p.round, round)
	}
	if until := now.Add(d); p.until.Before(until) {
		p.until = until
	}
	g.leases[l] = p
	return true
}

// Revoke ends the lease of l that was given for round or an earlier one, and voids requests of
// those rounds that arrive later. A lease of a later round stays.
func (g *Table) Revoke(l Leadership, round uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.leases[l]
	p.revoked = max(p.revoked, round)
	if p.round <= round {
		p.until = 0
	}
	g.leases[l] = p
}

// vote returns ErrLeased while a lease is running, and otherwise notes that the voter votes in
// term: it gives no lease for a lower one from then on, even if Raft's own term falls back. A
// voter calls it after it has taken up the term and before its vote counts.
func (g *Table) vote(term uint64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.longest() > 0 {
		return ErrLeased
	}
	g.voted = max(g.voted, term)
	return nil
}

// hasVoted notes that the disk has a vote in term.
func (g *Table) hasVoted(term uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.voted = max(g.voted, term)
}

// Remaining returns how long the longest lease still runs, and 0 if none does.
func (g *Table) Remaining() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.longest()
}

// longest is Remaining for callers that hold the lock. It is never negative.
func (g *Table) longest() time.Duration {
	var most time.Duration
	now := g.now()
	for _, p := range g.leases {
		most = max(most, p.until.Sub(now))
	}
	return most
}

// forget drops leases of earlier terms than term that have ended. Those of term stay, since they
// say which rounds were revoked.
func (g *Table) forget(now clock.Instant, term uint64) {
	for l, p := range g.leases {
		if l.Term < term && !now.Before(p.until) {
			delete(g.leases, l)
		}
	}
}

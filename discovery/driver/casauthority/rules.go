package casauthority

import (
	"errors"
	"fmt"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
)

const (
	// driftDivisor is that of ρ = 1 %, and margin is ε, as in package node/mastership:
	// clocks are trusted to run between 0.99 and 1.01 times the true rate, and what is no
	// matter of rate is covered by the margin.
	driftDivisor = 100
	margin       = 50 * time.Millisecond

	// termBlock is what terms skip where some may have been granted and forgotten.
	termBlock driver.Term = 1000
)

// rules are the decisions that safety rests on, one function each. There is one sound
// set. The tests replace one at a time to show that the checker notices.
type rules struct {
	// wait is how long the record of a holder is shown unchanged before it has expired.
	wait func(ttl time.Duration) time.Duration
	// first is the moment from which a record that an answer showed first is counted.
	first func(sent, answered clock.Instant) clock.Instant
	// proof is what a write of the holder is known by.
	proof func(random func() string, renewals uint64) string
	// alike says whether a record is the one that was shown before, unchanged.
	alike func(before, now Value, a, b record) bool
	// validFor is how long a grant is valid from before the call was sent.
	validFor func(recorded, configured, took time.Duration) time.Duration
	// byRead says whether a record in our own name that was only read is a grant.
	byRead func() bool
	// granted says whether a write with that outcome counts.
	granted func(err error) bool
	// prev is the revision that a write demands.
	prev func(read driver.Revision) driver.Revision
	// continuous says whether a series of reads goes on, and a grant with it.
	continuous func(before, now string) bool
	// unknown is the TTL to allow for a holder that nothing is known of.
	unknown func(longest time.Duration) time.Duration
	// founding is the same where a cluster is founded: own is the TTL of who founds it.
	founding func(own, ceiling time.Duration) time.Duration
	// notes says whether the ceiling is written before a grant.
	notes func(ceiling, own time.Duration, founding bool) bool
	// parse reads a record.
	parse func(b bounds, data []byte) (record, error)
	// next is the term to grant.
	next func(recorded, minTerm, floor driver.Term) (driver.Term, error)
}

func soundRules() rules {
	return rules{
		// The holder may count too slowly by ρ while we count too fast by ρ.
		wait: func(ttl time.Duration) time.Duration { return ttl + 2*ttl/driftDivisor + margin },
		// It did not exist before the holder's write was sent, but may have been written
		// after our read was.
		first: func(_, answered clock.Instant) clock.Instant { return answered },
		// Nobody can guess it, and announce it before the write was sent.
		proof: func(random func() string, _ uint64) string { return random() },
		// The revision changes by any write; only the record itself is a sign of life.
		alike: func(_, _ Value, a, b record) bool { return a.same(b) },
		// Others go by what is recorded.
		validFor: func(recorded, _, _ time.Duration) time.Duration { return recorded },
		// What was read was written some time ago, and others have counted since.
		byRead: func() bool { return false },
		// A conflict says that the write did not happen, whatever the record is now.
		granted: func(err error) bool { return err == nil },
		prev:    func(read driver.Revision) driver.Revision { return read },
		// Another incarnation may have forgotten what was confirmed.
		continuous: func(before, now string) bool { return before == now },
		unknown:    func(longest time.Duration) time.Duration { return longest },
		// Who knows of no cluster has the ceiling to go by, which outlives the record.
		founding: func(own, ceiling time.Duration) time.Duration { return max(own, ceiling) },
		notes:    func(ceiling, own time.Duration, founding bool) bool { return founding || own > ceiling },
		parse:    bounds.parse,
		next: func(recorded, minTerm, floor driver.Term) (driver.Term, error) {
			next := max(recorded, minTerm, floor) + 1
			if minTerm > driver.MaxTerm || next > driver.MaxTerm {
				return 0, fmt.Errorf("%w: after the recorded term %d and the announced term %d the next one is out of bounds", driver.ErrInvalid, recorded, minTerm)
			}
			return next, nil
		},
	}
}

// usable is how long a holder may count on a grant, as package node/mastership does.
func usable(ttl time.Duration) time.Duration { return ttl - 2*ttl/driftDivisor - margin }

func isConflict(err error) bool { return errors.Is(err, driver.ErrConflict) }

package mastership

import (
	"fmt"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
)

const (
	// driftDivisor stands for ρ = 1 %: clocks are trusted to run between 0.99 and
	// 1.01 times the true rate. Two clocks may differ by twice that.
	driftDivisor = 100
	// margin is ε: it covers what is not a matter of rate, such as the steps of a
	// coarse clock.
	margin = 50 * time.Millisecond
)

// rules are the decisions that safety rests on, one function each. There is one
// sound set. The tests replace one at a time to show that the checker notices.
type rules struct {
	// deadline is until when a grant may be used.
	deadline func(sent, answered clock.Instant, validFor time.Duration) clock.Instant
	// holds is asked at each use, and before anything else is done.
	holds func(now, deadline clock.Instant) bool
	// granted says whether the answer to an Acquire is a grant, and which.
	granted func(a answer) (driver.Grant, bool)
	// fresh says whether a granted term may be made active.
	fresh func(granted, ended, highest driver.Term) bool
	// releasable says whether a grant may be given back.
	releasable func(drained bool) bool
}

// answer is what is known of a call when it has returned.
type answer struct {
	claim driver.Claim
	grant driver.Grant
	err   error
}

func soundRules() rules {
	return rules{
		// Counted from before the call was sent: the authority cannot have begun to
		// count earlier. It may count too fast by ρ while we count too slowly by ρ.
		deadline: func(sent, _ clock.Instant, validFor time.Duration) clock.Instant {
			return sent.Add(usable(validFor))
		},
		// A timer may fire late by any amount, after SIGSTOP or a suspended machine.
		holds: func(now, deadline clock.Instant) bool { return now.Before(deadline) },
		// What was not confirmed was not granted.
		granted: func(a answer) (driver.Grant, bool) { return a.grant, a.err == nil },
		// A term that has ended here never begins again, even where the authority
		// still has the old grant: somebody may have acted on its end, and a release
		// of it may still be on its way.
		fresh: func(granted, ended, highest driver.Term) bool {
			return granted > ended && granted >= highest
		},
		// A successor must not start while our functions still act.
		releasable: func(drained bool) bool { return drained },
	}
}

// usable is how much of a grant's validity may be used.
func usable(validFor time.Duration) time.Duration {
	return validFor - 2*validFor/driftDivisor - margin
}

// plan is how the validity of a grant is divided: the first renewal, two calls
// that fail, and the drain fit in before the deadline.
type plan struct {
	validFor    time.Duration
	renewEvery  time.Duration // from send to send
	callTimeout time.Duration
	drain       time.Duration // between the soft and the hard deadline
}

// planFor divides validFor. The drain gets what was asked for, but at most a
// quarter, and no more than what is left; the error says that a grant is too
// short to be renewed in time.
func planFor(validFor, drain time.Duration) (plan, error) {
	p := plan{validFor: validFor, renewEvery: validFor / 3, callTimeout: validFor / 5}
	spare := usable(validFor) - p.renewEvery - 2*p.callTimeout
	if spare <= 0 {
		return plan{}, fmt.Errorf("%w: a mastership that is valid for %v cannot be renewed in time: "+
			"%v of it can be used, and a renewal every %v with two failed calls of %v takes more; want a ttl of at least %v",
			driver.ErrInvalid, validFor, usable(validFor), p.renewEvery, p.callTimeout, minValidFor)
	}
	p.drain = min(drain, validFor/4, spare)
	return p, nil
}

// minValidFor is the shortest validity that planFor accepts, rounded up:
// validFor (1 - 2ρ - 1/3 - 2/5) > ε.
const minValidFor = 210 * time.Millisecond

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

// deadline is the moment up to which a grant counts. It is counted from before the call was sent:
// the authority cannot have begun to count earlier. It may count too fast by ρ while we count
// too slowly by ρ.
func deadline(sent clock.Instant, validFor time.Duration) clock.Instant {
	return sent.Add(usable(validFor))
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

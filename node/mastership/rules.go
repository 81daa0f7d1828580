package mastership

import (
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
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
	fresh func(granted, ended, proven driver.Term) bool
	// releasable says whether a grant may be released.
	releasable func(drained bool) bool

	// names says whether who is recorded is to be named master, given that it has announced
	// that it is active.
	names func(claimed bool) bool

	// What is heard decides nothing. These are the rules for that.

	// plausible says whether a term that was announced can be one of this cluster.
	plausible func(heard, proven driver.Term) bool
	// ends says whether an announced term ends a mastership.
	ends func(heard, own driver.Term) bool
	// yields says until when a vacancy is left alone for a master of which only gossip
	// tells.
	yields func(heardUntil, most clock.Instant) clock.Instant
	// adopts says whether a cluster id that was announced counts as one that the authority
	// has shown.
	adopts func() bool
}

// answer is what is known of a call when it has returned.
type answer struct {
	claim driver.Claim
	grant driver.Grant
	err   error
}

func soundRules() rules {
	return rules{
		deadline: func(sent, _ clock.Instant, validFor time.Duration) clock.Instant { return deadline(sent, validFor) },
		// A timer may fire late by any amount, after SIGSTOP or a suspended machine.
		holds: func(now, deadline clock.Instant) bool { return now.Before(deadline) },
		// What was not confirmed was not granted.
		granted: func(a answer) (driver.Grant, bool) { return a.grant, a.err == nil },
		// A term that has ended here never begins again, even where the authority
		// still has the old grant: another node may have acted on its end, and a release
		// of it may still be on its way.
		fresh: func(granted, ended, proven driver.Term) bool {
			return granted > ended && granted >= proven
		},
		// A successor must not start while our functions still act.
		releasable: func(drained bool) bool { return drained },
		// Who was granted may never use it, as where the answer was lost.
		names: func(claimed bool) bool { return claimed },
		// Whatever is announced, the terms last: each claim can be raised by one step.
		plausible: func(heard, proven driver.Term) bool { return heard <= proven || heard-proven <= heardStep },
		// The authority is asked, and decides.
		ends: func(driver.Term, driver.Term) bool { return false },
		// Others can repeat that for as long as they like.
		yields: func(heardUntil, most clock.Instant) clock.Instant { return min(heardUntil, most) },
		// It is proposed to an authority that records none, and gives way to one that does.
		adopts: func() bool { return false },
	}
}

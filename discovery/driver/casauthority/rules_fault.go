//go:build musterfault

package casauthority

import (
	"os"
	"time"

	"github.com/musterhq/muster/internal/clock"
)

// FaultVariable breaks one of the rules that safety rests on, in programs that are
// built with the tag musterfault: they show that attacks on real processes would
// notice.
const FaultVariable = "MUSTER_FAULT_RECORD"

func rulesInForce() rules {
	r := soundRules()
	switch broken := os.Getenv(FaultVariable); broken {
	case "":
	case "expired-at-once":
		r.wait = func(time.Duration) time.Duration { return 0 }
	case "counted-by-term":
		r.alike = func(_, _ Value, a, b record) bool { return a.Term == b.Term && a.Nonce == b.Nonce }
	case "extended-by-read":
		r.byRead = func() bool { return true }
	case "counted-from-before-the-read":
		r.first = func(sent, _ clock.Instant) clock.Instant { return sent }
	case "counted-from-receipt":
		r.validFor = func(recorded, _, took time.Duration) time.Duration { return recorded + took }
	case "absence-is-a-vacancy":
		r.unknown = func(time.Duration) time.Duration { return 0 }
	case "ceiling-ignored":
		r.founding = func(own, _ time.Duration) time.Duration { return own }
	case "any-ttl-believed":
		r.parse = func(_ bounds, data []byte) (record, error) { return bounds{-1 << 62, 1 << 62}.parse(data) }
	default:
		panic("casauthority: " + FaultVariable + ": no such rule: " + broken)
	}
	return r
}

//go:build musterfault

package mastership

import (
	"errors"
	"os"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
)

// FaultVariable breaks one of the rules that safety rests on, in programs that are
// built with the tag musterfault: they show that attacks on real processes would
// notice.
const FaultVariable = "MUSTER_FAULT_RULE"

func rulesInForce() rules {
	r := soundRules()
	switch broken := os.Getenv(FaultVariable); broken {
	case "":
	case "deadline-from-receipt":
		r.deadline = func(_, answered clock.Instant, validFor time.Duration) clock.Instant {
			return answered.Add(usable(validFor))
		}
	case "no-check-at-use":
		r.holds = func(_, deadline clock.Instant) bool { return deadline != ended }
	case "phantom-grant":
		r.granted = func(a answer) (driver.Grant, bool) {
			if errors.Is(a.err, driver.ErrUnavailable) {
				return driver.Grant{Term: a.claim.MinTerm + 1, ClusterID: a.claim.ClusterID, ValidFor: 2 * time.Second}, true
			}
			return a.grant, a.err == nil
		}
	case "released-before-drain":
		r.releasable = func(bool) bool { return true }
	case "named-by-the-record":
		r.names = func(bool) bool { return true }
	default:
		panic("mastership: " + FaultVariable + ": no such rule: " + broken)
	}
	return r
}

//go:build musterfault

package call

import "os"

// FaultVariable breaks one of the rules of calls, in programs that are built with the tag
// musterfault: they show that attacks on real processes would notice.
const FaultVariable = "MUSTER_FAULT_CALL"

func rulesInForce() rules {
	r := soundRules()
	switch broken := os.Getenv(FaultVariable); broken {
	case "":
	case "dial-by-address":
		r.instance = false
	case "retry-after-send":
		r.once = false
	case "deadline-not-propagated":
		r.deadline = false
	case "grant-not-checked":
		r.check = false
	default:
		panic("call: " + FaultVariable + ": no such rule: " + broken)
	}
	return r
}

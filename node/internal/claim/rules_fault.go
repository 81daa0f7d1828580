//go:build musterfault

package claim

import "os"

// FaultVariable breaks one of the rules of claims, in programs that are built with the tag
// musterfault: they show that attacks on real processes would notice.
const FaultVariable = "MUSTER_FAULT_CLAIM"

func rulesInForce() rules {
	r := soundRules()
	switch broken := os.Getenv(FaultVariable); broken {
	case "":
	case "deadline-not-watched":
		r.deadline = false
	case "not-fenced-by-the-term":
		r.fence, r.compare = false, false
	default:
		panic("claim: " + FaultVariable + ": no such rule: " + broken)
	}
	return r
}

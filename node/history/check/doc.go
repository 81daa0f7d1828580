// Package check says of the histories that the nodes of a cluster kept (package node/history)
// whether the promises of mastership held. `muster history` runs it over a user's incident, and
// the project's own tests run it over each of theirs.
//
// [Check] verifies, and names in each [Violation]:
//
//	I1   a term belongs to one mastership, ever
//	I2   no two masterships at a time
//	I4   terms rise
//	I6   a mastership is renewed, and ends, before its deadline
//	I7   beginnings and ends of masterships alternate
//	I8   what a node knows of the master only goes on to later terms
//	I10  one cluster id, ever
//	I12  who is named master was active in that term before
//
// The numbers that are missing are of promises that no history shows: package
// internal/testing/checker verifies them with what a test knows in addition.
//
// # Several hosts
//
// Times of one boot clock are compared as they are. Those of two hosts are not: their clocks have
// nothing in common, and wall clocks may be wrong. What ties them together is what was said before
// it was heard: a reading of the master's clock that another node received (history.Heard), and
// the beginning of a mastership that another node learned of. Each says that a moment of one clock
// was not later than a moment of another. Clocks run at the right rate within 1 %, which
// mastership assumes as well: so a moment shortly before or after is known nearly as well.
//
// [Report.TwoMasters] is [No] only if it follows from this: each mastership was over before the
// next one began. It is [Yes] only if two overlapped: where the end of one is not on record, that
// is up to its last renewal. Else it is [Unknown], and [Report.Undecided] says why.
//
// It assumes that members report their clocks truthfully, and that a history which ends without a
// stop is that of a process that was killed, unless another node heard from it later.
package check

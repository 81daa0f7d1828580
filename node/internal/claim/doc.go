// Package claim has one thing done by one node at a time, and recorded: a step of an upgrade,
// or a fire of a job.
//
// A record is claimed by compare-and-set, then the work runs, then its end is recorded by
// compare-and-set. The record carries the term of the claim: a node of a later term may claim
// what an earlier one left unfinished, and the earlier one cannot record an end any more.
//
// # What is promised
//
//   - Work starts only after its claim was recorded, by a node that was master at that moment.
//   - What is recorded as done was run to its end, by the node whose claim was the last one.
//   - What was claimed and has no end is interrupted: it runs again only if Goal.Restart says
//     that it may, and then in a later term.
//   - A claim whose answer was lost is found again by its token, also if it reaches the store
//     late: nothing runs twice and nothing is left behind because of it.
//   - A claim that comes too late, since the node is not master any more or the work not wanted, is
//     given back: what was recorded before is recorded again, unless the node dies first.
//
// # What it rests on
//
// On a Ledger whose Set is atomic and which forgets nothing. One that was wiped, or restored
// from before a claim, has the work run again: the only cure is a ledger that is in the
// database which the work changes.
//
// # What is not promised
//
// A node that was paused after its claim acts late when it goes on, until it looks at its
// context. The term of the claim is what protects the outside from it.
//
// # How it is built and tested
//
// Machine is the protocol, without goroutines, clock or calls: answers go in, commands come
// out. Do runs it over a Ledger. The tests run thousands of random histories of it with
// crashes, pauses, lost and late answers and masters in sequence, and show that the checker
// notices what goes wrong if a rule is broken.
package claim

// Package votelease makes the leader of a Raft group the only one for a time that it knows.
//
// Raft elects at most one leader for each of its terms, but a leader does not learn at once that
// a later term has another. A vote lease closes that gap: it is a voter's promise to its leader
// not to vote in a higher term before the lease ends. While a majority of the voters has given
// one, no other leader is elected.
//
// A voter gives a lease (leader, term, duration) only while its own term is exactly that one. The
// lease begins when the voter gives it, which is after the request was sent, and the leader counts
// from before it sent the request. Answers may take any time: nothing is counted from a receipt.
//
// # Claim
//
// If a majority Q of the voters gave the leader L of term T leases that began after moment t and
// last d, and L has revoked none of them, no leader of a higher term is elected before t + d, on
// clocks that run at the same rate.
//
// Proof. A leader of a term T' > T needs the votes of a majority Q', cast in T'. Q and Q' have a
// voter v in common. If v's vote came before its lease, v was in term T' or a higher one when it
// was asked for L's lease, and did not give it: a voter takes up a term before it votes in
// it, and gives leases only in its present one. So the vote came after the lease was given, and a
// voter does not vote while a lease of its own is running. ∎
//
// A leader that steps down revokes its leases, so that the next one need not wait for them. Leases
// are given in rounds: a request of a round that was revoked is refused, however late it comes.
//
// # What upholds it
//
//   - [Table] has the leases that a voter gave. Its lock decides between giving a lease in a term
//     and voting in a higher one. It gives leases in the voter's present term only.
//   - [Store] is where a voter's Raft writes each vote before it counts. A vote is not written
//     while a lease is running.
//   - [Participant] gives leases, collects them from a majority and revokes them.
//   - [Guard] is Raft's transport. It makes elections succeed as soon as they may, and saves
//     heartbeats that a lease replaces. Safety does not depend on it.
//
// # What the user of the package must do
//
//   - A voter that restarts has forgotten what it gave. It keeps out of Raft for the longest lease
//     that it may have given. The user writes that duration to disk before the voter gives one of
//     that length.
//   - A voter that has lost its disk takes part under another id only.
//   - The configuration of Raft changes by one voter at a time, so that the majorities in the proof
//     have a voter in common: at least two of the longest leases apart, as those of a list before
//     the last one have then expired (providers/static/DESIGN.md).
//   - A holder of leases that may be stopped and continued reads the clock before it acts.
package votelease

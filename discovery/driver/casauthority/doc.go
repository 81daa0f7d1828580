// Package casauthority turns any store that can compare and set into a
// [driver.Authority] and a [driver.Store]. It is for authors of providers: a
// database, an object store, the API of Kubernetes, the KV store of Consul.
//
// A provider implements [Store] (read, compare-and-set, list), and
// optionally [Watcher], and calls [New]. Nothing else is needed: no lease, no lock,
// no session and no clock of the store.
//
// # The record
//
// One record per election, changed only by compare-and-set on its revision, and read
// linearizably: cluster id, term, holder or none, a nonce, the TTL, a count of renewals,
// and a proof, which is random and new with each write of the holder. The longest TTL that any
// grant has had is at a key beside it, for the case that the record is deleted.
//
//   - Acquire, of a record without a holder or whose holder has expired for this
//     node, writes the next term, this node as the holder and a fresh nonce.
//   - Renew writes the next count of renewals. The grant is valid for the TTL from
//     before that write was sent. Reading extends nothing, and a renewal creates
//     nothing.
//   - Release writes a record without a holder. The record stays, so that the term
//     never goes back.
//
// A holder has expired for this node when one and the same record (term, nonce and
// renewals) was shown to it for ttl (1 + 2ρ) + ε, with ρ = 1 % and ε = 50 ms, counted
// from when the answer arrived that showed it first, or from when this node had
// learned of its proof. The revision is for compare-and-set alone: an unrelated write
// changes it and is no sign of life.
//
// The holder announces the proof of each write that was confirmed ([driver.Grant].Proof),
// and the others hand it to their authority ([driver.Learner]). So a candidate does not
// need to have read the record before the holder failed: when the announcements stop it
// reads, finds the proof that it has learned last, and counts from then.
//
// # Why two grants never overlap
//
// A holder counts from before its last successful write was sent. What that wrote did
// not exist before, so that a candidate sees it later and waits for longer; and the
// candidate's own write succeeds only if no renewal came in between. A candidate that
// was paused between deciding and writing is caught by the revision. A stale read makes it
// wait longer or fail: linearizable reads are for the records and for quick failovers. No
// clock is compared with another, only their rates matter. The candidate allows for clocks
// that are off by ρ in opposite directions, and so does the holder (package mastership), so
// that either may be off alone.
//
// A proof that was learned says the same as an answer. It did not exist before the
// holder's write was begun, so that a node that knows it learned it after that. It is random, so
// that no message can contain it earlier. And it counts only once an answer shows it in
// the record: then the holder has written nothing since. A message that is late, repeated
// or forged can only make a candidate wait for longer. Only the latest proof counts.
//
// While the others announce that the holder is alive ([driver.Suspecter]) the record is read
// once a minute. Two such reads that show the same record, or a proof that is the latest for
// longer than a TTL, are reason to read closely, whatever is announced.
//
// # A store that forgets
//
// A store that fails over to a standby which lags behind, or is restored from a
// backup, may have forgotten renewals, and even grants. So a holder's silence is
// counted only in an unbroken series of reads of one incarnation of the store
// ([Value].Incarnation), in which a store that tells none leaves no gap longer than the TTL. On
// a new incarnation, and on a record that went back to an older state, every candidate waits
// for the longest permitted TTL ([Config].MaxTTL), which all nodes must have alike, and the next
// term skips a block of 1,000, so that none of the last 1,000 terms that were granted and
// forgotten is granted again. A holder continues if its write in the
// new incarnation is confirmed before its grant has expired: until then no other can
// have been granted.
//
// What a store cannot tell is outside of the promise. If it reports no incarnation, a
// store that forgot is noticed only by a node that saw what was forgotten.
//
// # A record that was deleted
//
// Absence is an unknown holder: a record that says so is written, and waited for. A claim that
// knows of the cluster ([driver.Claim] with a known id or term) waits for the longest permitted
// TTL. One that founds a cluster has nothing to compare, and a first formation must not take that
// long. It waits for its own TTL, or for the longest that any grant of the election has had if that
// is longer: before each grant with a longer TTL than any before, that is written to a key beside
// the record, the ceiling. A claim that founds writes it in any case, which proves that it read the
// current value.
//
// So to delete the record of a cluster by hand never makes two masters. Where the
// ceiling is deleted too, or the store emptied, and it has no incarnation, a claim that
// founds a cluster waits for its own TTL alone: stop the nodes first, or wait for as long
// as their TTL.
//
// # What is unreadable
//
// A record that cannot be read, or whose term or TTL is out of bounds, has no holder and is not
// acquired: [driver.Mastership].Warning says so, and Reset replaces it.
//
// # Several elections
//
// [Config].Election names an election within a cluster, as one per shard or role. Each
// has a record, and with it a term, of its own.
//
// # How it is built and tested
//
// The algorithm is a machine without goroutines, clock or calls (machine.go, and a file for each
// attempt): answers and the time go in, the next call comes out. The tests run 500 random
// histories, or as many as they are asked for, of several machines in virtual time, over a store
// that is slow, loses answers, reads stale, fails over, is restored, emptied and edited by hand.
// Careless variants of the rules show that the checker would notice.
//
//	go test ./discovery/driver/casauthority -run 'TestModel$' -seeds 100000
//	go test ./discovery/driver/casauthority -run 'TestModel$' -seed 42 -v
package casauthority

// Package mastership elects one master of a cluster, and reports on every node who it
// is.
//
// An [Elector] acquires a grant of a [driver.Authority] on behalf of one node,
// renews it, releases it in good order, and serves the application by
// [Elector.WhileMaster], [Elector.Check] and [Elector.Watch]. The authority alone
// decides which node becomes master: by a lease in a store, or by a vote.
// This package infers nothing from silence, from membership or from the order of starts.
//
// It is usable without package node: open an authority, make an Elector with [New], give
// it [Conditions], and call [Elector.Run].
//
// # What is promised
//
// At most one node is master at any time, and each mastership has a [driver.Term]
// that is higher than every one before it. "Is master" means that Check of that
// node would return a token if it were called at that moment.
//
// A node counts on a grant until its deadline:
//
//	time before the call was sent + validity (1 - 2ρ) - ε    ρ = 1 %, ε = 50 ms
//
// The authority begins to count after the call was sent, so the grant does not expire there
// before this deadline, as long as its clock and ours run within ρ of the true rate. Only
// rates matter: setting a wall clock has no effect. The clock is Config.Clock, which counts
// while the machine is suspended.
//
// Check compares the clock with the deadline when it is called. It does not rely on
// a timer that might fire late, on an answer that might hang, or on any goroutine
// of this package being alive. A mastership whose deadline has passed has ended for
// good, even if a renewal of it is answered a moment later.
//
// When a mastership ends, Check fails before anything else happens. Then the status says so,
// the contexts of WhileMaster end and Config.Observer is called, in no order to rely on. A grant
// that has not expired and was not lost is released, and only after the functions of WhileMaster
// have returned.
//
// If functions have not returned within the drain timeout, the grant is not released but
// left to expire. They may still act, and only while the grant is valid can there be no
// successor beside them. For the same reason the grant is renewed while functions drain.
//
// What other nodes announce is hearsay, and ends no mastership:
//
//   - An announcement of a higher term, or one that claims the master's own term, makes the
//     master ask the authority, which decides. It asks at once, and at most twice as often as
//     it renews anyway.
//   - It may raise the next claim, so that terms rise above what members remember even if the
//     store was wiped. It raises it by no more than 2^32 above what the authority has shown:
//     no message can use up the terms.
//   - The cluster id that it carries is proposed to an authority that records none, and gives
//     way to the id that the authority shows.
//   - If it names a master that the authority does not know of, it delays a candidate: for
//     each vacancy by no more than twice the TTL, or 15 s if that is more.
//   - It names a master as alive, so that the others look at the authority rarely. An authority
//     whose record shows no renewal is looked at closely all the same. Over casauthority the
//     announcements of a hostile member, for a master that is gone, delay a failover by two
//     minutes at most.
//   - Its proof is handed to the authority, which believes no more than its record shows
//     ([driver.Learner]).
//   - Once the authority has shown a term, what is absurd or of another cluster is ignored, counted
//     in [Status.Hearsay] and logged with the node that announced it.
//
// A term is begun at most once. If the authority still has a grant of ours whose
// term has ended here, or whose release was sent, that grant is released and a new term
// is acquired.
//
// # What it rests on
//
//   - The authority keeps the promise that is documented at [driver.Authority].
//     One that grants twice makes two masters. If it is wiped, it has to be unavailable
//     for the validity of a grant; otherwise a master of before may still be valid beside one
//     of after. Terms still rise, as long as a node remembers the last one. A node
//     that learns of the older master by gossip waits until that one has expired,
//     which narrows the gap and does not close it. Hearsay cannot do more: whatever
//     safety needs is proven by the authority.
//   - Clocks run within 1 % of the true rate. A virtual machine whose clock
//     stops with it, and goes on from there, breaks this, and then there may be
//     two masters until the older one learns of its end. So does a clock that is slewed
//     by more than that.
//
// If either is broken, what remains is fencing by terms (below).
//
// # What is not promised
//
// That there is a master. Safety comes before liveness: without the authority there
// is none after the deadline, without a majority (if one is required) none after
// the grace, and after a crash of the master none until its grant has expired for the
// authority. That is after its validity, and a little more over casauthority; after twice that if
// a lease store restarts in the meantime; and after the longest permitted TTL if a store may have
// forgotten something.
//
// That a master's code stops in time. See the first point of what follows.
//
// # What an application has to know
//
//  1. Between "am I master" and what you do then, time passes: usually none, but
//     without any bound if the process is paused there, by the scheduler, SIGSTOP
//     or a suspended machine. No check can close that gap. Let what lies outside
//     the process close it: send the term along with every effect, and have the
//     receiver refuse a term lower than the highest it has seen
//     (UPDATE ... WHERE term <= :term).
//  2. Do a master's work inside WhileMaster, and nowhere else. Stop when its
//     context ends, and return within the drain timeout. By then IsMaster is false
//     already: write nothing more as master. A function that returns an
//     error ends the mastership, see [KeepOnError].
//  3. There are times without a master. Calls that need one fail fast, with
//     [ErrNoMaster] or [ErrNoQuorum]. Retry them for as long as the caller can wait.
//  4. The master is any node that was granted, not the oldest, the first in a list
//     or the least loaded one, and it stays while it can.
//  5. What one master acknowledged, the next one knows only if it was written where
//     a majority, or the next master, will find it. Mastership replicates nothing.
//
// # Who is named
//
// A node that is not master may name one in its errors and its status. That name may be late
// by a message, and is good for sending a request there, which the receiver checks.
//
// The authority's record says which node was granted mastership, and gossip which node uses
// it. With Config.Announced a node is named once it is recorded and has announced that it is
// master, so that no node is named that was granted mastership and refuses it. A node that
// gossip does not reach names none, and says in [Status.WaitingFor] which node was granted
// mastership. Without Config.Announced the record alone names.
//
// A failover is visible as soon as the new master has announced itself: while the record lags
// behind, it is named for up to 2 s ahead of it. While the authority cannot be observed,
// gossip alone names, as long as the holder repeats its announcement. A hostile member can
// make use of that. It can have itself named for 2 s after a change of the record, or while
// the authority cannot be observed, and can hide the master's name for 10 s in each term by
// announcing its end. It can do neither for longer.
//
// The named term never falls, unless gossip alone had named a higher one that the authority
// did not confirm.
//
// # Logs
//
// Each beginning and end is one record, each renewal one at debug level. From
// these the intervals of all processes of a host can be laid side by side, as all
// times are nanoseconds of the boot clock:
//
//	"mastership active"   term cluster_id node_id instance_id t_boot_ns deadline_ns
//	"mastership renewed"  term cluster_id node_id instance_id t_boot_ns sent_ns deadline_ns
//	"mastership ended"    term cluster_id node_id instance_id reason t_boot_ns until_ns deadline_ns [error]
//
// An end that was not requested is a warning with the attribute alarm=mastership_lost. The
// line that says that a master is known again has the attribute, too.
//
// The interval is from t_boot_ns of the first to until_ns of the last; a process
// that was killed in between leaves the last deadline_ns for an upper bound. The
// handler is called by the election itself: one that blocks stops renewals, and
// costs the mastership, though not its safety. Config.Observer is called with the same, and
// package node/history keeps it as lines of a file.
//
// # How it is built and tested
//
// The election is a state machine without goroutines, clock or calls (core.go): events and
// the time go in, commands come out. The Elector runs it. The tests run thousands
// of random histories of several machines in virtual time, with drifting clocks,
// pauses, crashes, partitions, lost, late and reordered messages, calls that hang,
// and a store that restarts; a checker that knows the true time verifies the
// promises above. In some of them a member announces whatever may do harm: even then there
// has to be a master, which stays. The same checker is shown to notice eleven broken
// variants, such as a deadline counted from the receipt of the answer, or a mastership that
// ends when a higher term is announced.
//
//	go test ./node/mastership -run 'TestModel$' -seeds 100000
//	go test ./node/mastership -run 'TestModel$' -seed 42 -v     # one, with its history
package mastership

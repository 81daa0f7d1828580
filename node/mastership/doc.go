// Package mastership elects one master of a cluster, and tells every node who it
// is.
//
// An [Elector] asks a [driver.Authority] for mastership on behalf of one node,
// renews it, gives it up in good order, and tells the application by
// [Elector.WhileMaster], [Elector.Check] and [Elector.Transitions]. Which node
// becomes master is decided by the authority alone: a lease in a store, or a vote.
// Nothing is concluded from silence, from membership or from who started first.
//
// # What is promised
//
// At most one node is master at any time, and each mastership has a [driver.Term]
// that is higher than every one before it. "Is master" means that Check of that
// node would say so if it were asked at that moment.
//
// A node counts on a grant until its deadline:
//
//	time before the call was sent + validity (1 - 2ρ) - ε    ρ = 1 %, ε = 50 ms
//
// The authority began to count later than that, so it cannot have finished earlier,
// as long as its clock and ours run within ρ of the true rate. Only rates matter:
// setting a wall clock has no effect. The clock is that of package internal/clock,
// which counts while the machine is suspended.
//
// Check compares the clock with the deadline when it is asked. It does not rely on
// a timer that might fire late, on an answer that might hang, or on any goroutine
// of this package being alive. A mastership whose deadline has passed is over for
// good, even if a renewal of it is answered a moment later.
//
// When a mastership ends, things happen in this order: Check says no; the status
// says so; the contexts of WhileMaster end; transitions are delivered; the
// functions return; the grant is given back. If functions have not returned within
// the drain timeout the grant is not given back, since they may still act, but left
// to expire: its remaining validity is the only time in which no successor can
// stand beside them. While functions drain the grant is renewed, for the same
// reason.
//
// A term is begun at most once. Where the authority still has a grant of ours whose
// term has ended here, or whose release was sent, it is given back and a new term
// is acquired.
//
// # What it rests on
//
//   - The authority keeps the promise that is written down at [driver.Authority].
//     One that grants twice makes two masters. If it is wiped, it has to be away
//     for the validity of a grant, or else a master of before may stand beside one
//     of after; terms still rise, as long as a node remembers the last one. A node
//     that hears of the older master by gossip waits until that one has run out,
//     which narrows the gap and does not close it.
//   - Clocks run within 1 % of the true rate. A virtual machine whose clock is
//     stopped with it, and goes on from there, breaks this, and then there may be
//     two masters until the older one is told; so does a clock that is slewed
//     harder than that.
//
// With either broken, terms and fencing by them (below) are what is left.
//
// # What is not promised
//
// That there is a master. Safety comes before liveness: without the authority there
// is none after the deadline, without a majority (where one is asked for) none after
// the grace, and while a crashed master's grant expires none for up to its validity,
// or twice that if the authority restarts in the meantime.
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
//     already: do not write a last farewell as master.
//  3. There are times without a master. Calls that need one fail fast, with
//     [ErrNoMaster] or [ErrNoQuorum]. Retry them for as long as the caller can wait.
//  4. The master is any node that was granted, not the oldest, the first in a list
//     or the least loaded one, and it stays while it can.
//  5. What one master acknowledged, the next one knows only if it was written where
//     a majority, or the next master, will find it. Mastership replicates nothing.
//
// A node that is not master may name one in its errors and its status: that name
// comes from the authority's record or by gossip, may be late by a message, and is
// good for sending a request there, which the receiver checks.
//
// # Logs
//
// Each beginning and end is one record, each renewal one at debug level. From
// these the intervals of all processes of a host can be laid side by side, as all
// times are nanoseconds of the boot clock:
//
//	"mastership active"   term cluster_id node_id instance_id t_boot_ns deadline_ns
//	"mastership renewed"  term cluster_id node_id instance_id t_boot_ns sent_ns deadline_ns
//	"mastership ended"    term cluster_id node_id instance_id reason t_boot_ns until_ns deadline_ns [err]
//
// The interval is from t_boot_ns of the first to until_ns of the last; a process
// that was killed in between leaves the last deadline_ns for an upper bound. The
// handler is called by the election itself: one that blocks stops renewals, and
// costs the mastership, though not its safety. Config.Observer is told the same, and
// package node/history keeps it as lines of a file.
//
// # How it is built and tested
//
// The election is a machine without goroutines, clock or calls (core.go): events and
// the time go in, commands come out. The Elector runs it. The tests run thousands
// of random histories of several machines in virtual time, with drifting clocks,
// pauses, crashes, partitions, lost, late and reordered messages, calls that hang,
// and a store that restarts; a checker that knows the true time verifies the
// promises above. The same checker is shown to notice seven broken variants, such
// as a deadline counted from the receipt of the answer.
//
//	go test ./node/mastership -run 'TestModel$' -seeds 100000
//	go test ./node/mastership -run 'TestModel$' -seed 42 -v     # one, with its history
package mastership

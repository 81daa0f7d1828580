// Package share divides a number, the total of a cap, among the members of a cluster: the master
// hands out shares as leases, and the sum of what all may have in use never exceeds the total.
//
// # The protocol
//
// A record in the Store holds the total, and the reign: which master divides it. A master writes
// its own reign there by compare-and-set before it grants anything, one number above the reign
// before, and reads the record all the time. It grants only if the last read that showed its own
// reign was sent less than Params.Fresh ago. So a master that is deposed and does not know it stops
// by itself, whatever it believes of its mastership.
//
// A holder asks the master, says what it holds, and is answered how many it may begin (Admit) and
// how many it may have in use (Keep), for Params.Lease. It counts from before it asked, and the
// master from when it answered, longer by what two clocks can differ. The holder takes the answer
// to its latest request alone, and the master serves no request after a later one.
//
// A share is a part: so many of the total that was read. What is conserved is the sum of all parts,
// which is one at most:
//
//   - A holder that asks keeps its part, and no more than that unless something is free. So a
//     master may renew shares which it has not granted itself: a failover interrupts no holder that
//     reaches the new master before its lease is over.
//   - Something is free when its holder has said, in a request, that it does not hold it any more;
//     or when its lease is over, and the master has read after that that it still reigns. Without
//     that read the holder may have gone over to the next master meanwhile.
//   - A new master does not know who holds what. Until all that earlier ones can have granted is
//     over, it divides only what those hold, or have given back, that have taken an answer of its
//     own: they give nothing back to an earlier master any more, which would grant it a second
//     time.
//
// A lowered total lowers all shares with the next answer, and what was in use before keeps its
// place until the lease ends under which it was begun. So the sum of all that is in use is never
// more than the highest total of the last Lease plus Fresh.
//
// # Who gets what
//
// Where there is enough for all, each holder gets what it wants, and an even part of the rest.
// Otherwise each that wants something gets one, and what remains is divided in proportion; and if
// there are fewer than that, they take turns. Nothing is taken from a holder that is in use: it
// begins no more, and gives back what ends. The master nudges those that are to give something
// back, or can have more. A nudge that is lost costs time.
//
// # What it rests on
//
// On a Store whose compare-and-set is atomic, whose reads are no older than their requests, and
// which forgets nothing; and on boot clocks that are wrong by 1 % at most. Where a record is
// missing, or names no reign, a master waits as after another one, unless it is the first of its
// cluster.
//
// A process that stands still cannot end what it has begun: it does so when it goes on.
//
// # How it is built and tested
//
// Holder and Divider are machines, without goroutines, clocks and calls. The tests run thousands of
// random histories of several of both, with crashes, pauses, clocks that drift, masters that are
// deposed and do not know it, and messages that are late, lost, doubled and out of order; and some
// histories that are written out. They show that the checker notices each rule that is broken.
//
//	go test ./node/call/internal/share -run 'TestModel$' -seeds 10000
//	go test ./node/call/internal/share -run 'TestModel$/^faults$' -seed 42 -v
package share

// Package cron runs the jobs of a cluster: on its master, or on each node, at times that are
// written down, and with a record of each run.
//
//	nightly, err := cron.Parse("30 2 * * *", berlin)
//	s := &cron.Scheduler{Node: n, Store: n.Store()}
//	err = s.Run(ctx, cron.Job{Name: "report", Schedule: nightly, Run: report}) // on every node
//
// # What it promises
//
//   - A fire is claimed in the store before it runs, and its end is recorded after it. With
//     [Skip] it runs at most once per job and scheduled time, whatever masters follow one
//     another. With [Once] one that was interrupted may run again, with the same Scheduled and a
//     higher Term.
//   - A new master counts from what is recorded, and not from now: a fire that is due while there
//     is no master runs if it can be claimed within [Grace], and is otherwise missed, and then the
//     policy of the job decides. What was claimed and did not begin counts as not claimed: it is
//     given back if the claim comes too late, or the mastership has ended.
//   - A job does not overlap itself, unless a run ignores that its mastership has ended: then it
//     does not on one node. What comes due while it runs is missed.
//   - A fire is claimed within Grace, or the window of Once, or not at all, also where the store
//     takes no claim for hours; and not once the job is paused, edited or removed.
//   - A scheduled time that is not after the last claimed one does not fire: a clock that is set
//     back repeats nothing. A claim more than a day ahead of this node's clock is ignored. A node
//     whose clock is set by more than a day while it runs claims nothing, until the clock is as it
//     was, or has gone on from there for ten minutes.
//   - A trigger runs now, by the clock of the master, whatever that showed where it was written,
//     but after what is due. It runs once, also where a master takes over that does not know it.
//   - A record that cannot be read, or is too large, keeps no job from running: it is replaced,
//     and the job counts from then on. So it is with a term that leads by more than 2^32, which no
//     master has. One that leads by less is taken for that of a later master, and keeps the job
//     from running until a master has reached it, or [Resume] is called.
//   - An edited schedule counts from the edit, and a job that is resumed from then on; where the
//     clock was ahead there, from when a master first sees it.
//   - A run that a change of master, or a crash, has interrupted says so.
//
// Daylight saving is decided by [Parse]. Each run is a claim in the sense of package upgrade: what
// is said there about paused nodes, and about a store that is wiped, is true here as well. After a
// wipe every job counts from then on, and those that were added at run time are gone.
//
// # What it does not promise
//
// Without a master nothing fires, but the jobs of each node. A job that the master does not know
// does not run: give all nodes the same. One whose schedule panics, blocks, or names a time that is
// not after the one it is asked about, does not run, and is tried again every 10 s, or runs when it
// answers; other jobs do not wait for it. A run that ignores its context keeps the grant from
// being released, and its job from running on this node, until it has ended; the other jobs go on
// when the node is master again. Meanwhile another master may run that job. An error does not
// repeat a fire: retry inside Run. Each fire costs two writes, and one more for its output: below a
// second use Job.Volatile. A node whose clock is wrong from its start fires by it, if it is master.
//
// # Jobs at run time
//
// [Add], [Update], [Remove], [Trigger], [Pause] and [Resume] need only the store, and so can be
// called on any node, or beside all. What such a job runs is one of Scheduler.Handlers, by name:
// all who can write to the store can have a node run these, as often as they like and with any
// Args, unless Scheduler.Permit says no.
//
// Keys are cron/jobs/NAME for what was said about a job, cron/runs/NAME for its claim and the
// runs before, and cron/output/NAME/0 to 7 for what the last ones have written: compressed, 88 KiB
// each at most. Those of a job that the program does not have any longer stay until [Remove].
//
// # Without a cluster
//
// A Scheduler with a nil Node is its own master: see to it that there is one process.
package cron

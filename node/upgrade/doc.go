// Package upgrade runs the steps of an upgrade once in a cluster, on its master, and has
// everything else wait for them at gates: a database migration, a rebuilt index, a topic that
// must exist.
//
//	steps := []upgrade.Step{
//		{Name: "schema", Version: "1.1", Run: createTables},
//		{Name: "schema", Version: "1.2", Run: addColumn, Restartable: true},
//	}
//	ctx, cancel := context.WithCancelCause(ctx)
//	defer cancel(nil) // before defer n.Leave: Run goes on until the node has left
//	go func() { cancel(upgrade.Run(ctx, n, n.Store(), steps...)) }() // on every node
//	if err := upgrade.Wait(ctx, n.Store(), "schema", "1.2"); err != nil {
//		return err // a *FailedError says which step failed, where and why; or that of Run
//	}
//
// # What it promises
//
//   - A step runs on one node at a time, in the order of its versions, after its claim was
//     recorded in the [Ledger], and is recorded as done once, by the node whose claim stands. It
//     is given the term of its mastership, and a context that ends with it.
//   - A node that dies, or ceases to be master, in the middle of a step leaves it interrupted. It
//     runs again, in a later term, if it is [Step.Restartable]. Otherwise its gates return a
//     *[FailedError] until an operator decides: [Retry] runs it again, [Resolve] says that it was
//     done.
//   - A step that returns an error, or panics, has failed, and does not run again before Retry.
//   - A gate is a state, and not an event: it opens on all nodes within a second of the end of
//     the step where the ledger reports changes or is fast, and those that join later pass it. One
//     that cannot read the ledger waits. It never opens by guess.
//   - In a rolling deployment a master that lacks a step, and so cannot run it, makes way for a
//     member that has it: it abstains from mastership for as long as such a member is in sight.
//
// # What it does not promise
//
// A node that was paused in the middle of a step may go on beside the next master, until it looks
// at its context. Attach the term to what the step changes, or let the ledger be in the same
// database (below).
//
// There is no rollback, and no order between names: let a step call Wait for what it needs.
//
// Who can write to the ledger decides what runs: a record with a version is believed. [Retry] and
// [Resolve] clear the term of the last run, so that a false one keeps no master from the step; the
// same goes for a true one, and only its grant keeps an earlier master from it then.
//
// Without a master nothing runs. A member that does not call Run lacks every step, and, as a
// master, keeps the others waiting: call Run on all nodes, also with no step of that name.
//
// # The ledger
//
// The store of the cluster, [node.Node.Store], is one. If it is wiped, or restored from before a
// step, the step runs again, unless an operator says before that it was done, with [ResolveLost].
// The only cure is a ledger in the database which the step changes, so that both are restored
// together. Such a Ledger can be a [Transactor] as well: then a step and the record of its end are
// one transaction, a step that did not end has changed nothing, and every step may run again after
// an interruption. examples/sqlledger is one for PostgreSQL.
//
// Keys are upgrade/steps/NAME, one record per name, and upgrade/nodes/NAME, where nodes announce
// the highest version that they have a step of, while it is not done. An announcement counts for
// as long as its instance is a member in sight: no step waits for a node that is gone.
//
// # Steps of other processes
//
// [Runner.Add] has a step come and go while the Runner runs. An agent so runs those of the clients
// of its API, as muster upgrade run.
//
// # Without a cluster
//
// Run with a nil Node runs the steps in this process, which is then its own master: see to it
// that there is one process.
package upgrade

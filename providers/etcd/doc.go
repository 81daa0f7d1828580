// Package etcd is the provider over etcd v3: it finds and publishes instances,
// grants mastership, and keeps the small records of a cluster.
//
// Importing it makes the provider known as "etcd". Programs that do without the
// table of providers call [New].
//
// What it promises beyond the contract of package driver:
//
//   - Every read is linearizable. A list is one range read, so it is whole or an
//     error; what follows is watched from its revision on.
//   - A registration is on a lease. Only the session that made it, or a later
//     one of the same instance, changes or removes it.
//   - Mastership is one key, on a lease of its own, created in the transaction
//     that also raises the term. No two transactions grant the same term.
//   - A broken connection is an error at once. Nothing is tried again here, except
//     that a token which etcd has forgotten is asked for again.
//
// What it does not promise: a lease may live longer than its TTL. etcd starts
// every lease afresh when its leader changes, so that a crashed master may be
// missed for up to twice the TTL if etcd fails over at the same time.
//
// The layout of the keys, the role that a user of etcd needs and the behaviour in
// failure are in the README beside this file.
package etcd

// Package consul is the provider over Consul: it finds and publishes instances as
// services of Consul, grants mastership, and keeps the small records of a cluster.
//
// Importing it makes the provider known as "consul". Programs that do without the
// table of providers call [New].
//
// It talks to one agent, best the one on the same host, which keeps what it is told
// in the catalog of its datacenter. What it promises beyond the contract of package
// driver:
//
//   - A registration is a service with a check whose TTL Muster renews. Readers take
//     it for gone when that check is critical, which is at most its TTL after the
//     last renewal, whatever else they make of health. Where there is no agent to
//     run the clock of a check, a session of Consul does the same.
//   - A list that Consul has cut down for want of a permission is an error.
//   - Mastership is a lock on one key, by a session that hangs on a check with a
//     short TTL and on nothing else, taken in the transaction that also raises the
//     term. DESIGN.md beside this file says why no two hold it.
//
// The layout of the keys, the policy that a token needs and the behaviour in failure
// are in the README beside this file.
package consul

// Package consul is the provider over Consul: it finds and publishes instances as
// services of Consul, grants mastership, and keeps the small records of a cluster.
//
// Importing it makes the provider known as "consul". Programs that do without the
// table of providers call [New].
//
// It talks to one agent, best the one on the same host, which keeps registrations in
// the catalog of its datacenter. What it promises beyond the contract of package
// driver:
//
//   - A registration is a service with a check whose TTL Muster renews. Readers
//     treat it as gone when that check is critical, which is at most its TTL after the
//     last renewal, whatever else they do about health. In mode catalog, in which no
//     agent runs the clock of a check, a session of Consul does the same.
//   - A list that Consul has cut down for lack of a permission is an error.
//   - Mastership is one record in the KV store, changed by compare-and-set only, which
//     depends on no session, check or lock. DESIGN.md beside this file says why no two
//     nodes hold it at the same time.
//
// The layout of the keys, the policy that a token needs and the behaviour in failure
// are in the README beside this file.
package consul

// Package grants has parts of etcd's authority that need no client: the keys of a cluster and the
// next term, the active grant, and the lifetime of an authority.
package grants

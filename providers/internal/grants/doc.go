// Package grants is what the authorities over stores of keys share, whatever the
// store: what stands in the keys of a cluster, the grant that was given last, and what
// an authority does after the call that it is about.
//
// How a grant is tied to a lease or a lock, and to what was read before, is the
// store's own affair and stays with its provider.
package grants

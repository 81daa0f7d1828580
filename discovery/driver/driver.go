// Package driver is what a discovery provider implements.
//
// Users hold the concrete types of package discovery; this package is for the
// authors of providers, as database/sql/driver is for the authors of database
// drivers. The contract:
//
//   - A driver does one attempt of one operation and returns. It never retries,
//     caches, logs or counts: package discovery does that once, for all.
//   - A driver starts no goroutine that outlives the call or the value that owns
//     it: what Watch or Observe start ends with their context, what a Session or
//     an Authority starts ends with its Close.
//   - A driver never returns part of a set. An unreadable entry is skipped and
//     named in [Snapshot.Skipped]; any other failure is an error, and then the
//     set is unknown. An error is never an empty set.
//   - Every error wraps one of the kinds in this package ([ErrUnavailable],
//     [ErrDenied], [ErrInvalid], [ErrNotFound], [ErrConflict]), so that the
//     caller can tell whether another try may help. An error that wraps none of
//     them counts as ErrUnavailable.
//   - Every method honours its context, and is safe for concurrent use.
//
// [Driver] is mandatory and small. Later abilities are optional interfaces found
// by type assertion on the Driver: [Registrar], [Reducer], [Rehearser], [Watcher],
// [Cataloger], [Authorizer], [TTLBounder], [Secured]; and on the
// [Authority]: [Store], [ClaimRehearser].
//
// The conformance suite in discovery/discoverytest holds a driver to all of this
// and explains the clause that it broke.
package driver

import (
	"context"
	"iter"
	"net"
	"time"
)

// Driver finds the instances that a provider knows.
type Driver interface {
	// List reads the set of instances of q.Service once.
	//
	//  1. It returns every instance whose Service is q.Service, in any order. It
	//     may also honour the other fields of q to save work; the caller filters
	//     again.
	//  2. It sets Snapshot.Revision to the revision at which the set was read, if
	//     the provider has revisions.
	//  3. It names in Snapshot.Skipped each entry that it found but could not read.
	//  4. If the set could not be read whole, it returns an error.
	List(ctx context.Context, q Query) (Snapshot, error)

	// Close releases the resources of the driver. It is idempotent. Calls made
	// after it fail; sessions and authorities must be closed before it.
	Close() error
}

// Watcher is implemented by a Driver that is told of changes. Where it is
// missing, package discovery polls List.
type Watcher interface {
	// Watch yields the whole set each time that it changes after since, which is
	// a result of List for the same query.
	//
	//  1. No change after since.Revision is lost; several may be yielded as one.
	//  2. Each yielded snapshot is complete and has its own revision, which is
	//     higher than the one before.
	//  3. An error ends the sequence and is yielded last, with a zero snapshot:
	//     ErrCompacted if the changes after since are no longer known. The caller
	//     lists again. The sequence also ends when ctx does.
	Watch(ctx context.Context, q Query, since Snapshot) iter.Seq2[Snapshot, error]
}

// Cataloger is implemented by a Driver that can tell which services there are.
type Cataloger interface {
	// Services returns the names of all services of which anything is registered, by
	// whomever, in any order and each once. It may name one of which nothing is
	// registered any more, or nothing that List shows. As with List, it never returns
	// part of the set.
	Services(ctx context.Context) ([]string, error)
}

// Registrar is implemented by a Driver that can publish instances.
type Registrar interface {
	// OpenSession starts a session whose registrations vanish when it is not
	// renewed for its TTL.
	OpenSession(ctx context.Context, o SessionOptions) (Session, error)
}

// Session owns the liveness of registrations: an etcd lease, a Consul session.
// It does not renew itself. Losing it is an error that wraps ErrSessionLost from
// Renew or Register, after which the caller opens another.
type Session interface {
	// TTL is what the provider granted, which may be more than was asked for.
	TTL() time.Duration

	// Renew makes one attempt to keep the session for another TTL.
	Renew(ctx context.Context) error

	// Register publishes i under (i.Service, i.InstanceID) on this session, or
	// puts it right where it is missing, differs, or hangs on an older session.
	// It is idempotent, and cheap where nothing is to be done.
	Register(ctx context.Context, i Instance) error

	// Deregister removes the registration of i if it hangs on this session, and
	// leaves it alone if another session has taken it over. Removing what is not
	// there is no error.
	Deregister(ctx context.Context, i Instance) error

	// Close ends the session: what is registered on it vanishes at once where the
	// provider can be reached, and after its TTL where not. It is idempotent.
	Close(ctx context.Context) error
}

// Reducer is implemented by a Registrar that cannot keep all of an Instance, as one
// that writes the records of another system.
type Reducer interface {
	// Reduce returns i as List yields it once it is registered. It may have another
	// Key. It makes no call, and returns an i that cannot be registered as it is.
	Reduce(i Instance) Instance
}

// Rehearser is implemented by a Registrar whose provider can be asked whether a
// registration would be permitted.
type Rehearser interface {
	// Rehearse makes one attempt to find out whether instances of service may be
	// registered and deregistered, and changes nothing that anybody could see. The
	// error wraps ErrDenied where the provider says no.
	Rehearse(ctx context.Context, service string) error
}

// Authorizer is implemented by a Driver whose provider can say no: it grants
// mastership to one holder at a time.
type Authorizer interface {
	// OpenAuthority opens the authority of one cluster on behalf of one node. It
	// returns without waiting for the provider or for peers to be reachable.
	OpenAuthority(ctx context.Context, o AuthorityOptions) (Authority, error)
}

// TTLBounder is implemented by an Authorizer whose grants cannot have any TTL, so
// that a configuration can be checked before anything is started.
type TTLBounder interface {
	// TTLBounds returns the shortest and the longest TTL of AuthorityOptions.
	TTLBounds() (shortest, longest time.Duration)
}

// Secured is implemented by a Driver that can speak TLS, with files that it follows.
type Secured interface {
	// LiveTLS returns what follows the files, nil where the driver has none. The caller
	// may watch it, since a driver does not log.
	LiveTLS() *LiveTLS
}

// Authority grants mastership of one cluster.
//
// What it promises, and all that mastership is built on:
//
//   - While a grant is valid no other holder is granted. A grant is valid for
//     Grant.ValidFor from any moment before the call that returned it was sent,
//     as measured by a clock that runs at the true rate. The caller allows for
//     clocks that do not.
//   - The term is raised in the same atomic step that grants. No two grants of a
//     cluster by Acquire ever have the same term, whatever the holder, unless
//     the second Acquire found the first one's grant still standing in the name
//     of the same instance.
//   - A lost response grants nothing that is forgotten: the next Acquire by the
//     same instance finds the grant and returns it, or it expires unused.
type Authority interface {
	// Acquire makes one attempt to become master.
	//
	//  1. Where another holder stands it returns an error that wraps ErrConflict
	//     and changes nothing.
	//  2. The granted term is higher than every earlier one and than c.MinTerm.
	//  3. The cluster id is the recorded one. Where none is recorded, c.ClusterID
	//     becomes it in the same step. Where the recorded one differs from
	//     c.ClusterID and c.Known is true, it returns ErrClusterMismatch.
	Acquire(ctx context.Context, c Claim) (Grant, error)

	// Renew makes one attempt to extend g. It returns ErrSessionLost if g is known
	// to be over, which is final for g. On any other error the validity of g is
	// what it was. The term of the result is that of g.
	Renew(ctx context.Context, g Grant) (Grant, error)

	// Release gives g back so that another can be granted at once. The caller has
	// stopped being master before it calls. It changes nothing if g is over.
	Release(ctx context.Context, g Grant) error

	// Observe yields the state now and after each change, until ctx ends. An error
	// is yielded with a zero Mastership and does not end the sequence unless it
	// is the last; the caller calls again. Several changes may be yielded as one.
	Observe(ctx context.Context) iter.Seq2[Mastership, error]

	// Close stops taking part, bounded by ctx, and gives back nothing. It is
	// idempotent.
	Close(ctx context.Context) error
}

// Store is implemented by an Authority that also keeps small records of the
// cluster, changed by compare-and-set.
type Store interface {
	// Get returns the record at key, or an error that wraps ErrNotFound. The read
	// is linearizable.
	Get(ctx context.Context, key string) (Record, error)

	// Set writes value at key if its revision is still prev, where 0 stands for a
	// key that does not exist, and returns the new revision; otherwise it returns
	// an error that wraps ErrConflict. After any other error the write may or may
	// not have happened: read before you decide. A value has at most
	// MaxRecordSize bytes.
	Set(ctx context.Context, key string, value []byte, prev Revision) (Revision, error)

	// Delete removes key if its revision is still prev, and otherwise returns an
	// error that wraps ErrConflict, or ErrNotFound where there is no such key.
	Delete(ctx context.Context, key string, prev Revision) error

	// Records returns every record whose key starts with prefix, by key.
	Records(ctx context.Context, prefix string) ([]Record, error)
}

// ClaimRehearser is implemented by an Authority that can be asked whether an Acquire
// would be permitted.
type ClaimRehearser interface {
	// RehearseClaim makes one attempt to find out whether the node may become master,
	// and changes nothing about who is. The error wraps ErrDenied where the provider
	// says no.
	RehearseClaim(ctx context.Context) error
}

// MaxRecordSize bounds the value of a Record: 512 KiB, the smallest limit of the
// stores that a driver may stand on (a value of Consul's KV store).
const MaxRecordSize = 512 << 10

// Network is how an Authority whose grants come from its peers talks to them. It
// is the one port of the node, handed in so that no provider knows the node.
type Network interface {
	// Listen returns the listener of one protocol. It is open until its Close or
	// that of the network.
	Listen(protocol string) (net.Listener, error)

	// Dial connects to the same protocol at another node's HOST:PORT.
	Dial(ctx context.Context, protocol, addr string) (net.Conn, error)
}

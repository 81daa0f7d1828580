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
//     [ErrDenied], [ErrInvalid], [ErrNotFound], [ErrConflict], [ErrClosed]), so that the
//     caller can tell whether another try may help. An error that wraps none of
//     them counts as ErrUnavailable.
//   - After the Close of a driver, a session or an authority every other method of it
//     that can fail returns ErrClosed, and so do those of what the driver has opened.
//   - Every method honours its context, and is safe for concurrent use.
//
// [Driver] is mandatory and small. Later abilities are optional interfaces found
// by type assertion on the Driver: [Registrar], [Normalizer], [Keyer], [Reviewer], [Reclaimer],
// [PermissionChecker], [Warner], [Identifier], [Watcher],
// [Cataloger], [Authorizer], [TTLBounder], [Locator], [TLSReporter]; and on the
// [Authority]: [Store], [StoreWatcher], [ClaimPermissionChecker], [Resetter], [Suspecter],
// [Learner], [VoterReporter], [Founder].
//
// The conformance suite in discovery/discoverytest holds a driver to all of this
// and explains the clause that it broke.
package driver

import (
	"context"
	"iter"
	"net"
	"net/netip"
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
	//  5. It has no effect on the provider, and the result does not depend on what was
	//     read before: two Lists of what has not changed are equal.
	List(ctx context.Context, q Query) (Snapshot, error)

	// Close releases the resources of the driver. It is idempotent. Calls made after it
	// fail with ErrClosed; sessions and authorities must be closed before it.
	Close() error
}

// Watcher is implemented by a Driver that learns of changes. Where it is
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
	// any program, in any order and each once. It may name one of which nothing is
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

	// Renew makes one attempt to keep the session for another TTL. Where registrations
	// are renewed one by one, a failure of one does not keep the others from being
	// renewed: the error names all that failed, and wraps ErrPartial if others did not.
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
	// provider can be reached, and after its TTL where not. It is idempotent, and may be
	// called again where it has failed. After one that has not, the other methods fail
	// with ErrClosed.
	Close(ctx context.Context) error
}

// Sweeper is implemented by a Session whose like leaves something behind where it ends
// without Close.
type Sweeper interface {
	// Sweep makes one attempt to remove what sessions that have ended have left of the
	// services that are registered on this one. It removes nothing of a session that
	// lives, nor what is not of a session of this driver's kind and configuration.
	Sweep(ctx context.Context) error
}

// Normalizer is implemented by a Registrar that cannot keep all of an Instance, such as one
// that writes the records of another system.
type Normalizer interface {
	// Normalize returns i as List yields it once it is registered. It may have another
	// Key. It makes no call, and returns an i that cannot be registered as it is.
	Normalize(i Instance) Instance
}

// Keyer is implemented by a Registrar that may keep two instances in one record.
type Keyer interface {
	// RecordKey names the record of i once it is registered: of two instances with one record,
	// the one that is registered last replaces the other. It makes no call, and returns an empty
	// name for an i that cannot be registered as it is.
	RecordKey(i Instance) string
}

// Occupier is implemented by a Session whose provider may keep an instance of another service
// in the record of one, as Keyer has it, so that no reader of the one sees the other.
type Occupier interface {
	// Occupant returns the instance of another service that is alive in the record of i and that
	// this session has not registered, and false if there is none.
	Occupant(ctx context.Context, i Instance) (other Instance, there bool, err error)
}

// Reviewer is implemented by a Registrar that writes records for other readers than Muster.
type Reviewer interface {
	// Review returns an error if some of these readers would not find i. It says which and
	// why, and has a hint. It makes no call.
	Review(i Instance) error
}

// Warner is implemented by a driver that may find, while it works, that something is wrong
// with the way to its provider.
type Warner interface {
	// Warning says what that is and how to fix it. It is empty if nothing is known to be
	// wrong. It makes no call.
	Warning() string
}

// Identifier is implemented by a driver whose address, or list of addresses, may lead to
// several servers with separate state although it ought to lead to one state.
type Identifier interface {
	// Identify makes several connections, and returns the names of what has answered, sorted,
	// each of which has state of its own: more than one is a fault of the configuration, and
	// none says that it does not matter. The error wraps ErrDenied where it may not be asked
	// for, and ErrInvalid where what answers is no server of the provider.
	Identify(ctx context.Context) ([]string, error)
}

// Reclaimer is implemented by a Registrar whose provider keeps for a while what sessions that
// are over have left behind.
type Reclaimer interface {
	// Reclaim removes the registrations of sessions that are over, provably, and of whose
	// instance own says true, and returns them. It leaves those alone that hang on a session
	// that may be alive, and all that no session of Muster has registered. What was removed is
	// returned beside an error, too.
	Reclaim(ctx context.Context, own func(Instance) bool) ([]Instance, error)
}

// PermissionChecker is implemented by a Registrar whose provider can be asked whether a
// registration would be permitted.
type PermissionChecker interface {
	// CheckPermission makes one attempt to find out whether instances of service may be
	// registered and deregistered, and changes nothing that anybody could see. The
	// error wraps ErrDenied where the provider says no.
	CheckPermission(ctx context.Context, service string) error
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

// Locator is implemented by a Driver whose configuration says where the nodes are reached,
// this one among them, as a list that is the same for all.
type Locator interface {
	// Locate makes one attempt to find the entry that leads to this host and to the port
	// of bound, which is what the node listens on. It returns ErrNotFound where there is
	// none.
	Locate(ctx context.Context, bound netip.AddrPort) (Location, error)
}

// TLSReporter is implemented by a Driver that can speak TLS, with files that it follows.
type TLSReporter interface {
	// TLSState looks at the files now and returns what is in force, and false if the driver
	// follows none. It reads the files and waits for nothing else. The caller calls it on a
	// timer and logs what changes, since a driver does not log.
	TLSState() (state TLSState, ok bool)
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
	// idempotent. The other methods fail with ErrClosed after it, those of a Store too,
	// and Observe yields it last.
	Close(ctx context.Context) error
}

// Store is implemented by an Authority that also keeps small records of the
// cluster, changed by compare-and-set. A key is not empty; a provider whose keys are paths
// refuses, with ErrInvalid, one with an empty segment or one of dots alone.
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
	// error that wraps ErrConflict, or ErrNotFound if there is no such key.
	Delete(ctx context.Context, key string, prev Revision) error

	// Records returns every record whose key starts with prefix, by key.
	Records(ctx context.Context, prefix string) ([]Record, error)
}

// StoreWatcher is implemented by a Store that learns of changes. Where it is missing,
// or yields ErrUnsupported, discovery.WatchRecords polls Records.
type StoreWatcher interface {
	// WatchRecords yields every record whose key starts with prefix, by key: now, and
	// after each change, until ctx ends. Several changes may be yielded as one. An error
	// ends the sequence and is yielded last, without records; the caller calls again.
	WatchRecords(ctx context.Context, prefix string) iter.Seq2[[]Record, error]
}

// Suspecter is implemented by an Authority for which it costs something to look whether
// the master is still there.
type Suspecter interface {
	// Suspect says whether nobody vouches for the master that Observe yielded last, as by
	// gossip. While somebody does, Observe may look rarely; when the vouching stops, it
	// looks at once. Nothing else is concluded from it. Until the first call nobody
	// vouches. It does not wait.
	Suspect(suspected bool)
}

// Learner is implemented by an Authority that counts how long a holder is silent. It can count
// from when this node last learned of a renewal, before it looks at the record: an announced
// Proof shows that the write that contains it was sent.
type Learner interface {
	// Learn takes the Proof of a grant that another node has announced, as soon as it is known
	// here. It is hearsay, may be forged, late or repeated, and must not be believed before the
	// record shows it. It does not wait.
	Learn(proof string)
}

// ClaimPermissionChecker is implemented by an Authority that can be asked whether an Acquire
// would be permitted.
type ClaimPermissionChecker interface {
	// CheckClaimPermission makes one attempt to find out whether the node may become master,
	// and changes nothing about who is. The error wraps ErrDenied where the provider
	// says no.
	CheckClaimPermission(ctx context.Context) error
}

// Resetter is implemented by an Authority whose record of mastership an operator may
// replace, where the one that is there cannot be used: its term is out of bounds, it
// cannot be read, or it belongs to a cluster that no longer exists. Only an operator's
// command calls it, never a node.
type Resetter interface {
	// Reset makes one attempt to replace what is recorded of the mastership of the
	// cluster by o.ClusterID, o.Term and no holder, in one atomic step, and returns what
	// was recorded before.
	//
	//  1. It also works where what is recorded cannot be read.
	//  2. Where a holder is recorded, whose grant may be valid, or what is recorded of the
	//     holder cannot be read, it returns an error that wraps ErrConflict and changes
	//     nothing, unless o.Force is set.
	//  3. A grant from before is lost: its next Renew returns ErrSessionLost and its Release
	//     changes nothing. Until its deadline the holder may count on it still.
	//  4. It changes only what is recorded of the mastership of this cluster: registrations,
	//     the records of Store and other clusters stay as they are.
	//  5. If o.DryRun is set it changes nothing and returns what it would replace, with the
	//     error that it would return.
	//  6. Where the record is changed by another meanwhile, it returns an error that wraps
	//     ErrConflict and changes nothing.
	Reset(ctx context.Context, o ResetOptions) (Recorded, error)
}

// VoterReporter is implemented by an Authority whose grants come from voters.
type VoterReporter interface {
	// Voters returns what is known of each voter. It does not block.
	Voters() Voters
}

// Founder is implemented by an Authority whose voters found a cluster only once each of
// them has answered.
type Founder interface {
	// Found has this node found a cluster although voters do not answer that may
	// remember one, which an operator says are gone for good. It blocks until that is
	// done, and allows it for no longer than the call. It returns ErrConflict where a
	// cluster is remembered by this node or by one that answers, ErrUnavailable where
	// too few voters are there, and ErrInvalid where this node is no voter.
	Found(ctx context.Context) error
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

	// Dial connects to the same protocol at another node's HOST:PORT. Both ends of a
	// connection are of one cluster.
	Dial(ctx context.Context, protocol, addr string) (net.Conn, error)
}

package driver

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Instance is one running process of a service, as a provider knows it. Its JSON
// form is the value that Muster writes into registries: it only ever gains
// fields, and readers ignore the ones that they do not know.
type Instance struct {
	// Service is the name under which the instance is found. A Muster node
	// registers under the name of its cluster.
	Service string `json:"service"`

	// NodeID names the node across its restarts. It may be empty.
	NodeID string `json:"node_id,omitempty"`

	// InstanceID names this one start of the node, and is unique. It is empty
	// where a provider knows only addresses, as a static list does.
	InstanceID string `json:"instance_id,omitempty"`

	// Addr is the HOST:PORT that others dial, IPv6 in brackets. The host may be a
	// name, which is resolved when it is dialled.
	Addr string `json:"addr"`

	// Zone is where the instance runs, for readers who prefer what is near.
	Zone string `json:"zone,omitempty"`

	// Tags and Meta are the user's own.
	Tags []string          `json:"tags,omitempty"`
	Meta map[string]string `json:"meta,omitempty"`

	// AppAddrs are the addresses of the application's own ports, by name.
	AppAddrs map[string]string `json:"app_addrs,omitempty"`

	// Version is that of the software that registered.
	Version string `json:"version,omitempty"`

	// RegisteredAt is the wall time of the registration, to be shown to people.
	// Nothing is decided by it.
	RegisteredAt time.Time `json:"registered_at,omitzero"`
}

// Key identifies the instance within its service: its instance id, or its
// address where it has none.
func (i Instance) Key() string {
	if i.InstanceID != "" {
		return i.InstanceID
	}
	return i.Addr
}

// Validate reports what would make the instance useless to its readers: no
// service, or an address that nobody can dial. A driver applies it to what it
// reads and skips what fails; the registrar applies it before it publishes.
func (i Instance) Validate() error {
	if i.Service == "" {
		return fmt.Errorf("%w: instance has no service", ErrInvalid)
	}
	if err := ValidateAddr(i.Addr); err != nil {
		return fmt.Errorf("instance %q: %w", i.InstanceID, err)
	}
	return nil
}

// ValidateAddr reports whether addr is a HOST:PORT that another host can dial:
// it has a host other than an unspecified address such as 0.0.0.0 or ::, and a
// port from 1 to 65535. Names are not resolved.
func ValidateAddr(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%w: address %q: want HOST:PORT, with IPv6 in brackets", ErrInvalid, addr)
	}
	if host == "" {
		return fmt.Errorf("%w: address %q has no host", ErrInvalid, addr)
	}
	ip, err := netip.ParseAddr(host)
	if err != nil && strings.ContainsFunc(host, notInName) {
		return fmt.Errorf("%w: address %q: host %q is neither an IP address nor a name", ErrInvalid, addr, host)
	}
	// Resolvers take 0 and 0.0 for 0.0.0.0 too.
	if err == nil && ip.Unmap().IsUnspecified() || strings.Trim(host, "0.") == "" {
		return fmt.Errorf("%w: address %q: nobody can dial %s; name an address of this host", ErrInvalid, addr, host)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%w: address %q: want a port from 1 to 65535", ErrInvalid, addr)
	}
	return nil
}

func notInName(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
}

// CanonicalAddr returns the one spelling of a HOST:PORT in which two can be
// compared: an IP in its shortest form, IPv4 not mapped into IPv6, or a name in
// lower case without a dot at its end. What is no HOST:PORT is returned as it is.
func CanonicalAddr(addr string) string {
	if ap, err := netip.ParseAddrPort(addr); err == nil {
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()).String()
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return net.JoinHostPort(strings.ToLower(strings.TrimSuffix(host, ".")), port)
}

// Query selects instances. A driver must honour Service; the other fields are
// filters that package discovery applies to every driver's result.
type Query struct {
	// Service is mandatory.
	Service string
	// Tags must all be present.
	Tags []string
	// Meta must all be present with equal values.
	Meta map[string]string
	// Zone must be equal, unless it is empty.
	Zone string
}

// Revision orders the states of a provider. It rises with each change; 0 means
// unknown. Revisions of different providers cannot be compared.
type Revision uint64

// Snapshot is the whole set of instances at one moment.
type Snapshot struct {
	Revision  Revision
	Instances []Instance
	// Skipped are the entries that were found and could not be read.
	Skipped []Skipped
}

// Skipped is an entry that a driver could not read.
type Skipped struct {
	// Key says where the entry stands in the provider.
	Key string
	// Reason says what is wrong with it.
	Reason error
}

// SessionOptions are those of Registrar.OpenSession.
type SessionOptions struct {
	// TTL is how long registrations outlive the last renewal. 0 stands for the
	// driver's default. The provider may grant more.
	TTL time.Duration
}

// AuthorityOptions are those of Authorizer.OpenAuthority.
type AuthorityOptions struct {
	// Cluster is the name of the cluster whose master is granted.
	Cluster string
	// Self is the node on whose behalf the authority is used.
	Self Holder
	// Voter is the entry of a list of voters that stands for this node. Empty means
	// Self.Addr, or else the one of Aliases that is listed.
	Voter string
	// Aliases are other HOST:PORT by which this node may be listed, such as the name
	// that its address was resolved from.
	Aliases []string
	// TTL bounds how long a grant outlives its last renewal, and with it how long
	// a crashed master is missed. 0 stands for the driver's default. The provider
	// may grant more.
	TTL time.Duration
	// DataDir is where an authority that needs a disk keeps its state. The driver
	// makes it.
	DataDir string
	// Network reaches the peers.
	Network Network
	// Logger takes the records of libraries that insist on logging. It is not nil.
	Logger *slog.Logger
}

// Term counts masterships of a cluster from 1. It is the fencing token: the
// effects of a lower term are to be refused once a higher one was seen.
type Term uint64

// MaxTerm bounds what is believed of terms that were only heard of. It leaves room
// to count on from there.
const MaxTerm Term = 1 << 62

// Holder is who is master.
type Holder struct {
	NodeID     string            `json:"node_id"`
	InstanceID string            `json:"instance_id"`
	Addr       string            `json:"addr"`
	AppAddrs   map[string]string `json:"app_addrs,omitempty"`
}

// Claim is what a candidate says of itself.
type Claim struct {
	Holder Holder
	// MinTerm is the highest term that the candidate has heard of. The granted
	// one is higher, even if the provider has lost its own count.
	MinTerm Term
	// ClusterID becomes that of the cluster if the provider records none.
	ClusterID string
	// Known says that ClusterID is the id that the candidate's cluster already
	// has, and not a freshly minted one.
	Known bool
}

// Grant is mastership, as the authority gave it.
type Grant struct {
	Term      Term
	ClusterID string
	// ValidFor is how long nobody else can be granted, counted from any moment
	// before the call was sent.
	ValidFor time.Duration
	// Token is the driver's own, such as a lease and a revision.
	Token any
}

// Mastership is what an authority knows of the master of its cluster.
type Mastership struct {
	// Term is the last one granted, 0 if there was none.
	Term Term
	// ClusterID is the recorded one, empty if there is none.
	ClusterID string
	// Holder is who was granted Term. Nil means that nobody is known to hold it
	// now, and that an Acquire may succeed.
	Holder *Holder
	// Expected is the size of the quorum base, where the authority has one: the
	// number of voters. 0 where it has none.
	Expected int
	// Voters are the addresses of the quorum base, where the authority has one.
	Voters []string
	// Ineligible says why this node can never be granted, as one that is not among
	// the voters. Empty where it can.
	Ineligible string
	// Warning is a condition that an operator should mend, such as voter lists
	// that differ. Empty if there is none.
	Warning string
}

// Record is one entry of a Store.
type Record struct {
	Key      string
	Value    []byte
	Revision Revision
}

// The kinds of error that drivers return, to be tested with errors.Is.
var (
	// ErrUnavailable means that the provider could not be reached or did not
	// answer in time. The operation may or may not have happened. Try again.
	ErrUnavailable = errors.New("provider unavailable")

	// ErrDenied means that the provider refused the caller's credentials or
	// permissions.
	ErrDenied = errors.New("access denied")

	// ErrInvalid means that the request or the configuration is wrong, and stays
	// wrong however often it is tried.
	ErrInvalid = errors.New("invalid")

	// ErrNotFound means that what was named does not exist.
	ErrNotFound = errors.New("not found")

	// ErrConflict means that something else stands where the operation wanted to
	// write: another master, another revision.
	ErrConflict = errors.New("conflict")

	// ErrCompacted means that the changes since a revision are no longer known.
	// List again.
	ErrCompacted = fmt.Errorf("%w: revision compacted", ErrNotFound)

	// ErrSessionLost means that a session or a grant is over. Open another.
	ErrSessionLost = fmt.Errorf("%w: session lost", ErrNotFound)

	// ErrClusterMismatch means that the provider records another cluster id than
	// the one that the caller's cluster has: two clusters share a name.
	ErrClusterMismatch = fmt.Errorf("%w: another cluster has this name", ErrConflict)

	// ErrUnsupported means that the driver lacks an optional ability.
	ErrUnsupported = errors.New("not supported by this provider")
)

// Retryable reports whether another try of what returned err may succeed.
func Retryable(err error) bool {
	for _, final := range []error{ErrDenied, ErrInvalid, ErrUnsupported} {
		if errors.Is(err, final) {
			return false
		}
	}
	return err != nil
}

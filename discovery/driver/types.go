package driver

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
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

// SameAs reports whether i and o are the same in every field. An empty list or map is the same
// as none.
func (i Instance) SameAs(o Instance) bool {
	return i.Service == o.Service && i.NodeID == o.NodeID && i.InstanceID == o.InstanceID &&
		i.Addr == o.Addr && i.Zone == o.Zone && i.Version == o.Version &&
		i.RegisteredAt.Equal(o.RegisteredAt) && slices.Equal(i.Tags, o.Tags) &&
		maps.Equal(i.Meta, o.Meta) && maps.Equal(i.AppAddrs, o.AppAddrs)
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

// ValidateName reports what makes name no name of a service, an instance or a node: white
// space, control characters and others that are not seen, and what is no UTF-8. A registrar
// publishes none such; what a layout cannot hold beyond that, such as a slash, its driver
// refuses.
func ValidateName(name string) error {
	if !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return r == ' ' || !unicode.IsPrint(r) }) {
		return fmt.Errorf("%w: name %q has white space or control characters; write letters, digits, '-', '_' and '.'", ErrInvalid, name)
	}
	return nil
}

// ValidateAddr reports whether addr is a HOST:PORT that another host can dial:
// it has a host other than an unspecified address such as 0.0.0.0 or ::, without a zone such as
// %eth0, and a port from 1 to 65535. Names are not resolved.
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
	if err == nil && ip.Zone() != "" {
		return fmt.Errorf("%w: address %q: the zone %s means something on one host alone; name an address without one", ErrInvalid, addr, ip.Zone())
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
	// Failing are those that are registered, and that a health check of the provider finds
	// unwell. They are not among Instances. Package discovery shows them as long as nobody
	// else passes.
	Failing []Instance
	// Own is how many of Instances this driver has registered itself. It is set where
	// Failing may be.
	Own int
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

// TLSState is what a TLSReporter has in force.
type TLSState struct {
	// NotBefore and Expiry are the begin and the end of the certificate in force, zero if
	// there is none.
	NotBefore, Expiry time.Time
	// Reloads counts the changes that came into force.
	Reloads uint64
	// Err is why the files as they are now are not in force, nil when they are.
	Err error
}

// Location is where a node is reached.
type Location struct {
	Addr netip.AddrPort
	// Name is the HOST:PORT whose name Addr was resolved from. Empty if there was none.
	Name string
}

// Term counts masterships of a cluster from 1. It is the fencing token: the
// effects of a lower term are to be refused once a higher one was seen.
type Term uint64

// MaxTerm bounds what is believed of terms that were only learned of. It leaves room
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
	// MinTerm is the highest term that the candidate has learned of. The granted
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
	// Proof is a random text that is recorded with the grant and did not exist before the call
	// was sent that gave or last extended it. It is announced to the other nodes, for their
	// Learner. It has no spaces. Empty if the authority has no use for that.
	Proof string
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
	// number of voters. 0 if it has none.
	Expected int
	// Voters are the addresses of the quorum base, where the authority has one.
	Voters []string
	// Ineligible says why this node can never be granted, as one that is not among
	// the voters. Empty if it can.
	Ineligible string
	// Blocked says why this node is not to take part for now, as one whose directory
	// proves another cluster than the one that it meets, or that cannot write its
	// state. It is then not ready and no candidate. Empty if it may.
	Blocked string
	// BlockedBy is the kind of Blocked, for programs and alert rules. Empty if Blocked
	// is, or is of no kind that is listed.
	BlockedBy Block
	// Withheld says why nobody is granted for now, although no Holder is shown, as while a
	// record was lost whose holder may still count on it. It ends by itself. Empty if an
	// Acquire may succeed.
	Withheld string
	// Partial says that Term may have been granted in part only, by one of two authorities
	// that both have to grant. Then no mastership with an earlier term is outdated by it.
	Partial bool
	// Voter is the one of Voters that is this node. Empty if none is, or where the
	// authority has no voters.
	Voter string
	// Warning is a condition that an operator should fix, such as voter lists
	// that differ. Empty if there is none.
	Warning string
}

// Block is the kind of what keeps a node from taking part for now.
type Block string

// The kinds of blocks. Each ends when an operator has acted, but for BlockNotFounded, which
// also ends when the others come.
const (
	// BlockCluster: what this node remembers is of another cluster than what it meets.
	BlockCluster Block = "another_cluster"
	// BlockTerm: this node remembers a later term than the one that is in force.
	BlockTerm Block = "term_behind"
	// BlockStateLost: so many voters came without what they remembered that the others
	// elect nobody.
	BlockStateLost Block = "state_lost"
	// BlockUnwritable: this node cannot read or write what it must remember.
	BlockUnwritable Block = "state_unwritable"
	// BlockNotFounded: a cluster is founded once all that are listed have answered.
	BlockNotFounded Block = "not_founded"
)

// ResetOptions are those of Resetter.Reset.
type ResetOptions struct {
	// ClusterID is the new id of the cluster. It is mandatory and differs from the one
	// that is recorded, so that nodes that remember the old one do not take part.
	ClusterID string
	// Term becomes the last one granted: the next grant has Term + 1. It is at most
	// MaxTerm. 0 starts the count again.
	Term Term
	// Force replaces the record even if a holder may have a grant that is valid. The
	// caller has made sure that no node counts on one.
	Force bool
	// DryRun changes nothing.
	DryRun bool
}

// Recorded is what an authority had recorded before a Reset. Only to be shown.
type Recorded struct {
	ClusterID string
	Term      Term
	// Holder is nil if none was recorded.
	Holder *Holder
	// Problems say what could not be read, each with where it stands. Empty if all of
	// it could.
	Problems []string
}

// Voters is what an authority whose grants come from voters knows of them.
type Voters struct {
	// Voters are those that are listed or in force, by address.
	Voters []Voter
	// Warning is what an operator should fix. Empty if there is nothing.
	Warning string
}

// Voter is one voter, as this node knows it.
type Voter struct {
	// Addr is its entry in the list.
	Addr string
	// Self says that it is this node.
	Self bool
	// Listed says that it is in the list of this node, and Votes that it is in force:
	// its vote counts.
	Listed, Votes bool
	// Reached says that it answered when it was asked last; Problem why not.
	Reached bool
	Problem string
	// Leader says that it leads the voters, as far as this node knows.
	Leader bool
	// State is how far it has come: observer (it takes no part), empty (it remembers
	// nothing), fresh (it has founded a cluster that has had no leader yet) or
	// established. Empty unless Reached.
	State string
	// Term and ClusterID are of the last mastership that it remembers.
	Term      Term
	ClusterID string
	// Founding tells its cluster from others of the same name.
	Founding string
	// Behind is how many entries of the leader's log it does not have, if Known.
	Behind uint64
	Known  bool
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

	// ErrPartial means that a session goes on, but that some of its registrations were not
	// renewed: the error names each with its cause. Register puts those right, or tells why
	// it cannot.
	ErrPartial = errors.New("not all registrations were renewed")

	// ErrClusterMismatch means that the provider records another cluster id than
	// the one that the caller's cluster has: two clusters share a name.
	ErrClusterMismatch = fmt.Errorf("%w: another cluster has this name", ErrConflict)

	// ErrClosed means that the driver, session or authority was closed by its user. No
	// retry helps.
	ErrClosed = errors.New("closed")

	// ErrUnsupported means that the driver lacks an optional ability.
	ErrUnsupported = errors.New("not supported by this provider")
)

// Retryable reports whether another try of what returned err may succeed.
func Retryable(err error) bool {
	for _, final := range []error{ErrDenied, ErrInvalid, ErrClosed, ErrUnsupported} {
		if errors.Is(err, final) {
			return false
		}
	}
	return err != nil
}

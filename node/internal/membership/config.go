package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/memberlist"

	"github.com/musterhq/muster/node/internal/link"
)

// Limits of what is gossiped.
const (
	// MaxNodeID bounds a node id, in bytes.
	MaxNodeID = 128
	// MaxID bounds an instance id and a cluster id, in bytes.
	MaxID = 64
	// MaxMessage bounds the message of a Broadcast, in bytes.
	MaxMessage = 1024
	// MaxKey bounds the key of a Broadcast, in bytes.
	MaxKey = 32
	// MaxState bounds what Config.LocalState may return, in bytes.
	MaxState = 256 << 10
	// MaxDetails bounds the JSON of a member's details, in bytes.
	MaxDetails = 1 << 20
)

// Config is what a membership needs. The fields up to Network are mandatory.
type Config struct {
	// Cluster is the name of the cluster. Traffic of other clusters is discarded.
	Cluster string

	// NodeID names the node across restarts; InstanceID names this one start, is
	// unique, and is made of at least 12 ASCII letters, digits, '-' and '_'.
	NodeID     string
	InstanceID string

	// Addr is the address that the other members dial.
	Addr netip.AddrPort

	// Transport carries memberlist's packets and streams. The Name of each address that it is
	// given is the head of the instance id that is meant, or empty. The membership shuts it
	// down.
	Transport memberlist.Transport

	// Network carries the details that do not fit into gossip. The caller closes
	// it after the membership.
	Network link.Network

	// Details are shown to the other members.
	Details Details

	// Single refuses every other member, and makes the others refuse this one.
	Single bool

	// OnMessage takes the messages that other members broadcast, with the node id of the
	// member that is named as the origin, and MergeState what the LocalState of another
	// member returned. Both are called one at a time
	// from one goroutine, and own the slice that they get. They may take their
	// time: what is queued is bounded, and the oldest is dropped. They must not
	// call Leave or Close. Default: ignored.
	OnMessage  func(from string, msg []byte)
	MergeState func(state []byte)

	// LocalState returns what each node that exchanges state with this one is to
	// know: the late-comers' way to what was broadcast before. It is called
	// concurrently, holds up the exchange, and must not call into the membership.
	// More than MaxState bytes are not sent. Default: nothing.
	LocalState func() []byte

	// Departed is called with the instance id of a member that is known to have departed: that
	// said so, or turned out to be of another cluster, or was replaced by a later start of its
	// node. Silence alone is no departure. It is called from one goroutine once a view shows it,
	// and must not block or call into the membership. Default: ignored.
	Departed func(instanceID string)

	// Logger takes the records. Default: none are written.
	Logger *slog.Logger

	// SuspicionMult is by how many probes a member that does not answer is suspected before it
	// counts as failed. 0: three. It is for tests in which nobody fails.
	SuspicionMult int

	// Seams for tests.
	lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	now    func() time.Time // the wall clock that the claim is read from
}

// Details are what a member says about itself. They are not to be changed once
// they were handed over, in either direction.
type Details struct {
	// Zone is where the member runs.
	Zone string `json:"zone,omitempty"`
	// Tags and Meta are the user's own.
	Tags []string          `json:"tags,omitempty"`
	Meta map[string]string `json:"meta,omitempty"`
	// AppAddrs are the addresses of the application's own ports, by name.
	AppAddrs map[string]string `json:"app_addrs,omitempty"`
	// Version is that of the software.
	Version string `json:"version,omitempty"`
	// Voter is the entry that stands for the member in a list of voters, where it is
	// not the member's address.
	Voter string `json:"voter,omitempty"`
	// Authorities names the providers that grant the member mastership: several where
	// all of them must, none where it is never granted.
	Authorities []string `json:"authorities,omitempty"`
}

// Equal reports whether both say the same. Nil and empty are the same.
func (d Details) Equal(e Details) bool {
	return d.Zone == e.Zone && d.Version == e.Version && d.Voter == e.Voter && slices.Equal(d.Tags, e.Tags) &&
		slices.Equal(d.Authorities, e.Authorities) && maps.Equal(d.Meta, e.Meta) && maps.Equal(d.AppAddrs, e.AppAddrs)
}

func (d Details) clone() Details {
	d.Tags, d.Authorities = slices.Clone(d.Tags), slices.Clone(d.Authorities)
	d.Meta, d.AppAddrs = maps.Clone(d.Meta), maps.Clone(d.AppAddrs)
	return d
}

// texts returns every string in d, to be checked.
func (d Details) texts() []string {
	texts := slices.Concat([]string{d.Zone, d.Version, d.Voter}, d.Tags, d.Authorities)
	for _, m := range []map[string]string{d.Meta, d.AppAddrs} {
		for k, v := range m {
			texts = append(texts, k, v)
		}
	}
	return texts
}

// Validate reports all that is wrong with c, joined into one error.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("membership: "+format, args...)) }
	switch {
	case c.Cluster == "":
		bad("cluster: missing; name the cluster")
	case len(c.Cluster) > memberlist.LabelMaxSize:
		bad("cluster %.40q...: has %d bytes; want at most %d", c.Cluster, len(c.Cluster), memberlist.LabelMaxSize)
	}
	switch {
	case c.NodeID == "":
		bad("node id: missing; name the node")
	case len(c.NodeID) > MaxNodeID:
		bad("node id %.40q...: has %d bytes; want at most %d", c.NodeID, len(c.NodeID), MaxNodeID)
	case !utf8.ValidString(c.NodeID):
		bad("node id %q: want valid UTF-8", c.NodeID)
	default:
		for _, r := range c.NodeID {
			if unicode.IsControl(r) {
				bad("node id %q: want no control characters", c.NodeID)
				break
			}
		}
	}
	if len(c.InstanceID) < shortInstance || validateID(c.InstanceID) != nil {
		bad("instance id %q: want from %d to %d letters, digits, '-' and '_'", c.InstanceID, shortInstance, MaxID)
	}
	if !c.Addr.IsValid() || c.Addr.Addr().IsUnspecified() || c.Addr.Port() == 0 {
		bad("address %q: want the IP address and port that other members dial", c.Addr)
	}
	if c.Transport == nil {
		bad("transport: missing")
	}
	if c.Network == nil {
		bad("network: missing")
	}
	return errors.Join(errs...)
}

// validateID keeps ids free of what JSON would have to escape, so that their
// share of a member's metadata is known.
func validateID(id string) error {
	if len(id) > MaxID {
		return fmt.Errorf("%.40q...: has %d bytes; want at most %d", id, len(id), MaxID)
	}
	for i := range len(id) {
		switch b := id[i]; {
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9', b == '-', b == '_':
		default:
			return fmt.Errorf("%q: want only letters, digits, '-' and '_'", id)
		}
	}
	return nil
}

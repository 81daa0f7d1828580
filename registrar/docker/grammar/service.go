package grammar

import (
	"net"
	"strconv"

	"github.com/musterhq/muster/discovery/driver"
)

// Service is one port of a container as it would be registered.
type Service struct {
	ID      string            `json:"id"`
	Name    string            `json:"name"`
	Address string            `json:"address"`
	Port    uint16            `json:"port"`
	Tags    []string          `json:"tags"`
	Attrs   map[string]string `json:"attrs"`
	// TTL is in seconds, 0 for the provider's default.
	TTL int `json:"ttl"`
	// Reason says why it is registered, and how its address was chosen.
	Reason string `json:"reason"`
}

// Instance returns what is registered of s on the host named node.
func (s Service) Instance(node string) driver.Instance {
	return driver.Instance{
		Service:    s.Name,
		NodeID:     node,
		InstanceID: s.ID,
		Addr:       net.JoinHostPort(s.Address, strconv.Itoa(int(s.Port))),
		Tags:       s.Tags,
		Meta:       s.Attrs,
	}
}

// Rules say which ports of a container are registered, and how. They are those of
// gliderlabs/registrator, and better where it errs; the README beside them has both.
// The zero value is useful with a Hostname.
type Rules struct {
	// Hostname is the first part of the ids, which tells what is this host's from
	// what is another's. Mandatory.
	Hostname string
	// IP is the address of published ports. Default: the one that the port is
	// bound to, and HostIP where that is 0.0.0.0 or ::.
	IP string
	// HostIP is the address of this host for ports that are bound to all of them.
	HostIP string
	// Internal registers the container's own address and port, published or not.
	Internal bool
	// Explicit registers only what has a SERVICE_NAME or SERVICE_<port>_NAME.
	Explicit bool
	// RequireLabel registers only containers with this label, as "muster.register" or
	// "muster.register=true". Empty: all.
	RequireLabel string
	// IPFromLabel names a label whose value is the address, without its /mask. A
	// container without the label does without; one whose label is no address is
	// left out.
	IPFromLabel string
	// Tags are put on every service. Each may be several between commas, and have
	// templates over the Container in it.
	Tags []string
	// MergeTags adds SERVICE_TAGS to SERVICE_<port>_TAGS. Otherwise the latter
	// replace them.
	MergeTags bool
	// TTL is that of what is registered, in seconds.
	TTL int
}

package lookup

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"

	"github.com/musterhq/muster/discovery"
)

// Mapping is one port of a container and where others reach it.
type Mapping struct {
	// Service is the name that the entry stands under, with or without a port.
	Service string
	// ID is that of the entry: HOST:CONTAINER:PORT, and the protocol if that is not TCP.
	ID string
	// Addr is the HOST:PORT that others dial.
	Addr string
	// Container is the name of the container.
	Container string
	// ContainerPort is what the program listens on.
	ContainerPort uint16
	// Protocol is tcp, udp or sctp.
	Protocol string
	// Tags are those of the entry. They are shared and must not be changed.
	Tags []string
}

// id is the form of a registrar's ids. A host may be an IPv6 address, whose colons do
// no harm: what counts stands at the end.
var id = regexp.MustCompile(`^.+:([a-zA-Z0-9_.-]+):([0-9]+)(?::(tcp|udp|sctp))?$`)

// mappingOf returns what i says of a port, and false if a registrar has not made
// its id: nothing is known of such an entry's container.
func mappingOf(i discovery.Instance) (Mapping, bool) {
	parts := id.FindStringSubmatch(i.InstanceID)
	if parts == nil {
		return Mapping{}, false
	}
	port, err := strconv.ParseUint(parts[2], 10, 16)
	if err != nil || port == 0 {
		return Mapping{}, false
	}
	return Mapping{
		Service:       i.Service,
		ID:            i.InstanceID,
		Addr:          i.Addr,
		Container:     parts[1],
		ContainerPort: uint16(port),
		Protocol:      cmp.Or(parts[3], "tcp"),
		Tags:          i.Tags,
	}, true
}

// sortMappings orders by port, and those of one port by protocol and id.
func sortMappings(found []Mapping) {
	slices.SortFunc(found, func(a, b Mapping) int {
		return cmp.Or(cmp.Compare(a.ContainerPort, b.ContainerPort), cmp.Compare(a.Protocol, b.Protocol),
			cmp.Compare(a.ID, b.ID), cmp.Compare(a.Service, b.Service))
	})
}

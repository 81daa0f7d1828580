package binding

import (
	"net/netip"
	"slices"

	"github.com/musterhq/muster/registrar/docker/engine"
)

// A container of a bridge is reached at its host, by a port that is published. Of some
// networks the containers are reached by others as they are: those of macvlan and ipvlan
// are in a network of hosts, and to those of a bridge in routed mode the routers know
// the way. docker inspect says neither; Networks asks the engine.

// OwnAddress is where others reach a container without its host.
type OwnAddress struct {
	IP  netip.Addr
	Why string // how it is known, in parentheses; may be empty
}

// OwnAddresses are those of a container.
type OwnAddresses struct {
	addrs []OwnAddress
	// Without is a network that would give one, and gives no address. Empty for none.
	Without string
}

// Known reports whether there is one.
func (o OwnAddresses) Known() bool { return len(o.addrs) > 0 }

// First is the one in the network that NetworkMode names, or else in the first by name. It panics
// if none is known.
func (o OwnAddresses) First() OwnAddress { return o.addrs[0] }

// OwnAddressesOf returns the addresses in networks whose containers others reach as they are.
func OwnAddressesOf(c engine.Container) (o OwnAddresses) {
	for _, name := range c.NetworksInOrder() {
		e := c.NetworkSettings.Networks[name]
		why := ""
		switch {
		case standsAlone(e):
			why = "(network " + name + ", " + e.Driver + ")"
		case e.Driver == "" && SeemsAlone(c, name):
			why = "(network " + name + ", whose driver publishes nothing, as macvlan and ipvlan)"
		default:
			continue
		}
		if ip := FirstIP(e.IPAddress, e.GlobalIPv6Address); ip.IsValid() {
			o.addrs = append(o.addrs, OwnAddress{ip, why})
		} else {
			o.Without = name
		}
	}
	return o
}

// standsAlone reports whether the driver of a network is one whose containers are in a
// network of hosts. An internal network leads nowhere else.
func standsAlone(e engine.Endpoint) bool {
	switch e.Driver {
	case "macvlan", "ipvlan", "transparent", "l2bridge": // the last two are of Windows
		return !e.Internal
	}
	return false
}

// SeemsAlone reports whether a container seems to be in no bridge but in a network like
// macvlan, where nobody has said its driver. The engine lists a port that is exposed among
// those of the network, published or not, if a bridge is what leads there; of macvlan it
// lists none.
func SeemsAlone(c engine.Container, network string) bool {
	mode := c.HostConfig.NetworkMode
	switch mode {
	case "", "default", "bridge", "nat", "none", "host":
		return false
	}
	// Engines that run as a user have modes of their own: slirp4netns, pasta:OPTIONS.
	return mode == network && len(c.NetworkSettings.Networks) == 1 && c.State.Up() && !c.SwarmTask() &&
		len(c.Config.ExposedPorts) > 0 && len(c.NetworkSettings.Ports) == 0
}

// RoutedAt returns where a port of c is reached that a bridge in routed mode lets through:
// the container's own address of a family in which nothing is translated.
func (all Bindings) RoutedAt(p Port, c engine.Container) (OwnAddress, bool) {
	b := all[p]
	if b == nil || len(b.Routed) == 0 {
		return OwnAddress{}, false
	}
	for _, name := range c.NetworksInOrder() {
		e := c.NetworkSettings.Networks[name]
		if e.Driver != "" && e.Driver != "bridge" {
			continue
		}
		for _, text := range []string{e.IPAddress, e.GlobalIPv6Address} {
			ip := FirstIP(text)
			if ip.IsValid() && slices.ContainsFunc(b.Routed, func(family netip.Addr) bool { return SameFamily(family, ip) }) {
				return OwnAddress{ip, "(network " + name + ", routed)"}, true
			}
		}
	}
	return OwnAddress{}, false
}

// FirstIP returns the first of texts that is an address of one interface, not valid if none is.
func FirstIP(texts ...string) netip.Addr {
	for _, text := range texts {
		if ip, err := ParseIP(text); err == nil && !ip.IsUnspecified() {
			return ip
		}
	}
	return netip.Addr{}
}

package binding

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/registrar/docker/engine"
)

// Bindings are where the ports of a container are published.
type Bindings map[Port]*Binding

// Binding is where one port is published.
type Binding struct {
	// At are the addresses and ports of the host, in the order of the engine. They may be of all
	// interfaces: 0.0.0.0, ::.
	At []netip.AddrPort
	// Routed are the families in which the engine lets the port through to the container's
	// own address and translates nothing.
	Routed []netip.Addr // 0.0.0.0, ::
}

// Of returns the bindings of all ports of c, and what is wrong with others, by their port. A
// port that is exposed and not published has an empty Binding.
func Of(c engine.Container) (all Bindings, wrong map[Port][]error) {
	all, wrong = make(Bindings), make(map[Port][]error)
	for _, key := range slices.Sorted(maps.Keys(c.NetworkSettings.Ports)) {
		p, err := ParsePort(key)
		if err != nil {
			continue
		}
		of := all[p]
		if of == nil {
			of = new(Binding)
			all[p] = of
		}
		for _, b := range c.NetworkSettings.Ports[key] {
			if b.HostPort == "" {
				// Without an address it is exposed alone, as some engines put it.
				if ip, err := ParseIP(b.HostIP); err == nil && ip.IsUnspecified() {
					of.Routed = append(of.Routed, ip)
				}
				continue
			}
			at, err := parseBinding(b)
			if err != nil {
				wrong[p] = append(wrong[p], err)
				continue
			}
			of.At = append(of.At, at...)
		}
	}
	return all, wrong
}

// parseBinding returns where b is, or both families where it says no address, as Podman does
// for all of either family.
func parseBinding(b engine.Binding) ([]netip.AddrPort, error) {
	number, ok := PortNumber(b.HostPort)
	if !ok {
		return nil, &driver.ConfigError{Key: "HostPort", Value: b.HostPort, Problem: "no port from 1 to 65535"}
	}
	if b.HostIP == "" {
		return []netip.AddrPort{netip.AddrPortFrom(netip.IPv4Unspecified(), number), netip.AddrPortFrom(netip.IPv6Unspecified(), number)}, nil
	}
	ip, err := ParseIP(b.HostIP)
	if err != nil {
		return nil, &driver.ConfigError{Key: "HostIp", Value: b.HostIP, Problem: err.Error()}
	}
	return []netip.AddrPort{netip.AddrPortFrom(ip, number)}, nil
}

// ParseIP reads an address, which may be of all interfaces but not of one link alone.
func ParseIP(s string) (netip.Addr, error) {
	ip, err := netip.ParseAddr(s)
	switch ip = ip.Unmap(); {
	case err != nil:
		return netip.Addr{}, fmt.Errorf("no address; want an IP such as 192.168.1.102")
	case ip.Zone() != "":
		return netip.Addr{}, fmt.Errorf("an address with a zone, which means nothing to other hosts")
	case ip.IsMulticast():
		return netip.Addr{}, fmt.Errorf("a multicast address, which nobody can dial")
	}
	return ip, nil
}

// SameFamily reports whether a and b are both IPv4, or both IPv6: what answers at one does
// not answer at the other.
func SameFamily(a, b netip.Addr) bool { return a.Is4() == b.Is4() }

package docker

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/musterhq/muster/discovery/driver"
)

// protocols are those that a port can have, in the order in which ports are told.
var protocols = []string{"tcp", "udp", "sctp"}

// port is one of a container.
type port struct {
	number   uint16
	protocol string
}

func (p port) String() string { return fmt.Sprintf("%d/%s", p.number, p.protocol) }

// suffix is how p ends an id. Only tcp is not said.
func (p port) suffix() string {
	if p.protocol == "tcp" {
		return fmt.Sprintf(":%d", p.number)
	}
	return fmt.Sprintf(":%d:%s", p.number, p.protocol)
}

// parsePort reads a key of ExposedPorts or Ports.
func parsePort(key string) (port, error) {
	number, protocol, ok := strings.Cut(key, "/")
	if !ok {
		protocol = "tcp"
	}
	protocol = strings.ToLower(protocol)
	n, valid := portNumber(number)
	switch {
	case !valid || !isNumber(number):
		return port{}, &driver.ConfigError{Key: "port", Value: key, Problem: "no port; want a number from 1 to 65535 and a protocol, as 80/tcp"}
	case !slices.Contains(protocols, protocol):
		return port{}, &driver.ConfigError{Key: "port", Value: key, Problem: "unknown protocol; want " + strings.Join(protocols, ", ")}
	}
	return port{n, protocol}, nil
}

// portsOf returns the ports that c exposes or publishes, in order. What is no port is
// told of.
func portsOf(c Container, report func(error)) []port {
	keys := make(map[string]bool)
	for key := range c.Config.ExposedPorts {
		keys[key] = true
	}
	for key := range c.NetworkSettings.Ports {
		keys[key] = true
	}
	var ports []port
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		p, err := parsePort(key)
		if err != nil {
			report(err)
			continue
		}
		ports = append(ports, p)
	}
	slices.SortFunc(ports, func(a, b port) int {
		return cmp.Or(cmp.Compare(a.number, b.number), cmp.Compare(slices.Index(protocols, a.protocol), slices.Index(protocols, b.protocol)))
	})
	return slices.Compact(ports) // 80 is 80/tcp
}

// bindingsOf returns the bindings of p. One that is wrong is told of.
func bindingsOf(c Container, p port, report func(error)) []netip.AddrPort {
	var all []netip.AddrPort
	for _, key := range slices.Sorted(maps.Keys(c.NetworkSettings.Ports)) {
		if q, err := parsePort(key); err != nil || q != p {
			continue
		}
		for _, b := range c.NetworkSettings.Ports[key] {
			if b.HostPort == "" {
				continue // exposed alone, as some engines put it
			}
			addr, err := b.parse()
			if err != nil {
				report(fmt.Errorf("port %v: %w", p, err))
				continue
			}
			all = append(all, addr)
		}
	}
	return all
}

func (b Binding) parse() (netip.AddrPort, error) {
	number, ok := portNumber(string(b.HostPort))
	if !ok || !isNumber(string(b.HostPort)) {
		return netip.AddrPort{}, &driver.ConfigError{Key: "HostPort", Value: string(b.HostPort), Problem: "no port; want a number from 1 to 65535"}
	}
	if b.HostIP == "" {
		return netip.AddrPortFrom(netip.IPv4Unspecified(), number), nil
	}
	ip, err := parseIP(string(b.HostIP))
	if err != nil {
		return netip.AddrPort{}, &driver.ConfigError{Key: "HostIp", Value: string(b.HostIP), Problem: err.Error()}
	}
	return netip.AddrPortFrom(ip, number), nil
}

// parseIP reads an address, which may be of all interfaces but not of one link alone.
func parseIP(s string) (netip.Addr, error) {
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

// best returns the binding that is registered: bindings are not equally good, and a
// port that is registered twice is found twice.
//
//  1. One at the address that is registered, if that is configured.
//  2. One at an address of this host that others can dial; with a configured address
//     only after 3.
//  3. One at all addresses.
//  4. One that only this host can dial.
//
// Within these, the family of the configured address comes first, or IPv4; then the lowest
// address, and the lowest port.
func best(bindings []netip.AddrPort, configured, host netip.Addr) netip.AddrPort {
	rank := func(b netip.AddrPort) int {
		switch a := b.Addr(); {
		case configured.IsValid() && a == configured:
			return 0
		case a.IsUnspecified():
			return 2
		case a.IsLoopback() || a.IsLinkLocalUnicast():
			return 4
		case configured.IsValid():
			return 3
		default:
			return 1
		}
	}
	sixth := host.Is6()
	if configured.IsValid() {
		sixth = configured.Is6()
	}
	return slices.MinFunc(bindings, func(a, b netip.AddrPort) int {
		return cmp.Or(
			cmp.Compare(rank(a), rank(b)),
			cmp.Compare(boolInt(a.Addr().Is6() != sixth), boolInt(b.Addr().Is6() != sixth)),
			a.Compare(b),
		)
	})
}

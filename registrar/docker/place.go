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

// The modes of HostConfig.NetworkMode that are no name of a network.
const (
	modeHost   = "host"
	joinPrefix = "container:"
)

// maxJoins bounds the containers that join one another's network. An engine allows one.
const maxJoins = 8

// network is where the ports of a container can be reached.
type network struct {
	owner    Container // whose network it is: the container itself or one that it has joined
	joined   bool
	onHost   bool       // it is the network of the host
	label    netip.Addr // the address that a label gives, not valid without
	ip, host netip.Addr // those of the rules, not valid without
}

// networkOf finds out where c is.
func (r Rules) networkOf(c Container, other func(id string) (Container, bool)) (network, error) {
	n := network{owner: c}
	for range maxJoins {
		mode := n.owner.HostConfig.NetworkMode
		id, joins := strings.CutPrefix(mode, joinPrefix)
		if !joins {
			n.onHost = mode == modeHost
			return n, r.addressesOf(c, &n)
		}
		owner, ok := Container{}, false
		if other != nil && id != "" {
			owner, ok = other(id)
		}
		if !ok {
			return network{}, fmt.Errorf("%w: %w", driver.ErrNotFound, &driver.ConfigError{
				Key: "NetworkMode", Value: mode, Problem: "names a container that is not known; its address is that of this one"})
		}
		n.owner, n.joined = owner, true
	}
	return network{}, &driver.ConfigError{Key: "NetworkMode", Value: c.HostConfig.NetworkMode, Problem: "leads from container to container without an end"}
}

// addressesOf reads the addresses that are given.
func (r Rules) addressesOf(c Container, n *network) error {
	var err error
	if n.ip, err = configured(keyIP, r.IP); err != nil {
		return err
	}
	// One that is not known yet is no error as long as nobody asks for it.
	n.host, _ = configured(keyHostIP, r.HostIP)
	value, ok := "", false
	if r.IPFromLabel != "" {
		value, ok = c.Config.Labels[r.IPFromLabel]
	}
	if !ok || value == "" {
		return nil
	}
	text := value
	if slash := strings.LastIndex(value, "/"); slash >= 0 {
		text = value[:slash]
	}
	n.label, err = configured("label "+r.IPFromLabel, text)
	return err
}

// configured reads an address that is to be registered, empty for none.
func configured(key, value string) (netip.Addr, error) {
	if value == "" {
		return netip.Addr{}, nil
	}
	ip, err := parseIP(value)
	if err == nil && ip.IsUnspecified() {
		err = fmt.Errorf("the address of all interfaces, which nobody can dial; name one of this host")
	}
	if err != nil {
		return netip.Addr{}, &driver.ConfigError{Key: key, Value: value, Problem: err.Error()}
	}
	return ip, nil
}

// spot is where one port can be reached.
type spot struct {
	ip     netip.Addr // not valid where it is not known
	port   uint16
	reason string
}

// spotOf finds the place of a port. A port that has none is told as left out.
func (r Rules) spotOf(p port, n network, report func(error)) (spot, error) {
	bindings := bindingsOf(n.owner, p, report)
	switch {
	case r.Internal && !n.onHost, n.joined && !n.onHost && len(bindings) == 0:
		return r.inside(p, n)
	case len(bindings) > 0 && !r.Internal:
		return r.published(bindings, n), nil
	case n.onHost:
		return n.known(spot{port: p.number, reason: n.through() + "on the network of the host"}), nil
	default:
		return spot{}, fmt.Errorf("%w: it is not published; publish it with -p, or set registrar.internal", ErrLeftOut)
	}
}

// published is a port that the engine maps.
func (r Rules) published(bindings []netip.AddrPort, n network) spot {
	want := n.ip
	if n.label.IsValid() {
		want = n.label
	}
	chosen := best(bindings, want, n.host)
	s := spot{port: chosen.Port(), reason: n.through() + "published at " + chosen.String()}
	if len(bindings) > 1 {
		s.reason += fmt.Sprintf(", the best of %d bindings", len(bindings))
	}
	if a := chosen.Addr(); !a.IsUnspecified() {
		s.ip = a
	}
	if a := chosen.Addr(); a.IsLoopback() || a.IsLinkLocalUnicast() {
		s.reason += ", where only this host can dial it"
	}
	return n.known(s)
}

// inside is a port at the container's own address.
func (r Rules) inside(p port, n network) (spot, error) {
	s := spot{port: p.number, reason: "the container's own address"}
	if n.joined {
		s.reason = "the address of container " + n.owner.label() + ", whose network it has joined"
	}
	if n.label.IsValid() {
		return n.known(s), nil
	}
	name, ip := n.owner.address()
	if !ip.IsValid() {
		return spot{}, &driver.ConfigError{Key: "Networks", Value: strings.Join(slices.Sorted(maps.Keys(n.owner.NetworkSettings.Networks)), ","),
			Problem: "the container has no address in any network; publish the port and do without registrar.internal"}
	}
	s.ip = ip
	if name != "" {
		s.reason += " (network " + name + ")"
	}
	return s, nil
}

// known completes s with what is configured: the label's address, else ip, else the
// one of s itself, else that of the host.
func (n network) known(s spot) spot {
	switch {
	case n.label.IsValid():
		s.ip, s.reason = n.label, s.reason+"; the address is that of its label"
	case n.ip.IsValid():
		s.ip, s.reason = n.ip, s.reason+"; the address is "+keyIP
	case s.ip.IsValid():
	case n.host.IsValid():
		s.ip, s.reason = n.host, s.reason+"; the address is that of this host"
	default:
		s.reason += "; the address of this host is not known"
	}
	return s
}

// through begins the reason of what another container does for this one.
func (n network) through() string {
	if !n.joined {
		return ""
	}
	return "in the network of container " + n.owner.label() + ", "
}

// address returns the container's own address and the network that it is in: the one
// that NetworkMode names, else the first by name that has one; IPv4 before IPv6.
// Neither is known where no network says one.
func (c Container) address() (network string, ip netip.Addr) {
	networks := c.NetworkSettings.Networks
	main := c.HostConfig.NetworkMode
	if main == "default" || main == "" {
		main = "bridge"
	}
	names := slices.SortedFunc(maps.Keys(networks), func(a, b string) int {
		return cmp.Or(cmp.Compare(boolInt(a != main), boolInt(b != main)), cmp.Compare(a, b))
	})
	for _, name := range names {
		e := networks[name]
		if ip := ownIP(e.IPAddress, e.GlobalIPv6Address); ip.IsValid() {
			return name, ip
		}
	}
	// Engines before API v1.52 also said the one of the default network by itself.
	return "", ownIP(c.NetworkSettings.IPAddress, c.NetworkSettings.GlobalIPv6Address)
}

func ownIP(texts ...string) netip.Addr {
	for _, text := range texts {
		if ip, err := parseIP(text); err == nil && !ip.IsUnspecified() {
			return ip
		}
	}
	return netip.Addr{}
}

package grammar

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/registrar/docker/engine"
	"github.com/musterhq/muster/registrar/docker/internal/binding"
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
	owner    engine.Container // whose network it is: the container itself or one that it has joined
	joined   bool
	onHost   bool             // it is the network of the host
	bindings binding.Bindings // of owner
	wrong    map[binding.Port][]error
	own      binding.OwnAddresses // where owner is reached without its host, in the network of its own
	label    netip.Addr           // the address that a label gives, not valid without
	ip, host netip.Addr           // those of the rules, not valid without
}

// unpublished reports whether ports are reached here that nobody has published.
func (n network) unpublished(r Rules) bool { return n.onHost || r.Internal || n.own.Known() }

// networkOf finds out where c is.
func (r Rules) networkOf(c engine.Container, other func(id string) (engine.Container, bool)) (network, error) {
	n := network{owner: c}
	for range maxJoins {
		mode := n.owner.HostConfig.NetworkMode
		id, joins := strings.CutPrefix(mode, joinPrefix)
		if !joins {
			n.onHost = mode == modeHost
			n.bindings, n.wrong = binding.Of(n.owner)
			n.own = binding.OwnAddressesOf(n.owner)
			return n, r.addressesOf(c, &n)
		}
		owner, ok := engine.Container{}, false
		if other != nil && id != "" {
			owner, ok = other(id)
		}
		if !ok {
			return network{}, fmt.Errorf("%w: %w", driver.ErrNotFound, &driver.ConfigError{
				Key: "NetworkMode", Value: mode, Problem: "names a container that is not known", Hint: "its address is that of this one"})
		}
		n.owner, n.joined = owner, true
	}
	return network{}, &driver.ConfigError{Key: "NetworkMode", Value: c.HostConfig.NetworkMode, Problem: "leads from container to container without an end"}
}

// addressesOf reads the addresses that are given.
func (r Rules) addressesOf(c engine.Container, n *network) error {
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
	ip, err := binding.ParseIP(value)
	if err == nil && ip.IsUnspecified() {
		err = fmt.Errorf("the address of all interfaces, which nobody can dial; name one of this host")
	}
	if err != nil {
		return netip.Addr{}, &driver.ConfigError{Key: key, Value: value, Problem: err.Error()}
	}
	return ip, nil
}

// endpoint is where one port can be reached.
type endpoint struct {
	ip     netip.Addr // not valid if it is not known
	port   uint16
	reason string
	hint   string // where ip is not valid: what makes it known
}

// The keys that set the address of the host.
const hostAddressHint = "set " + keyIP + " or " + keyHostIP

// endpointOf finds the endpoint of a port that has these settings. A port that has none is reported
// as left out.
func (r Rules) endpointOf(p binding.Port, n network, set map[string]setting, report func(error)) (endpoint, error) {
	for _, err := range n.wrong[p] {
		report(fmt.Errorf("port %v: %w", p, err))
	}
	var at given
	if asked := set[keyAddress]; asked.value != "" {
		ip, err := configured(asked.source(), asked.value)
		if err != nil {
			return endpoint{}, err
		}
		at = given{ip, "; the address is " + asked.source()}
	} else if n.label.IsValid() {
		at = given{n.label, "; the address is that of its label"}
	}
	if asked := set[keyNetwork]; asked.value != "" {
		return n.inNetwork(p, at, asked)
	}
	var bindings []netip.AddrPort
	if b := n.bindings[p]; b != nil {
		bindings = b.At
	}
	routed, isRouted := n.bindings.RoutedAt(p, n.owner)
	switch {
	case r.Internal && !n.onHost:
		return n.inside(p, at)
	case isRouted && !(len(bindings) > 0 && n.reaches(bindings, at)):
		return n.at(p, at, routed), nil
	case len(bindings) > 0:
		return n.published(bindings, at), nil
	case n.onHost:
		return n.onTheHost(p, at), nil
	case n.own.Known():
		return n.at(p, at, n.own.First()), nil
	case n.joined:
		return n.inside(p, at)
	}
	return endpoint{}, fmt.Errorf("%w: %s", ErrLeftOut, n.unpublishedHint(p))
}

// given is an address that was given to this one container, not valid if none was.
type given struct {
	ip     netip.Addr
	source string
}

// addressOf returns the address at which others reach what is bound to b: the one that was
// given, else registrar.ip, else the one of b itself, else that of this host. It is none
// where the one that counts is of the other family.
func (n network) addressOf(b netip.Addr, at given) (ip netip.Addr, source string) {
	for _, known := range []given{at, {n.ip, "; the address is " + keyIP}} {
		switch {
		case !known.ip.IsValid():
			continue
		case binding.SameFamily(known.ip, b):
			return known.ip, known.source
		case !b.IsUnspecified() || at.ip.IsValid():
			return netip.Addr{}, ""
		}
	}
	if !b.IsUnspecified() {
		return b, ""
	}
	if n.host.IsValid() && binding.SameFamily(n.host, b) {
		return n.host, "; the address is that of this host"
	}
	return netip.Addr{}, ""
}

// reaches reports whether others reach one of bindings at an address that is known.
func (n network) reaches(bindings []netip.AddrPort, at given) bool {
	return slices.ContainsFunc(bindings, func(b netip.AddrPort) bool {
		ip, _ := n.addressOf(b.Addr(), at)
		return ip.IsValid()
	})
}

// published is a port that the engine maps.
func (n network) published(bindings []netip.AddrPort, at given) endpoint {
	fit := slices.DeleteFunc(slices.Clone(bindings), func(b netip.AddrPort) bool {
		ip, _ := n.addressOf(b.Addr(), at)
		return !ip.IsValid()
	})
	if len(fit) == 0 {
		fit = bindings // if none can be dialled, the best of them is reported
	}
	want := n.ip
	if at.ip.IsValid() {
		want = at.ip
	}
	chosen := binding.Best(fit, want, n.host)
	s := endpoint{port: chosen.Port(), reason: n.through() + "published at " + chosen.String()}
	if len(bindings) > 1 {
		s.reason += fmt.Sprintf(", the best of %d bindings", len(bindings))
	}
	if a := chosen.Addr(); a.IsLoopback() || a.IsLinkLocalUnicast() {
		s.reason += ", where only this host can dial it"
	}
	ip, source := n.addressOf(chosen.Addr(), at)
	if ip.IsValid() {
		s.ip, s.reason = ip, s.reason+source
		return s
	}
	return n.unknown(s, chosen.Addr(), at)
}

// unknown completes s, which is bound to b, where no address of its family is known.
func (n network) unknown(s endpoint, b netip.Addr, at given) endpoint {
	var known netip.Addr
	for _, ip := range []netip.Addr{at.ip, n.ip, n.host} {
		if ip.IsValid() && !known.IsValid() {
			known = ip
		}
	}
	if !known.IsValid() {
		s.reason, s.hint = s.reason+"; the address of this host is not known", hostAddressHint
		return s
	}
	have, other := familyOf(b), familyOf(known)
	s.reason += fmt.Sprintf(", which is %s alone, and %v is %s", have, known, other)
	everywhere := "0.0.0.0"
	if known.Is6() {
		everywhere = "[::]"
	}
	s.hint = fmt.Sprintf("publish it for %s too (-p %s:PORT:PORT)", other, everywhere)
	if n.joined {
		s.hint += " of container " + n.owner.Label()
	}
	switch {
	case at.ip.IsValid():
		s.hint += fmt.Sprintf(", or give it an address of %s", have)
	case b.IsUnspecified():
		s.hint += fmt.Sprintf(", or set %s to an address of this host of %s", keyHostIP, have)
	default:
		s.hint += fmt.Sprintf(", or take %s out, so that the address is the one that it is published at", keyIP)
	}
	return s
}

func familyOf(a netip.Addr) string {
	if a.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// onTheHost is a port of the network of the host, which is bound to nobody knows what.
func (n network) onTheHost(p binding.Port, at given) endpoint {
	s := endpoint{port: p.Number, reason: n.through() + "on the network of the host"}
	switch {
	case at.ip.IsValid():
		s.ip, s.reason = at.ip, s.reason+at.source
	case n.ip.IsValid():
		s.ip, s.reason = n.ip, s.reason+"; the address is "+keyIP
	case n.host.IsValid():
		s.ip, s.reason = n.host, s.reason+"; the address is that of this host"
	default:
		s.reason, s.hint = s.reason+"; the address of this host is not known", hostAddressHint
	}
	return s
}

// inside is a port at the container's own address, in whichever network it has one.
func (n network) inside(p binding.Port, at given) (endpoint, error) {
	name, ip := address(n.owner)
	if !ip.IsValid() && !at.ip.IsValid() {
		return endpoint{}, &driver.ConfigError{Key: "Networks", Value: n.owner.NetworkNames(), Problem: n.noAddressProblem()}
	}
	own := binding.OwnAddress{IP: ip}
	if name != "" && !at.ip.IsValid() {
		own.Why = "(network " + name + ")"
	}
	return n.at(p, at, own), nil
}

func (n network) noAddressProblem() string {
	if n.joined {
		return fmt.Sprintf("container %s, whose network it has joined, has no address in any network; publish the port there, or give that container a network", n.owner.Label())
	}
	return "the container has no address in any network; publish the port and do without registrar.internal"
}

// inNetwork is a port at the container's own address in the network that a setting names.
func (n network) inNetwork(p binding.Port, at given, asked setting) (endpoint, error) {
	name, ok := n.owner.NetworkNamed(asked.value)
	e := n.owner.NetworkSettings.Networks[name]
	ip := binding.FirstIP(e.IPAddress, e.GlobalIPv6Address)
	switch {
	case !ok:
		return endpoint{}, &driver.ConfigError{Key: asked.source(), Value: asked.value, Problem: "the container is in no such network", Hint: fmt.Sprintf("name one of %s", cmp.Or(n.owner.NetworkNames(), "its own, of which it has none"))}
	case !ip.IsValid() && !at.ip.IsValid():
		return endpoint{}, &driver.ConfigError{Key: asked.source(), Value: asked.value, Problem: "the container has no address in that network", Hint: "name another, or take it out"}
	}
	return n.at(p, at, binding.OwnAddress{IP: ip, Why: fmt.Sprintf("(network %s, by %s)", name, asked.source())}), nil
}

// at is a port at an address of the container itself, or at the one that was given.
func (n network) at(p binding.Port, at given, own binding.OwnAddress) endpoint {
	s := endpoint{ip: own.IP, port: p.Number, reason: "the container's own address"}
	if n.joined {
		s.reason = "the address of container " + n.owner.Label() + ", whose network it has joined"
	}
	if own.Why != "" {
		s.reason += " " + own.Why
	}
	if at.ip.IsValid() {
		s.ip, s.reason = at.ip, s.reason+at.source
	}
	return s
}

// unpublishedHint says why nobody reaches a port, and what makes it known, for the kind of
// container that it is.
func (n network) unpublishedHint(p binding.Port) string {
	switch mode := n.owner.HostConfig.NetworkMode; {
	case n.owner.SwarmTask():
		return fmt.Sprintf("it is not published at this host: what a Swarm's routing mesh publishes leads to any task of the service; publish it with mode=host (docker service update --publish-add mode=host,target=%d), or set registrar.internal where all readers are in its network", p.Number)
	case mode == "none":
		return "it has no network; run it without --network none"
	case n.own.Without != "":
		return fmt.Sprintf("it is in network %s, whose containers others reach as they are, and the engine says no address of it; give it one there (--ip), or write SERVICE_IP", n.own.Without)
	}
	return "it is not published; publish it with -p, or set registrar.internal"
}

// through begins the reason of what another container does for this one.
func (n network) through() string {
	if !n.joined {
		return ""
	}
	return "in the network of container " + n.owner.Label() + ", "
}

// address returns the container's own address and the network that it is in: the one
// that NetworkMode names, else the first by name that has one; IPv4 before IPv6.
// Neither is known where no network says one.
func address(c engine.Container) (network string, ip netip.Addr) {
	for _, name := range c.NetworksInOrder() {
		e := c.NetworkSettings.Networks[name]
		if ip := binding.FirstIP(e.IPAddress, e.GlobalIPv6Address); ip.IsValid() {
			return name, ip
		}
	}
	// Engines before API v1.52 also said the one of the default network by itself.
	return "", binding.FirstIP(c.NetworkSettings.IPAddress, c.NetworkSettings.GlobalIPv6Address)
}

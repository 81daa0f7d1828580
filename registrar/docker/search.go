package docker

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/musterhq/muster/registrar/advertise"
	"github.com/musterhq/muster/registrar/docker/engine"
	"github.com/musterhq/muster/registrar/docker/internal/binding"
)

// search is one look for the endpoint at which a port of a container can be dialled. The
// comment of Detector has its rules.
type search struct {
	*Detector
	c      engine.Container
	label  string // of the container, in messages
	shared bool   // it is another one, whose network this one has joined
	port   uint16 // within it

	bindings

	drivers map[string]string // of the networks that were asked for, by the name
	asked   *engine.Info      // what the engine has said of itself, zero if it has not
}

// bindings are those of a port, sorted.
type bindings struct {
	specific []netip.AddrPort // at an address that others can dial
	all      []netip.AddrPort // at 0.0.0.0 and ::
	loopback []netip.AddrPort
	wrong    []string // what cannot be read or dialled, and why
}

func (s *search) run(ctx context.Context) (advertise.Address, error) {
	published, wrong := binding.Of(s.c)
	port := binding.Port{Number: s.port, Protocol: "tcp"}
	if b := published[port]; b != nil {
		s.bindings = sorted(b.At, wrong[port])
	}
	if len(s.specific) > 0 {
		return s.found(s.nearest(s.specific), "")
	}
	if len(s.all) > 0 {
		if a, err := s.atHost(ctx); err != nil || a.Addr != "" {
			return a, err
		}
	}
	if a, ok := s.routed(published); ok {
		return a, nil
	}
	if a, ok := s.inNetwork(ctx); ok {
		return a, nil
	}
	if len(s.all) > 0 {
		return s.atGateway(ctx)
	}
	return advertise.Address{}, s.unpublished()
}

// nearest returns the first of bindings that is at detect.host_ip, or else of its family.
func (s *search) nearest(bindings []netip.AddrPort) netip.AddrPort {
	if !s.hostIP.IsValid() {
		return bindings[0]
	}
	rank := func(b netip.AddrPort) int {
		switch a := b.Addr(); {
		case a == s.hostIP:
			return 0
		case a.BitLen() == s.hostIP.BitLen():
			return 1
		default:
			return 2
		}
	}
	return slices.MinFunc(bindings, func(a, b netip.AddrPort) int { return cmp.Compare(rank(a), rank(b)) })
}

// sorted returns the bindings of a port. What is wrong with others is reported with them.
func sorted(at []netip.AddrPort, wrong []error) bindings {
	var b bindings
	for _, err := range wrong {
		b.wrong = append(b.wrong, err.Error())
	}
	for _, p := range at {
		switch a := p.Addr(); {
		case a.IsUnspecified():
			b.all = append(b.all, p)
		case a.IsLoopback():
			b.loopback = append(b.loopback, p)
		case undiallable(a) != "":
			b.wrong = append(b.wrong, fmt.Sprintf("it is published at %v, and %s", p, undiallable(a)))
		default:
			b.specific = append(b.specific, p)
		}
	}
	for _, some := range [][]netip.AddrPort{b.specific, b.all, b.loopback} {
		slices.SortFunc(some, func(a, b netip.AddrPort) int {
			return cmp.Or(compareAddrs(a.Addr(), b.Addr()), cmp.Compare(a.Port(), b.Port()))
		})
	}
	return b
}

// found is the answer for an endpoint at which the port is published. how says how the address
// is known, unless it is that of the binding.
func (s *search) found(a netip.AddrPort, how string) (advertise.Address, error) {
	published := a
	if how != "" {
		published, _ = s.published(a.Addr())
	}
	source := fmt.Sprintf("the container engine publishes port %d of %s at %v", s.port, s.label, published)
	return advertise.Address{Addr: a.String(), Source: source + how}, nil
}

// published returns the first binding of the family of a that is for all addresses.
func (s *search) published(a netip.Addr) (netip.AddrPort, bool) {
	for _, p := range s.all {
		if p.Addr().BitLen() == a.BitLen() {
			return p, true
		}
	}
	return netip.AddrPort{}, false
}

// atHost looks for an address of the host that others can dial. It is zero if none
// is known.
func (s *search) atHost(ctx context.Context) (advertise.Address, error) {
	if s.hostIP.IsValid() {
		if problem := undiallable(s.hostIP); problem != "" {
			return advertise.Address{}, notFound(fmt.Sprintf("detect.host_ip: %q: %s", s.hostIP, problem), "name an address of this host")
		}
		p, ok := s.published(s.hostIP)
		if !ok {
			everywhere := "0.0.0.0"
			if s.hostIP.Is6() {
				everywhere = "[::]"
			}
			return advertise.Address{}, notFound(fmt.Sprintf("detect.host_ip: %q: port %d of %s is published at %v alone", s.hostIP, s.port, s.label, s.all[0]),
				fmt.Sprintf("name an address of that family, or run it with -p %s:%d:%[2]d", everywhere, s.port))
		}
		return s.found(netip.AddrPortFrom(s.hostIP, p.Port()), "; the address is detect.host_ip")
	}
	for _, known := range []func(context.Context) (netip.Addr, string){s.engineAddress, s.swarmAddress} {
		a, how := known(ctx)
		if !a.IsValid() || undiallable(a) != "" {
			continue
		}
		if p, ok := s.published(a); ok {
			return s.found(netip.AddrPortFrom(a, p.Port()), how)
		}
	}
	return advertise.Address{}, nil
}

func undiallable(a netip.Addr) string {
	switch {
	case a.IsUnspecified(), a.IsMulticast(), a.IsLoopback(), a.Is6() && a.IsLinkLocalUnicast(), a.Zone() != "":
		return "other hosts cannot dial it"
	}
	return ""
}

// inside are names of the host that only its own containers have.
var inside = []string{"host.docker.internal", "gateway.docker.internal", "host.containers.internal"}

// engineAddress returns that of an engine which is dialled over TCP: its host is ours.
// But what is dialled may be a proxy, in a container beside this one, or the host by an
// address that only its containers have.
func (s *search) engineAddress(ctx context.Context) (netip.Addr, string) {
	e, ok := s.engine.(interface{ Host() string })
	if !ok {
		return netip.Addr{}, ""
	}
	u, err := url.Parse(e.Host())
	if err != nil || u.Scheme != "tcp" || slices.Contains(inside, strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))) {
		return netip.Addr{}, ""
	}
	addrs := []netip.Addr{}
	if a, err := netip.ParseAddr(u.Hostname()); err == nil {
		addrs = append(addrs, a)
	} else if addrs, err = s.resolver.LookupNetIP(ctx, "ip", u.Hostname()); err != nil {
		return netip.Addr{}, ""
	}
	for n := range addrs {
		addrs[n] = addrs[n].Unmap()
	}
	slices.SortFunc(addrs, compareAddrs)
	for _, a := range addrs {
		if _, ok := s.published(a); ok && undiallable(a) == "" && !s.local(ctx, a) {
			return a, fmt.Sprintf("; the address is that of the engine, %s", net.JoinHostPort(u.Hostname(), u.Port()))
		}
	}
	return netip.Addr{}, ""
}

// local reports whether a is in a network of this container, or in that which containers
// have by default.
func (s *search) local(ctx context.Context, a netip.Addr) bool {
	for _, e := range s.c.NetworkSettings.Networks {
		for ip, bits := range map[string]int{e.IPAddress: e.IPPrefixLen, e.GlobalIPv6Address: e.GlobalIPv6PrefixLen} {
			own, err := netip.ParseAddr(ip)
			if err != nil {
				continue
			}
			if prefix, err := own.Prefix(bits); err == nil && bits > 0 && prefix.Contains(a) {
				return true
			}
		}
	}
	if e, ok := s.engine.(engine.NetworkInspector); ok {
		if n, err := e.Network(ctx, "bridge"); err == nil {
			for _, c := range n.IPAM.Config {
				if prefix, err := netip.ParsePrefix(c.Subnet); err == nil && prefix.Contains(a) {
					return true
				}
			}
		}
	}
	return false
}

// swarmAddress returns that of the host in its Swarm.
func (s *search) swarmAddress(ctx context.Context) (netip.Addr, string) {
	a, err := netip.ParseAddr(s.info(ctx).SwarmAddress)
	if err != nil {
		return netip.Addr{}, ""
	}
	return a.Unmap(), "; the address is that of the host in its Swarm"
}

// info is zero if the engine does not say, as behind a proxy that forbids to ask.
func (s *search) info(ctx context.Context) engine.Info {
	if s.asked != nil {
		return *s.asked
	}
	s.asked = new(engine.Info)
	if e, ok := s.engine.(interface {
		Info(context.Context) (engine.Info, error)
	}); ok {
		if info, err := e.Info(ctx); err == nil {
			*s.asked = info
		}
	}
	return *s.asked
}

// driver returns that of a network of the container, and nothing if the engine does
// not say.
func (s *search) driver(ctx context.Context, name string) string {
	if known, ok := s.drivers[name]; ok {
		return known
	}
	if s.drivers == nil {
		s.drivers = map[string]string{}
	}
	if e, ok := s.engine.(engine.NetworkInspector); ok {
		// Podman may leave the id out.
		if n, err := e.Network(ctx, cmp.Or(s.c.NetworkSettings.Networks[name].NetworkID, name)); err == nil {
			s.drivers[name] = n.Driver
		}
	}
	return s.drivers[name]
}

// kind is the driver of a network, or macvlan where the engine does not say it and the
// container seems to be in such a network.
func (s *search) kind(ctx context.Context, name string) string {
	d := s.driver(ctx, name)
	if d == "" && binding.SeemsAlone(s.c, name) {
		return "macvlan"
	}
	return d
}

// routed is the container's own address in a bridge that lets the port through and
// translates nothing.
func (s *search) routed(published binding.Bindings) (advertise.Address, bool) {
	own, ok := published.RoutedAt(binding.Port{Number: s.port, Protocol: "tcp"}, s.c)
	if !ok {
		return advertise.Address{}, false
	}
	return advertise.Address{
		Addr:   netip.AddrPortFrom(own.IP, s.port).String(),
		Source: fmt.Sprintf("the address of %s %s: the routers of the network know the way", s.label, own.Why),
	}, true
}

// inNetwork looks for a network whose containers others can dial.
func (s *search) inNetwork(ctx context.Context) (advertise.Address, bool) {
	for _, kind := range []struct{ drivers, who string }{
		{"macvlan ipvlan", "the hosts of that network reach it"},
		{"overlay", "the containers in it reach it, on all hosts of the Swarm"},
	} {
		var addrs []netip.Addr
		of := map[netip.Addr]string{}
		for _, name := range slices.Sorted(maps.Keys(s.c.NetworkSettings.Networks)) {
			// What comes in through the routing mesh goes to any container of a service.
			if name == "ingress" || !slices.Contains(strings.Fields(kind.drivers), s.kind(ctx, name)) {
				continue
			}
			e := s.c.NetworkSettings.Networks[name]
			for _, ip := range []string{e.IPAddress, e.GlobalIPv6Address} {
				if a, err := netip.ParseAddr(ip); err == nil && undiallable(a) == "" {
					addrs, of[a] = append(addrs, a), name
				}
			}
		}
		if len(addrs) == 0 {
			continue
		}
		a := slices.MinFunc(addrs, compareAddrs)
		return advertise.Address{
			Addr:   netip.AddrPortFrom(a, s.port).String(),
			Source: fmt.Sprintf("the address of %s in network %s (%s): %s", s.label, of[a], s.kind(ctx, of[a]), kind.who),
		}, true
	}
	return advertise.Address{}, false
}

// atGateway takes the host's address in a network of the container.
func (s *search) atGateway(ctx context.Context) (advertise.Address, error) {
	unknown := func(why string) (advertise.Address, error) {
		return advertise.Address{}, notFound(fmt.Sprintf("port %d of %s is published at %v, but %s", s.port, s.label, s.all[0], why), "set detect.host_ip to an address of this host, or node.advertise")
	}
	if s.info(ctx).Rootless {
		return unknown("the engine runs as a user and does not know the address of its host")
	}
	var gateways []netip.Addr
	of := map[netip.Addr]string{}
	for _, name := range slices.Sorted(maps.Keys(s.c.NetworkSettings.Networks)) {
		if d := s.driver(ctx, name); d != "bridge" && d != "" {
			continue
		}
		e := s.c.NetworkSettings.Networks[name]
		for _, ip := range []string{e.Gateway, e.IPv6Gateway} {
			a, err := netip.ParseAddr(ip)
			if err != nil || undiallable(a) != "" {
				continue
			}
			if _, ok := s.published(a); ok {
				gateways, of[a] = append(gateways, a), name
			}
		}
	}
	if len(gateways) == 0 {
		return unknown("the address of the host is not known")
	}
	a := slices.MinFunc(gateways, compareAddrs)
	p, _ := s.published(a)
	return s.found(netip.AddrPortFrom(a, p.Port()),
		fmt.Sprintf("; the address is that of the host in network %s, which only this host and its containers reach: set detect.host_ip if there are nodes on other hosts", of[a]))
}

// unpublished says why nobody can dial the port, and how to fix it.
func (s *search) unpublished() error {
	hint := fmt.Sprintf("run it with -p %d:%[1]d", s.port)
	switch {
	case s.c.SwarmTask():
		hint = fmt.Sprintf("publish it at each host (docker service update --publish-add mode=host,target=%d), or put the service in an overlay network", s.port)
	case s.shared:
		hint = fmt.Sprintf("run %s with -p %d:%[2]d", "container "+s.c.Label(), s.port)
	}
	const others = ", or set node.advertise, or detect.require_external: false"
	var why string
	switch {
	case len(s.loopback) > 0:
		why = fmt.Sprintf("is published at %v alone, which only the host itself reaches", s.loopback[0])
	case len(s.wrong) > 0:
		return notFound(fmt.Sprintf("port %d of %s is published, but not so that others can dial it: %s", s.port, s.label, strings.Join(s.wrong, "; ")), fmt.Sprintf("wait for the engine, or %s%s", hint, others))
	case len(s.c.NetworkSettings.Ports[fmt.Sprintf("%d/udp", s.port)]) > 0:
		why, hint = "is published for UDP alone", hint+", which is TCP"
	default:
		why = "is not published"
	}
	return notFound(fmt.Sprintf("port %d of %s %s", s.port, s.label, why), hint+others)
}

package advertise

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Interface is a network interface of this host.
type Interface struct {
	Name     string
	Index    int
	Up       bool
	Loopback bool
	// Addrs are in the order of the system, whose first is the primary one.
	Addrs []netip.Addr
}

func systemInterfaces() ([]Interface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	found := make([]Interface, 0, len(all))
	for _, i := range all {
		addrs, err := i.Addrs()
		if err != nil {
			// It went away since it was listed.
			continue
		}
		f := Interface{
			Name:     i.Name,
			Index:    i.Index,
			Up:       i.Flags&net.FlagUp != 0,
			Loopback: i.Flags&net.FlagLoopback != 0,
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				if ip, ok := netip.AddrFromSlice(n.IP); ok {
					f.Addrs = append(f.Addrs, ip.Unmap())
				}
			}
		}
		found = append(found, f)
	}
	return found, nil
}

// systemRoute asks the kernel by connecting a UDP socket, which sends nothing.
func systemRoute(dst netip.Addr) (netip.Addr, error) {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst, 9)))
	if err != nil {
		return netip.Addr{}, err
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), nil
}

// Addresses that belong to nobody (RFC 5737, RFC 3849), so that only a default
// route leads to them.
var farHosts = []netip.Addr{
	netip.AddrFrom4([4]byte{203, 0, 113, 1}),
	netip.MustParseAddr("2001:db8::1"),
}

// best compares the interfaces of the host.
func best(spec string, bound netip.AddrPort, o Options) ([]candidate, error) {
	all, err := interfaces(spec, o)
	if err != nil {
		return nil, err
	}
	routed := make(map[netip.Addr]bool)
	for _, far := range farHosts {
		if src, err := o.Route(far); err == nil {
			routed[src] = true
		}
	}
	var found []candidate
	var unserved []string
	for _, i := range all {
		if !i.Up || i.Loopback {
			continue
		}
		onRoute := slices.ContainsFunc(i.Addrs, func(a netip.Addr) bool { return routed[a] })
		virtual := isVirtual(i.Name)
		// The source of the default route goes before its neighbours on the interface.
		addrs := slices.Clone(i.Addrs)
		slices.SortStableFunc(addrs, func(a, b netip.Addr) int {
			return cmp.Compare(boolRank(!routed[a]), boolRank(!routed[b]))
		})
		for _, a := range addrs {
			if unusable(a) != "" || a.IsLoopback() {
				continue
			}
			if !serves(bound.Addr(), a) {
				unserved = append(unserved, fmt.Sprintf("%v on %s", a, i.Name))
				continue
			}
			source := "interface " + i.Name
			switch {
			case a.IsLinkLocalUnicast():
				source += ", link-local for want of a better address"
			case onRoute:
				source += ", default route"
			case virtual:
				source += ", a virtual bridge for want of a better interface"
			}
			found = append(found, candidate{
				addr:   netip.AddrPortFrom(a, bound.Port()),
				rank:   boolRank(a.IsLinkLocalUnicast())<<3 | boolRank(!onRoute)<<2 | boolRank(virtual)<<1 | familyRank(a),
				source: source,
				iface:  i.Name,
			})
		}
	}
	if len(found) == 0 {
		hint := "bring up a network, write HOST:PORT, or bind to 127.0.0.1 if one host is enough"
		if unserved != nil {
			hint = fmt.Sprintf("%s cannot be reached through a listener on %v: bind to [::], or write HOST:PORT", strings.Join(unserved, ", "), bound)
		}
		return nil, &noAddress{spec, "no interface of this host has an address that others can dial", hint, nil}
	}
	byRank(found)
	return found, nil
}

// byInterface takes the first address of one interface.
func byInterface(spec, name string, o Options) method {
	return func(_ context.Context, bound netip.AddrPort) ([]candidate, error) {
		all, err := interfaces(spec, o)
		if err != nil {
			return nil, err
		}
		at := slices.IndexFunc(all, func(i Interface) bool { return i.Name == name })
		if at < 0 {
			return nil, &noAddress{spec, fmt.Sprintf("there is no interface %s", name), fmt.Sprintf("this host has %s", describe(all)), nil}
		}
		i := all[at]
		if !i.Up {
			return nil, &noAddress{spec, fmt.Sprintf("interface %s is down", name), fmt.Sprintf("bring it up or name another: %s", describe(all)), nil}
		}
		var found []candidate
		for _, a := range i.Addrs {
			if unusable(a) != "" || !serves(bound.Addr(), a) {
				continue
			}
			if b := bound.Addr(); b.IsValid() && !b.IsUnspecified() && a != b {
				continue
			}
			found = append(found, candidate{
				addr:   netip.AddrPortFrom(a, bound.Port()),
				rank:   boolRank(a.IsLinkLocalUnicast())<<1 | familyRank(a),
				source: "interface " + name,
			})
		}
		if len(found) == 0 {
			return nil, &noAddress{spec, fmt.Sprintf("interface %s has no address that others can dial through a listener on %v", name, bound), fmt.Sprintf("bind to [::] or name another: %s", describe(all)), nil}
		}
		byRank(found)
		return found, nil
	}
}

// interfaces lists them by index, so that the order is always the same.
func interfaces(spec string, o Options) ([]Interface, error) {
	all, err := o.Interfaces()
	if err != nil {
		return nil, &noAddress{spec, fmt.Sprintf("the interfaces of this host cannot be listed (%v)", err), "write HOST:PORT", err}
	}
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b Interface) int {
		return cmp.Or(cmp.Compare(a.Index, b.Index), cmp.Compare(a.Name, b.Name))
	})
	return all, nil
}

// describe names the interfaces, with what makes each fit or not.
func describe(all []Interface) string {
	if len(all) == 0 {
		return "none"
	}
	names := make([]string, len(all))
	for n, i := range all {
		names[n] = i.Name
		switch {
		case !i.Up:
			names[n] += " (down)"
		case len(i.Addrs) == 0:
			names[n] += " (no address)"
		default:
			names[n] += fmt.Sprintf(" (%v)", i.Addrs[0])
		}
	}
	return strings.Join(names, ", ")
}

// isVirtual reports whether an interface has the name of one that a tool makes to
// reach the containers or virtual machines of this host.
func isVirtual(name string) bool {
	for _, prefix := range []string{
		"docker", "br-", "veth", "virbr", "vnet", "vmnet", "vboxnet", "podman", "cni", "cali",
		"flannel", "cilium", "lxc", "lxd", "kube-", "nodelocaldns", "bridge", "vEthernet",
	} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

func boolRank(worse bool) int {
	if worse {
		return 1
	}
	return 0
}

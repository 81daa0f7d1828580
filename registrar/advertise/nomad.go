package advertise

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// nomadPort is one port that Nomad has given to the task.
type nomadPort struct {
	label    string
	inside   uint16 // what the task listens on, 0 if that is not known
	host     netip.AddrPort
	variable string // that host was read from
	err      string // why host cannot be dialled
}

// nomadPorts reads the environment that Nomad makes:
//
//	NOMAD_HOST_ADDR_<label>  address and port of the host; NOMAD_ADDR_<label> in old versions
//	NOMAD_ALLOC_PORT_<label> the port in the network of the task; NOMAD_PORT_<label> the same in old ones
//
// Ports of other tasks of the group, NOMAD_ADDR_<task>_<label>, cannot be distinguished from
// labels by their names, and do no harm: they do not name the port within.
//
// A port of all addresses of the host is at own, the address of the host, if that is of its family.
func nomadPorts(environ []string, own netip.Addr) []nomadPort {
	env := make(map[string]string, len(environ))
	for _, pair := range environ {
		if name, value, ok := strings.Cut(pair, "="); ok && strings.HasPrefix(name, "NOMAD_") {
			env[name] = value
		}
	}
	addrs := make(map[string]string) // variables by label, the best one of each
	for _, prefix := range []string{"NOMAD_ADDR_", "NOMAD_HOST_ADDR_"} {
		for name := range env {
			if label, ok := strings.CutPrefix(name, prefix); ok && label != "" {
				addrs[label] = name
			}
		}
	}
	for name := range env { // where the parts are told and not the whole
		if label, ok := strings.CutPrefix(name, "NOMAD_IP_"); ok && label != "" && addrs[label] == "" && env["NOMAD_PORT_"+label] != "" {
			addrs[label] = name
		}
	}
	var ports []nomadPort
	for _, label := range slices.Sorted(maps.Keys(addrs)) {
		p := nomadPort{label: label, variable: addrs[label]}
		value := env[p.variable]
		if strings.HasPrefix(p.variable, "NOMAD_IP_") {
			value = joinPort(value, cmp.Or(env["NOMAD_HOST_PORT_"+label], env["NOMAD_PORT_"+label]))
		}
		host, err := netip.ParseAddrPort(value)
		host = netip.AddrPortFrom(host.Addr().Unmap(), host.Port())
		if a := host.Addr(); err == nil && a.IsUnspecified() && own.IsValid() && a.Is4() == own.Is4() {
			host = netip.AddrPortFrom(own, host.Port())
		}
		if err != nil || host.Port() == 0 || unusable(host.Addr()) != "" {
			p.err = fmt.Sprintf("%s=%q is no address that others can dial", p.variable, value)
		}
		p.host = host
		inside := cmp.Or(env["NOMAD_ALLOC_PORT_"+label], env["NOMAD_PORT_"+label])
		if n, err := strconv.ParseUint(inside, 10, 16); err == nil {
			p.inside = uint16(n)
		}
		ports = append(ports, p)
	}
	return ports
}

// nearest returns those of ports that are at the address of the host, or else of its family,
// or else of IPv4. What cannot be dialled counts if there is nothing else.
func nearest(ports []nomadPort, host netip.Addr) []nomadPort {
	rank := func(p nomadPort) int {
		if p.err != "" {
			return 1 << 3
		}
		return hostRank(host, p.host.Addr())
	}
	var best []nomadPort
	for _, p := range ports {
		switch {
		case len(best) == 0 || rank(p) < rank(best[0]):
			best = []nomadPort{p}
		case rank(p) == rank(best[0]):
			best = append(best, p)
		}
	}
	return best
}

// nomadProblem says why none of the ports, or not one alone, is that of the node.
func nomadProblem(ports, fitting []nomadPort, bound uint16) (problem, hint string) {
	names := make([]string, 0, len(ports))
	if len(fitting) > 0 {
		ports = fitting
	}
	for _, p := range ports {
		names = append(names, fmt.Sprintf("%s (%d)", p.label, p.inside))
	}
	if len(fitting) > 1 {
		return fmt.Sprintf("several ports of Nomad lead to port %d: %s", bound, strings.Join(names, ", ")), "write HOST:PORT"
	}
	return fmt.Sprintf("no port of Nomad leads to port %d: there are %s", bound, strings.Join(names, ", ")), "bind to one of them"
}

package binding

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/registrar/docker/engine"
)

// protocols are those that a port can have, in the order in which ports are reported.
var protocols = []string{"tcp", "udp", "sctp"}

// IsProtocol reports whether a port can have the protocol s, which is in lower case.
func IsProtocol(s string) bool { return slices.Contains(protocols, s) }

// PortNumber reads the number of a port: digits, from 1 to 65535. It returns false for all else.
func PortNumber(s string) (uint16, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil && n > 0
}

// Port is one of a container.
type Port struct {
	Number   uint16
	Protocol string
}

// String returns p as the engine writes it: 80/tcp.
func (p Port) String() string { return fmt.Sprintf("%d/%s", p.Number, p.Protocol) }

// ParsePort reads a key of ExposedPorts or Ports, such as 80/tcp. One without a protocol is of TCP.
// The error is a *driver.ConfigError.
func ParsePort(key string) (Port, error) {
	number, protocol, ok := strings.Cut(key, "/")
	if !ok {
		protocol = "tcp"
	}
	protocol = strings.ToLower(protocol)
	n, valid := PortNumber(number)
	switch {
	case !valid:
		return Port{}, &driver.ConfigError{Key: "port", Value: key, Problem: "no port", Hint: "want a number from 1 to 65535 and a protocol, as 80/tcp"}
	case !IsProtocol(protocol):
		return Port{}, &driver.ConfigError{Key: "port", Value: key, Problem: "unknown protocol", Hint: "want " + strings.Join(protocols, ", ")}
	}
	return Port{n, protocol}, nil
}

// PortsOf returns the ports that c exposes or publishes, in order. What is no port is
// reported.
func PortsOf(c engine.Container, report func(error)) []Port {
	keys := make(map[string]bool)
	for key := range c.Config.ExposedPorts {
		keys[key] = true
	}
	for key := range c.NetworkSettings.Ports {
		keys[key] = true
	}
	var ports []Port
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		p, err := ParsePort(key)
		if err != nil {
			report(err)
			continue
		}
		ports = append(ports, p)
	}
	return SortedPorts(ports) // 80 is 80/tcp
}

// SortedPorts sorts ports and returns them, each once.
func SortedPorts(ports []Port) []Port {
	slices.SortFunc(ports, comparePorts)
	return slices.Compact(ports)
}

func comparePorts(a, b Port) int {
	return cmp.Or(cmp.Compare(a.Number, b.Number), cmp.Compare(slices.Index(protocols, a.Protocol), slices.Index(protocols, b.Protocol)))
}

// FormatPorts writes ports as people do: 80/tcp, 8000-8003/udp. Of many ranges it writes the
// first, and how many more there are.
func FormatPorts(ports []Port) string {
	const most = 12
	ports = slices.SortedFunc(slices.Values(ports), func(a, b Port) int {
		return cmp.Or(cmp.Compare(slices.Index(protocols, a.Protocol), slices.Index(protocols, b.Protocol)), cmp.Compare(a.Number, b.Number))
	})
	type stretch struct{ first, last Port }
	var all []stretch
	for _, p := range ports {
		if n := len(all) - 1; n >= 0 && all[n].last.Protocol == p.Protocol && all[n].last.Number+1 == p.Number {
			all[n].last = p
			continue
		}
		all = append(all, stretch{p, p})
	}
	slices.SortStableFunc(all, func(a, b stretch) int { return comparePorts(a.first, b.first) })
	var parts []string
	for _, s := range all[:min(len(all), most)] {
		if s.first == s.last {
			parts = append(parts, s.first.String())
		} else {
			parts = append(parts, fmt.Sprintf("%d-%v", s.first.Number, s.last))
		}
	}
	text := strings.Join(parts, ", ")
	if more := len(all) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

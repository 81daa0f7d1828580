package advertise

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/within"
)

// The variables that the form env reads.
const (
	EnvAddr = "MUSTER_ADVERTISE_ADDR"
	EnvPort = "MUSTER_ADVERTISE_PORT"
)

const interfacePrefix = "interface:"

// knownDetectors are the names that Muster's own detectors have, so that one that
// is missing from the program can be distinguished from a misspelt word.
var knownDetectors = []string{"docker", "registry"}

// parse turns a spec into the steps that it names: one, or with auto the chain.
func parse(spec string, o Options) ([]step, error) {
	if form := strings.TrimSpace(spec); form == "" || form == "auto" {
		return auto(spec, o)
	}
	name, find, err := parseForm(spec, o)
	if err != nil {
		return nil, err
	}
	return []step{{name: name, find: find}}, nil
}

// parseForm is parse for the forms of one step, whose name it returns.
func parseForm(spec string, o Options) (name string, find method, err error) {
	name = StepConfig
	switch form := strings.TrimSpace(spec); {
	case form == "env":
		name = StepEnv
		if find, err = parseEnv(spec, o); err == nil && find == nil {
			err = invalid(spec, fmt.Sprintf("the environment variable %s is not set", EnvAddr), "set it to HOST:PORT or to a host")
		}
		return name, find, err
	case strings.HasPrefix(form, interfacePrefix):
		wanted := strings.TrimPrefix(form, interfacePrefix)
		if wanted == "" {
			return name, nil, invalid(spec, "names no interface", "write it after the colon, as in interface:eth0")
		}
		return StepInterface, byInterface(spec, wanted, o), nil
	default:
		for _, d := range o.Detectors {
			if d.Name() == form {
				return form, byDetector(spec, d, o), nil
			}
		}
		if slices.Contains(knownDetectors, form) {
			return form, nil, invalid(spec, "no detector of this name is linked in", fmt.Sprintf("a program hands it to the node, as node.Config.Detectors; %s", forms(o)))
		}
		find, err = parseHostPort(spec, form, o)
		return name, find, err
	}
}

// forms lists what may be written.
func forms(o Options) string {
	var b strings.Builder
	b.WriteString("want auto, HOST:PORT (IPv6 in brackets), env, interface:NAME")
	for _, d := range o.Detectors {
		b.WriteString(", " + d.Name())
	}
	return b.String()
}

func parseHostPort(spec, form string, o Options) (method, error) {
	if strings.Contains(form, "://") {
		return nil, invalid(spec, "is a URL", "write HOST:PORT alone")
	}
	if a, ok := bareIP(form); ok {
		return nil, invalid(spec, "has no port", fmt.Sprintf("write %s", net.JoinHostPort(a.String(), "7946")))
	}
	host, port, err := net.SplitHostPort(form)
	if err != nil {
		return nil, invalid(spec, "is no known form", forms(o))
	}
	if host == "" {
		return nil, invalid(spec, "has no host", "write auto to have it found, or HOST:PORT")
	}
	n, err := parsePort(port)
	if err != nil {
		return nil, invalid(spec, err.Error(), "")
	}
	return byHost(spec, host, n, "", o)
}

func parsePort(port string) (uint16, error) {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("port %q: want a number from 1 to 65535", port)
	}
	return uint16(n), nil
}

// bareIP reads an IP without a port, IPv6 with or without brackets.
func bareIP(s string) (netip.Addr, bool) {
	if inner, ok := strings.CutPrefix(s, "["); ok {
		if s, ok = strings.CutSuffix(inner, "]"); !ok {
			return netip.Addr{}, false
		}
	}
	a, err := netip.ParseAddr(s)
	return a, err == nil
}

// byHost is a literal or a name with a port, where 0 stands for the bound one.
// via, if any, says where the host was read.
func byHost(spec, host string, port uint16, via string, o Options) (method, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		a = a.Unmap()
		if problem := unusable(a); problem != "" {
			return nil, invalid(spec, problem, "name an address of this host, or write auto")
		}
		source := "configured"
		if via != "" {
			source = via
		}
		return func(_ context.Context, bound netip.AddrPort) ([]candidate, error) {
			return []candidate{{addr: withPort(a, port, bound), source: source}}, nil
		}, nil
	}
	if problem := badName(host); problem != "" {
		return nil, invalid(spec, fmt.Sprintf("host %q %s", host, problem), "want an IP address or a name")
	}
	source := "name " + host
	if via != "" {
		source = via + ", " + source
	}
	return byName(spec, host, port, source, o), nil
}

// badName says what makes host no host name, or returns nothing.
func badName(host string) string {
	name := strings.TrimSuffix(host, ".")
	if name == "" || len(name) > 253 {
		return "is no name"
	}
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 {
			return "is no name"
		}
		for _, r := range label {
			if r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') {
				return fmt.Sprintf("has the character %q, which no host name has", r)
			}
		}
	}
	// No top-level domain is a number: this was meant to be an IPv4 address.
	if _, err := strconv.ParseUint(labels[len(labels)-1], 10, 64); err == nil {
		return "is neither an IPv4 address nor a name"
	}
	return ""
}

func withPort(a netip.Addr, port uint16, bound netip.AddrPort) netip.AddrPort {
	if port == 0 {
		port = bound.Port()
	}
	return netip.AddrPortFrom(a, port)
}

// parseEnv reads the environment, which does not change while the process runs. It
// returns nil if nothing is set.
func parseEnv(spec string, o Options) (method, error) {
	value, _ := o.LookupEnv(EnvAddr)
	separate, _ := o.LookupEnv(EnvPort)
	separate = strings.TrimSpace(separate)
	if value = strings.TrimSpace(value); value == "" {
		if separate != "" {
			return nil, invalid(spec, fmt.Sprintf("%s=%q says a port, and %s no host for it", EnvPort, separate, EnvAddr),
				fmt.Sprintf("set %s to HOST:PORT, or take %s out", EnvAddr, EnvPort))
		}
		return nil, nil
	}
	host, port := value, ""
	if a, ok := bareIP(value); ok {
		host = a.String()
	} else if strings.Contains(value, ":") {
		var err error
		if host, port, err = net.SplitHostPort(value); err != nil {
			return nil, invalid(spec, fmt.Sprintf("%s=%q: want HOST:PORT or a host alone", EnvAddr, value), "")
		}
		if port == "" {
			return nil, invalid(spec, fmt.Sprintf("%s=%q: the port is missing after the colon", EnvAddr, value), "")
		}
	}
	via := EnvAddr
	switch {
	case port != "" && separate != "" && port != separate:
		return nil, invalid(spec, fmt.Sprintf("%s=%q and %s=%q name different ports", EnvAddr, value, EnvPort, separate), "set only one of them")
	case port == "" && separate != "":
		port, via = separate, EnvAddr+" and "+EnvPort
	}
	var n uint16 // 0: the bound port
	if port != "" {
		var err error
		if n, err = parsePort(port); err != nil {
			return nil, invalid(spec, fmt.Sprintf("%s: %v", via, err), "")
		}
	}
	find, err := byHost(spec, host, n, via, o)
	if err != nil {
		var wrong *driver.ConfigError
		if errors.As(err, &wrong) {
			return nil, invalid(spec, fmt.Sprintf("%s=%q: %s", EnvAddr, value, wrong.Problem), wrong.Hint)
		}
		return nil, err
	}
	return find, nil
}

// byDetector asks one detector, which must then know.
func byDetector(spec string, d Detector, o Options) method {
	find := detect(spec, d)
	return func(ctx context.Context, bound netip.AddrPort) ([]candidate, error) {
		found, err := find(ctx, bound)
		switch {
		case errors.Is(err, ErrNotApplicable):
			return nil, &noAddress{spec, err.Error(), forms(o), err}
		case err != nil:
			problem, hint := split(err)
			return nil, &noAddress{spec, fmt.Sprintf("detector %s: %s", d.Name(), problem), hint, err}
		}
		return found, nil
	}
}

// detect asks a detector, and believes only what others can dial.
func detect(spec string, d Detector) method {
	return func(ctx context.Context, bound netip.AddrPort) ([]candidate, error) {
		found, err := within.Call(ctx, func(ctx context.Context) (Address, error) { return d.Detect(ctx, bound) })
		if err != nil {
			return nil, err
		}
		addr, err := netip.ParseAddrPort(found.Addr)
		if err != nil || addr.Port() == 0 || unusable(addr.Addr().Unmap()) != "" {
			return nil, &noAddress{spec, fmt.Sprintf("%q was found, which nobody can dial", found.Addr), "write HOST:PORT", nil}
		}
		source := found.Source
		if source == "" {
			source = "detector " + d.Name()
		}
		return []candidate{{addr: netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()), source: source, name: found.Name}}, nil
	}
}

package advertise

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/musterhq/muster/discovery/driver"
)

// host is a made-up host, in place of the system.
type host struct {
	interfaces []Interface
	route      []string            // sources of the default routes
	names      map[string][]string // what names resolve to
	env        map[string]string
	detectors  []Detector
	container  bool // whose network is its own
}

func (h host) options() Options {
	return Options{
		Detectors: h.detectors,
		Isolated: func(iface string) string {
			if !h.container {
				return ""
			}
			return "a container (" + iface + ")"
		},
		Environ: func() []string {
			var all []string
			for k, v := range h.env {
				all = append(all, k+"="+v)
			}
			return all
		},
		Interfaces: func() ([]Interface, error) { return h.interfaces, nil },
		Route: func(dst netip.Addr) (netip.Addr, error) {
			for _, src := range h.route {
				if a := netip.MustParseAddr(src); a.Is4() == dst.Is4() {
					return a, nil
				}
			}
			return netip.Addr{}, errors.New("network is unreachable")
		},
		Resolver:  resolverFunc(h.lookup),
		LookupEnv: func(key string) (string, bool) { v, ok := h.env[key]; return v, ok },
	}
}

func (h host) lookup(_ context.Context, name string) ([]netip.Addr, error) {
	found, ok := h.names[name]
	if !ok {
		return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
	var all []netip.Addr
	for _, a := range found {
		all = append(all, netip.MustParseAddr(a))
	}
	return all, nil
}

type resolverFunc func(ctx context.Context, name string) ([]netip.Addr, error)

func (f resolverFunc) LookupNetIP(ctx context.Context, _, name string) ([]netip.Addr, error) {
	return f(ctx, name)
}

type fakeDetector struct {
	name  string
	found Address
	err   error
}

func (d fakeDetector) Name() string { return d.name }

func (d fakeDetector) Detect(context.Context, netip.AddrPort) (Address, error) { return d.found, d.err }

func up(index int, name string, addrs ...string) Interface {
	i := Interface{Name: name, Index: index, Up: true, Loopback: name == "lo"}
	for _, a := range addrs {
		i.Addrs = append(i.Addrs, netip.MustParseAddr(a))
	}
	return i
}

func down(index int, name string, addrs ...string) Interface {
	i := up(index, name, addrs...)
	i.Up = false
	return i
}

var (
	lo     = up(1, "lo", "127.0.0.1", "::1")
	server = []Interface{
		lo,
		up(2, "eth0", "192.0.2.7", "192.0.2.1", "fd00::7", "fe80::7"),
		up(3, "docker0", "172.17.0.1"),
		up(4, "veth12ab", "fe80::9"),
		down(5, "eth1", "10.0.0.7"),
	}
)

func TestResolve(t *testing.T) {
	const any4, any6 = "0.0.0.0:7946", "[::]:7946"
	tests := []struct {
		name  string
		host  host
		spec  string
		bound string
		// Either the address and its source, or parts of the error.
		want, source string
		err          []string
	}{
		// auto
		{name: "bound to one address", host: host{interfaces: server}, spec: "auto", bound: "10.1.1.1:7946",
			want: "10.1.1.1:7946", source: "bound to 10.1.1.1"},
		{name: "empty is auto", host: host{interfaces: server}, bound: "10.1.1.1:7946",
			want: "10.1.1.1:7946", source: "bound to 10.1.1.1"},
		{name: "bound to one IPv6 address", spec: "auto", bound: "[2001:db8:5::1]:7946",
			want: "[2001:db8:5::1]:7946", source: "bound to 2001:db8:5::1"},
		{name: "bound to a mapped address", spec: "auto", bound: "[::ffff:10.1.1.1]:7946",
			want: "10.1.1.1:7946", source: "bound to 10.1.1.1"},
		{name: "bound to loopback", host: host{interfaces: server}, spec: "auto", bound: "127.0.0.1:7946",
			want: "127.0.0.1:7946", source: "bound to loopback 127.0.0.1"},
		{name: "bound to IPv6 loopback", spec: "auto", bound: "[::1]:7946",
			want: "[::1]:7946", source: "bound to loopback ::1"},
		{name: "bound to link-local", spec: "auto", bound: "[fe80::1%eth0]:7946",
			err: []string{"node.advertise", "fe80::1%eth0", "link-local", "HOST:PORT"}},
		{name: "not listening yet", host: host{interfaces: server}, spec: "auto", bound: "0.0.0.0:0",
			err: []string{"node.advertise", "no port", "listen"}},
		{name: "primary address of the first interface", host: host{interfaces: server}, spec: "auto", bound: any4,
			want: "192.0.2.7:7946", source: "interface eth0"},
		{name: "IPv4 first on both families", host: host{interfaces: server}, spec: "auto", bound: any6,
			want: "192.0.2.7:7946", source: "interface eth0"},
		{name: "whatever order the system lists them in", spec: "auto", bound: any4,
			host: host{interfaces: []Interface{server[2], server[4], server[1], server[0], server[3]}},
			want: "192.0.2.7:7946", source: "interface eth0"},
		{name: "default route beats the order", spec: "auto", bound: any4,
			host: host{interfaces: []Interface{lo, up(2, "eth0", "10.0.0.7"), up(3, "eth1", "10.9.0.8", "10.9.0.9")}, route: []string{"10.9.0.9"}},
			want: "10.9.0.9:7946", source: "interface eth1, default route"},
		{name: "IPv6 alone", spec: "auto", bound: any6,
			host: host{interfaces: []Interface{lo, up(2, "eth0", "fe80::7", "2001:db8:5::7")}, route: []string{"2001:db8:5::7"}},
			want: "[2001:db8:5::7]:7946", source: "interface eth0, default route"},
		{name: "IPv6 elsewhere beats a bridge of containers", spec: "auto", bound: any6,
			host: host{interfaces: []Interface{lo, up(2, "docker0", "172.17.0.1"), up(3, "eth0", "fd00::7")}},
			want: "[fd00::7]:7946", source: "interface eth0"},
		{name: "a bridge where there is nothing else", spec: "auto", bound: any4,
			host: host{interfaces: []Interface{lo, up(3, "docker0", "172.17.0.1")}},
			want: "172.17.0.1:7946", source: "interface docker0, a virtual bridge for want of a better interface"},
		{name: "a bridge with the default route is a real one", spec: "auto", bound: any4,
			host: host{interfaces: []Interface{lo, up(2, "eth0", "10.0.0.7"), up(3, "br-ex", "192.0.2.9")}, route: []string{"192.0.2.9"}},
			want: "192.0.2.9:7946", source: "interface br-ex, default route"},
		{name: "IPv4 link-local as the last resort", spec: "auto", bound: any4,
			host: host{interfaces: []Interface{lo, up(2, "eth0", "169.254.3.4")}},
			want: "169.254.3.4:7946", source: "interface eth0, link-local for want of a better address"},
		{name: "a bridge before link-local", spec: "auto", bound: any4,
			host: host{interfaces: []Interface{lo, up(2, "eth0", "169.254.3.4"), up(3, "docker0", "172.17.0.1")}},
			want: "172.17.0.1:7946", source: "interface docker0, a virtual bridge for want of a better interface"},
		{name: "only loopback", host: host{interfaces: []Interface{lo, down(2, "eth0", "10.0.0.7")}}, spec: "auto", bound: any4,
			err: []string{"node.advertise", `"auto"`, "no interface", "bind to 127.0.0.1", "HOST:PORT"}},
		{name: "only what the listener cannot serve", host: host{interfaces: []Interface{lo, up(2, "eth0", "fd00::7")}}, spec: "auto", bound: any4,
			err: []string{"node.advertise", "fd00::7 on eth0", "bind to [::]"}},

		// HOST:PORT
		{name: "IPv4", spec: "10.0.0.5:7000", bound: any4, want: "10.0.0.5:7000", source: "configured"},
		{name: "IPv6", spec: "[2001:db8::5]:7000", bound: any4, want: "[2001:db8::5]:7000", source: "configured"},
		{name: "mapped", spec: "[::ffff:10.0.0.5]:7000", bound: any4, want: "10.0.0.5:7000", source: "configured"},
		{name: "loopback in so many words", spec: "127.0.0.1:7000", bound: any4, want: "127.0.0.1:7000", source: "configured"},
		{name: "space around", spec: " 10.0.0.5:7000 ", bound: any4, want: "10.0.0.5:7000", source: "configured"},
		{name: "unspecified", spec: "0.0.0.0:7946", bound: any4, err: []string{"node.advertise", `"0.0.0.0:7946"`, "nobody can dial", "auto"}},
		{name: "unspecified IPv6", spec: "[::]:7946", bound: any4, err: []string{"node.advertise", "nobody can dial ::"}},
		{name: "port 0", spec: "10.0.0.5:0", bound: any4, err: []string{"node.advertise", `"10.0.0.5:0"`, "1 to 65535"}},
		{name: "port too high", spec: "10.0.0.5:65536", bound: any4, err: []string{"1 to 65535"}},
		{name: "port by name", spec: "10.0.0.5:http", bound: any4, err: []string{"1 to 65535"}},
		{name: "no port", spec: "10.0.0.5", bound: any4, err: []string{`"10.0.0.5"`, "no port", "10.0.0.5:7946"}},
		{name: "no port, IPv6", spec: "fd00::7", bound: any4, err: []string{"no port", "[fd00::7]:7946"}},
		{name: "no port, brackets", spec: "[fd00::7]", bound: any4, err: []string{"no port", "[fd00::7]:7946"}},
		{name: "no host", spec: ":7946", bound: any4, err: []string{`":7946"`, "no host", "auto"}},
		{name: "link-local", spec: "[fe80::1]:7946", bound: any4, err: []string{"link-local"}},
		{name: "link-local with zone", spec: "[fe80::1%eth0]:7946", bound: any4, err: []string{"link-local"}},
		{name: "multicast", spec: "224.0.0.1:7946", bound: any4, err: []string{"multicast"}},
		{name: "broadcast", spec: "255.255.255.255:7946", bound: any4, err: []string{"broadcast"}},
		{name: "a URL", spec: "http://10.0.0.5:7946", bound: any4, err: []string{"URL", "HOST:PORT"}},
		{name: "a mistyped form", spec: "atuo", bound: any4, err: []string{"node.advertise", `"atuo"`, "auto, HOST:PORT", "interface:NAME"}},
		{name: "a mistyped address", spec: "10.0.0.500:7946", bound: any4, err: []string{"neither an IPv4 address nor a name"}},
		{name: "a mistyped name", spec: "my host:7946", bound: any4, err: []string{"no host name has"}},

		// names
		{name: "a name", spec: "me.example:7000", bound: any4, host: host{names: map[string][]string{"me.example": {"10.0.0.9", "10.0.0.5"}}},
			want: "10.0.0.5:7000", source: "name me.example"},
		{name: "IPv4 where both are served", spec: "me.example:7000", bound: any6, host: host{names: map[string][]string{"me.example": {"2001:db8::5", "10.0.0.5"}}},
			want: "10.0.0.5:7000", source: "name me.example"},
		{name: "IPv6 where that is bound", spec: "me.example:7000", bound: "[2001:db8::5]:7946", host: host{names: map[string][]string{"me.example": {"10.0.0.5", "2001:db8::5"}}},
			want: "[2001:db8::5]:7000", source: "name me.example"},
		{name: "the other family of a proxy", spec: "me.example:7000", bound: any4, host: host{names: map[string][]string{"me.example": {"2001:db8::5"}}},
			want: "[2001:db8::5]:7000", source: "name me.example"},
		{name: "loopback answers are passed over", spec: "me.example:7000", bound: any4, host: host{names: map[string][]string{"me.example": {"127.0.1.1", "10.0.0.5"}}},
			want: "10.0.0.5:7000", source: "name me.example"},
		{name: "nothing but loopback", spec: "me.example:7000", bound: any4, host: host{names: map[string][]string{"me.example": {"127.0.1.1"}}},
			err: []string{"node.advertise", "me.example", "127.0.1.1", "/etc/hosts"}},
		{name: "nothing but loopback, bound to it", spec: "me.example:7000", bound: "127.0.0.1:7946", host: host{names: map[string][]string{"me.example": {"127.0.1.1"}}},
			want: "127.0.1.1:7000", source: "name me.example"},
		{name: "localhost means it", spec: "localhost:7000", bound: any4, host: host{names: map[string][]string{"localhost": {"::1", "127.0.0.1"}}},
			want: "127.0.0.1:7000", source: "name localhost"},
		{name: "unknown name", spec: "nowhere.example:7000", bound: any4,
			err: []string{"node.advertise", `"nowhere.example:7000"`, "no such host", "IP address"}},
		{name: "no answers", spec: "empty.example:7000", bound: any4, host: host{names: map[string][]string{"empty.example": nil}},
			err: []string{"has no address"}},

		// env
		{name: "env with port", spec: "env", bound: any4, host: host{env: map[string]string{EnvAddr: "10.0.0.5:7000"}},
			want: "10.0.0.5:7000", source: EnvAddr},
		{name: "env without port", spec: "env", bound: any4, host: host{env: map[string]string{EnvAddr: "10.0.0.5"}},
			want: "10.0.0.5:7946", source: EnvAddr},
		{name: "env with its own port", spec: "env", bound: any4, host: host{env: map[string]string{EnvAddr: "10.0.0.5", EnvPort: "31000"}},
			want: "10.0.0.5:31000", source: EnvAddr + " and " + EnvPort},
		{name: "env with the same port twice", spec: "env", bound: any4, host: host{env: map[string]string{EnvAddr: "10.0.0.5:31000", EnvPort: "31000"}},
			want: "10.0.0.5:31000", source: EnvAddr},
		{name: "env IPv6", spec: "env", bound: any4, host: host{env: map[string]string{EnvAddr: "fd00::7", EnvPort: "31000"}},
			want: "[fd00::7]:31000", source: EnvAddr + " and " + EnvPort},
		{name: "env IPv6 in brackets", spec: "env", bound: any4, host: host{env: map[string]string{EnvAddr: "[fd00::7]"}},
			want: "[fd00::7]:7946", source: EnvAddr},
		{name: "env name", spec: "env", bound: any4, host: host{env: map[string]string{EnvAddr: "me.example"}, names: map[string][]string{"me.example": {"10.0.0.5"}}},
			want: "10.0.0.5:7946", source: EnvAddr + ", name me.example"},
		{name: "env missing", spec: "env", bound: any4, err: []string{"node.advertise", `"env"`, EnvAddr, "not set"}},
		{name: "env blank", spec: "env", bound: any4, host: host{env: map[string]string{EnvAddr: " "}}, err: []string{EnvAddr, "not set"}},
		{name: "env with two ports", spec: "env", bound: any4, host: host{env: map[string]string{EnvAddr: "10.0.0.5:1", EnvPort: "2"}}, err: []string{EnvAddr, EnvPort, "different ports"}},
		{name: "env with a bad port", spec: "env", bound: any4, host: host{env: map[string]string{EnvAddr: "10.0.0.5", EnvPort: "0"}}, err: []string{EnvPort, "1 to 65535"}},
		{name: "env without a number after the colon", spec: "env", bound: any4, host: host{env: map[string]string{EnvAddr: "10.0.0.5:"}}, err: []string{EnvAddr, "port is missing"}},
		{name: "env unspecified", spec: "env", bound: any4, host: host{env: map[string]string{EnvAddr: "0.0.0.0"}}, err: []string{EnvAddr, "nobody can dial 0.0.0.0"}},
		{name: "env without host", spec: "env", bound: any4, host: host{env: map[string]string{EnvAddr: ":7000"}}, err: []string{EnvAddr, "is no name"}},

		// interface
		{name: "an interface", host: host{interfaces: server}, spec: "interface:docker0", bound: any4,
			want: "172.17.0.1:7946", source: "interface docker0"},
		{name: "IPv4 first on an interface", host: host{interfaces: server}, spec: "interface:eth0", bound: any6,
			want: "192.0.2.7:7946", source: "interface eth0"},
		{name: "an interface with the bound address", host: host{interfaces: server}, spec: "interface:eth0", bound: "[fd00::7]:7946",
			want: "[fd00::7]:7946", source: "interface eth0"},
		{name: "an interface without the bound address", host: host{interfaces: server}, spec: "interface:eth0", bound: "127.0.0.1:7946",
			err: []string{"interface eth0", "127.0.0.1:7946"}},
		{name: "no such interface", host: host{interfaces: server}, spec: "interface:eth9", bound: any4,
			err: []string{"node.advertise", `"interface:eth9"`, "lo (127.0.0.1), eth0 (192.0.2.7), docker0 (172.17.0.1)", "eth1 (down)"}},
		{name: "interface down", host: host{interfaces: server}, spec: "interface:eth1", bound: any4,
			err: []string{"eth1 is down", "eth0 (192.0.2.7)"}},
		{name: "interface with nothing but link-local", host: host{interfaces: server}, spec: "interface:veth12ab", bound: any6,
			err: []string{"veth12ab has no address", "eth0 (192.0.2.7)"}},
		{name: "interface without name", spec: "interface:", bound: any4, err: []string{"names no interface", "interface:eth0"}},

		// detectors
		{name: "no such detector", spec: "docker", bound: any4, err: []string{"node.advertise", `"docker"`, "no detector of this name is linked in"}},
		{name: "no such detector, registry", spec: "registry", bound: any4, err: []string{"no detector of this name is linked in"}},
		{name: "a detector by name", spec: "docker", bound: any4,
			host: host{detectors: []Detector{fakeDetector{name: "docker", found: Address{Addr: "192.0.2.1:32768", Source: "docker: container c1"}}}},
			want: "192.0.2.1:32768", source: "docker: container c1"},
		{name: "a detector by name that does not apply", spec: "docker", bound: any4,
			host: host{detectors: []Detector{fakeDetector{name: "docker", err: fmt.Errorf("%w: not in a container", ErrNotApplicable)}}},
			err:  []string{"node.advertise", "not in a container"}},
		{name: "a detector finds nonsense", spec: "docker", bound: any4,
			host: host{detectors: []Detector{fakeDetector{name: "docker", found: Address{Addr: "0.0.0.0:32768"}}}},
			err:  []string{"docker", `"0.0.0.0:32768"`}},
		{name: "detectors come before the interfaces", spec: "auto", bound: any4,
			host: host{interfaces: server, detectors: []Detector{
				fakeDetector{name: "registry", err: ErrNotApplicable},
				fakeDetector{name: "docker", found: Address{Addr: "192.0.2.1:32768"}},
			}},
			want: "192.0.2.1:32768", source: "detector docker"},
		{name: "detectors are not asked on loopback", spec: "auto", bound: "127.0.0.1:7946",
			host: host{detectors: []Detector{fakeDetector{name: "docker", found: Address{Addr: "192.0.2.1:32768"}}}},
			want: "127.0.0.1:7946", source: "bound to loopback 127.0.0.1"},
		{name: "detectors that do not apply are passed over", spec: "auto", bound: any4,
			host: host{interfaces: server, detectors: []Detector{fakeDetector{name: "docker", err: ErrNotApplicable}}},
			want: "192.0.2.7:7946", source: "interface eth0"},
		{name: "a detector that should know fails closed", spec: "auto", bound: any4,
			host: host{interfaces: server, container: true, detectors: []Detector{fakeDetector{name: "docker", err: errors.New("port 7946 is not published")}}},
			err:  []string{"node.advertise", "docker", "port 7946 is not published"}},
		{name: "detectors are among the forms", spec: "atuo", bound: any4,
			host: host{detectors: []Detector{fakeDetector{name: "docker"}}},
			err:  []string{"interface:NAME, docker"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Resolve(t.Context(), tt.spec, netip.MustParseAddrPort(tt.bound), tt.host.options())
			if tt.err == nil {
				if want := (Address{Addr: tt.want, Source: tt.source, Name: got.Name}); err != nil || got != want {
					t.Fatalf("Resolve(%q) = %+v, %v\nwant %+v", tt.spec, got, err, want)
				}
				_, literal := netip.ParseAddrPort(tt.spec)
				if named := strings.Contains(tt.source, "name "); named != (got.Name != "") || literal == nil && got.Name != "" {
					t.Fatalf("Resolve(%q) has the name %q, from %s", tt.spec, got.Name, got.Source)
				}
				if err := driver.ValidateAddr(got.Addr); err != nil {
					t.Fatalf("the result cannot be published: %v", err)
				}
				return
			}
			if err == nil || got != (Address{}) {
				t.Fatalf("Resolve(%q) = %+v, %v, want an error", tt.spec, got, err)
			}
			for _, part := range tt.err {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the error does not say %q:\n%v", part, err)
				}
			}
			if form := strings.TrimSpace(tt.spec); strings.Contains(err.Error(), "\n") && form != "auto" && form != "" {
				t.Errorf("the error has several lines:\n%v", err)
			}
			var config *driver.ConfigError
			if isConfig, mayPass := errors.As(err, &config), errors.Is(err, ErrNoAddress); isConfig == mayPass {
				t.Errorf("want either a *driver.ConfigError or ErrNoAddress: %v", err)
			}
			if config != nil && (config.Key != "node.advertise" || config.Value != tt.spec) {
				t.Errorf("ConfigError names %q and %q, want node.advertise and %q", config.Key, config.Value, tt.spec)
			}
		})
	}
}

func TestValidate(t *testing.T) {
	o := host{env: map[string]string{EnvAddr: "10.0.0.5"}}.options()
	for _, spec := range []string{"", "auto", "env", "interface:eth0", "10.0.0.5:7946", "[fd00::7]:7946", "nowhere.example:7946"} {
		if err := Validate(spec, o); err != nil {
			t.Errorf("Validate(%q) = %v, want nil", spec, err)
		}
	}
	for _, spec := range []string{"atuo", "interface:", "docker", "0.0.0.0:7946", "10.0.0.5:0", "10.0.0.5", "a b:1"} {
		if err := Validate(spec, o); !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("Validate(%q) = %v, want an ErrInvalid", spec, err)
		}
	}
}

func TestResolveHonoursItsContext(t *testing.T) {
	o := host{}.options()
	o.Resolver = resolverFunc(func(ctx context.Context, _ string) ([]netip.Addr, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Resolve(ctx, "me.example:7946", netip.AddrPort{}, o); !errors.Is(err, context.Canceled) || !errors.Is(err, ErrNoAddress) {
		t.Fatalf("Resolve = %v, want ErrNoAddress because of context.Canceled", err)
	}
}

func TestInterfacesThatCannotBeListed(t *testing.T) {
	o := host{}.options()
	o.Interfaces = func() ([]Interface, error) { return nil, errors.New("operation not permitted") }
	for _, spec := range []string{"auto", "interface:eth0"} {
		_, err := Resolve(t.Context(), spec, netip.MustParseAddrPort("0.0.0.0:7946"), o)
		if !errors.Is(err, ErrNoAddress) || !strings.Contains(err.Error(), "operation not permitted") {
			t.Errorf("Resolve(%q) = %v, want ErrNoAddress with the reason", spec, err)
		}
	}
}

// On the machine at hand, whatever it is, a container too: the answer can be dialled.
func TestThisHost(t *testing.T) {
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	bound := l.Addr().(*net.TCPAddr).AddrPort()
	found, err := Resolve(t.Context(), "auto", bound, Options{AllowInternal: true})
	if errors.Is(err, ErrNoAddress) {
		t.Skipf("this host has no network: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("bound to %v: %+v", bound, found)
	if a := netip.MustParseAddrPort(found.Addr); a.Addr().IsLoopback() || a.Port() != bound.Port() {
		t.Errorf("Resolve = %+v, want an address other than loopback with port %d", found, bound.Port())
	}
	again, err := Resolve(t.Context(), "auto", bound, Options{AllowInternal: true})
	if err != nil || again != found {
		t.Errorf("asked again: %+v, %v, want the same", again, err)
	}
	c, err := net.Dial("tcp", found.Addr)
	if err != nil {
		t.Fatalf("the answer cannot be dialled: %v", err)
	}
	c.Close()

	all, err := systemInterfaces()
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(all, func(i Interface) bool { return i.Up && !i.Loopback && len(i.Addrs) > 0 })
	if at >= 0 {
		if _, err := Resolve(t.Context(), "interface:"+all[at].Name, bound, Options{}); err != nil && !errors.Is(err, ErrNoAddress) {
			t.Error(err)
		}
	}
}

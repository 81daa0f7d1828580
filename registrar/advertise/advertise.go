package advertise

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"
)

// Address is one that others can dial.
type Address struct {
	// Addr is HOST:PORT, where the host is an IP literal, IPv6 in brackets.
	Addr string
	// Source says how the address is known, in a few words for people.
	Source string
	// Name is the HOST:PORT whose host is the name that Addr was resolved from, empty
	// if there was none.
	Name string
}

// Detector finds an address by means that this package does not have, such as
// the API of a container engine. It is safe for concurrent use.
type Detector interface {
	// Name is the form of the setting that asks for this detector alone.
	Name() string
	// Detect returns where the port that is bound to can be dialled from outside.
	// It makes one attempt. An error that wraps ErrNotApplicable says that the
	// detector has no business here; any other means that it should know the
	// address and does not, and then nothing is advertised.
	Detect(ctx context.Context, bound netip.AddrPort) (Address, error)
}

// Resolver turns names into addresses. A *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Options are useful at zero.
type Options struct {
	// Detectors are asked by auto, in this order, and can be asked for by name.
	Detectors []Detector

	// Interval is the time between two resolutions of Watch, give or take a fifth.
	// 0: 30 s.
	Interval time.Duration

	// Timeout bounds each resolution of Watch. 0: 10 s.
	Timeout time.Duration

	// The seams below stand for the system, which serves where they are nil.

	// Interfaces lists the network interfaces of the host.
	Interfaces func() ([]Interface, error)
	// Route returns the source address from which the host would send to dst.
	Route func(dst netip.Addr) (netip.Addr, error)
	// Resolver resolves names.
	Resolver Resolver
	// LookupEnv reads the environment.
	LookupEnv func(key string) (string, bool)
}

func (o Options) withDefaults() Options {
	o.Interval = cmp.Or(o.Interval, 30*time.Second)
	o.Timeout = cmp.Or(o.Timeout, 10*time.Second)
	if o.Interfaces == nil {
		o.Interfaces = systemInterfaces
	}
	if o.Route == nil {
		o.Route = systemRoute
	}
	if o.Resolver == nil {
		o.Resolver = net.DefaultResolver
	}
	if o.LookupEnv == nil {
		o.LookupEnv = os.LookupEnv
	}
	return o
}

// Resolve makes one attempt to turn spec, the value of node.advertise, into an
// address. bound is what the listener of the node reports, with its real port.
//
// An error that wraps driver.ErrInvalid is a *driver.ConfigError and stays until
// the setting is changed; one that wraps ErrNoAddress may pass. Resolve blocks on
// the resolver of names and on detectors, for as long as ctx allows.
func Resolve(ctx context.Context, spec string, bound netip.AddrPort, o Options) (Address, error) {
	return resolve(ctx, spec, bound, o.withDefaults(), Address{})
}

// Validate reports whether spec has a valid form, so far as can be told without
// the network: names are not resolved and interfaces not looked at. The errors
// are those of Resolve.
func Validate(spec string, o Options) error {
	_, err := parse(spec, o.withDefaults())
	return err
}

// candidate is an address that a method found. Of those with the lowest rank the
// first is taken, or the one that is in use already.
type candidate struct {
	addr   netip.AddrPort
	rank   int
	source string
	name   string // that was resolved, with the port
}

// method is how an address is found. It returns its candidates best first, and
// at least one, or an error.
type method func(ctx context.Context, bound netip.AddrPort) ([]candidate, error)

// resolve is Resolve with the address in use, if any, which it prefers to one
// that is no better.
func resolve(ctx context.Context, spec string, bound netip.AddrPort, o Options, used Address) (Address, error) {
	find, err := parse(spec, o)
	if err != nil {
		return Address{}, err
	}
	bound = netip.AddrPortFrom(bound.Addr().Unmap(), bound.Port())
	found, err := find(ctx, bound)
	if err != nil {
		return Address{}, err
	}
	best := found[0]
	for _, c := range found {
		if c.rank == best.rank && c.addr.String() == used.Addr {
			best = c
			break
		}
	}
	if problem := unusable(best.addr.Addr()); problem != "" {
		return Address{}, invalid(spec, "%s; %s", problem, forms(o))
	}
	if best.addr.Port() == 0 {
		return Address{}, invalid(spec, "the bound address %v has no port; listen before the address is resolved", bound)
	}
	return Address{Addr: best.addr.String(), Source: best.source, Name: best.name}, nil
}

// unusable says why no other host could dial a, or returns nothing.
func unusable(a netip.Addr) string {
	switch {
	case !a.IsValid():
		return "is no address"
	case a.IsUnspecified():
		return fmt.Sprintf("nobody can dial %v", a)
	case a.IsMulticast():
		return fmt.Sprintf("%v is a multicast address", a)
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Sprintf("%v is a broadcast address", a)
	case a.Is6() && a.IsLinkLocalUnicast():
		return fmt.Sprintf("%v is an IPv6 link-local address, which means nothing to other hosts", a)
	case a.Zone() != "":
		return fmt.Sprintf("%v has a zone, which means nothing to other hosts", a)
	}
	return ""
}

// serves reports whether a listener bound to bound can be reached at an address
// of the family of a.
func serves(bound, a netip.Addr) bool {
	if !bound.IsValid() || bound.Is6() && bound.IsUnspecified() {
		return true
	}
	return bound.Is4() == a.Is4()
}

// familyRank prefers IPv4.
func familyRank(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// byRank sorts best first and keeps the order of equals.
func byRank(found []candidate) {
	slices.SortStableFunc(found, func(a, b candidate) int { return cmp.Compare(a.rank, b.rank) })
}

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
	// detector has no business here, and ErrHostNetwork also that no network lies
	// between this process and its host; any other means that it should know the
	// address and does not. auto goes on after either.
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

	// StepTimeout bounds each step of auto, so that one that hangs leaves the next its
	// chance. 0: 10 s.
	StepTimeout time.Duration

	// AllowInternal lets auto take an address of a container with a network of its
	// own, which leads nowhere from outside of it.
	AllowInternal bool

	// HostIP is the address of the host, for metadata that tells only its port; of several
	// addresses that a metadata source names it is the one that is taken.
	HostIP netip.Addr

	// Hint is what the error of auto says to do where an address within a container is all
	// that was found. Default: by the keys of the configuration and the variables.
	Hint string

	// Used is what an earlier Explain has found and is in use: it is kept for as long
	// as it is as good as any other, and Watch begins with it as if it had yielded it.
	Used Explanation

	// Explained, unless nil, is handed what each attempt has found, in the goroutine
	// that makes it.
	Explained func(Explanation)

	// The seams below stand for the system, which serves where they are nil.

	// Interfaces lists the network interfaces of the host.
	Interfaces func() ([]Interface, error)
	// Route returns the source address from which the host would send to dst.
	Route func(dst netip.Addr) (netip.Addr, error)
	// Resolver resolves names.
	Resolver Resolver
	// LookupEnv reads the environment, and Environ lists it as KEY=value pairs.
	LookupEnv func(key string) (string, bool)
	Environ   func() []string
	// Isolated says in what container with a network of its own an interface is, and
	// nothing if others can reach it.
	Isolated func(iface string) string
}

func (o Options) withDefaults() Options {
	o.Interval = cmp.Or(o.Interval, 30*time.Second)
	o.Timeout = cmp.Or(o.Timeout, 10*time.Second)
	o.StepTimeout = cmp.Or(o.StepTimeout, defaultStepTimeout)
	o.HostIP = o.HostIP.Unmap()
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
	if o.Environ == nil {
		o.Environ = os.Environ
	}
	if o.Isolated == nil {
		o.Isolated = systemIsolated(o.LookupEnv)
	}
	return o
}

// Resolve makes one attempt to turn spec, the value of node.advertise, into an
// address. bound is what the listener of the node reports, with its real port.
//
// An error that wraps driver.ErrInvalid is a *driver.ConfigError and stays until
// the setting is changed; one that wraps ErrNoAddress may pass. Resolve blocks on
// the resolver of names, on detectors and on metadata services, for as long as ctx
// allows. The text of an error is one line, but for auto, where it has one for each step that
// has something to say, the cause first.
func Resolve(ctx context.Context, spec string, bound netip.AddrPort, o Options) (Address, error) {
	e := Explain(ctx, spec, bound, o)
	return e.Address, e.Err
}

// Explain does what Resolve does, and says what each step has answered, also where
// none has found an address. Where the setting cannot be read there are no steps.
func Explain(ctx context.Context, spec string, bound netip.AddrPort, o Options) Explanation {
	o = o.withDefaults()
	e := explain(ctx, spec, bound, o, o.Used)
	if o.Explained != nil {
		o.Explained(e)
	}
	return e
}

// Validate reports whether spec has a valid form, so far as can be seen without
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
	iface  string // that has the address, where it was found there
}

// method is how an address is found. It returns its candidates best first, and
// at least one, or an error.
type method func(ctx context.Context, bound netip.AddrPort) ([]candidate, error)

// explain is Explain with what is in use, if anything is, which it prefers to what is
// no better.
func explain(ctx context.Context, spec string, bound netip.AddrPort, o Options, used Explanation) Explanation {
	steps, err := parse(spec, o)
	if err != nil {
		return Explanation{Err: err}
	}
	bound = netip.AddrPortFrom(bound.Addr().Unmap(), bound.Port())
	best, asked, err := ask(ctx, spec, steps, bound, o, used)
	if err != nil {
		return Explanation{Steps: asked, Err: err}
	}
	return Explanation{Address: Address{Addr: best.addr.String(), Source: best.source, Name: best.name}, Steps: asked}
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

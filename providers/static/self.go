package static

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// Which entry of the list is this node is known by its address, by the name that this was
// resolved from, and by what the names of the list resolve to: one that leads to this node,
// and to it alone, is this node.

// lookupTimeout bounds the look-ups of one attempt, which go on at the same time.
const lookupTimeout = 3 * time.Second

// entry is one of the list, with the addresses that it leads to.
type entry struct {
	addr  string // in the one spelling
	name  bool   // its host is a name
	addrs []netip.AddrPort
	err   error // it was not resolved
}

// resolve looks up the entries that have this port, which no other leads to.
func (d *Driver) resolve(ctx context.Context, entries []string, port uint16) []entry {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	var out []entry
	for _, e := range entries {
		if _, p, err := net.SplitHostPort(e); err == nil && p == strconv.Itoa(int(port)) {
			out = append(out, entry{addr: e})
		}
	}
	var wg sync.WaitGroup
	for i := range out {
		e := &out[i]
		if ap, err := netip.ParseAddrPort(e.addr); err == nil {
			e.addrs = []netip.AddrPort{ap}
			continue
		}
		e.name = true
		host, _, _ := net.SplitHostPort(e.addr)
		wg.Go(func() {
			found, err := d.Resolver.LookupHost(ctx, host)
			if e.err = err; err != nil {
				return
			}
			for _, a := range found {
				if ip, err := netip.ParseAddr(a); err == nil {
					e.addrs = append(e.addrs, netip.AddrPortFrom(ip.WithZone("").Unmap(), port))
				}
			}
		})
	}
	wg.Wait()
	return out
}

// isLocalhost reports whether the host of an entry means each host to itself.
func (e entry) isLocalhost() bool {
	host, _, _ := net.SplitHostPort(e.addr)
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.IsLoopback()
	}
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// leadsTo reports whether e leads to one of these addresses. The error says why that does
// not make it this node's: other nodes are behind it too.
func (e entry) leadsTo(own []netip.Addr) (bool, error) {
	var here, there []string
	for _, a := range e.addrs {
		if slices.Contains(own, a.Addr()) {
			here = append(here, a.Addr().String())
		} else {
			there = append(there, a.Addr().String())
		}
	}
	if len(here) > 0 && len(there) > 0 {
		return false, fmt.Errorf("%s leads to this node (%s) and to others (%s); list each node by a name of its own", e.addr, strings.Join(here, ", "), strings.Join(there, ", "))
	}
	return len(here) > 0, nil
}

// interfaces are the addresses of this host.
func (d *Driver) interfaces() ([]netip.Addr, error) {
	if d.Interfaces != nil {
		return d.Interfaces()
	}
	found, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, a := range found {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			addrs = append(addrs, prefix.Addr().WithZone("").Unmap())
		}
	}
	return addrs, nil
}

// identify returns the entry that is this node, which is reached at self or at one of the
// aliases. It is empty if there is none. The error says what keeps an entry from being
// it: two are, or other nodes are behind it, or it is not resolved.
func (d *Driver) identify(ctx context.Context, self string, aliases []string) (string, error) {
	voters, err := d.voters()
	if err != nil {
		return "", err
	}
	var found []string
	for _, a := range append([]string{self}, aliases...) {
		if a = driver.CanonicalAddr(a); slices.Contains(voters, a) && !slices.Contains(found, a) {
			found = append(found, a)
		}
	}
	at, err := netip.ParseAddrPort(self)
	if err != nil { // a name: nothing is known of what it leads to
		return one(found, nil)
	}
	own, err := d.interfaces()
	if err != nil {
		own = nil // the address alone will do
	}
	own = append(own, at.Addr().Unmap())
	var problems []error
	for _, e := range d.resolve(ctx, voters, at.Port()) {
		if slices.Contains(found, e.addr) || e.isLocalhost() && !at.Addr().IsLoopback() {
			continue
		}
		switch here, err := e.leadsTo(own); {
		case e.err != nil:
			problems = append(problems, fmt.Errorf("%s is not resolved: %w", e.addr, e.err))
		case err != nil:
			problems = append(problems, err)
		case here:
			found = append(found, e.addr)
		}
	}
	return one(found, problems)
}

// one returns the only one of found.
func one(found []string, problems []error) (string, error) {
	switch len(found) {
	case 0:
		if len(problems) > 0 {
			return "", fmt.Errorf("%w: %w", driver.ErrUnavailable, joined(problems))
		}
		return "", nil
	case 1:
		return found[0], nil
	}
	slices.Sort(found)
	return "", fmt.Errorf("%w: provider.static.peers: %s are one node, this one; list each node once", driver.ErrInvalid, strings.Join(found, " and "))
}

// joined puts errors on one line.
func joined(errs []error) error {
	var texts []string
	for _, err := range errs {
		texts = append(texts, err.Error())
	}
	return errors.New(strings.Join(texts, "; "))
}

// Locate implements driver.Locator: one list is for all nodes, so that what it says of this
// one is an address at which the others reach it.
func (d *Driver) Locate(ctx context.Context, bound netip.AddrPort) (driver.Location, error) {
	none := func(format string, args ...any) (driver.Location, error) {
		return driver.Location{}, fmt.Errorf("%w: "+format, append([]any{driver.ErrNotFound}, args...)...)
	}
	if len(d.config.Peers) == 0 && d.config.File == "" {
		return none("no node is listed")
	}
	voters, err := d.voters()
	if err != nil {
		return driver.Location{}, err
	}
	own, err := d.interfaces()
	if err != nil {
		return driver.Location{}, fmt.Errorf("%w: the interfaces of this host cannot be listed: %w", driver.ErrUnavailable, err)
	}
	if a := bound.Addr().Unmap(); a.IsValid() && !a.IsUnspecified() {
		own = slices.DeleteFunc(own, func(o netip.Addr) bool { return o != a })
	} else if a.Is4() {
		own = slices.DeleteFunc(own, func(o netip.Addr) bool { return !o.Is4() })
	}
	var found []string
	var here string // an entry that leads to this host, and from others elsewhere or nowhere
	var at driver.Location
	var problems []error
	for _, e := range d.resolve(ctx, voters, bound.Port()) {
		switch leads, err := e.leadsTo(own); {
		case e.err != nil:
			problems = append(problems, fmt.Errorf("%s is not resolved: %w", e.addr, e.err))
			continue
		case err != nil:
			problems = append(problems, err)
			continue
		case !leads:
			continue
		}
		// IPv4 first, as elsewhere. A loopback address is of no use to others.
		addrs := slices.DeleteFunc(e.addrs, func(a netip.AddrPort) bool { return a.Addr().IsLoopback() || a.Addr().IsLinkLocalUnicast() })
		if len(addrs) == 0 {
			here = e.addr
			continue
		}
		found = append(found, e.addr)
		slices.SortStableFunc(addrs, func(a, b netip.AddrPort) int { return cmp.Compare(a.Addr().BitLen(), b.Addr().BitLen()) })
		at = driver.Location{Addr: addrs[0]}
		if e.name {
			at.Name = e.addr
		}
	}
	if _, err := one(found, problems); err != nil {
		return driver.Location{}, err
	}
	if len(found) == 0 && here != "" {
		return none("%s leads to this host, but not from others; if all nodes are on this host, set node.bind to it", here)
	}
	if len(found) == 0 {
		return none("no entry with port %d leads to an address of this host", bound.Port())
	}
	return at, nil
}

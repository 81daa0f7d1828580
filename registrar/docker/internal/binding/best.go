package binding

import (
	"cmp"
	"net/netip"
	"slices"
)

// Best returns the binding that is registered: bindings are not equally good, and a
// port that is registered twice is found twice.
//
//  1. One at the address that is registered, if that is configured, or else at that of
//     this host.
//  2. One at an address of this host that others can dial; with a configured address
//     only after 3.
//  3. One at all addresses.
//  4. One that only this host can dial.
//
// Within these, the family of the configured address comes first, or IPv4; then the lowest
// address, and the lowest port. It panics if there are no bindings.
func Best(bindings []netip.AddrPort, configured, host netip.Addr) netip.AddrPort {
	own := configured
	if !own.IsValid() {
		own = host
	}
	rank := func(b netip.AddrPort) int {
		switch a := b.Addr(); {
		case own.IsValid() && a == own:
			return 0
		case a.IsUnspecified():
			return 2
		case a.IsLoopback() || a.IsLinkLocalUnicast():
			return 4
		case configured.IsValid():
			return 3
		default:
			return 1
		}
	}
	otherFamily := func(b netip.AddrPort) int {
		if b.Addr().Is6() != own.Is6() {
			return 1
		}
		return 0
	}
	return slices.MinFunc(bindings, func(a, b netip.AddrPort) int {
		return cmp.Or(
			cmp.Compare(rank(a), rank(b)),
			cmp.Compare(otherFamily(a), otherFamily(b)),
			a.Compare(b),
		)
	})
}

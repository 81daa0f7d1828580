// Package advertise works out the address at which others can dial this node.
//
// The address that a node listens on is seldom the one to publish: 0.0.0.0 is no
// address at all, a host has several interfaces, a name moves. [Resolve] turns
// the setting node.advertise into one IP:PORT and says how it knows; [Watch] does
// it again and again, and tells of changes.
//
// The forms of the setting:
//
//	auto            the address that is bound to, if it is a specific one; else the
//	                best address of this host (below). Also the empty string.
//	HOST:PORT       an IP, IPv6 in brackets, or a name, which is resolved. The port
//	                is not optional: a word without one could be a mistyped form.
//	env             the variable MUSTER_ADVERTISE_ADDR, which is HOST:PORT, or a
//	                host alone, IPv6 with or without brackets. A host alone takes
//	                the port from MUSTER_ADVERTISE_PORT, or else the bound one.
//	interface:NAME  the first address of an interface, IPv4 before IPv6, with the
//	                bound port.
//	the name of a [Detector] in [Options].Detectors, such as docker
//
// What is promised:
//
//   - The result can be published. 0.0.0.0, ::, port 0, multicast and broadcast
//     addresses are refused. So are IPv6 link-local addresses, with a zone or
//     without: the zone belongs to whoever dials, so such an address means nothing
//     to another host.
//   - No answer is a guess that hides a failure: where nothing fits there is an
//     error, on one line, that names the setting, its value and the mend.
//   - The choice is deterministic, and [Watch] keeps to an address for as long as
//     it is as good as any other, however the order of the answers changes.
//
// What is not promised: that a firewall lets others through, or that an address
// behind a translated port is reachable. Only a peer that dials can tell.
//
// # The best address of this host
//
// Bound to a loopback address, the node advertises that: nobody but this host can
// reach it anyway. Otherwise the detectors are asked in their order, and the first
// that applies decides. Without one, a specific bound address is the answer. Bound
// to all addresses, the interfaces that are up are compared: one that holds the
// source address of the default route comes first, being the address that far
// hosts see; bridges that container and virtual machine tools make (docker0, br-*,
// veth*, virbr* and their kin) come after all others; within an interface IPv4
// comes before IPv6, and the order is that of the system, whose first is the
// primary address. IPv4 link-local addresses (169.254.0.0/16) serve where there
// is nothing else. A loopback address is never chosen.
//
// Bound to 0.0.0.0 only IPv4 is considered, bound to [::] both. This is about what
// the listener reports and not about what was asked for: Go's net.Listen("tcp",
// "0.0.0.0:7946") serves both and reports [::]:7946.
//
// # Names
//
// Of the addresses of a name, those of a family that the bound address serves come
// first, IPv4 where it serves both, and then the lowest. A loopback address is
// taken only from the name localhost or where the node is bound to loopback: the
// name of a host often maps to 127.0.1.1 in its own /etc/hosts.
package advertise

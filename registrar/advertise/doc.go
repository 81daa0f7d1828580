// Package advertise works out the address at which others can dial this node.
//
// The address that a node listens on is seldom the one to publish: 0.0.0.0 is no
// address at all, a host has several interfaces, a name moves. [Resolve] turns
// the setting node.advertise into one IP:PORT and says how it knows; [Explain] says
// and what each step on the way has answered; [Watch] does it again and again, and
// reports changes.
//
// The forms of the setting:
//
//	auto            the chain (below). Also the empty string.
//	HOST:PORT       an IP, IPv6 in brackets, or a name, which is resolved. The port
//	                is not optional: a word without one could be a mistyped form.
//	env             the variable MUSTER_ADVERTISE_ADDR, which is HOST:PORT, or a
//	                host alone, IPv6 with or without brackets. A host alone takes
//	                the port from MUSTER_ADVERTISE_PORT, or else the bound one. That
//	                variable alone is refused: a port without its host says nothing.
//	interface:NAME  the first address of an interface, IPv4 before IPv6, with the
//	                bound port.
//	the name of a [Detector] in [Options].Detectors, such as docker
//
// What is promised:
//
//   - The result can be published. 0.0.0.0, ::, port 0, multicast and broadcast
//     addresses are refused. So are IPv6 link-local addresses, with a zone or
//     without: the zone belongs to the host that dials, so such an address means nothing
//     to another host.
//   - No answer is a guess that hides a failure: where nothing fits there is an
//     error that names the setting, its value and the hint: on one line, or of auto
//     on one for each step that has failed, the cause first.
//   - An address within a container whose network is its own is not advertised by
//     auto, unless [Options].AllowInternal says that all others are in it too.
//   - The choice is deterministic, and [Watch] keeps to an address for as long as
//     it is as good as any other, however the order of the answers changes.
//
// What is not promised: that a firewall lets others through, or that an address
// behind a translated port is reachable. Only a peer that dials can tell.
//
// # The chain
//
// auto asks one step after the other, and the first that knows decides:
//
//	config          where node.advertise says it; with auto it does not
//	env             MUSTER_ADVERTISE_ADDR, as with the form env. What it says wrongly,
//	                or cannot be resolved, is an error: nothing stands in for it
//	bind            a loopback address that is bound to: nobody but this host can
//	                connect anyway
//	the detectors   in the order of [Options].Detectors, as docker and registry
//	kubernetes      MUSTER_POD_IP or POD_IP, from the downward API; or else, in a pod,
//	                its own address, which all pods reach
//	ecs             the task metadata endpoint, version 4
//	nomad           the address of the port of Nomad that leads to the bound one
//	                (of several the one at [Options].HostIP, else of its family, else IPv4)
//	interface       the specific address that is bound to, or else the best of this host
//
// A step has found the address, is not applicable, or has failed, with a reason. One
// that has failed does not stop the chain, except env; but in a container with a
// network of its own the last step fails as well, and names what the others have said:
// nobody outside could dial what it has found. Whether that is so is seen from the
// container's marks and from the interface, which is then one end of a pair; a
// container in the network of its host, or in one beside it by macvlan, has addresses
// that others can dial.
//
// Each step has [Options].StepTimeout at most. A form that names one step asks that step
// alone, for as long as the caller allows.
//
// # The best address of this host
//
// Bound to all addresses, the interfaces that are up are compared: one that holds the
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

// Package membership knows who is in the cluster: it stands on memberlist, which
// gossips and probes, and repairs what memberlist leaves open.
//
//	m, err := membership.Start(membership.Config{
//		Cluster: "orders", NodeID: "a", InstanceID: id, Addr: advertised,
//		Transport: transport, Network: network,
//	})
//	m.SetPeers([]string{"10.0.0.5:7946"})
//	for view := range m.Watch(ctx) { ... }
//
// # What it promises
//
//   - A [View] is one value that never changes once it was handed out. Every
//     listener sees every view or a later one, in order. What has changed between
//     two views is what [Diff] says.
//   - A node id occurs at most once in a view. Of two live processes with one
//     node id, the one that was started later stays; the other ends with
//     [ErrDuplicateNodeID]. A node that crashed and was started again replaces its
//     predecessor at once, at the same address or another.
//   - A member that leaves in good order is distinguished from one that falls silent.
//   - A peer that was handed in with [Membership.SetPeers], or that was a member
//     and fell silent, is dialled until it is a member again. So parts of a
//     cluster that were cut off from one another become one again, however long
//     that lasted.
//   - Nodes of another cluster are rejected, on both sides: by the label of
//     their traffic where the name differs, and by the cluster id where that
//     differs. What is rejected is counted, with its reason.
//   - The details of a member are complete or known not to be: what does not fit
//     into gossip is fetched from the member itself.
//
// # What it does not promise
//
// A view may be wrong for seconds: it lists a member that has just died, and lacks
// one that is only unreachable from here. Two nodes may have different views.
// Nothing about authority may be concluded from a view; see package mastership.
//
// A message of [Membership.Broadcast] may get lost, and a later one with the same
// key may replace it on the way.
//
// # On the wire
//
// A member's name in memberlist is its node id, a tilde and the first 12 letters
// of its instance id, so that no two starts of a node share one. Its metadata is
// a JSON object of at most 512 bytes:
//
//	v  version of the layout, 1
//	i  instance id
//	c  claim: the Unix time of the start in ms, which orders the instances of a node
//	k  cluster id, if known
//	s  true for a node that refuses all others
//	d  details: zone, tags, meta, app_addrs, version, voter; or where they do not fit
//	h  their digest: the first 16 bytes of the SHA-256 of their JSON, in hex
//
// The details that do not fit are served by the protocol "member" of the network,
// as HTTP/1.1: GET /v1/details answers the JSON whose digest was announced.
//
// Messages and the state that two nodes exchange start with a version byte, 1;
// see wire.go. Readers ignore JSON fields that they do not know.
package membership

// Package link is the one TCP port over which a node says everything to other
// nodes: gossip, Raft, calls. It implements driver.Network for any number of
// named protocols, and a transport for memberlist.
//
//	l, err := link.Listen(link.Config{Bind: "0.0.0.0:7946", Cluster: "orders",
//		NodeID: "node-1", InstanceID: random, TLS: mutual})
//	ln, err := l.Listen("call")                                      // a net.Listener
//	conn, err := l.Dial(ctx, "call", "10.0.0.5:7946")                // whichever node that is
//	conn, err := l.DialInstance(ctx, "call", "10.0.0.5:7946", id)    // this instance, or ErrLeft
//	peer := link.PeerOf(conn)                                        // who is there
//	transport, err := l.Transport(advertised)                        // for memberlist.Config
//
// # What it promises
//
//   - A connection that Accept or Dial returns leads to a node of the same
//     cluster that speaks the same version of this protocol and has a listener
//     for the named protocol; with TLS, to one that holds a certificate of the
//     configured authorities, and with Config.VerifyNodeID to one whose certificate
//     names its node id.
//   - Both ends of a connection know the node id and the instance id of the other:
//     PeerOf returns them. What DialInstance returns leads to that instance.
//   - Disconnect closes all connections to and from an instance, but for gossip.
//   - Anyone else is rejected within Config.HandshakeTimeout, with a reason
//     that is counted, and leaves nothing behind.
//   - Sending a gossip packet never blocks. A packet that cannot be sent soon is
//     dropped, the oldest first, as memberlist expects of a datagram.
//   - Close ends every connection and every goroutine of the link.
//
// It does not promise that a gossip packet arrives, or arrives once. Without TLS
// it does not keep out an attacker: the name of a cluster is no secret, and an end
// may say that it is any node.
//
// # On the wire
//
// This is version 2. The end that dials speaks first, and waits for the answer before
// it sends anything else.
//
// With TLS (1.3 only, certificates on both sides, both as they are at that moment:
// see Config.CurrentTLS) it offers one ALPN protocol:
//
//	muster/2/<cluster>
//
// Another version or another cluster fails in the handshake, with the alert
// no_application_protocol. The hello follows, inside TLS where there is TLS, together
// with the end of the handshake, so that it costs no round trip:
//
//	4 bytes   the letters MSTR
//	1 byte    version, 2
//	2 bytes   length of the rest, big endian, 2048 at most
//	fields    1 byte number, 1 byte length, then the value
//
//	1  cluster
//	2  protocol
//	3  node id
//	4  instance id
//	5  the instance that is meant, or the head of its id; absent: any that answers
//	6  the address that the sender advertises: 4 or 16 bytes of IP, 2 of port, big
//	   endian; absent while it has none
//	7  a feature, once for each
//
// 1 to 4 are always there, and 1 to 6 at most once; the order does not matter. Within a
// version the hello only gains fields. A reader ignores fields and features that it does
// not know, and rejects what is not well formed. One that does not know the version reads
// no further. The answer is one byte:
//
//	1  accepted: the hello of the end that answers follows, with the fields 1 to 4, 6
//	   and 7, and then the bytes are those of the protocol
//	2  wrong version
//	3  wrong cluster
//	4  unknown protocol: there is no listener
//	5  busy: the listener's queue is full
//	6  this port speaks TLS only
//	7  another instance than the one that is meant: the hello of the one that answers
//	   follows
//	8  the certificate does not name the node id
//
// After any but the first the connection is closed. Numbers are never used again for
// something else. The end that dials checks what is in the answer as the other end has
// checked its hello.
//
// A port without TLS answers a TLS handshake with the letters MSTR and its
// version, which the other end reports as a record that is not TLS.
//
// Two protocols belong to the link. "state" carries the streams of memberlist as
// they are. "gossip" carries its packets, in frames of a length (4 bytes, big
// endian, 65536 at most) and so many bytes; its sender must advertise an address.
// Each frame is a packet, except that a frame of length 0 asks for one byte of value 1
// in return, which is the only thing that is ever sent that way.
//
// # Gossip connections
//
// A gossip connection carries packets one way: from the end that dialled to the end that accepted.
// Two nodes that talk to each other keep two. To share one would halve the
// sockets, at the price of a rule for two nodes that dial each other at once, and
// of sending what is meant for an address to any process that claims that address. As it
// is, a packet travels only to where it was addressed, and a connection has one
// owner, which dials it, closes it when it is idle, and replaces it when it breaks.
//
// The way back is read all the same, so that the end of a peer is seen at once
// and not by losing the next packet. And because what was written into the socket
// of a peer behind a partition stays there for as long as TCP cares to repeat it,
// with longer and longer pauses, the sender asks for a sign of life every few
// seconds while it sends, and dials afresh when none comes.
//
// memberlist answers a ping at the address that the ping itself names, and falls
// back to that of the packet. Packet.From is therefore the address which the
// sender advertises: the source port of a TCP connection cannot be dialled.
//
// # Instances
//
// A restarted node is another instance at the same address, and so may be a container
// that was given the address of another one. What is meant for an instance is never
// handed to its successor: a packet of gossip is queued for an address and an instance,
// and a connection for it is made to that instance or to none. Disconnect does not keep
// an instance from connecting again: a member may be said to leave and stay.
package link

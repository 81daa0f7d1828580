// Package link is the one TCP port over which a node says everything to other
// nodes: gossip, Raft, calls. It implements driver.Network for any number of
// named protocols, and a transport for memberlist.
//
//	l, err := link.Listen(link.Config{Bind: "0.0.0.0:7946", Cluster: "orders", TLS: mutual})
//	ln, err := l.Listen("call")                          // a net.Listener
//	conn, err := l.Dial(ctx, "call", "10.0.0.5:7946")    // a net.Conn
//	transport, err := l.Transport(advertised)            // for memberlist.Config
//
// # What it promises
//
//   - A connection that Accept or Dial returns leads to a node of the same
//     cluster that speaks the same version of this protocol and has a listener
//     for the named protocol; with TLS, to one that holds a certificate of the
//     configured authorities.
//   - Anyone else is turned away within Config.HandshakeTimeout, with a reason
//     that is counted, and leaves nothing behind.
//   - Sending a gossip packet never blocks. A packet that cannot be sent soon is
//     dropped, the oldest first, as memberlist expects of a datagram.
//   - Close ends every connection and every goroutine of the link.
//
// It does not promise that a gossip packet arrives, or arrives once. Without TLS
// it does not keep out anyone who means harm: the name of a cluster is no secret.
//
// # On the wire
//
// Whoever dials speaks first, and waits for one byte of answer before it sends
// anything else.
//
// With TLS (1.3 only, certificates on both sides, both as they are at that moment:
// see Config.CurrentTLS) it offers one ALPN protocol:
//
//	muster/1/<protocol>/<cluster>
//
// Another version or another cluster fails in the handshake, with the alert
// no_application_protocol. Without TLS it sends a preface:
//
//	4 bytes   the letters MSTR
//	1 byte    version, 1
//	1 byte    length of the protocol, then the protocol
//	1 byte    length of the cluster, then the cluster
//
// A reader that does not know the version reads no further. The answer, inside
// TLS where there is TLS, is one byte; after any but the first the connection is
// closed:
//
//	1  accepted; from here on the bytes are those of the protocol
//	2  wrong version
//	3  wrong cluster
//	4  unknown protocol: there is no listener
//	5  busy: the listener's queue is full
//	6  this port speaks TLS only
//
// A port without TLS answers a TLS handshake with the letters MSTR and its
// version, which the other end reports as a record that is not TLS.
//
// Two protocols belong to the link. "state" carries the streams of memberlist as
// they are. "gossip" carries its packets, in frames of a length (4 bytes, big
// endian, 65536 at most) and so many bytes. The first frame is the HOST:PORT that
// the sender advertises, as text. Every later one is a packet, except that a
// frame of length 0 asks for one byte of value 1 in return, and is the only thing
// that is ever sent that way.
//
// # Gossip connections
//
// A gossip connection carries packets one way: from who dialled to who accepted.
// Two nodes that talk to each other keep two. To share one would halve the
// sockets, at the price of a rule for two nodes that dial each other at once, and
// of sending what is meant for an address to whoever claims that address. As it
// is, a packet travels only to where it was addressed, and a connection has one
// owner, who dials it, closes it when it is idle, and replaces it when it breaks.
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
package link

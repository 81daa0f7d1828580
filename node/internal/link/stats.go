package link

import (
	"maps"
	"sync/atomic"
)

// Stats is what a link has done since it was made, and what it holds now.
type Stats struct {
	// Inbound and Outbound are the open connections of all protocols by who
	// dialled; Handshakes those that have not said yet what they want.
	Inbound, Outbound, Handshakes int
	// GossipInbound and GossipOutbound are those among them that are kept for
	// packets.
	GossipInbound, GossipOutbound int

	// Accepted counts the connections that were accepted, by protocol.
	Accepted map[string]uint64
	// Rejected counts those that were rejected, by reason.
	Rejected map[Reason]uint64
	// AcceptErrors counts the failures to take a connection from the system, as
	// when the process has no file descriptor left.
	AcceptErrors uint64
	// Dials counts the dials of all protocols that were begun, DialSuccesses and
	// DialFailures how those ended that have.
	Dials, DialSuccesses, DialFailures uint64

	// PacketsSent and PacketsReceived count gossip packets, BytesSent and
	// BytesReceived their bytes with their frames, before TLS.
	PacketsSent, PacketsReceived uint64
	BytesSent, BytesReceived     uint64
	// PacketsDropped counts the packets that were given to be sent and were not:
	// because the peer could not be reached, its connection broke, or its queue
	// was full. QueueDrops are those of the last kind.
	PacketsDropped, QueueDrops uint64
	// QueuedPackets are those that wait now.
	QueuedPackets int
}

type counters struct {
	acceptErrors, dials, dialSuccesses, dialFailures atomic.Uint64
	packetsSent, packetsReceived                     atomic.Uint64
	bytesSent, bytesReceived                         atomic.Uint64
	packetsDropped, queueDrops                       atomic.Uint64
}

// Stats returns a copy of the counters.
func (l *Link) Stats() Stats {
	s := Stats{
		Rejected:        l.rejected.snapshot(),
		AcceptErrors:    l.counters.acceptErrors.Load(),
		Dials:           l.counters.dials.Load(),
		DialSuccesses:   l.counters.dialSuccesses.Load(),
		DialFailures:    l.counters.dialFailures.Load(),
		PacketsSent:     l.counters.packetsSent.Load(),
		PacketsReceived: l.counters.packetsReceived.Load(),
		BytesSent:       l.counters.bytesSent.Load(),
		BytesReceived:   l.counters.bytesReceived.Load(),
		PacketsDropped:  l.counters.packetsDropped.Load(),
		QueueDrops:      l.counters.queueDrops.Load(),
		Accepted:        make(map[string]uint64),
	}
	l.mu.Lock()
	maps.Copy(s.Accepted, l.accepted)
	for c := range l.conns {
		if c.inbound {
			s.Inbound++
		} else {
			s.Outbound++
		}
	}
	s.Handshakes = len(l.pending)
	t := l.transport
	l.mu.Unlock()
	if t != nil {
		t.addTo(&s)
	}
	return s
}

package node

import (
	"github.com/musterhq/muster/node/internal/link"
	"github.com/musterhq/muster/node/internal/membership"
)

// MembershipStats counts what the membership of a node has seen since its start.
type MembershipStats struct {
	// Members counts the view's members and departed ones by state.
	Members map[MemberState]int
	// Joins and JoinFailures count the dials that look for members by their outcome.
	Joins, JoinFailures uint64
	// Peers counts the addresses that are dialled until they belong to a member, and Missing
	// those among them that belong to none now.
	Peers, Missing int
	// Refused counts by reason what was rejected: news of members, joins, and traffic of
	// another cluster. One stranger is counted each time.
	Refused map[string]uint64
	// Fetches and FetchFailures count the attempts to get details that did not fit into
	// gossip.
	Fetches, FetchFailures uint64
	// QueueDrops counts the messages that were dropped because the node did not keep up,
	// FailedWrites the packets that could not be queued for a member.
	QueueDrops, FailedWrites uint64
	// Health is 0 if this node keeps up, and rises to 7 if its probes come too late or find
	// too many members dead: then the fault is probably its own.
	Health int
}

func membershipStatsOf(s membership.Stats) MembershipStats {
	members := make(map[MemberState]int, len(s.Members))
	for state, n := range s.Members {
		members[MemberState(state)] = n
	}
	return MembershipStats{
		Members: members, Joins: s.Joins, JoinFailures: s.JoinFailures, Peers: s.Peers, Missing: s.Missing,
		Refused: s.Refused, Fetches: s.Fetches, FetchFailures: s.FetchFailures,
		QueueDrops: s.QueueDrops, FailedWrites: s.FailedWrites, Health: s.Health,
	}
}

// LinkStats is what the one port of a node has done since its start, and what it holds now.
type LinkStats struct {
	// Inbound and Outbound are the open connections of all protocols by who dialled;
	// Handshakes those that have not said yet what they want.
	Inbound, Outbound, Handshakes int
	// GossipInbound and GossipOutbound are those among them that are kept for packets.
	GossipInbound, GossipOutbound int

	// Accepted counts the connections that were accepted, by protocol.
	Accepted map[string]uint64
	// Rejected counts those that were rejected, by reason.
	Rejected map[string]uint64
	// AcceptErrors counts the failures to take a connection from the system, as when the
	// process has no file descriptor left.
	AcceptErrors uint64
	// Dials counts the dials of all protocols that were begun, DialSuccesses and
	// DialFailures how those ended that have.
	Dials, DialSuccesses, DialFailures uint64

	// PacketsSent and PacketsReceived count gossip packets, BytesSent and BytesReceived their
	// bytes with their frames, before TLS.
	PacketsSent, PacketsReceived uint64
	BytesSent, BytesReceived     uint64
	// PacketsDropped counts the packets that were given to be sent and were not: the peer
	// could not be reached, its connection broke, or its queue was full. QueueDrops are those
	// of the last kind.
	PacketsDropped, QueueDrops uint64
	// QueuedPackets are those that wait now.
	QueuedPackets int
}

func linkStatsOf(s link.Stats) LinkStats {
	rejected := make(map[string]uint64, len(s.Rejected))
	for reason, n := range s.Rejected {
		rejected[string(reason)] = n
	}
	return LinkStats{
		Inbound: s.Inbound, Outbound: s.Outbound, Handshakes: s.Handshakes,
		GossipInbound: s.GossipInbound, GossipOutbound: s.GossipOutbound,
		Accepted: s.Accepted, Rejected: rejected, AcceptErrors: s.AcceptErrors,
		Dials: s.Dials, DialSuccesses: s.DialSuccesses, DialFailures: s.DialFailures,
		PacketsSent: s.PacketsSent, PacketsReceived: s.PacketsReceived,
		BytesSent: s.BytesSent, BytesReceived: s.BytesReceived,
		PacketsDropped: s.PacketsDropped, QueueDrops: s.QueueDrops, QueuedPackets: s.QueuedPackets,
	}
}

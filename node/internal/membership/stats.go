package membership

import (
	"maps"
	"sync"
	"sync/atomic"
)

// Stats counts what a membership has seen since its start.
type Stats struct {
	// Members counts the view's members and departed ones by state.
	Members map[State]int
	// Seq is that of the view.
	Seq uint64
	// Joins and JoinFailures count the dials of the merge loop by their outcome.
	Joins, JoinFailures uint64
	// Peers counts the addresses that the merge loop looks after, and Missing those
	// among them that belong to no member now.
	Peers, Missing int
	// Refused counts by reason what was rejected: news of members, joins, and
	// traffic of another cluster. One stranger is counted each time.
	Refused map[string]uint64
	// Fetches and FetchFailures count the attempts to get details that did not fit
	// into gossip.
	Fetches, FetchFailures uint64
	// QueueDrops counts the messages that were dropped because OnMessage and
	// MergeState did not keep up; FailedWrites the packets that the transport would
	// not take.
	QueueDrops, FailedWrites uint64
	// Health is 0 if this node keeps up, and rises to 7 where its probes come
	// too late or find too many dead: then the fault is probably its own.
	Health int
}

// counters are the numbers behind Stats.
type counters struct {
	joins, joinFailures    atomic.Uint64
	fetches, fetchFailures atomic.Uint64
	peers, missing         atomic.Int64

	mu      sync.Mutex
	refused map[string]uint64
}

func (c *counters) refuse(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refused == nil {
		c.refused = make(map[string]uint64)
	}
	c.refused[reason]++
}

// Stats returns the numbers as of now. It does not block.
func (m *Membership) Stats() Stats {
	view := m.View()
	s := Stats{
		Members:       map[State]int{StateAlive: len(view.Members), StateLeft: 0, StateDead: 0},
		Seq:           view.Seq,
		Joins:         m.counts.joins.Load(),
		JoinFailures:  m.counts.joinFailures.Load(),
		Peers:         int(m.counts.peers.Load()),
		Missing:       int(m.counts.missing.Load()),
		Fetches:       m.counts.fetches.Load(),
		FetchFailures: m.counts.fetchFailures.Load(),
		QueueDrops:    m.inbox.drops(),
		FailedWrites:  m.filter.failedWrites.Load(),
		Health:        m.ml.GetHealthScore(),
	}
	for _, member := range view.Departed {
		s.Members[member.State]++
	}
	m.counts.mu.Lock()
	s.Refused = maps.Clone(m.counts.refused)
	m.counts.mu.Unlock()
	return s
}

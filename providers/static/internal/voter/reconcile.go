package voter

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/providers/static/internal/raftstream"
)

// configTimeout bounds one change of Raft's configuration. A change that takes
// longer may still happen; the next poll shows.
const configTimeout = 5 * time.Second

// change is one step towards the list: at most one of the two is set.
type change struct{ add, remove string }

// reconcileVoters is the leader's: it brings Raft's configuration one voter closer to
// the list.
//
// One voter at a time, because then the majorities before and after have a voter
// in common; and with a pause of two leases, because a vote lease that a
// majority of one configuration gave must have ended before one is in force that
// is two steps away.
func (v *Voter) reconcileVoters() {
	m := v.member.Load()
	if m == nil {
		return
	}
	term, leads := m.Leading()
	if !leads || clock.Now().Before(v.configured.Add(2*v.cfg.TTL)) {
		return
	}
	proven, _ := v.disk.standing()
	c := nextChange(v.Self(), m.ID, proven.Founding, v.List(), m.Servers(), v.PeerStatuses())
	if c == (change{}) {
		return
	}
	err := m.ask(v.tasks.ctx, func() raft.Future {
		if c.remove != "" {
			return m.raft.RemoveServer(raft.ServerID(c.remove), 0, configTimeout)
		}
		return m.raft.AddVoter(raft.ServerID(c.add), raft.ServerAddress(c.add), 0, configTimeout)
	})
	v.configured = clock.Now()
	v.cfg.Logger.Info("voters changed", "raft_term", term, "added", c.add, "removed", c.remove, "error", err)
	v.notify()
}

// nextChange returns what brings servers, the ids in Raft's configuration, closer
// to list.
//
//  1. A voter that answers under another id than the configuration has came back
//     without its state: its old id is removed. As it is listed and missing then, it is
//     added again under the new id.
//  2. If the addresses differ by one, and a majority of the configured voters has
//     the same list, that voter is removed or added. To be added, it must answer.
//  3. If they differ by more, nothing: majorities of the two may have no voter in
//     common, and one mistake in a file must not replace the cluster.
func nextChange(self, selfID, founding string, list, servers []string, seen map[string]PeerStatus) change {
	configured := make(map[string]string, len(servers)) // id by address
	for _, id := range servers {
		configured[raftstream.AddrOf(id)] = id
	}
	idOf := func(addr string) string {
		if addr == self {
			return selfID
		}
		if s, ok := seen[addr]; ok && s.err == nil && s.Addr == addr && s.Founding == founding {
			return s.ID
		}
		return "" // not there, or of another cluster
	}
	for _, id := range servers {
		if now := idOf(raftstream.AddrOf(id)); now != "" && now != id && len(servers) > 1 {
			return change{remove: id}
		}
	}
	added, removed := difference(list, configured)
	if len(added)+len(removed) != 1 {
		return change{}
	}
	agree := 0
	for addr := range configured {
		if addr == self {
			agree++
		} else if s, ok := seen[addr]; ok && s.err == nil && slices.Equal(s.Voters, list) {
			agree++
		}
	}
	if agree <= len(servers)/2 {
		return change{}
	}
	if len(removed) == 1 {
		if len(servers) == 1 {
			return change{}
		}
		return change{remove: configured[removed[0]]}
	}
	return change{add: idOf(added[0])}
}

// difference returns the addresses that only one of the two has, sorted.
func difference(list []string, configured map[string]string) (added, removed []string) {
	for _, addr := range list {
		if _, ok := configured[addr]; !ok {
			added = append(added, addr)
		}
	}
	for addr := range configured {
		if !slices.Contains(list, addr) {
			removed = append(removed, addr)
		}
	}
	slices.Sort(removed)
	return added, removed
}

// ListWarnings says how the lists of the voters differ from this one's, and this
// one's from the configuration in force.
func ListWarnings(list []string, peers map[string]PeerStatus, m *Member) []string {
	var warnings []string
	worst, worstAt, worstNames := 0, "", []string(nil)
	for addr, s := range peers {
		if s.err != nil || slices.Equal(s.Voters, list) {
			continue
		}
		theirs := make(map[string]string, len(s.Voters))
		for _, addr := range s.Voters {
			theirs[addr] = addr
		}
		ours, others := difference(list, theirs)
		names := slices.Concat(ours, others)
		if len(names) > worst || len(names) == worst && addr < worstAt {
			worst, worstAt, worstNames = len(names), addr, names
		}
	}
	switch {
	case worst > 1:
		warnings = append(warnings, fmt.Sprintf("voter lists differ by %d between this node and %s (%s): the set of voters stays as it is; change one voter at a time, on all nodes",
			worst, worstAt, strings.Join(worstNames, ", ")))
	case worst == 1:
		warnings = append(warnings, fmt.Sprintf("voter lists differ by %s between this node and %s: give all nodes the same", worstNames[0], worstAt))
	}
	// Only the leader is sure to know the voters in force: a log that is being replayed
	// has those of before first.
	servers := InForce(peers, m)
	if len(servers) == 0 {
		return warnings
	}
	configured := make(map[string]string)
	for _, id := range servers {
		configured[raftstream.AddrOf(id)] = id
	}
	added, removed := difference(list, configured)
	switch names := slices.Concat(added, removed); {
	case len(names) > 1:
		warnings = append(warnings, fmt.Sprintf("the voter list differs by %d from the voters in force (%s): they stay as they are; change one voter at a time",
			len(names), strings.Join(names, ", ")))
	case len(added) == 1:
		warnings = append(warnings, fmt.Sprintf("voter %s is listed and not yet added", added[0]))
	case len(removed) == 1:
		warnings = append(warnings, fmt.Sprintf("voter %s is not listed any more and not yet removed", removed[0]))
	}
	return warnings
}

// InForce returns the ids of the voters in force, as their leader has them, and none where
// it is not known.
func InForce(peers map[string]PeerStatus, m *Member) []string {
	if m == nil {
		return nil // it has no part in them
	}
	if _, leads := m.Leading(); leads {
		return m.Servers()
	}
	leader := m.Leader()
	if s, ok := peers[raftstream.AddrOf(leader)]; ok && s.err == nil && leader != "" && s.ID == leader && s.Leader == leader {
		return s.Servers
	}
	return nil
}

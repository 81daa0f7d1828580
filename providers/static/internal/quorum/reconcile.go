package quorum

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/musterhq/muster/internal/clock"
)

// configTimeout bounds one change of Raft's configuration. A change that takes
// longer may still come to pass; the next look tells.
const configTimeout = 5 * time.Second

// change is one step towards the list: at most one of the two is set.
type change struct{ add, remove string }

// reconcile is the leader's: it brings Raft's configuration one voter closer to
// the list.
//
// One voter at a time, because then the majorities before and after have a voter
// in common; and with a pause of more than one promise, because a promise that a
// majority of one configuration gave must have ended before one is in force that
// is two steps away.
func (a *Authority) reconcile() {
	m := a.member.Load()
	if m == nil {
		return
	}
	term, leads := m.leading()
	if !leads || clock.Now().Before(a.configured.Add(2*a.cfg.TTL)) {
		return
	}
	c := nextChange(a.cfg.Self, m.id, a.list(), m.servers(), a.sightings())
	if c == (change{}) {
		return
	}
	err := m.ask(a.ctx, func() raft.Future {
		if c.remove != "" {
			return m.raft.RemoveServer(raft.ServerID(c.remove), 0, configTimeout)
		}
		return m.raft.AddVoter(raft.ServerID(c.add), raft.ServerAddress(c.add), 0, configTimeout)
	})
	a.configured = clock.Now()
	a.cfg.Logger.Info("changed the set of voters", "raft_term", term, "added", c.add, "removed", c.remove, "error", err)
	a.notify()
}

// nextChange returns what brings servers, the ids in Raft's configuration, closer
// to list.
//
//  1. A voter that answers under another id than the configuration has came back
//     without its state: its old id goes. As one that is listed and missing it is
//     taken in again under the new id.
//  2. If the addresses differ by one, and a majority of the configured voters has
//     the same list, the one goes or comes. One that comes must be there.
//  3. If they differ by more, nothing: majorities of the two need have no voter in
//     common, and one mistake in a file must not replace the cluster.
func nextChange(self, selfID string, list, servers []string, seen map[string]sighting) change {
	configured := make(map[string]string, len(servers)) // id by address
	for _, id := range servers {
		configured[addrOf(id)] = id
	}
	idOf := func(addr string) string {
		if addr == self {
			return selfID
		}
		if s, ok := seen[addr]; ok && s.err == nil {
			return s.ID
		}
		return ""
	}
	for _, id := range servers {
		if now := idOf(addrOf(id)); now != "" && now != id && len(servers) > 1 {
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

// listWarnings says how the lists of the voters differ from this one's, and this
// one's from the configuration in force.
func (a *Authority) listWarnings(m *member) []string {
	list := a.list()
	var warnings []string
	worst, worstAt, worstNames := 0, "", []string(nil)
	for addr, s := range a.sightings() {
		if s.err != nil || slices.Equal(s.Voters, list) {
			continue
		}
		theirs := make(map[string]string, len(s.Voters))
		for _, v := range s.Voters {
			theirs[v] = v
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
	if m == nil || len(m.servers()) == 0 {
		return warnings
	}
	configured := make(map[string]string)
	for _, id := range m.servers() {
		configured[addrOf(id)] = id
	}
	added, removed := difference(list, configured)
	switch names := slices.Concat(added, removed); {
	case len(names) > 1:
		warnings = append(warnings, fmt.Sprintf("the voter list differs by %d from the voters in force (%s): they stay as they are; change one voter at a time",
			len(names), strings.Join(names, ", ")))
	case len(added) == 1:
		warnings = append(warnings, fmt.Sprintf("voter %s is listed and not yet taken in", added[0]))
	case len(removed) == 1:
		warnings = append(warnings, fmt.Sprintf("voter %s is not listed any more and not yet taken out", removed[0]))
	}
	return warnings
}

package quorum

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/musterhq/muster/discovery/driver"
)

// Observe implements driver.Authority. It also yields, unchanged, when the voters
// have another leader: then an Acquire may go another way.
func (a *Authority) Observe(ctx context.Context) iter.Seq2[driver.Mastership, error] {
	return func(yield func(driver.Mastership, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stop := context.AfterFunc(a.ctx, cancel)
		defer stop()

		var last driver.Mastership
		var lastLeader, lastErr string
		first := true
		for range a.changes.Watch(ctx) {
			now, err := a.mastership()
			leader := a.knownLeader()
			if err != nil {
				if first || err.Error() != lastErr {
					first, lastErr, last, lastLeader = false, err.Error(), driver.Mastership{}, ""
					if !yield(driver.Mastership{}, err) {
						return
					}
				}
				continue
			}
			if first || lastErr != "" || leader != lastLeader || !reflect.DeepEqual(now, last) {
				first, lastErr, last, lastLeader = false, "", now, leader
				if !yield(now, nil) {
					return
				}
			}
		}
	}
}

// mastership is what this node knows of the master: from Raft if it votes, and
// from what the voters said if not.
func (a *Authority) mastership() (driver.Mastership, error) {
	list := a.list()
	m := a.member.Load()
	now := driver.Mastership{
		Expected:   len(list),
		Voters:     slices.Clone(list),
		Ineligible: a.ineligible(),
		Warning:    a.warning(m),
	}
	if m != nil {
		c := m.state.current()
		now.Term, now.ClusterID, now.Holder = c.Term, c.ClusterID, m.holder(c)
		if now.Holder != nil || m.leader() != "" {
			return now, nil
		}
	}
	s, ok := a.bestSighting()
	switch {
	case ok && s.Term >= now.Term:
		now.Term, now.ClusterID, now.Holder = s.Term, s.ClusterID, s.Holder
		if m != nil && uint64(s.Term) <= m.released.Load() {
			now.Holder = nil
		}
	case !ok && m == nil && !a.listed():
		return driver.Mastership{}, fmt.Errorf("%w: none of the voters answers, and this node, %s", driver.ErrUnavailable, a.ineligible())
	}
	return now, nil
}

// holder is who is master as far as this voter knows: who claimed on the server
// that leads now, in the term of Raft in which it leads.
func (m *member) holder(c claimed) *driver.Holder {
	if c.Holder == nil || m.leader() != c.Server || m.raft.CurrentTerm() != c.RaftTerm || uint64(c.Term) <= m.released.Load() {
		return nil
	}
	h := *c.Holder
	return &h
}

// bestSighting returns the answer of the voter that knows best: the leader of the
// highest term of Raft, or else one that knows of it.
func (a *Authority) bestSighting() (status, bool) {
	var best status
	found := false
	for _, s := range a.sightings() {
		if s.err != nil || s.Phase == phaseObserver {
			continue
		}
		better := !found || s.RaftTerm > best.RaftTerm ||
			s.RaftTerm == best.RaftTerm && s.ID != "" && s.ID == s.Leader && best.ID != best.Leader
		if better {
			best, found = s.status, true
		}
	}
	return best, found
}

// knownLeader returns the id of the leader as far as this node knows, or "".
func (a *Authority) knownLeader() string {
	if m := a.member.Load(); m != nil {
		if leader := m.leader(); leader != "" {
			return leader
		}
	}
	if s, ok := a.bestSighting(); ok {
		return s.Leader
	}
	return ""
}

// status is what this node says of itself.
func (a *Authority) status() status {
	a.mu.Lock()
	s := status{Addr: a.cfg.Self, Phase: a.phase, Voters: a.voters}
	a.mu.Unlock()
	m := a.member.Load()
	if m == nil {
		return s
	}
	s.Phase = m.phase()
	if m.err() != nil {
		return s
	}
	s.ID = m.id
	s.RaftTerm, s.Leader, s.Servers = m.raft.CurrentTerm(), m.leader(), m.servers()
	c := m.state.current()
	s.Term, s.ClusterID, s.Holder = c.Term, c.ClusterID, m.holder(c)
	return s
}

// ineligible says why this node can never be master, or "".
func (a *Authority) ineligible() string {
	if a.listed() {
		return ""
	}
	return fmt.Sprintf("%s is not among the voters %s; list it, or name its entry in node.voter", a.cfg.Self, strings.Join(a.list(), ", "))
}

// warning is what an operator should mend.
func (a *Authority) warning(m *member) string {
	warnings := a.listWarnings(m)
	if lost := a.majorityLost(); lost != "" {
		warnings = append(warnings, lost)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, problem := range []string{a.listProblem, a.diskProblem, a.voterProblem} {
		if problem != "" {
			warnings = append(warnings, problem)
		}
	}
	if len(a.voters) == 2 {
		warnings = append(warnings, "two voters tolerate no failure: without either there is no master; list a third, which may be ineligible")
	}
	return strings.Join(warnings, "; ")
}

// majorityLost says that so many voters came without their state that those who have it
// elect nobody, or "". Nothing but an operator ends that: see the founding of a cluster
// in DESIGN.md.
func (a *Authority) majorityLost() string {
	all := map[string]status{a.cfg.Self: a.status()}
	for addr, s := range a.sightings() {
		if s.err == nil {
			all[addr] = s.status
		}
	}
	for _, keeper := range slices.Sorted(maps.Keys(all)) {
		s := all[keeper]
		if s.Phase != phaseEstablished || s.Leader != "" {
			continue
		}
		var lost []string
		for _, id := range s.Servers {
			if all[addrOf(id)].Phase == phaseEmpty {
				lost = append(lost, addrOf(id))
			}
		}
		if len(lost) >= len(s.Servers)/2+1 {
			return fmt.Sprintf("voters %s came without their state, and without them nobody is elected: bring back the directory of one, or else stop %s, remove its node.data_dir and start it again, by which the records are lost",
				strings.Join(lost, " and "), keeper)
		}
	}
	return ""
}

// waitingFor says what keeps this node from having a leader.
func (a *Authority) waitingFor() string {
	if lost := a.majorityLost(); lost != "" {
		return lost
	}
	a.mu.Lock()
	var waiting []string
	for _, problem := range []string{a.diskProblem, a.voterProblem} {
		if problem != "" {
			waiting = append(waiting, problem)
		}
	}
	quiet := a.phase != phaseObserver
	a.mu.Unlock()
	if len(waiting) > 0 {
		return strings.Join(waiting, "; ")
	}
	if m := a.member.Load(); m != nil {
		return a.reachable(m)
	}
	if quiet {
		return "this voter has just started and keeps quiet for a moment"
	}
	return "none of the voters " + strings.Join(a.list(), ", ") + " is known to lead"
}

// reachable says which of the voters were not reached lately.
func (a *Authority) reachable(m *member) string {
	var missing []string
	seen := a.sightings()
	for _, id := range m.servers() {
		if addr := addrOf(id); addr != a.cfg.Self {
			if s, ok := seen[addr]; !ok || s.err != nil {
				missing = append(missing, addr)
			}
		}
	}
	if len(missing) == 0 {
		return "all voters were reached lately"
	}
	slices.Sort(missing)
	return "not reached: " + strings.Join(slices.Compact(missing), ", ")
}

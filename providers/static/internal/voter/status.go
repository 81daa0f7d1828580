package voter

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/providers/static/internal/raftstream"
)

// BestStatus returns the answer of the voter that knows best: the leader of the
// highest term of Raft, or else one that knows of it.
func (v *Voter) BestStatus() (Status, bool) {
	var best Status
	found := false
	for _, s := range v.PeerStatuses() {
		if s.err != nil || s.Phase == phaseObserver {
			continue
		}
		better := !found || s.RaftTerm > best.RaftTerm ||
			s.RaftTerm == best.RaftTerm && s.ID != "" && s.ID == s.Leader && best.ID != best.Leader
		if better {
			best, found = s.Status, true
		}
	}
	return best, found
}

// KnownLeader returns the id of the leader as far as this node knows, or "".
func (v *Voter) KnownLeader() string {
	if m := v.member.Load(); m != nil {
		if leader := m.Leader(); leader != "" {
			return leader
		}
	}
	if s, ok := v.BestStatus(); ok {
		return s.Leader
	}
	return ""
}

// Status is what this node says of itself.
func (v *Voter) Status() Status {
	proven, phase := v.disk.standing()
	s := Status{Addr: v.Self(), Phase: phase, Voters: v.List()}
	if phase != phaseObserver {
		s.Founding, s.Term, s.ClusterID = proven.Founding, proven.Term, proven.ClusterID
	}
	m := v.member.Load()
	if m == nil {
		return s
	}
	s.Phase = m.phase()
	if m.Err() != nil {
		return s
	}
	s.ID = m.ID
	s.RaftTerm, s.Leader, s.Servers, s.LastIndex = m.raft.CurrentTerm(), m.Leader(), m.Servers(), m.raft.LastIndex()
	// While the log is being replayed, the directory proves more than the state.
	if c := m.State.Mastership(); c.Term >= s.Term || m.holder(c) != nil {
		s.Term, s.ClusterID, s.Holder = c.Term, c.ClusterID, m.holder(c)
	}
	return s
}

// Ineligible says why this node can never be master, or "".
func (v *Voter) Ineligible() string {
	if v.Listed() {
		return ""
	}
	_, problem := v.self.get()
	if problem != "" {
		problem = " (" + problem + ")"
	}
	return fmt.Sprintf("%s is not among the voters %s%s; list it, or name its entry in node.voter", v.Self(), strings.Join(v.List(), ", "), problem)
}

// Warning is what an operator should fix.
func (v *Voter) Warning(m *Member) string {
	var warnings []string
	if why, _, _ := v.Mismatch(); why != "" {
		warnings = append(warnings, why)
	}
	warnings = append(warnings, ListWarnings(v.List(), v.PeerStatuses(), m)...)
	if lost := v.majorityLost(); lost != "" {
		warnings = append(warnings, lost)
	}
	_, self := v.self.get()
	disk, committed := v.disk.problems()
	voter, found, since := v.partProblems()
	if clock.Now().Sub(since) < v.cfg.FoundPatience {
		found = "" // Blocked says it at once
	}
	for _, problem := range []string{v.voters.listProblem(), self, disk, committed, voter, found} {
		if problem != "" {
			warnings = append(warnings, problem)
		}
	}
	if len(v.List()) == 2 {
		warnings = append(warnings, "two voters tolerate no failure: without either there is no master; list a third, which may be ineligible")
	}
	return strings.Join(warnings, "; ")
}

// majorityLost says that so many voters came without their state that those that have it cannot
// elect a leader, or is "". Only an operator can end that: see "Founding" in DESIGN.md.
func (v *Voter) majorityLost() string {
	all := map[string]Status{v.Self(): v.Status()}
	for addr, s := range v.PeerStatuses() {
		if s.err == nil {
			all[addr] = s.Status
		}
	}
	for _, keeper := range slices.Sorted(maps.Keys(all)) {
		s := all[keeper]
		if s.Phase != phaseEstablished || s.Leader != "" {
			continue
		}
		var lost []string
		for _, id := range s.Servers {
			if all[raftstream.AddrOf(id)].Phase == PhaseEmpty {
				lost = append(lost, raftstream.AddrOf(id))
			}
		}
		if len(lost) >= len(s.Servers)/2+1 {
			return fmt.Sprintf("voters %s came without their state, and without them no leader is elected: bring back the directory of one, or else stop %s, remove its node.data_dir and start it again, by which the records are lost",
				strings.Join(lost, " and "), keeper)
		}
	}
	return ""
}

// WaitingFor says what keeps this node from having a leader.
func (v *Voter) WaitingFor() string {
	if why, _ := v.Blocked(v.member.Load()); why != "" {
		return why
	}
	disk, _ := v.disk.problems()
	voter, _, _ := v.partProblems()
	var waiting []string
	for _, problem := range []string{disk, voter} {
		if problem != "" {
			waiting = append(waiting, problem)
		}
	}
	if len(waiting) > 0 {
		return strings.Join(waiting, "; ")
	}
	if m := v.member.Load(); m != nil {
		return v.Reachable(m)
	}
	if _, phase := v.disk.standing(); phase != phaseObserver {
		return "this voter has just started and keeps quiet for a moment"
	}
	return "none of the voters " + strings.Join(v.List(), ", ") + " is known to lead"
}

// Reachable says which of the voters were not reached lately.
func (v *Voter) Reachable(m *Member) string {
	var missing []string
	seen := v.PeerStatuses()
	for _, id := range m.Servers() {
		if addr := raftstream.AddrOf(id); addr != v.Self() {
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

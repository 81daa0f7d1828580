package voter

import (
	"fmt"
	"slices"
	"strings"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/static/internal/raftstream"
	"github.com/musterhq/muster/providers/static/internal/voterdir"
)

// What a voter's own directory proves is compared with what the others answer. A voter whose
// directory is of another founding than that of most others, or that remembers a mastership that
// their leader does not know, does not vote: either its directory does not belong here, or theirs
// do not. It reports that, and takes no part until the answers agree again.

// saveCommitted saves the last mastership that the log has committed, so that the voter can
// say what it proves before it has a leader. A failure is reported, and costs no mastership: what
// is remembered is never more than what the log holds.
func (v *Voter) saveCommitted() {
	m := v.member.Load()
	if m == nil || !v.disk.isOpen() || m.Err() != nil {
		return
	}
	c, i := m.State.Mastership(), v.disk.dir.Identity
	if c.ClusterID == "" || c.Term <= i.Term {
		return
	}
	i.ClusterID, i.Term = c.ClusterID, c.Term
	v.disk.setCommittedProblem(v.disk.save(i))
}

// noteMismatches notes which voters answered what contradicts this voter's directory. One
// that does not answer is what it was.
func (v *Voter) noteMismatches() {
	own := v.Status()
	proven, _ := v.disk.standing()
	e := &v.voters
	e.mu.Lock()
	defer e.mu.Unlock()
	if own.Phase != phaseEstablished {
		e.mismatched = nil
		return
	}
	kept := make(map[string]Status)
	for addr, s := range e.answers {
		last, was := e.mismatched[addr]
		switch {
		case s.err != nil && was:
			kept[addr] = last
		case s.err == nil && (otherFounding(proven, s.Status) || behindCommitted(proven, own.RaftTerm, s.Status)):
			kept[addr] = s.Status
		}
	}
	e.mismatched = kept
}

// otherFounding reports whether the directory of the voter that says s is of another founding.
func otherFounding(own voterdir.Identity, s Status) bool {
	return s.Phase == phaseEstablished && s.Founding != own.Founding
}

// behindCommitted reports whether s is of a leader of our own founding whose claim has a lower
// term than one that was committed before it was asked, which no leader can have whose
// log holds that. raftTerm is our own: one that has lost its place may not know it yet.
func behindCommitted(own voterdir.Identity, raftTerm uint64, s Status) bool {
	return s.Phase == phaseEstablished && s.Founding == own.Founding && s.ID != "" && s.ID == s.Leader &&
		s.RaftTerm >= raftTerm && s.Holder != nil && s.Term < own.Term
}

// Mismatch says which voters contradict this one's directory, or "", and in what. Barred
// says that it may not vote: a majority of the list is of another founding, or the leader has
// forgotten what was committed. A single voter of another founding, as one whose volume
// was swapped, stops no voter that has a leader.
func (v *Voter) Mismatch() (why string, kind driver.Block, barred bool) {
	leads := false
	if m := v.member.Load(); m != nil {
		leads = m.Leader() != ""
	}
	own := v.Status()
	e := &v.voters
	e.mu.Lock()
	defer e.mu.Unlock()
	var who []string
	var theirs Status
	for _, addr := range e.list {
		s, ok := e.mismatched[addr]
		switch {
		case !ok:
			continue
		case s.Founding == own.Founding:
			return fmt.Sprintf("voter %s leads with term %d, and node.data_dir %q proves term %d of cluster id %s: the directories of a majority were restored from an old copy. "+
				"Bring back later ones, or run muster resign on the master, whose successor has a higher term; until then this voter takes no part",
				addr, s.Term, v.disk.path, own.Term, own.ClusterID), driver.BlockTerm, true
		}
		who, theirs = append(who, addr), s
	}
	if len(who) == 0 {
		return "", "", false
	}
	barred = len(who) >= len(e.list)/2+1
	why = fmt.Sprintf("%s of another cluster (%s) than node.data_dir %q of %s (%s)", isAre(who), describe(theirs), v.disk.path, own.Addr, describe(own))
	switch {
	case barred:
		why += ": this voter takes no part. If theirs is the one to keep, stop this one, remove its node.data_dir and start it again, by which what it remembers is lost; otherwise do so with them"
	case leads:
		why += ": they take no part; stop them, remove their node.data_dir and start them again"
	default:
		why += ", and no voter leads: stop those that are not of the one to keep, remove their node.data_dir and start them again"
	}
	return why, driver.BlockCluster, barred
}

func isAre(voters []string) string {
	if len(voters) == 1 {
		return "voter " + voters[0] + " is"
	}
	return "voters " + strings.Join(voters, " and ") + " are"
}

// Blocked says why this voter takes no part now, so that its node is not ready and no
// candidate, or "", and what kind of reason that is. One that waits to be taken in by a cluster
// that lives is as ready as a node without a vote.
func (v *Voter) Blocked(m *Member) (why string, kind driver.Block) {
	why, kind, barred := v.Mismatch()
	if why != "" && (barred || m == nil || m.Leader() == "") {
		return why, kind
	}
	if lost := v.majorityLost(); lost != "" {
		return lost, driver.BlockStateLost
	}
	disk, committed := v.disk.problems()
	_, found, _ := v.partProblems()
	switch {
	case disk != "":
		return disk, driver.BlockUnwritable
	case committed != "":
		return committed, driver.BlockUnwritable
	case found != "":
		return found, driver.BlockNotFounded
	}
	return "", ""
}

// Voters implements driver.VoterReporter.
func (v *Voter) Voters() driver.Voters {
	own := v.Status()
	seen := v.PeerStatuses()
	m := v.member.Load()
	list := v.List()
	leader := v.KnownLeader()
	best, _ := v.BestStatus()
	servers := best.Servers
	if m != nil && len(m.Servers()) > 0 {
		servers = m.Servers()
	}
	addrs := slices.Clone(list)
	for _, id := range servers {
		if !slices.Contains(addrs, raftstream.AddrOf(id)) {
			addrs = append(addrs, raftstream.AddrOf(id))
		}
	}
	slices.Sort(addrs)
	out := driver.Voters{Warning: v.Warning(m)}
	all := make(map[string]Status, len(addrs))
	for addr, s := range seen {
		if s.err == nil && s.Addr == addr {
			all[addr] = s.Status
		}
	}
	if own.Addr != "" {
		all[own.Addr] = own
	}
	last := all[raftstream.AddrOf(leader)].LastIndex
	for _, addr := range addrs {
		s, answers := all[addr]
		row := driver.Voter{
			Addr:      addr,
			Self:      addr == own.Addr,
			Listed:    slices.Contains(list, addr),
			Reached:   answers,
			Leader:    leader != "" && raftstream.AddrOf(leader) == addr,
			State:     string(s.Phase),
			Term:      s.Term,
			ClusterID: s.ClusterID,
			Founding:  s.Founding,
		}
		row.Votes = slices.ContainsFunc(servers, func(id string) bool { return raftstream.AddrOf(id) == addr && (!answers || s.ID == "" || s.ID == id) })
		if err := seen[addr].err; err != nil && !row.Self {
			row.Problem = err.Error()
		}
		if answers && last > 0 {
			row.Known = true
			row.Behind = last - min(last, s.LastIndex)
		}
		out.Voters = append(out.Voters, row)
	}
	return out
}

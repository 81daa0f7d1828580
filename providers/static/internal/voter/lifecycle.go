package voter

import (
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/providers/static/internal/raftstream"
	"github.com/musterhq/muster/providers/static/internal/votelease"
	"github.com/musterhq/muster/providers/static/internal/voterdir"
)

const (
	// unsettledPoll is how often the others are polled while this voter has no part in Raft yet,
	// settledPoll after that.
	unsettledPoll = 100 * time.Millisecond
	SettledPoll   = 3 * time.Second
	// stirredPoll is how often they are polled while a cluster is being founded, which takes a few
	// rounds: for stirredFor after this voter began, and after each change of what the others say.
	stirredPoll = 20 * time.Millisecond
)

// runLifecycle is level-triggered, until close: it reads the list, polls the others, and takes the
// one step that is due.
func (v *Voter) runLifecycle() {
	lookAt := time.Now() // when to poll the others again
	for {
		if !time.Now().Before(lookAt) {
			_ = v.readList() // kept for the warning
			v.adoptEntry()
			v.PollVoters()
			v.noteMismatches()
			lookAt = time.Now().Add(v.interval())
			v.reconcileRole()
			v.beginFirstElection()
			v.reconcileVoters()
			v.changes.Store(struct{}{})
		}
		if m := v.member.Load(); m != nil {
			if m.Err() != nil {
				v.reconcileRole()
			} else {
				v.Tick(m)
				v.saveCommitted()
			}
		}
		timer := time.NewTimer(min(time.Until(lookAt), v.NextTick()))
		select {
		case <-timer.C:
		case <-v.wakeup:
		case <-v.tasks.ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

func (v *Voter) interval() time.Duration {
	d := SettledPoll
	_, _, barred := v.Mismatch()
	switch m := v.member.Load(); {
	case barred:
		d = v.cfg.heartbeat
	case v.voters.isStirred() && (m == nil && v.Listed() || m != nil && m.phase() == phaseFresh):
		d = stirredPoll
	case m == nil && v.Listed():
		d = unsettledPoll
	case m == nil:
		d = v.cfg.heartbeat // an observer has no other source
	case m.Leader() == "":
		d = v.cfg.heartbeat
	}
	return d*3/4 + mathrand.N(d/2)
}

// reconcileRole starts, stops and restarts this node's part in Raft.
func (v *Voter) reconcileRole() {
	err := v.roleStep()
	v.mu.Lock()
	defer v.mu.Unlock()
	waited := v.foundProblem != ""
	v.voterProblem, v.foundProblem = "", ""
	switch err.(type) {
	case nil:
	case notFounded:
		v.foundProblem = err.Error()
		if !waited {
			v.unfounded = clock.Now()
		}
	default:
		v.voterProblem = err.Error()
	}
}

// partProblems returns why this node has no part in Raft, each "" if there is no such reason, and
// since when the cluster is not founded.
func (v *Voter) partProblems() (voter, found string, since clock.Instant) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.voterProblem, v.foundProblem, v.unfounded
}

func (v *Voter) roleStep() error {
	if m := v.member.Load(); m != nil && m.Err() != nil {
		return v.diskFailed(m.Err())
	}
	if !v.belongs() {
		v.leaveRaft()
		v.disk.setPhase(phaseObserver)
		return nil
	}
	if _, _, barred := v.Mismatch(); barred {
		v.leaveRaft()
		return nil
	}
	if !v.disk.isOpen() {
		if clock.Now().Before(v.disk.retryAt) {
			return nil
		}
		if err := v.openDisk(); err != nil {
			v.disk.setProblem(err)
			v.disk.retryLater()
			return nil
		}
	}
	if v.member.Load() != nil {
		return v.reconsiderPart()
	}
	if v.fresh() && v.outranked() {
		return v.startOver()
	}
	id, p, err := v.chooseID()
	if err != nil || id == "" {
		return err
	}
	if err := v.prepare(id, p); err != nil {
		return v.diskFailed(err)
	}
	if clock.Now().Before(v.disk.quietUntil) && !(v.disk.blank && v.fresh() && v.foundedByAll(false)) {
		return nil
	}
	return v.join(id)
}

// belongs reports whether this node is to vote. A voter that was removed from the list continues to
// vote until the leader has removed it from Raft's configuration, in whose majority it counts until
// then.
func (v *Voter) belongs() bool {
	if v.Listed() {
		return true
	}
	if !v.disk.isOpen() && !v.disk.exists() {
		return false
	}
	for _, s := range v.PeerStatuses() {
		if s.err == nil && s.ID != "" && s.Leader == s.ID {
			// The directory keeps its id, which says whose it is.
			return slices.ContainsFunc(s.Servers, func(id string) bool { return raftstream.AddrOf(id) == v.Self() })
		}
	}
	return v.disk.isOpen()
}

// openDisk opens the directory, which may be all that others wait for.
func (v *Voter) openDisk() error {
	if err := v.disk.open(v.cfg.Cluster, v.Self(), v.cfg.heartbeat, v.cfg.Logger); err != nil {
		return err
	}
	v.voters.stir()
	return nil
}

// chooseID returns the id under which this voter is to take part in Raft, and its part if it has no
// state. If the id is empty it must wait for others; the error says for what.
func (v *Voter) chooseID() (id string, p part, err error) {
	has, err := v.disk.dir.HasState()
	if err != nil {
		return "", part{}, err
	}
	p.founding = v.disk.dir.Founding
	if has {
		if v.disk.dir.ID == "" {
			return "", p, fmt.Errorf("node.data_dir: %q: %s names no id; empty the directory so that the voter joins again", v.cfg.DataDir, voterdir.IdentityFile)
		}
		return v.disk.dir.ID, p, nil
	}
	if !v.Listed() {
		return "", p, nil
	}
	p, err = v.plan()
	switch {
	case err != nil:
		return "", p, err
	case p.founders != nil:
		return v.Self(), p, nil
	}
	// The cluster lives. The leases, votes and entries that this voter may have had under an old id
	// are lost, so it must not use that id again.
	return v.Self() + "#" + strings.ToLower(rand.Text()[:10]), p, nil
}

// prepare writes what must be on disk before Raft starts. It is done in the quiet
// time, which a slow disk then does not add to.
func (v *Voter) prepare(id string, p part) error {
	i := v.disk.dir.Identity
	i.ID, i.Founding, i.LongestLease = id, p.founding, max(i.LongestLease, v.cfg.TTL)
	if i != v.disk.dir.Identity {
		if err := v.disk.save(i); err != nil {
			return err
		}
	}
	if p.founders == nil {
		return nil
	}
	v.disk.setPhase(phaseFresh)
	return v.disk.dir.Bootstrap(p.founders)
}

// join starts Raft.
func (v *Voter) join(id string) error {
	// The quiet time is over, and with it any lease that was longer.
	if i := v.disk.dir.Identity; i.LongestLease > v.cfg.TTL {
		i.LongestLease = v.cfg.TTL
		if err := v.disk.save(i); err != nil {
			return v.diskFailed(err)
		}
	}
	founding := v.disk.dir.Founding
	forRaft, err := raftstream.Listen(v.cfg.Network, raftstream.Protocol, founding, id)
	if err != nil {
		return fmt.Errorf("cannot listen for the other voters: %w", err)
	}
	forLeases, err := raftstream.Listen(v.cfg.Network, votelease.Protocol, founding, id)
	if err != nil {
		_ = forRaft.Close()
		return fmt.Errorf("cannot listen for the other voters: %w", err)
	}
	m, err := v.startMember(id, v.disk.dir, forRaft)
	if err != nil {
		_ = forLeases.Close()
		return v.diskFailed(err)
	}
	m.Leases = votelease.NewParticipant(votelease.Config{
		ID:       id,
		Table:    v.Leases,
		Guard:    m.guard,
		Stream:   forLeases,
		Longest:  v.cfg.TTL,
		Timeout:  v.requestTimeout(),
		Term:     m.raft.CurrentTerm,
		Usable:   func() bool { return m.Err() == nil },
		Released: func(term uint64) { v.noteReleased(m, driver.Term(term)) },
	})
	v.cfg.Logger.Info("voting started", "id", id)
	v.disk.setProblem(nil)
	v.member.Store(m)
	return nil
}

// reconsiderPart looks after a member that runs.
func (v *Voter) reconsiderPart() error {
	switch v.member.Load().phase() {
	case phaseFresh:
		if v.outranked() {
			return v.startOver()
		}
		return nil
	case phaseEstablished:
		return nil
	}
	// Waiting to be added by a cluster that lives. If that is gone, found another, or wait for
	// another to add it: nothing was voted or stored under this id.
	p, err := v.plan()
	switch {
	case err != nil:
		return err
	case p.founders == nil && p.founding == v.disk.dir.Founding:
		return fmt.Errorf("waiting until the leader adds this voter, which came without its state")
	}
	v.leaveRaft()
	return nil
}

// diskFailed stops this voter's part in Raft until the directory can be written again.
func (v *Voter) diskFailed(err error) error {
	v.disk.setProblem(fmt.Errorf("%w; this voter does not vote until it can", v.disk.unwritable(err)))
	v.leaveRaft()
	v.disk.retryLater()
	return nil
}

// leaveRaft stops Raft and closes the directory.
func (v *Voter) leaveRaft() {
	if m := v.member.Load(); m != nil {
		v.disk.setPhase(m.phase()) // from now on nobody asks Raft
		v.member.Store(nil)
		m.stop()
		v.disk.setPhase(m.phase())
		v.cfg.Logger.Info("voting stopped", "id", m.ID)
	}
	_ = v.disk.close()
}

func (v *Voter) fresh() bool {
	_, phase := v.disk.standing()
	return phase == phaseFresh
}

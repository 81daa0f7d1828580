package voter

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/providers/static/internal/raftstream"
	"github.com/musterhq/muster/providers/static/internal/votelease"
	"github.com/musterhq/muster/providers/static/internal/voterdir"
)

// PeerStatus is the last answer of another node, or why there is none.
type PeerStatus struct {
	Status
	err error
}

const (
	// unsettledPoll is how often the others are polled while this voter has no part in Raft yet,
	// settledPoll after that.
	unsettledPoll = 100 * time.Millisecond
	SettledPoll   = 3 * time.Second
	// stirredPoll is how often they are polled while a cluster is being founded, which takes a few
	// rounds: for stirredFor after this voter began, and after each change of what the others say.
	stirredPoll = 20 * time.Millisecond
	stirredFor  = time.Second
	// diskRetry is how long a voter whose disk failed waits before it opens it again.
	diskRetry = 5 * time.Second
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
		case <-v.ctx.Done():
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
	case v.isStirred() && (m == nil && v.Listed() || m != nil && m.phase() == phaseFresh):
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

// PollVoters asks every other node of the list and of Raft's configuration.
func (v *Voter) PollVoters() {
	addrs := make(map[string]bool)
	for _, addr := range v.List() {
		addrs[addr] = true
	}
	if m := v.member.Load(); m != nil {
		for _, id := range m.Servers() {
			addrs[raftstream.AddrOf(id)] = true
		}
	}
	delete(addrs, v.Self())

	ctx, cancel := context.WithTimeout(v.ctx, v.requestTimeout())
	defer cancel()
	var mu sync.Mutex
	seen := make(map[string]PeerStatus, len(addrs))
	var wg sync.WaitGroup
	for addr := range addrs {
		wg.Go(func() {
			var s PeerStatus
			s.err = v.peerClient.call(ctx, addr, PathStatus, struct{}{}, &s.Status)
			mu.Lock()
			defer mu.Unlock()
			seen[addr] = s
		})
	}
	wg.Wait()
	v.mu.Lock()
	defer v.mu.Unlock()
	if differ(v.peers, seen) {
		v.stirred = clock.Now()
	}
	v.peers = seen
}

// differ reports whether the voters have come closer to a cluster between two polls, or further
// from it.
func differ(before, after map[string]PeerStatus) bool {
	return !maps.EqualFunc(before, after, func(a, b PeerStatus) bool {
		return (a.err == nil) == (b.err == nil) && a.Phase == b.Phase && a.Founding == b.Founding && a.ID == b.ID
	})
}

func (v *Voter) isStirred() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return clock.Now().Before(v.stirred.Add(stirredFor))
}

// PeerStatuses returns the answers of the nodes that were reached. The map is never
// changed in place.
func (v *Voter) PeerStatuses() map[string]PeerStatus {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.peers
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

func (v *Voter) roleStep() error {
	if m := v.member.Load(); m != nil && m.Err() != nil {
		return v.diskFailed(m.Err())
	}
	if !v.belongs() {
		v.leaveRaft()
		v.setPhase(phaseObserver)
		return nil
	}
	if _, _, barred := v.Mismatch(); barred {
		v.leaveRaft()
		return nil
	}
	if v.disk == nil {
		if clock.Now().Before(v.retryDisk) {
			return nil
		}
		if err := v.openDisk(); err != nil {
			v.setDiskProblem(err)
			v.retryDisk = clock.Now().Add(diskRetry)
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
	if clock.Now().Before(v.quietUntil) && !(v.blank && v.fresh() && v.foundedByAll(false)) {
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
	if v.disk == nil && !voterdir.Exists(v.cfg.DataDir) {
		return false
	}
	for _, s := range v.PeerStatuses() {
		if s.err == nil && s.ID != "" && s.Leader == s.ID {
			// The directory keeps its id, which says whose it is.
			return slices.ContainsFunc(s.Servers, func(id string) bool { return raftstream.AddrOf(id) == v.Self() })
		}
	}
	return v.disk != nil
}

// openDisk opens the directory and begins the quiet time: vote leases that an earlier process gave
// may still be running, and the table of them ended with the process. The longest lease that is
// ever given is on disk before the first. A voter that founds a cluster with all others has nothing
// to be quiet about: see foundedByAll.
func (v *Voter) openDisk() error {
	d, err := voterdir.Open(v.cfg.DataDir, v.cfg.Cluster, v.Self(), raftLogger(v.cfg.Logger))
	if err != nil {
		return err
	}
	established, err := d.Established()
	if err != nil {
		_ = d.Close()
		return fmt.Errorf("node.data_dir: %q: %w; make it readable or name another", v.cfg.DataDir, voterdir.BareError(err))
	}
	has, err := d.HasState()
	if err != nil {
		_ = d.Close()
		return fmt.Errorf("node.data_dir: %q: %w; make it readable or name another", v.cfg.DataDir, voterdir.BareError(err))
	}
	v.disk = d
	v.mu.Lock()
	v.proven, v.stirred = d.Identity, clock.Now()
	v.mu.Unlock()
	v.quietUntil = clock.Now().Add(max(d.LongestLease, v.cfg.heartbeat))
	v.blank = !established && !has && d.LongestLease == 0
	switch {
	case established:
		v.setPhase(phaseEstablished)
	case has:
		v.setPhase(phaseFresh)
	default:
		v.setPhase(PhaseEmpty)
	}
	return nil
}

// chooseID returns the id under which this voter is to take part in Raft, and its part if it has no
// state. If the id is empty it must wait for others; the error says for what.
func (v *Voter) chooseID() (id string, p part, err error) {
	has, err := v.disk.HasState()
	if err != nil {
		return "", part{}, err
	}
	p.founding = v.disk.Founding
	if has {
		if v.disk.ID == "" {
			return "", p, fmt.Errorf("node.data_dir: %q: %s names no id; empty the directory so that the voter joins again", v.cfg.DataDir, voterdir.IdentityFile)
		}
		return v.disk.ID, p, nil
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
	i := v.disk.Identity
	i.ID, i.Founding, i.LongestLease = id, p.founding, max(i.LongestLease, v.cfg.TTL)
	if i != v.disk.Identity {
		if err := v.saveIdentity(i); err != nil {
			return err
		}
	}
	if p.founders == nil {
		return nil
	}
	v.setPhase(phaseFresh)
	return v.disk.Bootstrap(p.founders)
}

// saveIdentity saves i and has others see what concerns them.
func (v *Voter) saveIdentity(i voterdir.Identity) error {
	if err := v.disk.SaveIdentity(i); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.proven = i
	return nil
}

// join starts Raft.
func (v *Voter) join(id string) error {
	// The quiet time is over, and with it any lease that was longer.
	if i := v.disk.Identity; i.LongestLease > v.cfg.TTL {
		i.LongestLease = v.cfg.TTL
		if err := v.saveIdentity(i); err != nil {
			return v.diskFailed(err)
		}
	}
	founding := v.disk.Founding
	forRaft, err := raftstream.Listen(v.cfg.Network, raftstream.Protocol, founding, id)
	if err != nil {
		return fmt.Errorf("cannot listen for the other voters: %w", err)
	}
	forLeases, err := raftstream.Listen(v.cfg.Network, votelease.Protocol, founding, id)
	if err != nil {
		_ = forRaft.Close()
		return fmt.Errorf("cannot listen for the other voters: %w", err)
	}
	m, err := v.startMember(id, v.disk, forRaft)
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
	v.setDiskProblem(nil)
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
	case p.founders == nil && p.founding == v.disk.Founding:
		return fmt.Errorf("waiting until the leader adds this voter, which came without its state")
	}
	v.leaveRaft()
	return nil
}

// diskFailed stops this voter's part in Raft until the directory can be written again.
func (v *Voter) diskFailed(err error) error {
	v.setDiskProblem(fmt.Errorf("node.data_dir: %q cannot be written: %v; this voter does not vote until it can", v.cfg.DataDir, voterdir.BareError(err)))
	v.leaveRaft()
	v.retryDisk = clock.Now().Add(diskRetry)
	return nil
}

// leaveRaft stops Raft and closes the directory.
func (v *Voter) leaveRaft() {
	if m := v.member.Load(); m != nil {
		v.setPhase(m.phase()) // from now on nobody asks Raft
		v.member.Store(nil)
		m.stop()
		v.setPhase(m.phase())
		v.cfg.Logger.Info("voting stopped", "id", m.ID)
	}
	_ = v.closeDisk()
}

func (v *Voter) closeDisk() error {
	if v.disk == nil {
		return nil
	}
	err := v.disk.Close()
	v.disk = nil
	return err
}

func (v *Voter) setPhase(p Phase) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.phase = p
}

func (v *Voter) fresh() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.phase == phaseFresh
}

func (v *Voter) setDiskProblem(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.diskProblem = ""
	if err != nil {
		v.diskProblem = err.Error()
	}
}

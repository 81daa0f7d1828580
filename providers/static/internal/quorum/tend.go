package quorum

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
)

// sighting is the last that was heard of another node.
type sighting struct {
	status
	err error
}

const (
	// restlessInterval is how often the others are asked while this voter has no
	// part in Raft yet, calmInterval after that.
	restlessInterval = 100 * time.Millisecond
	calmInterval     = 3 * time.Second
	// diskRetry is how long a voter whose disk failed waits to try it again.
	diskRetry = 5 * time.Second
)

// tend keeps this node in its right place, level-triggered: it reads the list,
// asks the others, and does the one step that is due.
func (a *Authority) tend() {
	lookAt := time.Now() // when to ask the others again
	for {
		if !time.Now().Before(lookAt) {
			_ = a.readList() // kept for the warning
			a.look()
			lookAt = time.Now().Add(a.interval())
			a.settleRole()
			a.reconcile()
			a.changes.Store(struct{}{})
		}
		if m := a.member.Load(); m != nil {
			if m.err() != nil {
				a.settleRole()
			} else {
				a.lapse(a.ctx, m)
			}
		}
		timer := time.NewTimer(min(time.Until(lookAt), a.untilLapse()))
		select {
		case <-timer.C:
		case <-a.poke:
		case <-a.ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

func (a *Authority) interval() time.Duration {
	d := calmInterval
	switch m := a.member.Load(); {
	case m == nil && a.listed():
		d = restlessInterval
	case m == nil:
		d = a.cfg.heartbeat // an observer has no other source
	case m.leader() == "":
		d = a.cfg.heartbeat
	}
	return d*3/4 + mathrand.N(d/2)
}

// untilLapse is when the grant that this node holds ends unless it is renewed.
func (a *Authority) untilLapse() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if left := a.grantUntil.Sub(clock.Now()); left > 0 {
		return left + time.Millisecond
	}
	return calmInterval
}

// look asks every other node of the list and of Raft's configuration.
func (a *Authority) look() {
	addrs := make(map[string]bool)
	for _, v := range a.list() {
		addrs[v] = true
	}
	if m := a.member.Load(); m != nil {
		for _, id := range m.servers() {
			addrs[addrOf(id)] = true
		}
	}
	delete(addrs, a.cfg.Self)

	ctx, cancel := context.WithTimeout(a.ctx, a.talkTimeout())
	defer cancel()
	var mu sync.Mutex
	seen := make(map[string]sighting, len(addrs))
	var wg sync.WaitGroup
	for addr := range addrs {
		wg.Go(func() {
			var s sighting
			s.err = a.caller.call(ctx, addr, pathStatus, struct{}{}, &s.status)
			mu.Lock()
			defer mu.Unlock()
			seen[addr] = s
		})
	}
	wg.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen = seen
}

// sightings returns the answers of the nodes that were reached. The map is never
// changed in place.
func (a *Authority) sightings() map[string]sighting {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen
}

// settleRole starts, stops and restarts this node's part in Raft.
func (a *Authority) settleRole() {
	err := a.settle()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.voterProblem = ""
	if err != nil {
		a.voterProblem = err.Error()
	}
}

func (a *Authority) settle() error {
	if m := a.member.Load(); m != nil && m.err() != nil {
		return a.diskFailed(m.err())
	}
	if !a.belongs() {
		a.leaveRaft()
		a.setPhase(phaseObserver)
		return nil
	}
	if a.disk == nil {
		if clock.Now().Before(a.retryDisk) {
			return nil
		}
		if err := a.openDisk(); err != nil {
			a.setDiskProblem(err)
			a.retryDisk = clock.Now().Add(diskRetry)
			return nil
		}
	}
	if a.member.Load() != nil {
		return a.reconsider()
	}
	id, bootstrap, err := a.chooseID()
	if err != nil || id == "" {
		return err
	}
	if err := a.prepare(id, bootstrap); err != nil {
		return a.diskFailed(err)
	}
	if clock.Now().Before(a.quietUntil) {
		return nil
	}
	return a.join(id)
}

// belongs reports whether this node is, or is still, to vote. A voter that was
// taken off the list votes on until the leader has taken it out of Raft's
// configuration, in whose majority it counts until then.
func (a *Authority) belongs() bool {
	if a.listed() {
		return true
	}
	if a.disk == nil && !hasVoterState(a.cfg.DataDir) {
		return false
	}
	for _, s := range a.sightings() {
		if s.err == nil && s.ID != "" && s.Leader == s.ID {
			// The directory keeps its id, so that it can tell whose it is.
			return slices.ContainsFunc(s.Servers, func(id string) bool { return addrOf(id) == a.cfg.Self })
		}
	}
	return a.disk != nil
}

// openDisk opens the directory and begins the quiet time: the promises of an
// earlier process may still be running, and with the process died the ledger. The
// longest promise that is ever given is on disk before the first.
func (a *Authority) openDisk() error {
	d, err := openDisk(a.cfg.DataDir, a.cfg.Cluster, a.cfg.Self, raftLogger(a.cfg.Logger))
	if err != nil {
		return err
	}
	established, err := d.established()
	if err != nil {
		_ = d.close()
		return fmt.Errorf("node.data_dir: %q: %w; make it readable or name another", a.cfg.DataDir, bare(err))
	}
	has, err := d.hasState()
	if err != nil {
		_ = d.close()
		return fmt.Errorf("node.data_dir: %q: %w; make it readable or name another", a.cfg.DataDir, bare(err))
	}
	a.disk = d
	a.quietUntil = clock.Now().Add(max(d.Promise, a.cfg.heartbeat))
	switch {
	case established:
		a.setPhase(phaseEstablished)
	case has:
		a.setPhase(phaseFresh)
	default:
		a.setPhase(phaseEmpty)
	}
	return nil
}

// chooseID returns the id under which this voter is to take part in Raft, and the
// voters of the new cluster if it is to be one of its founders. An empty id means
// that it must wait for others; the error says for what.
func (a *Authority) chooseID() (id string, bootstrap []string, err error) {
	has, err := a.disk.hasState()
	if err != nil {
		return "", nil, err
	}
	if has {
		if a.disk.ID == "" {
			return "", nil, fmt.Errorf("node.data_dir: %q: %s names no id; empty the directory so that the voter joins anew", a.cfg.DataDir, identityFile)
		}
		return a.disk.ID, nil, nil
	}
	if !a.listed() {
		return "", nil, nil
	}
	founders, err := a.founders()
	switch {
	case err != nil:
		return "", nil, err
	case founders != nil:
		return a.cfg.Self, founders, nil
	}
	// The cluster lives. What this voter may once have promised, voted and stored
	// under an old id is lost, so that it must not speak in that name again.
	return a.cfg.Self + "#" + strings.ToLower(rand.Text()[:10]), nil, nil
}

// founders returns the list if a new cluster is to be founded with it, and nil if
// one exists. It is founded once a majority of the list, this voter among it, was
// found to have the same list and nothing to lose.
func (a *Authority) founders() ([]string, error) {
	list := a.list()
	agree, other := 1, ""
	var missing []string
	seen := a.sightings()
	for _, v := range list {
		if v == a.cfg.Self {
			continue
		}
		s, ok := seen[v]
		switch {
		case ok && errors.Is(s.err, driver.ErrInvalid): // such as a voter of another cluster
			missing = append(missing, v+" ("+s.err.Error()+")")
		case !ok || s.err != nil:
			missing = append(missing, v)
		case s.Phase == phaseEstablished:
			return nil, nil
		case slices.Equal(s.Voters, list):
			agree++
		default:
			other = v
		}
	}
	if agree >= len(list)/2+1 {
		return list, nil
	}
	if other != "" {
		return nil, fmt.Errorf("the cluster is not founded: voter %s has another list than %s; give all voters the same", other, a.cfg.Self)
	}
	return nil, fmt.Errorf("the cluster is not founded: waiting for a majority of the %d voters, without %s", len(list), strings.Join(missing, ", "))
}

// prepare writes what must be on disk before Raft starts. It is done in the quiet
// time, which a slow disk then does not add to.
func (a *Authority) prepare(id string, bootstrap []string) error {
	i := a.disk.identity
	i.ID, i.Promise = id, max(i.Promise, a.cfg.TTL)
	if i != a.disk.identity {
		if err := a.disk.saveIdentity(i); err != nil {
			return err
		}
	}
	if bootstrap == nil {
		return nil
	}
	a.setPhase(phaseFresh)
	return a.disk.bootstrap(bootstrap)
}

// join starts Raft.
func (a *Authority) join(id string) error {
	// The quiet time is over, and with it any promise that was longer.
	if i := a.disk.identity; i.Promise > a.cfg.TTL {
		i.Promise = a.cfg.TTL
		if err := a.disk.saveIdentity(i); err != nil {
			return a.diskFailed(err)
		}
	}
	forRaft, err := listen(a.cfg.Network, raftProtocol, a.cfg.Cluster, id)
	if err != nil {
		return fmt.Errorf("cannot listen for the other voters: %w", err)
	}
	forPromises, err := listen(a.cfg.Network, promiseProtocol, a.cfg.Cluster, id)
	if err != nil {
		_ = forRaft.Close()
		return fmt.Errorf("cannot listen for the other voters: %w", err)
	}
	m, err := a.startMember(a.disk, forRaft)
	if err != nil {
		_ = forPromises.Close()
		return a.diskFailed(err)
	}
	m.pledges = newPledges(forPromises, a.talkTimeout(), func(r promiseRequest) promiseReply { return a.promise(m, r) })
	a.cfg.Logger.Info("taking part in the voting", "id", id)
	a.setDiskProblem(nil)
	a.member.Store(m)
	return nil
}

// reconsider looks after a member that runs.
func (a *Authority) reconsider() error {
	m := a.member.Load()
	if m.phase() != phaseEmpty {
		return nil
	}
	// Waiting to be taken in by a cluster that lives. Should it be gone, found
	// another; nothing was voted or stored under this id.
	founders, err := a.founders()
	if founders == nil {
		if err == nil {
			err = fmt.Errorf("waiting until the leader takes this voter in, which came without its state")
		}
		return err
	}
	a.leaveRaft()
	return nil
}

// diskFailed takes this voter out of Raft until the directory can be written again.
func (a *Authority) diskFailed(err error) error {
	a.setDiskProblem(fmt.Errorf("node.data_dir: %q cannot be written: %v; this voter does not vote until it can", a.cfg.DataDir, bare(err)))
	a.leaveRaft()
	a.retryDisk = clock.Now().Add(diskRetry)
	return nil
}

// leaveRaft stops Raft and closes the directory.
func (a *Authority) leaveRaft() {
	if m := a.member.Load(); m != nil {
		a.setPhase(m.phase()) // from now on nobody asks Raft
		a.member.Store(nil)
		m.stop()
		a.setPhase(m.phase())
		a.cfg.Logger.Info("no longer taking part in the voting", "id", m.id)
	}
	_ = a.closeDisk()
}

func (a *Authority) closeDisk() error {
	if a.disk == nil {
		return nil
	}
	err := a.disk.close()
	a.disk = nil
	return err
}

func (a *Authority) setPhase(p phase) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.phase = p
}

func (a *Authority) setDiskProblem(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.diskProblem = ""
	if err != nil {
		a.diskProblem = err.Error()
	}
}

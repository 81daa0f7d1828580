package quorum

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
)

// Bounds of the log: a snapshot is taken each snapshotEvery entries, and leaves
// keepEntries for followers that are a little behind. A record can be half a
// mebibyte, so both are small.
const (
	snapshotEvery    = 512
	keepEntries      = 128
	cachedEntries    = 32
	snapshotInterval = 5 * time.Second
	maxAppendEntries = 16
	// Nobody waits for a follower to learn of a commit, but for who is master, and
	// that is pushed (see spread): a message for it every 50 ms is what an idle leader
	// would spend most of its time on.
	commitTimeout    = time.Second
	transportTimeout = 2 * maxHeartbeat
	maxPooledConns   = 3
	// drainTimeout bounds how long a member that stops waits for what it has asked of
	// Raft. A leader without a majority needs one heartbeat timeout to give up, and a
	// transfer of its place another.
	drainTimeout = 3 * maxHeartbeat
)

// member is this node's part in Raft, from start to stop.
type member struct {
	id    string
	raft  *raft.Raft
	state *state
	gate  *gate
	// pledges reaches the other voters for promises.
	pledges *pledges

	// failed is set once the disk let it down.
	failed atomic.Pointer[error]
	// released is the highest mastership that its leader said was given back. The
	// log says so too, only later.
	released atomic.Uint64
	// leaderSince is when it last became leader.
	leaderSince atomic.Int64
	// current is the Raft term in which the state is known to hold all that
	// earlier terms committed.
	current atomic.Uint64

	mu       sync.Mutex
	stopping bool           // nothing is asked of Raft any more
	asked    sync.WaitGroup // what was asked and not answered yet
}

// startMember starts Raft on d and s, which it closes if it fails.
func (a *Authority) startMember(d *disk, s *stream) (*member, error) {
	logger := raftLogger(a.cfg.Logger)
	id := s.id
	m := &member{id: id, state: newState(a.notify)}
	m.gate = newGate(raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream:                  s,
		MaxPool:                 maxPooledConns,
		Timeout:                 transportTimeout,
		Logger:                  logger,
		MsgpackUseNewTimeFormat: true,
	}), a.ledger, a.cfg.heartbeat)

	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(id)
	conf.HeartbeatTimeout = a.cfg.heartbeat
	conf.ElectionTimeout = a.cfg.heartbeat
	conf.LeaderLeaseTimeout = a.cfg.heartbeat
	conf.CommitTimeout = commitTimeout
	conf.MaxAppendEntries = maxAppendEntries
	conf.SnapshotThreshold = snapshotEvery
	conf.SnapshotInterval = snapshotInterval
	conf.TrailingLogs = keepEntries
	conf.ShutdownOnRemove = false
	conf.NoLegacyTelemetry = true
	conf.Logger = logger

	fail := func(err error) {
		if m.failed.CompareAndSwap(nil, &err) {
			a.notify()
		}
	}
	voted, err := d.bolt.GetUint64(keyLastVoteTerm)
	if err != nil && !errors.Is(err, raftboltdb.ErrKeyNotFound) {
		_ = m.gate.Close()
		return nil, err
	}
	a.ledger.hasVoted(voted)
	stable := &votes{StableStore: d.bolt, ledger: a.ledger, failed: fail}
	logs, err := raft.NewLogCache(cachedEntries, &entries{LogStore: d.bolt, failed: fail})
	if err != nil {
		_ = m.gate.Close()
		return nil, err
	}
	if hook := a.cfg.wrapStable; hook != nil {
		stable.StableStore = hook(stable.StableStore)
	}
	m.raft, err = newRaft(conf, m.state, logs, stable, d.snaps, m.gate)
	if err != nil {
		_ = m.gate.Close()
		return nil, err
	}
	stable.running.Store(true)
	m.gate.raft.Store(m.raft)
	m.raft.RegisterObserver(raft.NewObserver(nil, false, func(o *raft.Observation) bool {
		switch data := o.Data.(type) {
		case raft.RaftState:
			if data == raft.Leader {
				m.leaderSince.Store(int64(clock.Now()))
			}
			a.notify()
		case raft.LeaderObservation:
			a.notify()
		}
		return false
	}))
	return m, nil
}

// newRaft is raft.NewRaft, which panics where it cannot write its term.
func newRaft(conf *raft.Config, fsm raft.FSM, logs raft.LogStore, stable raft.StableStore, snaps raft.SnapshotStore, trans raft.Transport) (r *raft.Raft, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	return raft.NewRaft(conf, fsm, logs, stable, snaps, trans)
}

// stop ends Raft and joins its goroutines.
func (m *member) stop() {
	m.pledges.close()
	m.drain()
	done := m.raft.Shutdown()
	_ = m.gate.Close() // or Raft would wait for answers of the dead
	_ = done.Error()
}

// drain has nothing more asked of Raft, and waits until it has answered what was.
// While Raft runs it answers everything; what it holds when it ends, as an entry that
// is committed and not yet applied, it may never (it drops the queues of its state
// machine and of transfers). A disk that hangs is not waited for.
func (m *member) drain() {
	m.mu.Lock()
	m.stopping = true
	m.mu.Unlock()
	answered := make(chan struct{})
	go func() { m.asked.Wait(); close(answered) }()
	select {
	case <-answered:
	case <-time.After(drainTimeout):
	}
}

// err is why the member can no longer take part, or nil.
func (m *member) err() error {
	if p := m.failed.Load(); p != nil {
		return *p
	}
	return nil
}

// phase is how far the voter has come by now. It is read from Raft each time: another
// that lost its directory must not be told of a moment ago, when there was nothing to
// lose yet.
func (m *member) phase() phase {
	switch term, last := m.raft.CurrentTerm(), m.raft.LastIndex(); {
	case term > 1 || last > 1:
		return phaseEstablished
	case last == 1:
		return phaseFresh
	}
	return phaseEmpty
}

// leading reports whether this voter leads, and in which term. It led that term
// at some moment during the call, and may not any more.
func (m *member) leading() (uint64, bool) {
	// Raft keeps state and term in two places. A term that is the same before and
	// after was the term in between, as terms only rise.
	for {
		term := m.raft.CurrentTerm()
		leads := m.raft.State() == raft.Leader
		if m.raft.CurrentTerm() == term {
			return term, leads && m.err() == nil
		}
	}
}

// leads reports whether this voter leads term.
func (m *member) leads(term uint64) bool {
	now, ok := m.leading()
	return ok && now == term
}

// leader returns the id of the leader as far as this voter knows, or "".
func (m *member) leader() string {
	_, id := m.raft.LeaderWithID()
	return string(id)
}

// servers returns the ids of Raft's latest configuration.
func (m *member) servers() []string {
	var ids []string
	for _, s := range m.raft.GetConfiguration().Configuration().Servers {
		if s.Suffrage == raft.Voter {
			ids = append(ids, string(s.ID))
		}
	}
	return ids
}

// apply commits c and returns what it came to. After an error that wraps
// ErrUnavailable the command may or may not be committed.
func (m *member) apply(ctx context.Context, c command) (outcome, error) {
	c.Version = stateVersion
	b, err := json.Marshal(c)
	if err != nil {
		return outcome{}, err
	}
	var f raft.ApplyFuture
	if err := m.ask(ctx, func() raft.Future {
		f = m.raft.Apply(b, applyTimeout(ctx))
		return f
	}); err != nil {
		return outcome{}, err
	}
	out, ok := f.Response().(outcome)
	if !ok {
		return outcome{}, fmt.Errorf("%w: command %s came to %v", driver.ErrUnavailable, c.Op, f.Response())
	}
	return out, out.err
}

// catchUp makes sure that the state holds what earlier leaders committed.
func (m *member) catchUp(ctx context.Context, term uint64) error {
	if m.current.Load() == term {
		return nil
	}
	if err := m.ask(ctx, func() raft.Future { return m.raft.Barrier(applyTimeout(ctx)) }); err != nil {
		return err
	}
	if m.leads(term) {
		m.current.Store(term)
	}
	return nil
}

// spread makes the followers learn at once what was committed so far. Raft tells
// them with the next entry, so that one is written. Nobody waits for it.
func (m *member) spread() { m.raft.Barrier(time.Second) }

// ask asks something of Raft and waits for the answer, or until ctx ends. Raft answers
// no later than when it loses its leadership, which a leader without a majority soon
// does.
func (m *member) ask(ctx context.Context, what func() raft.Future) error {
	m.mu.Lock()
	if m.stopping {
		m.mu.Unlock()
		return errClosed
	}
	m.asked.Add(1)
	m.mu.Unlock()
	f := what() // here, so that what is asked later comes later
	done := make(chan error, 1)
	go func() {
		defer m.asked.Done()
		done <- f.Error()
	}()
	select {
	case err := <-done:
		switch {
		case err == nil:
			return nil
		case errors.Is(err, raft.ErrNotLeader):
			return errNotLeader
		default:
			return fmt.Errorf("%w: raft: %w", driver.ErrUnavailable, err)
		}
	case <-ctx.Done():
		return fmt.Errorf("%w: raft: %w", driver.ErrUnavailable, ctx.Err())
	}
}

// applyTimeout bounds the wait for Raft to take a command at all.
func applyTimeout(ctx context.Context) time.Duration {
	const most = 5 * time.Second
	if deadline, ok := ctx.Deadline(); ok {
		return max(min(most, time.Until(deadline)), time.Millisecond)
	}
	return most
}

package voter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/providers/static/internal/raftstream"
	"github.com/musterhq/muster/providers/static/internal/replicated"
	"github.com/musterhq/muster/providers/static/internal/votelease"
	"github.com/musterhq/muster/providers/static/internal/voterdir"
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
	// No caller waits for a follower to learn of a commit, except of who is master, and that is
	// pushed (PushCommit). A message for it every 50 ms is what an idle leader would spend most of
	// its time on.
	commitTimeout    = time.Second
	transportTimeout = 2 * maxHeartbeat
	maxPooledConns   = 3
	// drainTimeout bounds how long a member that stops waits for what it has asked of
	// Raft. A leader without a majority needs one heartbeat timeout to give up, and a
	// transfer of its place another.
	drainTimeout = 3 * maxHeartbeat
)

// Member is this node's part in Raft, from start to stop.
type Member struct {
	ID    string
	raft  *raft.Raft
	State *replicated.State
	guard *votelease.Guard
	// Leases is set once Raft runs.
	Leases *votelease.Participant

	// failed is set once the disk has failed.
	failed atomic.Pointer[error]
	// released is the highest mastership that its leader said was given back. The
	// log says so too, only later.
	released atomic.Uint64
	// givenBack is the last mastership that this node itself gave back, whatever others say.
	givenBack atomic.Uint64
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
func (v *Voter) startMember(id string, d *voterdir.Dir, s *raftstream.Stream) (*Member, error) {
	logger := raftLogger(v.cfg.Logger)
	m := &Member{ID: id, State: replicated.NewState(v.notify)}
	m.guard = votelease.NewGuard(raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream:                  s,
		MaxPool:                 maxPooledConns,
		Timeout:                 transportTimeout,
		Logger:                  logger,
		MsgpackUseNewTimeFormat: true,
	}), v.Leases, v.cfg.heartbeat)

	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(id)
	conf.HeartbeatTimeout = v.cfg.heartbeat
	conf.ElectionTimeout = v.cfg.heartbeat
	conf.LeaderLeaseTimeout = v.cfg.heartbeat
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
			v.notify()
		}
	}
	var inner raft.StableStore = d.Log
	if hook := v.cfg.WrapStable; hook != nil {
		inner = hook(inner)
	}
	stable, err := votelease.NewStore(inner, v.Leases, fail)
	if err != nil {
		_ = m.guard.Close()
		return nil, err
	}
	logs, err := raft.NewLogCache(cachedEntries, voterdir.NewLogStore(d.Log, fail))
	if err != nil {
		_ = m.guard.Close()
		return nil, err
	}
	m.raft, err = newRaft(conf, m.State, logs, stable, d.Snapshots, m.guard)
	if err != nil {
		_ = m.guard.Close()
		return nil, err
	}
	stable.ReportFailures()
	m.guard.Attach(m.raft)
	m.raft.RegisterObserver(raft.NewObserver(nil, false, func(o *raft.Observation) bool {
		switch data := o.Data.(type) {
		case raft.RaftState:
			if data == raft.Leader {
				m.leaderSince.Store(int64(clock.Now()))
			}
			v.notify()
		case raft.LeaderObservation:
			v.notify()
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
func (m *Member) stop() {
	m.Leases.Close()
	m.drain()
	done := m.raft.Shutdown()
	_ = m.guard.Close() // or Raft would wait for answers of voters that are gone
	_ = done.Error()
}

// drain has nothing more asked of Raft, and waits until it has answered what was.
// While Raft runs it answers everything; what it holds when it ends, as an entry that
// is committed and not yet applied, it may never (it drops the queues of its state
// machine and of transfers). A disk that hangs is not waited for.
func (m *Member) drain() {
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

// Err is why the member can no longer take part, or nil.
func (m *Member) Err() error {
	if p := m.failed.Load(); p != nil {
		return *p
	}
	return nil
}

// phase is how far the voter has come by now. It is read from Raft each time: another
// that lost its directory must not get an answer of a moment ago, when there was nothing to
// lose yet.
func (m *Member) phase() Phase {
	switch term, last := m.raft.CurrentTerm(), m.raft.LastIndex(); {
	case term > 1 || last > 1:
		return phaseEstablished
	case last == 1:
		return phaseFresh
	}
	return PhaseEmpty
}

// Leading reports whether this voter leads, and in which term. It led that term
// at some moment during the call, and may not any more.
func (m *Member) Leading() (uint64, bool) {
	// Raft keeps state and term in two places. A term that is the same before and
	// after was the term in between, as terms only rise.
	for {
		term := m.raft.CurrentTerm()
		leads := m.raft.State() == raft.Leader
		if m.raft.CurrentTerm() == term {
			return term, leads && m.Err() == nil
		}
	}
}

// Leads reports whether this voter leads term.
func (m *Member) Leads(term uint64) bool {
	now, ok := m.Leading()
	return ok && now == term
}

// Leader returns the id of the leader as far as this voter knows, or "".
func (m *Member) Leader() string {
	_, id := m.raft.LeaderWithID()
	return string(id)
}

// Servers returns the ids of Raft's latest configuration.
func (m *Member) Servers() []string {
	var ids []string
	for _, s := range m.raft.GetConfiguration().Configuration().Servers {
		if s.Suffrage == raft.Voter {
			ids = append(ids, string(s.ID))
		}
	}
	return ids
}

// Apply commits c and returns what it came to. After an error that wraps
// ErrUnavailable the command may or may not be committed.
func (m *Member) Apply(ctx context.Context, c replicated.Command) (replicated.Outcome, error) {
	c.Version = replicated.Version
	b, err := json.Marshal(c)
	if err != nil {
		return replicated.Outcome{}, err
	}
	var f raft.ApplyFuture
	if err := m.ask(ctx, func() raft.Future {
		f = m.raft.Apply(b, applyTimeout(ctx))
		return f
	}); err != nil {
		return replicated.Outcome{}, err
	}
	out, ok := f.Response().(replicated.Outcome)
	if !ok {
		return replicated.Outcome{}, fmt.Errorf("%w: command %s came to %v", driver.ErrUnavailable, c.Op, f.Response())
	}
	return out, out.Err
}

// CatchUp makes sure that the state holds what earlier leaders committed.
func (m *Member) CatchUp(ctx context.Context, term uint64) error {
	if m.current.Load() == term {
		return nil
	}
	if err := m.ask(ctx, func() raft.Future { return m.raft.Barrier(applyTimeout(ctx)) }); err != nil {
		return err
	}
	if m.Leads(term) {
		m.CaughtUp(term)
	}
	return nil
}

// PushCommit makes the followers learn at once what was committed so far. Raft sends that with the
// next entry, so an empty one is written. It does not wait for the result.
func (m *Member) PushCommit() { m.raft.Barrier(time.Second) }

// errStopped is of a voter that takes no more part, until it does again or the authority
// is closed.
var errStopped = fmt.Errorf("%w: the voter is being stopped", driver.ErrUnavailable)

// ask asks something of Raft and waits for the answer, or until ctx ends. Raft answers
// no later than when it loses its leadership, which a leader without a majority soon
// does.
func (m *Member) ask(ctx context.Context, what func() raft.Future) error {
	m.mu.Lock()
	if m.stopping {
		m.mu.Unlock()
		return errStopped
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
			return ErrNotLeader
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

// release notes that mastership term was given back, and reports whether that is
// news.
func (m *Member) release(term driver.Term) bool {
	for {
		known := m.released.Load()
		if uint64(term) <= known {
			return false
		}
		if m.released.CompareAndSwap(known, uint64(term)) {
			return true
		}
	}
}

// HandOver has another voter lead in Raft, if this one does, so that the others need
// not find out that it is gone. One attempt may fail because another is under way.
func (m *Member) HandOver(ctx context.Context, timeout time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for len(m.Servers()) > 1 && ctx.Err() == nil {
		if _, leads := m.Leading(); !leads {
			return
		}
		if m.ask(ctx, m.raft.LeadershipTransfer) == nil {
			return
		}
		select {
		case <-time.After(timeout / 50):
		case <-ctx.Done():
		}
	}
}

// campaign has this voter be a candidate at once.
func (m *Member) campaign() { m.guard.Campaign(m.ID) }

// Transfer has the voter id lead in Raft.
func (m *Member) Transfer(ctx context.Context, id string) error {
	return m.ask(ctx, func() raft.Future {
		return m.raft.LeadershipTransferToServer(raft.ServerID(id), raft.ServerAddress(id))
	})
}

// WasReleased reports whether the leader of term gave it back. The log says so too, but later.
func (m *Member) WasReleased(term driver.Term) bool { return uint64(term) <= m.released.Load() }

// HasGivenBack reports whether this node itself gave term, or a later one, back as the leader.
func (m *Member) HasGivenBack(term driver.Term) bool { return uint64(term) <= m.givenBack.Load() }

// LedSince is when it last became leader.
func (m *Member) LedSince() clock.Instant { return clock.Instant(m.leaderSince.Load()) }

// CaughtUp notes that the state holds all that was committed before term.
func (m *Member) CaughtUp(term uint64) { m.current.Store(term) }

// holder is who is master as far as this voter knows: who claimed on the server
// that leads now, in the term of Raft in which it leads.
func (m *Member) holder(c replicated.Mastership) *driver.Holder {
	if c.Holder == nil || m.Leader() != c.Server || m.raft.CurrentTerm() != c.RaftTerm || m.WasReleased(c.Term) {
		return nil
	}
	h := *c.Holder
	return &h
}

// Package quorum grants mastership by Raft among a list of voters.
//
// What it promises is in driver.Authority and driver.Store, and why it holds is
// in DESIGN.md beside the package static. In short: a voter that leads in Raft
// may claim mastership in the replicated state; the claim is good for as long as
// a majority of the voters has promised not to vote in any higher term.
package quorum

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/internal/latest"
)

// The bounds of Config.TTL.
const (
	DefaultTTL = 900 * time.Millisecond
	MinTTL     = 250 * time.Millisecond
	MaxTTL     = time.Minute
)

// maxHeartbeat keeps a long TTL from making the first election slow.
const maxHeartbeat = time.Second

// Config is what Open needs.
type Config struct {
	// Cluster is the name of the cluster.
	Cluster string
	// Self is the entry of the list that stands for this node.
	Self string
	// Voters reads the list, whose entries are distinct. It is called every few
	// seconds. Where it fails the last good list is kept.
	Voters func() ([]string, error)
	// TTL is how long a promise and with it a grant lasts. 0 stands for DefaultTTL.
	TTL time.Duration
	// DataDir is the directory of a voter. Others do not need one.
	DataDir string
	// Network reaches the voters.
	Network driver.Network
	// Logger is not nil.
	Logger *slog.Logger

	// heartbeat is how long the voters miss their leader before they look for
	// another. They elect none before the promises to the old one have ended, so it
	// is a little shorter than TTL: the one is over when the other is.
	heartbeat time.Duration
	// wrapStable lets a test break the disk.
	wrapStable func(raft.StableStore) raft.StableStore
}

// Authority is a driver.Authority and a driver.Store.
type Authority struct {
	cfg    Config
	ledger *ledger
	start  string // tells this authority from all others that ever led as this voter
	caller *caller
	server *http.Server

	// ctx ends with Close.
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	closed chan struct{}

	// turn is held by whoever may change who leads or holds: one claim, renewal,
	// release or hand-over at a time.
	turn chan struct{}
	// rounds numbers the requests for promises.
	rounds atomic.Uint64
	// member is nil while this node has no part in Raft. Only the tending
	// goroutine stores it.
	member atomic.Pointer[member]
	// changes is stored to whenever what Observe yields may have changed, and poke
	// makes the tending goroutine look at once.
	changes latest.Value[struct{}]
	poke    chan struct{}

	// Of the tending goroutine alone.
	disk       *disk
	quietUntil clock.Instant
	retryDisk  clock.Instant
	configured clock.Instant // when it last changed Raft's configuration

	mu      sync.Mutex
	closing bool
	voters  []string            // the last good list, sorted
	seen    map[string]sighting // the last answer of every other voter, by address
	phase   phase               // while there is no member
	// What an operator should mend, by where it shows.
	listProblem, diskProblem, voterProblem string
	// grantUntil is when the last grant ends that this node was given.
	grantUntil clock.Instant
	// wanted is when this node last asked to be master, 0 if it gave that up.
	wanted clock.Instant
	// gaveUp is the last term of Raft in which this node gave mastership back.
	gaveUp uint64
}

var (
	_ driver.Authority = (*Authority)(nil)
	_ driver.Store     = (*Authority)(nil)
)

// Open opens the authority. It reads the list and opens the directory, and waits
// for nobody.
func Open(_ context.Context, cfg Config) (*Authority, error) {
	if cfg.TTL == 0 {
		cfg.TTL = DefaultTTL
	}
	if cfg.TTL < MinTTL || cfg.TTL > MaxTTL {
		return nil, fmt.Errorf("%w: mastership.ttl: %v: the static list wants %v to %v", driver.ErrInvalid, cfg.TTL, MinTTL, MaxTTL)
	}
	cfg.heartbeat = min(cfg.TTL*2/3, maxHeartbeat)
	a := &Authority{
		cfg:    cfg,
		ledger: newLedger(clock.Now),
		start:  rand.Text(),
		caller: newCaller(cfg.Cluster, cfg.Network),
		closed: make(chan struct{}),
		turn:   make(chan struct{}, 1),
		poke:   make(chan struct{}, 1),
		seen:   make(map[string]sighting),
		phase:  phaseObserver,
	}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	a.changes.Store(struct{}{})
	if err := a.readList(); err != nil {
		return nil, err
	}
	if a.listed() || hasVoterState(cfg.DataDir) {
		if err := a.openDisk(); err != nil {
			return nil, err
		}
	}
	listener, err := cfg.Network.Listen(talkProtocol)
	if err != nil {
		if a.disk != nil {
			_ = a.disk.close()
		}
		return nil, err
	}
	a.server = newServer(a.ctx, a)
	a.wg.Go(func() { _ = a.server.Serve(listener) })
	a.wg.Go(a.tend)
	return a, nil
}

// spawn runs f on a goroutine that Close joins. It reports false after Close.
func (a *Authority) spawn(f func()) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closing {
		return false
	}
	a.wg.Go(f)
	return true
}

// notify wakes those who observe, and the tending goroutine.
func (a *Authority) notify() {
	a.changes.Store(struct{}{})
	select {
	case a.poke <- struct{}{}:
	default:
	}
}

// takeTurn waits for the turn. The caller returns it.
func (a *Authority) takeTurn(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", driver.ErrUnavailable, err)
	}
	select {
	case a.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", driver.ErrUnavailable, ctx.Err())
	case <-a.ctx.Done():
		return errClosed
	}
}

func (a *Authority) endTurn() { <-a.turn }

var errClosed = fmt.Errorf("%w: authority is closed: %w", driver.ErrUnavailable, net.ErrClosed)

// token is the Token of a grant.
type token struct {
	raftTerm   uint64
	instanceID string
}

// Acquire implements driver.Authority. A voter that does not lead in Raft asks
// the leader to make room, which it does unless it is master itself or wants to
// be.
func (a *Authority) Acquire(ctx context.Context, c driver.Claim) (driver.Grant, error) {
	began := clock.Now()
	if why := a.ineligible(); why != "" {
		return driver.Grant{}, fmt.Errorf("%w: %s", driver.ErrDenied, why)
	}
	a.want()
	if err := a.takeTurn(ctx); err != nil {
		return driver.Grant{}, err
	}
	defer a.endTurn()
	m, err := a.running()
	if err != nil {
		return driver.Grant{}, err
	}
	raftTerm, err := a.lead(ctx, m)
	if err != nil {
		return driver.Grant{}, err
	}
	a.want() // the above may have taken a while

	// Another process of this node may hold a grant that it was given through this
	// very voter. It stands for as long as it was valid.
	a.mu.Lock()
	until := a.grantUntil
	a.mu.Unlock()
	if now := m.state.current(); now.Holder != nil && now.RaftTerm == raftTerm && now.Holder.InstanceID != c.Holder.InstanceID && clock.Now().Before(until) {
		return driver.Grant{}, fmt.Errorf("%w: %s is master with term %d", driver.ErrConflict, now.Holder.NodeID, now.Term)
	}

	// The claim and its proof are independent of one another, so they go out
	// together: the one writes to the disks, the other crosses the network.
	type proof struct {
		validFor time.Duration
		err      error
	}
	proven := make(chan proof, 1)
	waited := clock.Now().Sub(began)
	if !a.spawn(func() {
		d, err := a.prove(ctx, m, raftTerm, a.cfg.TTL)
		proven <- proof{d, err}
	}) {
		return driver.Grant{}, errClosed
	}
	out, err := m.claim(ctx, c, raftTerm)
	p := <-proven
	if err != nil {
		return driver.Grant{}, err
	}
	if p.err != nil {
		return driver.Grant{}, p.err
	}
	if out.raftTerm != raftTerm || !m.leads(raftTerm) {
		return driver.Grant{}, errNotLeader
	}
	m.current.Store(raftTerm) // the claim came after all that went before
	a.granted(p.validFor)
	a.spawn(m.spread)
	return driver.Grant{
		Term:      out.term,
		ClusterID: out.clusterID,
		// Each promise began after the wait for the lead, and the caller counts from
		// before it.
		ValidFor: waited + p.validFor,
		Token:    token{raftTerm, c.Holder.InstanceID},
	}, nil
}

// claim writes c to the replicated state, or finds it there: the answer to an
// earlier attempt may have been lost, most likely because a disk was slow, which is
// then not troubled again.
func (m *member) claim(ctx context.Context, c driver.Claim, raftTerm uint64) (outcome, error) {
	now := m.state.current()
	if h := now.Holder; h != nil && h.InstanceID == c.Holder.InstanceID &&
		now.Server == m.id && now.RaftTerm == raftTerm && now.Term > c.MinTerm &&
		(!c.Known || c.ClusterID == now.ClusterID) {
		return outcome{raftTerm: raftTerm, term: now.Term, clusterID: now.ClusterID}, nil
	}
	return m.apply(ctx, command{
		Op: opClaim, Server: m.id, Holder: &c.Holder, MinTerm: c.MinTerm, ClusterID: c.ClusterID, Known: c.Known,
	})
}

// Renew implements driver.Authority. It asks a majority for another promise, and
// writes to no disk.
func (a *Authority) Renew(ctx context.Context, g driver.Grant) (driver.Grant, error) {
	t, ok := g.Token.(token)
	if !ok {
		return driver.Grant{}, fmt.Errorf("%w: not a grant of this authority", driver.ErrInvalid)
	}
	if err := a.takeTurn(ctx); err != nil {
		return driver.Grant{}, err
	}
	defer a.endTurn()
	m := a.member.Load()
	if m == nil || !m.holds(g.Term, t) {
		return driver.Grant{}, lost(g)
	}
	validFor, err := a.prove(ctx, m, t.raftTerm, a.cfg.TTL)
	if !m.holds(g.Term, t) {
		return driver.Grant{}, lost(g)
	}
	if err != nil {
		return driver.Grant{}, err
	}
	a.granted(validFor)
	g.ValidFor = validFor // each promise began during this call
	return g, nil
}

// holds reports whether the claim of term stands: made by t on this voter, which
// has led the same term of Raft ever since.
func (m *member) holds(term driver.Term, t token) bool {
	now := m.state.current()
	return m.leads(t.raftTerm) && now.RaftTerm == t.raftTerm && now.Term == term &&
		now.Server == m.id && now.Holder != nil && now.Holder.InstanceID == t.instanceID
}

func lost(g driver.Grant) error {
	return fmt.Errorf("%w: term %d is over", driver.ErrSessionLost, g.Term)
}

// granted notes that a grant stands for no longer than validFor from now on, which
// is later than its true end: this voter lets nobody else in too early.
func (a *Authority) granted(validFor time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if until := clock.Now().Add(validFor); a.grantUntil.Before(until) {
		a.grantUntil = until
	}
}

// Release implements driver.Authority. The promises are taken back, so that the
// voters are free at once, and the claim is struck out. The voter goes on as the
// leader in Raft until another that wants to be master asks for its place.
func (a *Authority) Release(ctx context.Context, g driver.Grant) error {
	t, ok := g.Token.(token)
	if !ok {
		return fmt.Errorf("%w: not a grant of this authority", driver.ErrInvalid)
	}
	if err := a.takeTurn(ctx); err != nil {
		return err
	}
	defer a.endTurn()
	m := a.member.Load()
	if m == nil || !m.holds(g.Term, t) {
		return nil
	}
	a.mu.Lock()
	a.grantUntil, a.wanted, a.gaveUp = 0, 0, t.raftTerm
	a.mu.Unlock()
	told := a.withdraw(m, t.raftTerm, g.Term)
	_, err := m.apply(ctx, command{Op: opRelease, Server: m.id, Term: g.Term})
	// Whoever asks for the lead now finds voters that are free to give it. One that
	// cannot be reached is not waited for.
	select {
	case <-told:
	case <-time.After(a.cfg.heartbeat / 4):
	case <-ctx.Done():
	}
	if errors.Is(err, errNotLeader) || !m.leads(t.raftTerm) {
		return nil // another leads, under whom the claim counts for nothing
	}
	return err
}

// lapse strikes out a claim of this node that was not renewed in time, for its
// holder may have no life left to release it. One that goes on trying is left its
// claim, to find it.
func (a *Authority) lapse(ctx context.Context, m *member) {
	raftTerm, leads := m.leading()
	now := m.state.current()
	if !leads || now.Holder == nil || now.RaftTerm != raftTerm || now.Server != m.id || a.standing() || a.wants() {
		return
	}
	select {
	case a.turn <- struct{}{}:
	default:
		return // being renewed, perhaps
	}
	defer a.endTurn()
	if a.standing() || a.wants() {
		return
	}
	a.mu.Lock()
	a.wanted = 0
	a.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, a.cfg.heartbeat)
	defer cancel()
	_, _ = m.apply(ctx, command{Op: opRelease, Server: m.id, Term: now.Term})
}

// wants reports whether this node tried to be master a short while ago, and so may
// be expected to try again.
func (a *Authority) wants() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.wanted != 0 && clock.Now().Before(a.wanted.Add(max(5*a.cfg.heartbeat, 2*time.Second)))
}

// standing reports whether a grant that this node was given is still valid.
func (a *Authority) standing() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return clock.Now().Before(a.grantUntil)
}

func (a *Authority) want() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.wanted = clock.Now()
}

// running returns the member, or why there is none.
func (a *Authority) running() (*member, error) {
	m := a.member.Load()
	if m == nil {
		return nil, fmt.Errorf("%w: %s", driver.ErrUnavailable, a.waitingFor())
	}
	if err := m.err(); err != nil {
		return nil, fmt.Errorf("%w: node.data_dir: %q cannot be written: %v", driver.ErrUnavailable, a.cfg.DataDir, bare(err))
	}
	return m, nil
}

// Close implements driver.Authority. A voter that leads in Raft and holds no
// grant hands over to another first, so that the others need not miss it.
func (a *Authority) Close(ctx context.Context) error {
	a.mu.Lock()
	if a.closing {
		a.mu.Unlock()
		<-a.closed
		return nil
	}
	a.closing = true
	a.mu.Unlock()

	if m := a.member.Load(); m != nil && !a.standing() {
		a.handOver(ctx, m)
	}
	a.cancel()
	_ = a.server.Close()
	a.wg.Wait()
	if m := a.member.Swap(nil); m != nil {
		m.stop()
	}
	a.caller.close()
	var err error
	if a.disk != nil {
		err = a.disk.close()
	}
	close(a.closed)
	return err
}

// handOver has another voter lead in Raft, if this one does, so that the others need
// not find out that it is gone. One attempt may fail because another is under way.
func (a *Authority) handOver(ctx context.Context, m *member) {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.heartbeat)
	defer cancel()
	for len(m.servers()) > 1 && ctx.Err() == nil {
		if _, leads := m.leading(); !leads {
			return
		}
		if m.ask(ctx, m.raft.LeadershipTransfer) == nil {
			return
		}
		select {
		case <-time.After(a.cfg.heartbeat / 50):
		case <-ctx.Done():
		}
	}
}

// readList takes over the list as it is now, and keeps the last good one where
// that fails.
func (a *Authority) readList() error {
	voters, err := a.cfg.Voters()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.listProblem = ""
	if err != nil {
		a.listProblem = err.Error()
		return err
	}
	a.voters = slices.Sorted(slices.Values(voters))
	return nil
}

// list returns the last good list. It is never changed in place.
func (a *Authority) list() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.voters
}

func (a *Authority) listed() bool { return slices.Contains(a.list(), a.cfg.Self) }

// Package quorum grants mastership by Raft among a list of voters.
//
// What it promises is in driver.Authority and driver.Store, and why that holds is in DESIGN.md
// beside the package static. In short: a voter that leads in Raft may claim mastership in the
// replicated state, and the claim counts while a majority of the voters has given it a vote lease:
// the promise not to vote in any higher term before the lease ends.
package quorum

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/providers/static/internal/replicated"
	"github.com/musterhq/muster/providers/static/internal/voter"
)

// Authority is a driver.Authority and a driver.Store.
type Authority struct {
	voter          *voter.Voter
	ttl, heartbeat time.Duration
	// ctx ends with Close.
	ctx context.Context

	// turn is held by the call that may change who leads or holds: one claim, renewal,
	// release or hand-over at a time.
	turn chan struct{}
	once sync.Once

	mu sync.Mutex
	// grantUntil is when the last grant ends that this node was given.
	grantUntil clock.Instant
	// wanted is when this node last asked to be master, 0 if it gave that up.
	wanted clock.Instant
	// releasedIn is the last term of Raft in which this node gave mastership back.
	releasedIn uint64
	// removeAt is when a claim that was given back is removed from the replicated state, if nobody
	// has claimed since.
	removeAt clock.Instant
}

var (
	_ driver.Authority     = (*Authority)(nil)
	_ driver.Store         = (*Authority)(nil)
	_ driver.Founder       = (*Authority)(nil)
	_ driver.VoterReporter = (*Authority)(nil)
)

// Open opens the authority. It reads the list and opens the directory. It does not block on others.
func Open(_ context.Context, cfg voter.Config) (*Authority, error) {
	v, err := voter.New(cfg)
	if err != nil {
		return nil, err
	}
	a := &Authority{voter: v, ttl: v.TTL(), heartbeat: v.Heartbeat(), ctx: v.Context(), turn: make(chan struct{}, 1)}
	v.Start(voter.Hooks{
		Handle: func(mux *http.ServeMux) {
			voter.Handle(mux, cfg.Cluster, pathLead, a.answerLead)
			voter.Handle(mux, cfg.Cluster, pathStore, a.answerStore)
		},
		Tick:     func(m *voter.Member) { a.expireClaim(a.ctx, m) },
		NextTick: a.untilExpiry,
	})
	return a, nil
}

// takeTurn waits for the turn. The caller returns it.
func (a *Authority) takeTurn(ctx context.Context) error {
	if a.ctx.Err() != nil {
		return voter.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", driver.ErrUnavailable, err)
	}
	select {
	case a.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", driver.ErrUnavailable, ctx.Err())
	case <-a.ctx.Done():
		return voter.ErrClosed
	}
}

func (a *Authority) endTurn() { <-a.turn }

// token is the Token of a grant.
type token struct {
	raftTerm   uint64
	instanceID string
}

// Acquire implements driver.Authority. A voter that does not lead in Raft asks the leader to hand
// over, which it does unless it is master itself or wants to be.
func (a *Authority) Acquire(ctx context.Context, c driver.Claim) (driver.Grant, error) {
	began := clock.Now()
	if a.ctx.Err() != nil {
		return driver.Grant{}, voter.ErrClosed
	}
	if why := a.voter.Ineligible(); why != "" {
		return driver.Grant{}, fmt.Errorf("%w: %s", driver.ErrDenied, why)
	}
	a.want()
	if err := a.takeTurn(ctx); err != nil {
		return driver.Grant{}, err
	}
	defer a.endTurn()
	m, err := a.voter.Running()
	if err != nil {
		return driver.Grant{}, err
	}
	raftTerm, err := a.lead(ctx, m)
	if err != nil {
		return driver.Grant{}, err
	}
	a.want() // the above may have taken a while

	// Another process of this node may hold a grant that it was given through this
	// very voter. It counts until it expires.
	a.mu.Lock()
	until := a.grantUntil
	a.mu.Unlock()
	if now := m.State.Mastership(); now.Holder != nil && now.RaftTerm == raftTerm && now.Holder.InstanceID != c.Holder.InstanceID && clock.Now().Before(until) {
		return driver.Grant{}, fmt.Errorf("%w: %s is master with term %d", driver.ErrConflict, now.Holder.NodeID, now.Term)
	}

	// The claim and its proof are independent of one another, so they go out
	// together: the claim writes to the disks, the proof crosses the network.
	type proof struct {
		validFor time.Duration
		err      error
	}
	proven := make(chan proof, 1)
	waited := clock.Now().Sub(began)
	if !a.voter.Spawn(func() {
		d, err := a.collectLeases(ctx, m, raftTerm, a.ttl)
		proven <- proof{d, err}
	}) {
		return driver.Grant{}, voter.ErrClosed
	}
	out, err := claim(ctx, m, c, raftTerm)
	p := <-proven
	if err != nil {
		return driver.Grant{}, err
	}
	if p.err != nil {
		return driver.Grant{}, p.err
	}
	if out.RaftTerm != raftTerm || !m.Leads(raftTerm) {
		return driver.Grant{}, voter.ErrNotLeader
	}
	m.CaughtUp(raftTerm) // the claim came after all that went before
	a.noteGrant(p.validFor)
	a.voter.Spawn(m.PushCommit)
	return driver.Grant{
		Term:      out.Term,
		ClusterID: out.ClusterID,
		// Each lease began after the wait for the lead, and the caller counts from before it.
		ValidFor: waited + p.validFor,
		Token:    token{raftTerm, c.Holder.InstanceID},
	}, nil
}

// claim writes c to the replicated state, or finds it there: the answer to an earlier attempt may
// have been lost, most likely because a disk was slow. Then nothing is written again.
func claim(ctx context.Context, m *voter.Member, c driver.Claim, raftTerm uint64) (replicated.Outcome, error) {
	now := m.State.Mastership()
	if m.HasGivenBack(now.Term) {
		c.MinTerm = max(c.MinTerm, now.Term) // it may still be recorded, and counts no more
	}
	if h := now.Holder; h != nil && h.InstanceID == c.Holder.InstanceID &&
		now.Server == m.ID && now.RaftTerm == raftTerm && now.Term > c.MinTerm &&
		(!c.Known || c.ClusterID == now.ClusterID) {
		return replicated.Outcome{RaftTerm: raftTerm, Term: now.Term, ClusterID: now.ClusterID}, nil
	}
	return m.Apply(ctx, replicated.Command{
		Op: replicated.OpClaim, Server: m.ID, Holder: &c.Holder, MinTerm: c.MinTerm, ClusterID: c.ClusterID, Known: c.Known,
	})
}

// Renew implements driver.Authority. It collects new vote leases from a majority, and writes to no
// disk.
func (a *Authority) Renew(ctx context.Context, g driver.Grant) (driver.Grant, error) {
	t, ok := g.Token.(token)
	if !ok {
		return driver.Grant{}, fmt.Errorf("%w: not a grant of this authority", driver.ErrInvalid)
	}
	if err := a.takeTurn(ctx); err != nil {
		return driver.Grant{}, err
	}
	defer a.endTurn()
	m := a.voter.Member()
	if m == nil || !holds(m, g.Term, t) {
		return driver.Grant{}, lost(g)
	}
	validFor, err := a.collectLeases(ctx, m, t.raftTerm, a.ttl)
	if !holds(m, g.Term, t) {
		return driver.Grant{}, lost(g)
	}
	if err != nil {
		return driver.Grant{}, err
	}
	a.noteGrant(validFor)
	g.ValidFor = validFor // each lease began during this call
	return g, nil
}

// holds reports whether the claim of term still counts: made by t on this voter, which has led the
// same term of Raft ever since, and not given back.
func holds(m *voter.Member, term driver.Term, t token) bool {
	now := m.State.Mastership()
	return m.Leads(t.raftTerm) && !m.HasGivenBack(term) && now.RaftTerm == t.raftTerm && now.Term == term &&
		now.Server == m.ID && now.Holder != nil && now.Holder.InstanceID == t.instanceID
}

func lost(g driver.Grant) error {
	return fmt.Errorf("%w: term %d is over", driver.ErrSessionLost, g.Term)
}

// noteGrant notes that a grant is valid for no longer than validFor from now on, which
// is later than its true end: this voter does not hand over too early.
func (a *Authority) noteGrant(validFor time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if until := clock.Now().Add(validFor); a.grantUntil.Before(until) {
		a.grantUntil = until
	}
}

// Release implements driver.Authority. It revokes the vote leases, so that the voters may elect
// another leader at once, and each voter that learns of it knows of no master. The voter remains
// the leader in Raft until another that wants to be master asks to lead. That takes no longer for a
// write to the disks: the claim counts for nothing once another leads. It is removed from the
// replicated state a heartbeat later, if nobody has claimed by then.
func (a *Authority) Release(ctx context.Context, g driver.Grant) error {
	t, ok := g.Token.(token)
	if !ok {
		return fmt.Errorf("%w: not a grant of this authority", driver.ErrInvalid)
	}
	if err := a.takeTurn(ctx); err != nil {
		return err
	}
	defer a.endTurn()
	m := a.voter.Member()
	if m == nil || !holds(m, g.Term, t) {
		return nil
	}
	a.mu.Lock()
	a.grantUntil, a.wanted, a.releasedIn = 0, 0, t.raftTerm
	a.removeAt = clock.Now().Add(a.heartbeat)
	a.mu.Unlock()
	a.voter.GiveBack(m, g.Term)
	reported := m.Leases.Revoke(m.Servers(), t.raftTerm, uint64(g.Term))
	// A voter that asks for the lead now finds voters that are free to give it. One that
	// cannot be reached is not waited for.
	select {
	case <-reported:
	case <-time.After(a.heartbeat / 4):
	case <-ctx.Done():
	}
	return nil
}

// expireClaim removes a claim of this node that was given back a while ago, or that was not renewed
// in time, since its holder may have ended. A holder that still tries to renew keeps its claim, to
// find it again.
func (a *Authority) expireClaim(ctx context.Context, m *voter.Member) {
	raftTerm, leads := m.Leading()
	now := m.State.Mastership()
	if !leads || now.Holder == nil || now.RaftTerm != raftTerm || now.Server != m.ID || a.claimStays() {
		return
	}
	select {
	case a.turn <- struct{}{}:
	default:
		return // being renewed, perhaps
	}
	defer a.endTurn()
	if a.claimStays() || m.State.Mastership().Term != now.Term {
		return
	}
	a.mu.Lock()
	a.wanted, a.removeAt = 0, 0
	a.mu.Unlock()
	a.voter.GiveBack(m, now.Term) // or it might be found, granted again, and removed only then
	ctx, cancel := context.WithTimeout(ctx, a.heartbeat)
	defer cancel()
	_, _ = m.Apply(ctx, replicated.Command{Op: replicated.OpRelease, Server: m.ID, Term: now.Term})
}

// idleTick is how often a claim is looked at while no grant is valid.
const idleTick = 3 * time.Second

// untilExpiry returns after how long the grant of this node expires unless it is renewed, or its
// claim is to be removed.
func (a *Authority) untilExpiry() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := clock.Now()
	for _, at := range []clock.Instant{a.grantUntil, a.removeAt} {
		if left := at.Sub(now); left > 0 {
			return left + time.Millisecond
		}
	}
	return idleTick
}

// claimStays reports whether the claim of this node is not to be removed now.
func (a *Authority) claimStays() bool {
	a.mu.Lock()
	early := clock.Now().Before(a.removeAt)
	a.mu.Unlock()
	return early || a.granted() || a.wants()
}

// wants reports whether this node tried to acquire mastership a short while ago, and is expected to
// try again.
func (a *Authority) wants() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.wanted != 0 && clock.Now().Before(a.wanted.Add(max(5*a.heartbeat, 2*time.Second)))
}

// granted reports whether a grant that this node was given is still valid.
func (a *Authority) granted() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return clock.Now().Before(a.grantUntil)
}

func (a *Authority) want() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.wanted = clock.Now()
}

// Close implements driver.Authority. A voter that leads in Raft and holds no grant hands over to
// another first, so that the others need not find out that it is gone.
func (a *Authority) Close(ctx context.Context) error {
	var err error
	a.once.Do(func() { // a second call waits for the first
		a.voter.StopSpawning()
		if m := a.voter.Member(); m != nil && !a.granted() {
			m.HandOver(ctx, a.heartbeat)
		}
		err = a.voter.Close()
	})
	return err
}

// Found implements driver.Founder.
func (a *Authority) Found(ctx context.Context) error { return a.voter.Found(ctx) }

// Voters implements driver.VoterReporter.
func (a *Authority) Voters() driver.Voters { return a.voter.Voters() }

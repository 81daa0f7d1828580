package quorum

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
)

// lead waits until this voter leads in Raft, for which it asks the leader if need
// be, and returns the term. It gives up after a few election timeouts: the caller
// tries again.
func (a *Authority) lead(ctx context.Context, m *member) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 4*a.cfg.heartbeat)
	defer cancel()
	stop := context.AfterFunc(a.ctx, cancel)
	defer stop()

	asked := "" // the leader that has said yes
	for range a.changes.Watch(ctx) {
		if term, ok := m.leading(); ok {
			return term, nil
		}
		leader := m.leader()
		if leader == "" || leader == m.id || leader == asked {
			continue
		}
		err := a.askToLead(ctx, m, leader)
		switch {
		case err == nil:
			asked = leader
		case errors.Is(err, errNotLeader):
			// It has just lost its place. Raft will tell who has it.
		default:
			return 0, err
		}
	}
	if leader := m.leader(); leader != "" && leader != m.id {
		return 0, fmt.Errorf("%w: voter %s leads", driver.ErrConflict, addrOf(leader))
	}
	return 0, fmt.Errorf("%w: the voters have no leader; %s", driver.ErrUnavailable, a.reachable(m))
}

// askToLead asks leader for its place until it says yes or gives a reason that
// will last.
func (a *Authority) askToLead(ctx context.Context, m *member, leader string) error {
	for {
		var reply leadReply
		if err := a.caller.call(ctx, addrOf(leader), pathLead, leadRequest{From: m.id}, &reply); err != nil {
			return err
		}
		if reply.Yielded {
			return nil
		}
		if reply.RetryAfter <= 0 {
			return fmt.Errorf("%w: %s", driver.ErrConflict, reply.Reason)
		}
		select {
		case <-time.After(reply.RetryAfter):
		case <-ctx.Done():
			return fmt.Errorf("%w: %s", driver.ErrConflict, reply.Reason)
		}
	}
}

// answerLead hands leadership in Raft to a voter that wants to be master, unless
// this node is master, or wants to be, or has led for so short a time that it may
// not have had the chance to say.
func (a *Authority) answerLead(ctx context.Context, r leadRequest) (leadReply, error) {
	m := a.member.Load()
	if m == nil {
		return leadReply{}, errNotLeader
	}
	term, leads := m.leading()
	if !leads {
		return leadReply{}, errNotLeader
	}
	if !slices.Contains(m.servers(), r.From) {
		return leadReply{Reason: fmt.Sprintf("voter %s is not yet a voter to the leader %s", addrOf(r.From), a.cfg.Self)}, nil
	}
	// A release that is under way is soon done.
	wait, cancel := context.WithTimeout(ctx, a.cfg.heartbeat)
	defer cancel()
	if a.takeTurn(wait) != nil {
		return leadReply{Reason: fmt.Sprintf("voter %s leads and is about to be master", a.cfg.Self)}, nil
	}
	defer a.endTurn()

	now := clock.Now()
	a.mu.Lock()
	until, gaveUp := a.grantUntil, a.gaveUp
	a.mu.Unlock()
	eligible := a.ineligible() == ""
	since := clock.Instant(m.leaderSince.Load())
	switch {
	case now.Before(until):
		return leadReply{Reason: fmt.Sprintf("voter %s is master with term %d", a.cfg.Self, m.state.current().Term)}, nil
	case eligible && a.wants():
		return leadReply{Reason: fmt.Sprintf("voter %s leads and wants to be master", a.cfg.Self)}, nil
	case eligible && gaveUp != term && now.Before(since.Add(a.cfg.heartbeat)):
		return leadReply{
			Reason:     fmt.Sprintf("voter %s leads only since %v", a.cfg.Self, now.Sub(since).Round(time.Millisecond)),
			RetryAfter: since.Add(a.cfg.heartbeat).Sub(now),
		}, nil
	}
	if !m.leads(term) {
		return leadReply{}, errNotLeader
	}
	if err := m.ask(ctx, func() raft.Future {
		return m.raft.LeadershipTransferToServer(raft.ServerID(r.From), raft.ServerAddress(r.From))
	}); err != nil {
		return leadReply{}, err
	}
	return leadReply{Yielded: true}, nil
}

// prove asks every voter of Raft's configuration to promise, for d, not to vote
// for a higher term than term, and returns how long a majority did, this voter
// among them. Each promise begins after prove was called. With d = 0 it asks only
// whether a majority is still in term, after which no later leader can have
// changed anything before prove was called.
func (a *Authority) prove(ctx context.Context, m *member, term uint64, d time.Duration) (time.Duration, error) {
	servers := m.servers()
	quorum := len(servers)/2 + 1
	round := a.rounds.Add(1)
	replies := make(chan promiseReply, len(servers))
	asked := clock.Now()
	for _, id := range servers {
		req := promiseRequest{To: id, Leader: m.id, Start: a.start, RaftTerm: term, Round: round, For: d}
		if id == m.id {
			replies <- a.promise(m, req)
			continue
		}
		m.pledges.ask(id, req, func(reply promiseReply) {
			if reply.Given {
				m.gate.vouch(id, term, asked)
			}
			replies <- reply
		})
	}
	outstanding := len(servers)
	var given []time.Duration
	for len(given) < quorum && len(given)+outstanding >= quorum {
		select {
		case reply := <-replies:
			outstanding--
			if reply.Given {
				given = append(given, min(reply.For, d))
			}
		case <-ctx.Done():
			return 0, fmt.Errorf("%w: %d of %d voters promised: %w", driver.ErrUnavailable, len(given), len(servers), ctx.Err())
		}
	}
	if len(given) < quorum {
		return 0, fmt.Errorf("%w: only %d of %d voters stand by their leader %s; %s", driver.ErrUnavailable, len(given), len(servers), a.cfg.Self, a.reachable(m))
	}
	return slices.Min(given), nil
}

// withdraw takes back the promises for term, so that the voters are free to elect
// another leader at once. Voters that it does not reach wait until they end. It waits
// for none: the result is closed once all have been told or cannot be reached.
func (a *Authority) withdraw(m *member, term uint64, released driver.Term) (told <-chan struct{}) {
	round := a.rounds.Add(1)
	var outstanding sync.WaitGroup
	for _, id := range m.servers() {
		req := promiseRequest{To: id, Leader: m.id, Start: a.start, RaftTerm: term, Round: round, Withdraw: true, Released: released}
		if id == m.id {
			a.promise(m, req)
			continue
		}
		outstanding.Add(1)
		m.pledges.ask(id, req, func(promiseReply) { outstanding.Done() })
	}
	done := make(chan struct{})
	go func() { // no longer than a dial and a reply may take
		outstanding.Wait()
		close(done)
	}()
	return done
}

// promise answers prove and withdraw. It never waits.
func (a *Authority) promise(m *member, r promiseRequest) promiseReply {
	l := leadership{r.Leader, r.Start, r.RaftTerm}
	switch {
	case r.To != m.id || m.err() != nil:
		return promiseReply{}
	case r.Withdraw:
		a.ledger.withdraw(l, r.Round)
		if m.release(r.Released) {
			a.notify()
		}
		return promiseReply{}
	}
	// No longer than this voter keeps quiet when it restarts.
	d := min(r.For, a.cfg.TTL)
	given := a.ledger.give(l, r.Round, d, m.raft.CurrentTerm)
	if given && r.Leader != m.id {
		m.gate.beat(r.Leader, r.RaftTerm)
	}
	return promiseReply{Given: given, For: d}
}

// release notes that mastership term was given back, and reports whether that is
// news.
func (m *member) release(term driver.Term) bool {
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

// talkTimeout bounds one request of the small talk. A promise that takes longer
// to give is not worth having.
func (a *Authority) talkTimeout() time.Duration { return max(a.cfg.heartbeat, 300*time.Millisecond) }

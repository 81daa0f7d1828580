package quorum

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/providers/static/internal/raftstream"
	"github.com/musterhq/muster/providers/static/internal/votelease"
	"github.com/musterhq/muster/providers/static/internal/voter"
)

// lead waits until this voter leads in Raft, for which it asks the leader if need
// be, and returns the term. It gives up after a few election timeouts: the caller
// tries again.
func (a *Authority) lead(ctx context.Context, m *voter.Member) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 4*a.heartbeat)
	defer cancel()
	stop := context.AfterFunc(a.ctx, cancel)
	defer stop()

	asked := "" // the leader that has said yes
	for range a.voter.WatchChanges(ctx) {
		if term, ok := m.Leading(); ok {
			return term, nil
		}
		leader := m.Leader()
		if leader == "" || leader == m.ID || leader == asked {
			continue
		}
		err := a.askToLead(ctx, m, leader)
		switch {
		case err == nil:
			asked = leader
		case errors.Is(err, voter.ErrNotLeader):
			// It has just stepped down. Raft will report its successor.
		default:
			return 0, err
		}
	}
	if leader := m.Leader(); leader != "" && leader != m.ID {
		return 0, fmt.Errorf("%w: voter %s leads", driver.ErrConflict, raftstream.AddrOf(leader))
	}
	return 0, fmt.Errorf("%w: the voters have no leader; %s", driver.ErrUnavailable, a.voter.Reachable(m))
}

// askToLead asks leader for its place until it says yes or gives a reason that
// will last.
func (a *Authority) askToLead(ctx context.Context, m *voter.Member, leader string) error {
	for {
		var reply leadReply
		if err := a.voter.Call(ctx, raftstream.AddrOf(leader), pathLead, leadRequest{From: m.ID}, &reply); err != nil {
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
	m := a.voter.Member()
	if m == nil {
		return leadReply{}, voter.ErrNotLeader
	}
	term, leads := m.Leading()
	if !leads {
		return leadReply{}, voter.ErrNotLeader
	}
	if !slices.Contains(m.Servers(), r.From) {
		return leadReply{Reason: fmt.Sprintf("voter %s is not yet a voter to the leader %s", raftstream.AddrOf(r.From), a.voter.Self())}, nil
	}
	// A release that is under way is soon done.
	wait, cancel := context.WithTimeout(ctx, a.heartbeat)
	defer cancel()
	if a.takeTurn(wait) != nil {
		return leadReply{Reason: fmt.Sprintf("voter %s leads and is about to be master", a.voter.Self())}, nil
	}
	defer a.endTurn()

	now := clock.Now()
	a.mu.Lock()
	until, gaveUp := a.grantUntil, a.releasedIn
	a.mu.Unlock()
	eligible := a.voter.Ineligible() == ""
	since := m.LedSince()
	switch {
	case now.Before(until):
		return leadReply{Reason: fmt.Sprintf("voter %s is master with term %d", a.voter.Self(), m.State.Mastership().Term)}, nil
	case eligible && a.wants():
		return leadReply{Reason: fmt.Sprintf("voter %s leads and wants to be master", a.voter.Self())}, nil
	case eligible && gaveUp != term && now.Before(since.Add(a.heartbeat)):
		return leadReply{
			Reason:     fmt.Sprintf("voter %s leads only since %v", a.voter.Self(), now.Sub(since).Round(time.Millisecond)),
			RetryAfter: since.Add(a.heartbeat).Sub(now),
		}, nil
	}
	if !m.Leads(term) {
		return leadReply{}, voter.ErrNotLeader
	}
	if err := m.Transfer(ctx, r.From); err != nil {
		return leadReply{}, err
	}
	return leadReply{Yielded: true}, nil
}

// collectLeases returns for how long a majority of the voters will not vote in a higher term
// than term: see leaseVoter.collect.
func (a *Authority) collectLeases(ctx context.Context, m *voter.Member, term uint64, d time.Duration) (time.Duration, error) {
	servers := m.Servers()
	validFor, given, err := m.Leases.Collect(ctx, servers, term, d)
	switch {
	case errors.Is(err, votelease.ErrNoMajority):
		return 0, fmt.Errorf("%w: only %d of %d voters confirmed their leader %s; %s", driver.ErrUnavailable, given, len(servers), a.voter.Self(), a.voter.Reachable(m))
	case err != nil:
		return 0, fmt.Errorf("%w: %d of %d voters confirmed their leader: %w", driver.ErrUnavailable, given, len(servers), err)
	}
	return validFor, nil
}

package votelease

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/musterhq/muster/internal/clock"
)

// ErrNoMajority is why a leader has no leases.
var ErrNoMajority = errors.New("a majority gave no vote lease")

// Config is what NewParticipant needs. All fields are required.
type Config struct {
	// ID is the voter's id in Raft.
	ID string
	// Table is the voter's, and outlives this part of it in Raft.
	Table *Table
	// Guard is Raft's transport.
	Guard *Guard
	// Stream has connections of its own, by the ids of the voters. The Participant closes it.
	Stream raft.StreamLayer
	// Longest bounds a lease. A voter that restarts keeps quiet for at least as long.
	Longest time.Duration
	// Timeout bounds a dial, and the wait for a reply.
	Timeout time.Duration
	// Term returns Raft's current term. It must not block.
	Term func() uint64
	// Usable reports whether the voter can write its votes. It must not block.
	Usable func() bool
	// Released is called with what the leader gave back when it revoked its leases. It must
	// not block.
	Released func(uint64)
}

// Participant is a voter's part in vote leases while it takes part in Raft: it gives leases to
// the leader, and as the leader collects those of the others.
type Participant struct {
	Config
	client *client
}

// NewParticipant starts to answer. The caller closes the result.
func NewParticipant(cfg Config) *Participant {
	v := &Participant{Config: cfg}
	v.client = newClient(cfg.Stream, cfg.Timeout, v.Answer)
	return v
}

// Close ends all connections and joins the goroutines of v.
func (v *Participant) Close() { v.client.close() }

// Collect asks each of servers, the voters of Raft's configuration, not to vote in a higher
// term than term for d, and returns for how long a majority of them will not.
// Each of these leases begins after Collect was called. With d = 0 it asks only whether a
// majority is still in term, after which no later leader can have changed anything before
// Collect was called. It also returns how many gave a lease. The error is ErrNoMajority or
// that of ctx.
func (v *Participant) Collect(ctx context.Context, servers []string, term uint64, d time.Duration) (time.Duration, int, error) {
	majority := len(servers)/2 + 1
	round := v.Table.NextRound()
	replies := make(chan Reply, len(servers))
	asked := clock.Now()
	for _, id := range servers {
		req := Request{To: id, Leader: v.ID, Start: v.Table.Start, RaftTerm: term, Round: round, For: d}
		if id == v.ID {
			replies <- v.Answer(req)
			continue
		}
		v.client.ask(id, req, func(reply Reply) {
			if reply.Given {
				v.Guard.ack(id, term, asked)
			}
			replies <- reply
		})
	}
	outstanding := len(servers)
	var given []time.Duration
	for len(given) < majority && len(given)+outstanding >= majority {
		select {
		case reply := <-replies:
			outstanding--
			if reply.Given {
				given = append(given, min(reply.For, d))
			}
		case <-ctx.Done():
			return 0, len(given), ctx.Err()
		}
	}
	if len(given) < majority {
		return 0, len(given), ErrNoMajority
	}
	return slices.Min(given), len(given), nil
}

// Revoke ends the leases of term, so that the voters may elect another leader at once. A voter
// that it does not reach waits until its lease ends. It does not block: the result is closed
// once each voter has answered or cannot be reached.
func (v *Participant) Revoke(servers []string, term, released uint64) <-chan struct{} {
	round := v.Table.NextRound()
	var outstanding sync.WaitGroup
	for _, id := range servers {
		req := Request{To: id, Leader: v.ID, Start: v.Table.Start, RaftTerm: term, Round: round, Withdraw: true, Released: released}
		if id == v.ID {
			v.Answer(req)
			continue
		}
		outstanding.Add(1)
		v.client.ask(id, req, func(Reply) { outstanding.Done() })
	}
	done := make(chan struct{})
	go func() { // no longer than a dial and a reply may take
		outstanding.Wait()
		close(done)
	}()
	return done
}

// Answer answers what a leader collects and revokes. It does not block.
func (v *Participant) Answer(r Request) Reply {
	l := Leadership{r.Leader, r.Start, r.RaftTerm}
	switch {
	case r.To != v.ID || !v.Usable():
		return Reply{}
	case r.Withdraw:
		v.Table.Revoke(l, r.Round)
		v.Released(r.Released)
		return Reply{}
	}
	// No longer than this voter keeps quiet after a restart.
	d := min(r.For, v.Longest)
	given := v.Table.give(l, r.Round, d, v.Term)
	if given && r.Leader != v.ID {
		v.Guard.injectHeartbeat(r.Leader, r.RaftTerm)
	}
	return Reply{Given: given, For: d}
}

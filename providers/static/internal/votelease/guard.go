package votelease

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/musterhq/muster/internal/clock"
)

// Guard is Raft's transport, and keeps elections away from a voter while a lease of its own is
// running, so that they need not fail in the Store. Safety does not depend on it. It does this:
//
//   - A pre-vote writes nothing, so the Store does not see it. A pre-vote that was granted during
//     a lease would lead to an election that raises the term and ends the leadership of the leader
//     that has the lease.
//   - A request that comes while a lease is running is held until the lease ends rather than
//     rejected, since Raft would wait for another election timeout before it asks again.
//   - A voter that has not heard from its leader for a heartbeat timeout votes for the first
//     candidate that asks. Raft alone would wait until its own, longer, random timeout has passed
//     too, so that the slowest voter would decide when a leader is elected, and not the quickest.
//
// It also sends no heartbeat that a lease makes needless: a voter that asks for a lease is alive
// and leads, a voter that gives one is alive and follows, and a heartbeat says no more. So an idle
// leader says each thing once.
type Guard struct {
	*raft.NetworkTransport
	leases    *Table
	heartbeat time.Duration
	// raft is set by Attach.
	raft atomic.Pointer[raft.Raft]

	mu sync.Mutex
	// acks has the last lease of each follower.
	acks map[raft.ServerID]*ack

	// injected has what inject is given, until Raft takes it. It holds one.
	injected chan raft.RPC
	rpcs     chan raft.RPC
	done     chan struct{}
	once     sync.Once
	wg       sync.WaitGroup
}

// ack says that a follower was in term at some moment after at.
type ack struct {
	term uint64
	at   clock.Instant
	next chan struct{} // closed by the next ack
}

// NewGuard returns a transport over inner that keeps to the leases of l. heartbeat is Raft's
// heartbeat timeout. Close closes inner.
func NewGuard(inner *raft.NetworkTransport, l *Table, heartbeat time.Duration) *Guard {
	g := &Guard{
		NetworkTransport: inner,
		leases:           l,
		heartbeat:        heartbeat,
		acks:             make(map[raft.ServerID]*ack),
		injected:         make(chan raft.RPC, 1),
		rpcs:             make(chan raft.RPC),
		done:             make(chan struct{}),
	}
	g.wg.Go(g.pump)
	return g
}

// Attach sets the Raft that reads from g. Until then g answers pre-votes as Raft does.
func (g *Guard) Attach(r *raft.Raft) { g.raft.Store(r) }

// SetHeartbeatHandler has no effect, so that heartbeats reach Raft as all requests do. Raft would
// handle them outside of its main loop, where one of a lower term can overwrite the higher term in
// which the main loop is about to vote.
func (g *Guard) SetHeartbeatHandler(func(raft.RPC)) {}

// Consumer is what Raft reads requests from.
func (g *Guard) Consumer() <-chan raft.RPC { return g.rpcs }

func (g *Guard) pump() {
	for {
		select {
		case rpc := <-g.NetworkTransport.Consumer():
			switch rpc.Command.(type) {
			case *raft.RequestVoteRequest, *raft.RequestPreVoteRequest, *raft.TimeoutNowRequest:
				if g.leases.Remaining() > 0 {
					g.wg.Go(func() { g.hold(rpc) })
					continue
				}
			}
			g.admit(rpc)
		case rpc := <-g.injected:
			g.forward(rpc)
		case <-g.done:
			return
		}
	}
}

// ack notes that follower id gave a lease in term that was asked for at asked.
func (g *Guard) ack(id string, term uint64, asked clock.Instant) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if v := g.acks[raft.ServerID(id)]; v != nil {
		close(v.next)
	}
	g.acks[raft.ServerID(id)] = &ack{term, asked, make(chan struct{})}
}

// AppendEntries answers a heartbeat in the name of a follower that continues to give leases in the
// same term, and sends everything else.
func (g *Guard) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if isHeartbeat(args) && g.coalesceHeartbeat(id, args.Term) {
		*resp = raft.AppendEntriesResponse{RPCHeader: args.RPCHeader, Term: args.Term, Success: true}
		return nil
	}
	return g.NetworkTransport.AppendEntries(id, target, args, resp)
}

// coalesceHeartbeat waits for the next ack of follower id, and reports whether it came before the
// last one was too old to replace a heartbeat: three quarters of a heartbeat timeout, at the end of
// which the follower would look for another leader. A leader, too, steps down after a heartbeat
// timeout without contact. Between two leases half of one passes (a third of the TTL, see
// node/mastership), and between two heartbeats of Raft a fifth at most.
func (g *Guard) coalesceHeartbeat(id raft.ServerID, term uint64) bool {
	g.mu.Lock()
	v := g.acks[id]
	g.mu.Unlock()
	if v == nil || v.term != term {
		return false
	}
	timer := time.NewTimer(v.at.Add(g.heartbeat * 3 / 4).Sub(clock.Now()))
	defer timer.Stop()
	select {
	case <-v.next:
		return true
	case <-timer.C:
		return false
	case <-g.done:
		return false
	}
}

// isHeartbeat reports whether args has nothing but the term.
func isHeartbeat(args *raft.AppendEntriesRequest) bool {
	return len(args.Entries) == 0 && args.PrevLogEntry == 0 && args.LeaderCommitIndex == 0
}

// injectHeartbeat reports to Raft that the leader of term was heard from. If Raft has not read the
// last report yet, another would add nothing.
func (g *Guard) injectHeartbeat(leader string, term uint64) {
	g.inject(&raft.AppendEntriesRequest{RPCHeader: headerOf(leader), Term: term})
}

// Campaign has Raft be a candidate at once, as this voter id, unless a lease is running. It does
// nothing if Raft has not read the last such request yet.
func (g *Guard) Campaign(id string) {
	if g.leases.Remaining() == 0 {
		g.inject(&raft.TimeoutNowRequest{RPCHeader: headerOf(id)})
	}
}

func headerOf(id string) raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(id), Addr: []byte(id)}
}

// inject passes a request to Raft as if it had come from another voter.
func (g *Guard) inject(request any) {
	select {
	case g.injected <- raft.RPC{Command: request, RespChan: make(chan raft.RPCResponse, 1)}:
	default:
	}
}

// hold admits rpc when the lease that is running has ended, and rejects it if the lease was renewed
// by then. A request to become a candidate at once is rejected without a wait.
func (g *Guard) hold(rpc raft.RPC) {
	if _, transfer := rpc.Command.(*raft.TimeoutNowRequest); transfer || !g.wait(0) {
		reject(rpc)
		return
	}
	g.admit(rpc)
}

// admit forwards rpc so that Raft does not reject a vote because of a leader that is gone. All
// other reasons to reject it remain Raft's: the term, the log, the configuration, a vote that was
// cast already.
func (g *Guard) admit(rpc raft.RPC) {
	switch req := rpc.Command.(type) {
	case *raft.RequestVoteRequest:
		if r := g.raft.Load(); leaderMissing(r, g.heartbeat) {
			// The flag of a leadership transfer, by which Raft ignores its known leader.
			passed := *req
			passed.LeadershipTransfer = true
			rpc.Command = &passed
		}
	case *raft.RequestPreVoteRequest:
		if r := g.raft.Load(); leaderMissing(r, g.heartbeat) && wouldVote(r, req) {
			rpc.Respond(&raft.RequestPreVoteResponse{Term: req.Term, Granted: true}, nil)
			return
		}
	}
	g.forward(rpc)
}

// leaderMissing reports whether r follows a leader that it has not heard from for d.
func leaderMissing(r *raft.Raft, d time.Duration) bool {
	return r != nil && r.State() == raft.Follower && r.Leader() != "" && time.Since(r.LastContact()) >= d
}

// wouldVote is Raft's rule for a pre-vote, except that it ignores the known leader.
func wouldVote(r *raft.Raft, req *raft.RequestPreVoteRequest) bool {
	voter := slices.ContainsFunc(r.GetConfiguration().Configuration().Servers, func(s raft.Server) bool {
		return s.Suffrage == raft.Voter && s.ID == raft.ServerID(req.ID)
	})
	if !voter || req.Term < r.CurrentTerm() {
		return false
	}
	stats := r.Stats()
	stat := func(key string) uint64 {
		n, _ := strconv.ParseUint(stats[key], 10, 64)
		return n
	}
	index, term := stat("last_log_index"), stat("last_log_term")
	if snap := stat("last_snapshot_index"); snap > index {
		index, term = snap, stat("last_snapshot_term")
	}
	return req.LastLogTerm > term || req.LastLogTerm == term && req.LastLogIndex >= index
}

func (g *Guard) forward(rpc raft.RPC) {
	select {
	case g.rpcs <- rpc:
	case <-g.done:
		rpc.Respond(nil, raft.ErrTransportShutdown)
	}
}

// reject answers rpc with a denial.
func reject(rpc raft.RPC) {
	switch rpc.Command.(type) {
	case *raft.RequestVoteRequest:
		rpc.Respond(&raft.RequestVoteResponse{}, nil)
	case *raft.RequestPreVoteRequest:
		rpc.Respond(&raft.RequestPreVoteResponse{}, nil)
	default:
		rpc.Respond(nil, ErrLeased)
	}
}

// wait returns at once if no lease is running, and otherwise waits until it ends and for extra. It
// reports whether no lease is running then.
func (g *Guard) wait(extra time.Duration) bool {
	left := g.leases.Remaining()
	if left <= 0 {
		return true
	}
	timer := time.NewTimer(left + extra)
	defer timer.Stop()
	select {
	case <-timer.C:
		return g.leases.Remaining() <= 0
	case <-g.done:
		return false
	}
}

// RequestPreVote asks for a pre-vote once this voter's own lease has ended. All leases of one
// leader end at about the same moment, so candidates that waited for it are spread at random, which
// keeps them from splitting the votes.
func (g *Guard) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if !g.wait(rand.N(g.heartbeat / 4)) {
		return ErrLeased
	}
	return g.NetworkTransport.RequestPreVote(id, target, args, resp)
}

// Close ends the transport with all its connections, and joins its goroutines. It is idempotent.
func (g *Guard) Close() error {
	var err error
	g.once.Do(func() {
		close(g.done)
		err = g.NetworkTransport.Close()
		g.NetworkTransport.CloseStreams()
	})
	g.wg.Wait()
	if errors.Is(err, raft.ErrTransportShutdown) {
		return nil
	}
	return err
}

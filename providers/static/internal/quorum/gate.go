package quorum

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// gate stands between the network and Raft and keeps elections away from a voter
// while a promise of its runs, so that they need not fail in the vote store.
// Safety does not hang on it; see votes. What it is for:
//
//   - A pre-vote writes nothing, so the vote store does not see it. Granted under
//     a promise it would lead to an election that raises the term, and with it
//     unseat the leader to whom the promise was given.
//   - A request that comes shortly before the promise ends is held until then
//     rather than refused, since Raft would wait for another election timeout
//     before it asks again.
//   - A voter that has not heard of its leader for a heartbeat timeout helps the
//     first that asks. Raft on its own would hold on to the leader until its own,
//     longer, random timeout has passed too, and so elect with the slowest rather
//     than the quickest voter.
type gate struct {
	*raft.NetworkTransport
	ledger    *ledger
	heartbeat time.Duration
	// raft is set once it runs.
	raft atomic.Pointer[raft.Raft]

	rpcs chan raft.RPC
	done chan struct{}
	once sync.Once
	wg   sync.WaitGroup
}

func newGate(inner *raft.NetworkTransport, l *ledger, heartbeat time.Duration) *gate {
	g := &gate{NetworkTransport: inner, ledger: l, heartbeat: heartbeat, rpcs: make(chan raft.RPC), done: make(chan struct{})}
	g.wg.Go(g.pump)
	return g
}

// SetHeartbeatHandler has no effect, so that heartbeats go the way of all requests.
// Raft would handle them beside its main loop, where one of a lower term can
// overwrite the higher term that the main loop is just about to vote in.
func (g *gate) SetHeartbeatHandler(func(raft.RPC)) {}

// Consumer is what Raft reads requests from.
func (g *gate) Consumer() <-chan raft.RPC { return g.rpcs }

func (g *gate) pump() {
	for {
		select {
		case rpc := <-g.NetworkTransport.Consumer():
			switch rpc.Command.(type) {
			case *raft.RequestVoteRequest, *raft.RequestPreVoteRequest, *raft.TimeoutNowRequest:
				if g.ledger.remaining() > 0 {
					g.wg.Go(func() { g.hold(rpc) })
					continue
				}
			}
			g.admit(rpc)
		case <-g.done:
			return
		}
	}
}

// hold lets rpc through when the promise has ended, and refuses it if by then
// the promise was renewed.
func (g *gate) hold(rpc raft.RPC) {
	if _, transfer := rpc.Command.(*raft.TimeoutNowRequest); transfer || !g.wait(0) {
		refuse(rpc)
		return
	}
	g.admit(rpc)
}

// admit passes rpc on, such that Raft does not refuse a vote for the sake of a
// leader that is gone. All other reasons to refuse remain Raft's: the term, the
// log, the configuration, a vote that was cast already.
func (g *gate) admit(rpc raft.RPC) {
	switch req := rpc.Command.(type) {
	case *raft.RequestVoteRequest:
		if r := g.raft.Load(); orphaned(r, g.heartbeat) {
			// What Raft has for a leader that steps aside fits one that is gone.
			passed := *req
			passed.LeadershipTransfer = true
			rpc.Command = &passed
		}
	case *raft.RequestPreVoteRequest:
		if r := g.raft.Load(); orphaned(r, g.heartbeat) && wouldVote(r, req) {
			rpc.Respond(&raft.RequestPreVoteResponse{Term: req.Term, Granted: true}, nil)
			return
		}
	}
	g.forward(rpc)
}

// orphaned reports whether r follows a leader that it has not heard of for d.
func orphaned(r *raft.Raft, d time.Duration) bool {
	return r != nil && r.State() == raft.Follower && r.Leader() != "" && time.Since(r.LastContact()) >= d
}

// wouldVote is Raft's rule for a pre-vote, but for the leader.
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

func (g *gate) forward(rpc raft.RPC) {
	select {
	case g.rpcs <- rpc:
	case <-g.done:
		rpc.Respond(nil, raft.ErrTransportShutdown)
	}
}

func refuse(rpc raft.RPC) {
	switch rpc.Command.(type) {
	case *raft.RequestVoteRequest:
		rpc.Respond(&raft.RequestVoteResponse{}, nil)
	case *raft.RequestPreVoteRequest:
		rpc.Respond(&raft.RequestPreVoteResponse{}, nil)
	default:
		rpc.Respond(nil, errPromised)
	}
}

// wait waits for the promise that runs now, and if one does for extra besides,
// and reports whether none does then.
func (g *gate) wait(extra time.Duration) bool {
	left := g.ledger.remaining()
	if left <= 0 {
		return true
	}
	timer := time.NewTimer(left + extra)
	defer timer.Stop()
	select {
	case <-timer.C:
		return g.ledger.remaining() <= 0
	case <-g.done:
		return false
	}
}

// RequestPreVote asks for a pre-vote once this voter's own promise has ended. All
// promises to one leader end at about the same moment, so a little chance keeps
// the candidates that wait for it from splitting the votes.
func (g *gate) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if !g.wait(rand.N(g.heartbeat / 4)) {
		return errPromised
	}
	return g.NetworkTransport.RequestPreVote(id, target, args, resp)
}

// Close ends the transport with all its connections.
func (g *gate) Close() error {
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

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

	"github.com/musterhq/muster/internal/clock"
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
//
// It also lets a promise stand for the heartbeats of its time: whoever asks for one
// leads and lives, and whoever gives it lives and follows, which is all that a
// heartbeat tells. An idle leader then says each thing once.
type gate struct {
	*raft.NetworkTransport
	ledger    *ledger
	heartbeat time.Duration
	// raft is set once it runs.
	raft atomic.Pointer[raft.Raft]

	// vouched has the last promise of each follower.
	mu      sync.Mutex
	vouched map[raft.ServerID]*vouched

	// beats has the heartbeat that a promise stands for, until Raft takes it.
	beats chan raft.RPC
	rpcs  chan raft.RPC
	done  chan struct{}
	once  sync.Once
	wg    sync.WaitGroup
}

// vouched says that a follower was in a term of Raft at some moment after at.
type vouched struct {
	term uint64
	at   clock.Instant
	next chan struct{} // closed by the next promise
}

func newGate(inner *raft.NetworkTransport, l *ledger, heartbeat time.Duration) *gate {
	g := &gate{
		NetworkTransport: inner,
		ledger:           l,
		heartbeat:        heartbeat,
		vouched:          make(map[raft.ServerID]*vouched),
		beats:            make(chan raft.RPC, 1),
		rpcs:             make(chan raft.RPC),
		done:             make(chan struct{}),
	}
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
		case beat := <-g.beats:
			g.forward(beat)
		case <-g.done:
			return
		}
	}
}

// vouch notes that follower id gave a promise in term that was asked for at asked.
func (g *gate) vouch(id string, term uint64, asked clock.Instant) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if v := g.vouched[raft.ServerID(id)]; v != nil {
		close(v.next)
	}
	g.vouched[raft.ServerID(id)] = &vouched{term, asked, make(chan struct{})}
}

// AppendEntries answers a heartbeat in the name of a follower that goes on giving
// promises in the same term, and sends one where it does not.
func (g *gate) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if isHeartbeat(args) && g.standIn(id, args.Term) {
		*resp = raft.AppendEntriesResponse{RPCHeader: args.RPCHeader, Term: args.Term, Success: true}
		return nil
	}
	return g.NetworkTransport.AppendEntries(id, target, args, resp)
}

// standIn waits for the next promise of the follower id, so that Raft need not be
// woken for itself, and reports false once the last one is too old to stand for a
// heartbeat: three quarters of a heartbeat timeout, at the end of which the follower
// misses its leader. A leader, too, gives up after one without contact; a third of a
// TTL, which is half of one, passes between two promises (see node/mastership), and a
// fifth at most between two heartbeats of Raft.
func (g *gate) standIn(id raft.ServerID, term uint64) bool {
	g.mu.Lock()
	v := g.vouched[id]
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

// isHeartbeat reports whether args brings nothing but the term.
func isHeartbeat(args *raft.AppendEntriesRequest) bool {
	return len(args.Entries) == 0 && args.PrevLogEntry == 0 && args.LeaderCommitIndex == 0
}

// beat tells Raft what a promise to leader in term tells: that it was heard of.
// Where Raft has not taken the last beat yet, one more would say nothing new.
func (g *gate) beat(leader string, term uint64) {
	rpc := raft.RPC{
		Command: &raft.AppendEntriesRequest{
			RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(leader), Addr: []byte(leader)},
			Term:      term,
		},
		RespChan: make(chan raft.RPCResponse, 1),
	}
	select {
	case g.beats <- rpc:
	default:
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

package quorum

import (
	"errors"
	"sync"
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
type gate struct {
	*raft.NetworkTransport
	ledger *ledger

	rpcs chan raft.RPC
	done chan struct{}
	once sync.Once
	wg   sync.WaitGroup
}

func newGate(inner *raft.NetworkTransport, l *ledger) *gate {
	g := &gate{NetworkTransport: inner, ledger: l, rpcs: make(chan raft.RPC), done: make(chan struct{})}
	g.wg.Go(g.pump)
	return g
}

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
			g.forward(rpc)
		case <-g.done:
			return
		}
	}
}

// hold lets rpc through when the promise has ended, and refuses it if by then
// the promise was renewed.
func (g *gate) hold(rpc raft.RPC) {
	if _, transfer := rpc.Command.(*raft.TimeoutNowRequest); transfer || !g.wait() {
		refuse(rpc)
		return
	}
	g.forward(rpc)
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

// wait waits for the promise that runs now and reports whether none does then.
func (g *gate) wait() bool {
	left := g.ledger.remaining()
	if left <= 0 {
		return true
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-timer.C:
		return g.ledger.remaining() <= 0
	case <-g.done:
		return false
	}
}

// RequestPreVote asks for a pre-vote once this voter's own promise has ended.
func (g *gate) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if !g.wait() {
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

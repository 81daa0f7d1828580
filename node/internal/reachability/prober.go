package reachability

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/musterhq/muster/internal/alarm"
	"github.com/musterhq/muster/internal/backoff"
	"github.com/musterhq/muster/internal/watch"
	"github.com/musterhq/muster/node/internal/dialback"
	"github.com/musterhq/muster/node/internal/link"
	"github.com/musterhq/muster/node/internal/membership"
)

// Members are the members of the cluster as this node sees them. *membership.Membership
// implements it.
type Members interface {
	View() membership.View
	Watch(ctx context.Context) iter.Seq[membership.View]
}

// Config is what a Prober needs. All fields are mandatory.
type Config struct {
	// Self is this node, with the address that it advertises.
	Self dialback.Member
	// Network is the one port.
	Network link.Network
	Members Members
	// WasReady reports whether the node was found ready before.
	WasReady func() bool
	// Notify is called after each change of the result. It must not block.
	Notify func()
	Logger *slog.Logger
	Alarms *alarm.Set
}

// Prober finds out whether others can dial this node, and dials others that ask the same. Its
// methods are safe for concurrent use.
type Prober struct {
	Config
	result watch.Value[Result]
	asking sync.WaitGroup
}

// What an operator must know of.
var (
	unreachable = alarm.Kind{Name: "unreachable", Raised: "others cannot reach this node", Cleared: "others no longer fail to reach this node"}
	unanswered  = alarm.Kind{Name: "reach_unanswered", Raised: "members not answered whether this node reaches them", Cleared: "members answered again"}
)

// New returns a Prober. It does nothing until Run and Answer are called.
func New(c Config) *Prober { return &Prober{Config: c} }

// Result returns what is known now. It does not block.
func (p *Prober) Result() Result {
	r, _ := p.result.Load()
	return r
}

// Answer dials other members that ask for it, until ctx ends.
func (p *Prober) Answer(ctx context.Context) {
	server := dialback.Server{
		Network: p.Network,
		Find: func(instanceID string) (dialback.Member, bool) {
			view := p.Members.View()
			// A node that cannot be reached is soon considered failed, and asks all the more.
			for _, m := range append(view.Members[:len(view.Members):len(view.Members)], view.Departed...) {
				if m.InstanceID == instanceID && m.State != membership.StateLeft {
					return peerOf(m), true
				}
			}
			return dialback.Member{}, false
		},
	}
	if err := server.Run(ctx); err != nil && ctx.Err() == nil {
		p.Alarms.Raise(unanswered, "", "error", err)
	}
}

func peerOf(m membership.Member) dialback.Member {
	return dialback.Member{NodeID: m.NodeID, InstanceID: m.InstanceID, Addr: m.Addr}
}

// Run asks others whether they can reach this node, until one can, and asks again when that
// one is gone, until ctx ends. Alone, it waits for the first to come.
func (p *Prober) Run(ctx context.Context) {
	defer p.asking.Wait()
	defer p.Notify()
	if p.waitReached(ctx) {
		p.followReached(ctx)
	}
}

// waitReached reports whether a member has reached this node, or else ctx has ended.
func (p *Prober) waitReached(ctx context.Context) bool {
	var wait backoff.Backoff
	doubted := false
	for {
		peers, alive := p.waitPeers(ctx)
		if peers == nil {
			return false
		}
		last := p.Result()
		if last == (Result{}) && alive {
			wait.Reset()
			last = Result{State: Asking, patience: time.Now().Add(answerTimeout)}
			p.result.Store(last)
		}
		answers := p.ask(ctx, peers)
		if ctx.Err() != nil {
			return false
		}
		var next Result
		next, doubted = last.next(answers, alive, p.WasReady(), doubted)
		p.result.Store(next)
		p.report(last, next)
		if next.State == Reachable {
			return true
		}
		if wait.Max = retryMax; wait.Wait(ctx) != nil {
			return false
		}
	}
}

// followReached keeps the result naming a member that is there. That the node was reached
// stays true, whatever others say later: they are new, and may have trouble of their own.
func (p *Prober) followReached(ctx context.Context) {
	var wait backoff.Backoff
	for {
		result := p.Result()
		if result.Peer != "" {
			if !p.waitGone(ctx, result.Peer) {
				return
			}
			wait.Reset()
			result.Peer = ""
			p.result.Store(result)
		}
		peers, alive := p.waitPeers(ctx)
		if peers == nil {
			return
		}
		if alive {
			if next := p.ask(ctx, peers).result; next.State == Reachable {
				next.patience = result.patience
				p.result.Store(next)
				continue
			}
		}
		if wait.Max = retryMax; wait.Wait(ctx) != nil {
			return
		}
	}
}

// waitGone waits until no member has this id. It returns false if ctx ended first.
func (p *Prober) waitGone(ctx context.Context, nodeID string) bool {
	for view := range p.Members.Watch(ctx) {
		there := func(m membership.Member) bool { return m.NodeID == nodeID && m.State != membership.StateLeft }
		if !slices.ContainsFunc(view.Members, there) {
			return true
		}
	}
	return false
}

// waitPeers returns the members to be asked, once there are any, and whether they are alive.
// If none is, those that fell silent are asked: to a node that no other can reach, all soon
// do. As long as there is none, what others said does not count. It returns nil when ctx ends.
func (p *Prober) waitPeers(ctx context.Context) (peers []dialback.Member, alive bool) {
	for view := range p.Members.Watch(ctx) {
		peers, alive = p.peersOf(view)
		if len(peers) > 0 {
			rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
			return peers[:min(len(peers), askedAtOnce)], alive
		}
		if last := p.Result(); last != (Result{}) && last.State != Reachable {
			p.result.Store(Result{})
			p.report(last, Result{})
		}
	}
	return nil, false
}

func (p *Prober) peersOf(view membership.View) (peers []dialback.Member, alive bool) {
	add := func(m membership.Member) {
		if !m.Self && m.State != membership.StateLeft && m.InstanceID != p.Self.InstanceID {
			peers = append(peers, peerOf(m))
		}
	}
	for _, m := range view.Members {
		add(m)
	}
	alive = len(peers) > 0
	if len(view.Members) == 1 {
		for _, m := range view.Departed {
			add(m)
		}
	}
	return peers, alive
}

// ask asks all of peers at once. One that can reach the node counts for all.
func (p *Prober) ask(ctx context.Context, peers []dialback.Member) round {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		peer dialback.Member
		err  error
	}
	answers := make(chan answer, len(peers))
	for _, peer := range peers {
		p.asking.Go(func() { answers <- answer{peer, dialback.Ask(ctx, p.Network, p.Self, peer)} })
	}
	r := round{result: Result{State: Asking}, asked: len(peers)}
	for range peers {
		a := <-answers
		if errors.Is(a.err, dialback.ErrAbsent) {
			r.absent++
		}
		var failed *dialback.UnreachableError
		switch {
		case a.err == nil:
			r.result = Result{State: Reachable, Peer: a.peer.NodeID}
			return r
		case errors.As(a.err, &failed):
			if r.failed++; r.failed == 1 {
				r.result = Result{State: Unreachable, Peer: a.peer.NodeID, Reason: a.err.Error()}
			}
		case r.result.State == Asking:
			r.result.Peer, r.result.Reason = a.peer.NodeID, a.err.Error()
		}
	}
	if r.failed > 1 {
		r.result.Reason += fmt.Sprintf(" (%d members could not)", r.failed)
	}
	return r
}

// report logs what has changed.
func (p *Prober) report(last, next Result) {
	p.Notify()
	switch {
	case next.State == Reachable:
		p.Logger.Info("others can reach this node", "addr", p.Self.Addr, "member", next.Peer)
		p.Alarms.Clear(unreachable, "")
	case next.State == Unreachable:
		p.Alarms.Raise(unreachable, "", "addr", p.Self.Addr, "member", next.Peer, "error", next.Reason)
	case next == (Result{}) && last.State == Unreachable:
		p.Alarms.Clear(unreachable, "", "reason", "nobody is left who cannot", "member", last.Peer)
	case next.State == Asking:
		p.Logger.Debug("whether others can reach this node is not known yet", "member", next.Peer, "reason", next.Reason)
	}
}

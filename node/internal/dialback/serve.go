package dialback

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/musterhq/muster/internal/hint"
	"github.com/musterhq/muster/node/internal/link"
)

// Bounds of what others can make a node do.
const (
	// Pause is the least time between two dials of one instance.
	Pause = 500 * time.Millisecond

	maxQuestions    = 32 // at a time
	maxDials        = 4  // at a time
	maxPauses       = 1024
	questionTimeout = 2 * time.Second
)

// Server answers the questions of others.
type Server struct {
	// Network is where it is asked, and dials.
	Network link.Network
	// Find returns the member of an instance id, as it is known here.
	Find func(instanceID string) (Member, bool)

	mu     sync.Mutex
	dials  int
	dialed map[string]time.Time // by instance, when it was dialled last
}

// Run answers until ctx ends, and returns when all its work has ended. It fails at once
// if the network has no room for the protocol.
func (s *Server) Run(ctx context.Context) error {
	ln, err := s.Network.Listen(Protocol)
	if err != nil {
		return err
	}
	var work sync.WaitGroup
	defer work.Wait()
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	room := make(chan struct{}, maxQuestions)
	for {
		c, err := ln.Accept()
		if err != nil {
			return nil // closed
		}
		select {
		case room <- struct{}{}:
			work.Go(func() {
				defer func() { <-room }()
				s.serve(ctx, c)
			})
		default:
			_ = c.Close()
		}
	}
}

func (s *Server) serve(ctx context.Context, c net.Conn) {
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, questionTimeout+DialTimeout)
	defer cancel()
	defer bind(ctx, c)()
	var q question
	_ = c.SetReadDeadline(time.Now().Add(questionTimeout))
	if ctx.Err() != nil || read(c, &q) != nil {
		return
	}
	_ = write(c, s.answer(ctx, q)) // who asked may be gone
}

func (s *Server) answer(ctx context.Context, q question) reply {
	decline := func(reason string) reply { return reply{Version: version, Outcome: declined, Reason: reason} }
	switch {
	case q.Version != version:
		return decline(fmt.Sprintf("version %d is not spoken here", q.Version))
	case q.Op != opReach:
		return decline("unknown question")
	}
	m, ok := s.Find(q.Instance)
	if !ok {
		return decline("no such member is known")
	}
	if !s.begin(m.InstanceID) {
		return decline("too many questions; ask again later")
	}
	defer s.end()
	ctx, cancel := context.WithTimeout(ctx, DialTimeout)
	defer cancel()
	c, err := s.Network.DialInstance(ctx, Protocol, m.Addr, m.InstanceID)
	if err == nil {
		_ = c.Close()
	}
	var refused *link.RefusedError
	r := reply{Version: version, Outcome: failed, Addr: m.Addr}
	switch {
	case err == nil:
		r.Outcome = reached
	case errors.As(err, &refused) && errors.Is(err, link.ErrLeft):
		r.Reason = fmt.Sprintf("node %s answers there, instance %.12s", refused.Peer.NodeID, refused.Peer.InstanceID)
	case errors.As(err, &refused) && refused.Reason == link.ReasonBusy:
		return decline("it is busy")
	case errors.Is(err, net.ErrClosed), errors.Is(ctx.Err(), context.Canceled):
		return decline("the node is leaving")
	default:
		r.Reason, r.Hint = hint.Split(Cause(err))
	}
	return r
}

// begin takes the right to dial an instance now.
func (s *Server) begin(instanceID string) bool {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if last, ok := s.dialed[instanceID]; s.dials >= maxDials || ok && now.Sub(last) < Pause {
		return false
	}
	if s.dialed == nil {
		s.dialed = make(map[string]time.Time)
	}
	if len(s.dialed) >= maxPauses {
		for id, last := range s.dialed {
			if now.Sub(last) >= Pause {
				delete(s.dialed, id)
			}
		}
		if len(s.dialed) >= maxPauses {
			return false
		}
	}
	s.dialed[instanceID] = now
	s.dials++
	return true
}

func (s *Server) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dials--
}

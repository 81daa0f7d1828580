package node

import (
	"slices"
	"strings"
	"sync"
)

// Abstain keeps the node from being master until end is called, as while its copy of the data is
// not in sync: it is no candidate, and a master resigns in good order, as with Resign. reason says
// why, in words that Status and logs show. It does not wait, so that the node may still be master
// for a moment. Several abstentions end when the last of them has; each end may be called more
// than once. A node that abstains is a member like any other, may vote, and counts for the
// majority.
func (n *Node) Abstain(reason string) (end func()) {
	if reason == "" {
		reason = "no reason given"
	}
	a := &abstention{reason}
	n.abstentions.add(a)
	n.notify()
	return func() {
		n.abstentions.remove(a)
		n.notify()
	}
}

type abstention struct{ reason string }

// abstentions are those that have not ended.
type abstentions struct {
	mu  sync.Mutex
	all []*abstention
}

func (s *abstentions) add(a *abstention) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, a)
}

func (s *abstentions) remove(a *abstention) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = slices.DeleteFunc(s.all, func(b *abstention) bool { return a == b })
}

// reasons are those of all abstentions, each once. Empty if there is none.
func (s *abstentions) reasons() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var reasons []string
	for _, a := range s.all {
		if !slices.Contains(reasons, a.reason) {
			reasons = append(reasons, a.reason)
		}
	}
	return strings.Join(reasons, "; ")
}

package voter

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// defaultIdentify is how often Identify is asked unless Config says otherwise, and
// identifySoon while it may be one that is not resolved.
const (
	defaultIdentify = 10 * time.Second
	identifySoon    = time.Second
)

// selfEntry is the entry of the list that is this node's, and what Identify found last. A voter
// keeps its entry: its directory is bound to it, and it voted and gave leases in that name.
type selfEntry struct {
	// entry is in use. Only the life cycle changes it, and only while this node has no part as a
	// voter.
	entry atomic.Pointer[string]

	mu      sync.Mutex
	found   string // what Identify found last
	problem string // why that is not to be used, or what is wrong with the names
}

// set notes what Identify found, and what is wrong.
func (s *selfEntry) set(found, problem string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.found, s.problem = found, problem
}

func (s *selfEntry) get() (found, problem string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.found, s.problem
}

// Self returns this node's entry in the list, or its own address while none is known: a name need
// not resolve when the node starts. Until then the node has no vote.
func (v *Voter) Self() string { return *v.self.entry.Load() }

// ListedSelf returns this node's entry in the list, or "".
func (v *Voter) ListedSelf() string {
	if self := v.Self(); slices.Contains(v.List(), self) {
		return self
	}
	return ""
}

// identify asks Identify until Close. Names are looked up here, as a resolver may be
// slow, and what is found is adopted by the life cycle.
func (v *Voter) identify() {
	every := v.cfg.IdentifyEvery
	if every <= 0 {
		every = defaultIdentify
	}
	for {
		entry, err := v.cfg.Identify(v.tasks.ctx)
		if v.tasks.ctx.Err() != nil {
			return
		}
		self, problem := v.Self(), ""
		switch {
		case err != nil:
			problem = err.Error()
		case v.Listed() && entry == "":
			problem = fmt.Sprintf("this node is voter %s, whose name leads to another node or to none now; others do not reach it there", self)
		case v.Listed() && entry != self:
			problem = fmt.Sprintf("this node is voter %s, and is found at the entry %s now; correct the names, or the list", self, entry)
		}
		v.self.set(entry, problem)
		wait := every
		if err != nil && !v.Listed() {
			wait = min(wait, identifySoon)
		}
		v.notify()
		select {
		case <-time.After(wait):
		case <-v.tasks.ctx.Done():
			return
		}
	}
}

// adoptEntry makes the entry that was found last this node's, unless it is a voter already. If the
// name of one has come to lead elsewhere, that is a warning.
func (v *Voter) adoptEntry() {
	found, problem := v.self.get()
	if found == "" || problem != "" || v.disk.isOpen() || v.Listed() {
		return
	}
	self := v.Self()
	v.self.entry.Store(&found)
	v.cfg.Logger.Info("voter identified", "voter", found, "addr", self)
}

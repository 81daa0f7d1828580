package voter

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/providers/static/internal/raftstream"
)

// electorate is the list of voters, and what the others answered when they were polled last.
type electorate struct {
	mu      sync.Mutex
	list    []string              // the last good one, sorted; never changed in place
	problem string                // why it is not read now
	answers map[string]PeerStatus // of every other voter, by address; never changed in place
	stirred clock.Instant         // when these last changed, or the directory was opened
	// mismatched are the voters that contradict this one's directory, with what they said last.
	mismatched map[string]Status
}

// PeerStatus is the last answer of another node, or why there is none.
type PeerStatus struct {
	Status
	err error
}

// stirredFor is how long a cluster counts as being founded after something has changed.
const stirredFor = time.Second

// setList takes what reading the list came to, and keeps the last good one if that failed.
func (e *electorate) setList(voters []string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.problem = ""
	if err != nil {
		e.problem = err.Error()
		return
	}
	e.list = slices.Sorted(slices.Values(voters))
}

// setAnswers takes what a poll of the others came to.
func (e *electorate) setAnswers(answers map[string]PeerStatus) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if differ(e.answers, answers) {
		e.stirred = clock.Now()
	}
	e.answers = answers
}

// differ reports whether the voters have come closer to a cluster between two polls, or further
// from it.
func differ(before, after map[string]PeerStatus) bool {
	return !maps.EqualFunc(before, after, func(a, b PeerStatus) bool {
		return (a.err == nil) == (b.err == nil) && a.Phase == b.Phase && a.Founding == b.Founding && a.ID == b.ID
	})
}

// stir has the others be polled often for a while.
func (e *electorate) stir() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stirred = clock.Now()
}

func (e *electorate) isStirred() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return clock.Now().Before(e.stirred.Add(stirredFor))
}

func (e *electorate) listProblem() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.problem
}

// readList reads the list, and keeps the last good one if that fails.
func (v *Voter) readList() error {
	voters, err := v.cfg.Voters()
	v.voters.setList(voters, err)
	return err
}

// List returns the last good list. It is never changed in place.
func (v *Voter) List() []string {
	v.voters.mu.Lock()
	defer v.voters.mu.Unlock()
	return v.voters.list
}

// Listed reports whether this node is in the list.
func (v *Voter) Listed() bool { return slices.Contains(v.List(), v.Self()) }

// PeerStatuses returns the answers of the nodes that were reached. The map is never
// changed in place.
func (v *Voter) PeerStatuses() map[string]PeerStatus {
	v.voters.mu.Lock()
	defer v.voters.mu.Unlock()
	return v.voters.answers
}

// PollVoters asks every other node of the list and of Raft's configuration.
func (v *Voter) PollVoters() {
	addrs := make(map[string]bool)
	for _, addr := range v.List() {
		addrs[addr] = true
	}
	if m := v.member.Load(); m != nil {
		for _, id := range m.Servers() {
			addrs[raftstream.AddrOf(id)] = true
		}
	}
	delete(addrs, v.Self())

	ctx, cancel := context.WithTimeout(v.tasks.ctx, v.requestTimeout())
	defer cancel()
	var mu sync.Mutex
	answers := make(map[string]PeerStatus, len(addrs))
	var wg sync.WaitGroup
	for addr := range addrs {
		wg.Go(func() {
			var s PeerStatus
			s.err = v.peerClient.call(ctx, addr, PathStatus, struct{}{}, &s.Status)
			mu.Lock()
			defer mu.Unlock()
			answers[addr] = s
		})
	}
	wg.Wait()
	v.voters.setAnswers(answers)
}

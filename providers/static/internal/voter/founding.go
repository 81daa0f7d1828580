package voter

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
)

// A cluster is founded once every listed voter has answered that it remembers nothing.
// The first of the list then names the founding; the others that remember nothing
// follow it. Where a voter is gone for good, an operator has another one name it: see
// Found. DESIGN.md says why that is all that can be done.

const (
	// ByOperator begins the name of a founding for which not all voters were asked.
	ByOperator = "operator-"
	// foundTimeout bounds Found. What an operator has allowed is forgotten after it.
	foundTimeout = 10 * time.Second
)

// notFounded is why this voter waits for a cluster to be founded.
type notFounded struct{ error }

func waitToFound(format string, args ...any) error {
	return notFounded{fmt.Errorf("the cluster is not founded: "+format, args...)}
}

// part is how a voter without state is to take part: as a founder, if founders is set,
// or else as one that waits to be taken in by the cluster of that founding.
type part struct {
	founding string
	founders []string
}

// plan works out the part of a voter without state from what the others have answered.
// The error says what it waits for.
func (v *Voter) plan() (part, error) {
	list, self := v.List(), v.Self()
	var established, fresh []Status
	var missing, other []string
	seen := v.PeerStatuses()
	agree := 1
	for _, addr := range list {
		if addr == self {
			continue
		}
		s, ok := seen[addr]
		switch {
		case ok && errors.Is(s.err, driver.ErrInvalid): // such as a voter of another cluster
			missing = append(missing, addr+" ("+s.err.Error()+")")
		case !ok || s.err != nil:
			missing = append(missing, addr)
		case s.Phase == phaseEstablished:
			established = append(established, s.Status)
		case s.Addr != addr:
			missing = append(missing, fmt.Sprintf("%s (where voter %s answers)", addr, s.Addr))
		case !slices.Equal(s.Voters, list):
			other = append(other, addr)
		case s.Phase == phaseObserver:
			missing = append(missing, addr+" (which does not take part)")
		default:
			agree++
			if s.Phase == phaseFresh {
				fresh = append(fresh, s.Status)
			}
		}
	}
	if len(established) > 0 {
		return joinOne(established)
	}
	allowed := v.FoundingAllowed()
	found := func(founding string) (part, error) { return part{founding, list}, nil }
	if len(fresh) > 0 {
		founding := slices.MinFunc(fresh, byFounding).Founding
		if len(missing)+len(other) == 0 || allowed || strings.HasPrefix(founding, ByOperator) {
			return found(founding)
		}
	}
	switch {
	case len(other) > 0:
		return part{}, waitToFound("voter %s has another list than %s; give all voters the same", other[0], self)
	case allowed && agree >= len(list)/2+1:
		return found(ByOperator + newFounding())
	case len(missing) > 0:
		return part{}, waitToFound("it waits for each of the %d voters to say that it remembers none, and not yet for %s; where one is gone for good, run muster voters found on this host",
			len(list), strings.Join(missing, ", "))
	case self != list[0]:
		return part{}, waitToFound("waiting for voter %s to do it", list[0])
	}
	return found(newFounding())
}

func byFounding(a, b Status) int { return strings.Compare(a.Founding, b.Founding) }

func newFounding() string { return strings.ToLower(rand.Text()[:16]) }

// joinOne picks the founding to be taken in by: the one that all have, or that has a
// leader.
func joinOne(established []Status) (part, error) {
	of := established[0]
	for _, s := range established {
		switch {
		case s.Founding == of.Founding:
		case of.Leader == "" && s.Leader != "":
			of = s
		case (of.Leader == "") == (s.Leader == ""):
			return part{}, fmt.Errorf("voters %s are of two clusters: %s; remove the node.data_dir of those that are not of the one to keep, and start them again",
				of.Addr+" and "+s.Addr, describe(of)+" and "+describe(s))
		}
	}
	return part{founding: of.Founding}, nil
}

// describe names the cluster of a voter, for an operator who compares two.
func describe(s Status) string {
	id := "no cluster id yet"
	if s.ClusterID != "" {
		id = fmt.Sprintf("cluster id %s, term %d", s.ClusterID, s.Term)
	}
	return fmt.Sprintf("%s, founded as %s", id, orNone(s.Founding))
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// outranked reports whether the founding of this voter, under which no election was
// held, has to give way: a cluster lives, or another founding is under way that sorts
// before. Of two that are under way at once the same one gives way everywhere.
func (v *Voter) outranked() bool {
	for _, s := range v.PeerStatuses() {
		if s.err != nil || s.Founding == v.disk.dir.Founding {
			continue
		}
		if s.Phase == phaseEstablished || s.Phase == phaseFresh && s.Founding < v.disk.dir.Founding {
			return true
		}
	}
	return false
}

// startOver gives up a founding under which no election was held.
func (v *Voter) startOver() error {
	v.leaveRaft()
	if err := v.openDisk(); err != nil {
		return v.diskFailed(err)
	}
	// It may have been elected until the moment that Raft ended.
	established, err := v.disk.dir.Established()
	if err != nil || established {
		return err
	}
	v.cfg.Logger.Info("founding given up", "founding", v.disk.dir.Founding)
	if err := v.disk.discard(); err != nil {
		return v.diskFailed(err)
	}
	return nil
}

// foundedByAll reports whether every other listed voter has answered that it founds what this one
// does, and that no election was held in it; with ready also that it takes Raft's requests. It is
// false for a voter alone, and where an operator had some of the voters not asked.
//
// A vote or a lease of an earlier process of this voter, whose directory was lost, would have made
// its candidate established before this process began to ask.
func (v *Voter) foundedByAll(ready bool) bool {
	list, peers := v.List(), v.PeerStatuses()
	if len(list) < 2 || strings.HasPrefix(v.disk.dir.Founding, ByOperator) {
		return false
	}
	for _, addr := range list {
		s := peers[addr]
		switch {
		case addr == v.Self():
		case s.err != nil, s.Addr != addr, !slices.Equal(s.Voters, list):
			return false
		case s.Phase != phaseFresh, s.Founding != v.disk.dir.Founding, ready && s.ID == "":
			return false
		}
	}
	return true
}

// beginFirstElection has the first voter of the list be a candidate as soon as all can vote, so
// that the first election need not wait for Raft to miss a leader that there never was.
func (v *Voter) beginFirstElection() {
	m := v.member.Load()
	if m == nil || m.phase() != phaseFresh || v.List()[0] != v.Self() || !v.foundedByAll(true) {
		return
	}
	m.campaign()
}

// FoundingAllowed reports whether an operator has just allowed to found the cluster without
// the voters that are gone.
func (v *Voter) FoundingAllowed() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return clock.Now().Before(v.allowedUntil)
}

// Found implements driver.Founder.
func (v *Voter) Found(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, foundTimeout)
	defer cancel()
	if err := v.mayFound(); err != nil {
		return err
	}
	v.mu.Lock()
	v.allowedUntil = clock.Now().Add(foundTimeout)
	v.mu.Unlock()
	defer func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.allowedUntil = 0
	}()
	for range v.changes.Watch(ctx) {
		if v.Status().Phase != PhaseEmpty {
			return nil
		}
		if err := v.mayFound(); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: nothing was founded within %v: %s", driver.ErrUnavailable, foundTimeout, v.WaitingFor())
}

// mayFound says why an operator cannot have this voter found the cluster.
func (v *Voter) mayFound() error {
	if why := v.Ineligible(); why != "" {
		return fmt.Errorf("%w: %s", driver.ErrInvalid, why)
	}
	own := v.Status()
	switch own.Phase {
	case PhaseEmpty:
	case phaseFresh:
		return fmt.Errorf("%w: voter %s has founded the cluster and waits for a majority to follow; run it on the host of one that does not", driver.ErrConflict, own.Addr)
	case phaseEstablished:
		return fmt.Errorf("%w: voter %s remembers a cluster (%s); there is nothing to found", driver.ErrConflict, own.Addr, describe(own))
	default:
		return fmt.Errorf("%w: voter %s does not take part; try again in a moment", driver.ErrUnavailable, own.Addr)
	}
	list, agree := v.List(), 1
	for addr, s := range v.PeerStatuses() {
		switch {
		case s.err != nil || addr == own.Addr || !slices.Contains(list, addr):
		case s.Phase == phaseEstablished:
			return fmt.Errorf("%w: voter %s remembers a cluster (%s), and nothing is founded beside it; to give up what it remembers, stop it, remove its node.data_dir and start it again",
				driver.ErrConflict, addr, describe(s.Status))
		case s.Addr == addr && slices.Equal(s.Voters, list):
			agree++
		}
	}
	if agree < len(list)/2+1 {
		return fmt.Errorf("%w: %d of the %d voters are here with this list, and a majority must be; start them, or take those that are gone for good off the list of all",
			driver.ErrUnavailable, agree, len(list))
	}
	return nil
}

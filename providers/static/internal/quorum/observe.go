package quorum

import (
	"context"
	"fmt"
	"iter"
	"reflect"
	"slices"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/static/internal/voter"
)

// Observe implements driver.Authority. It also yields, unchanged, when the voters
// have another leader: then an Acquire may go another way.
func (a *Authority) Observe(ctx context.Context) iter.Seq2[driver.Mastership, error] {
	return func(yield func(driver.Mastership, error) bool) {
		asked := ctx
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stop := context.AfterFunc(a.ctx, cancel)
		defer stop()

		var last driver.Mastership
		var lastLeader, lastErr string
		first := true
		for range a.voter.WatchChanges(ctx) {
			now, err := a.mastership()
			leader := a.voter.KnownLeader()
			if err != nil {
				if first || err.Error() != lastErr {
					first, lastErr, last, lastLeader = false, err.Error(), driver.Mastership{}, ""
					if !yield(driver.Mastership{}, err) {
						return
					}
				}
				continue
			}
			if first || lastErr != "" || leader != lastLeader || !reflect.DeepEqual(now, last) {
				first, lastErr, last, lastLeader = false, "", now, leader
				if !yield(now, nil) {
					return
				}
			}
		}
		if asked.Err() == nil {
			yield(driver.Mastership{}, voter.ErrClosed)
		}
	}
}

// mastership is what this node knows of the master: from Raft if it votes, and
// from what the voters said if not, or if they know of a later term.
func (a *Authority) mastership() (driver.Mastership, error) {
	list := a.voter.List()
	m := a.voter.Member()
	now := driver.Mastership{
		Expected:   len(list),
		Voters:     slices.Clone(list),
		Voter:      a.voter.ListedSelf(),
		Ineligible: a.voter.Ineligible(),
		Warning:    a.voter.Warning(m),
	}
	now.Blocked, now.BlockedBy = a.voter.Blocked(m)
	estranged, _, _ := a.voter.Mismatch()
	own := a.voter.Status()
	best, ok := a.voter.BestStatus()
	switch {
	case estranged != "": // who is master of another cluster is no news
	case ok && knowsMore(best, own, m != nil && m.Leader() != ""):
		own = best
		if m != nil && m.WasReleased(best.Term) {
			own.Holder = nil
		}
	case !ok && m == nil && !a.voter.Listed():
		return driver.Mastership{}, fmt.Errorf("%w: none of the voters answers, and this node, %s", driver.ErrUnavailable, a.voter.Ineligible())
	}
	now.Term, now.ClusterID, now.Holder = own.Term, own.ClusterID, own.Holder
	return now, nil
}

// knowsMore reports whether what another voter says of the master counts, and not the own state. It
// does while no leader is known. But a voter that was away can follow a leader for ten seconds
// before that sends what is missing, since Raft tries one that does not answer ever more rarely:
// until then a later term of the same founding is known from the others.
func knowsMore(other, own voter.Status, led bool) bool {
	if led || own.Holder != nil {
		return other.Founding == own.Founding && other.Term > own.Term
	}
	return other.Term >= own.Term
}

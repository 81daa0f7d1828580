package node

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/alarm"
	"github.com/musterhq/muster/internal/backoff"
	"github.com/musterhq/muster/node/internal/authorities"
)

// While two authorities must both grant, the master mirrors the records of the one to the other,
// and moves them when all nodes are ready for that: see package authorities. What members say of
// themselves tells when, and nothing else: a move at a bad moment costs a wait, and no record.

// moveEvery is how often the master brings the mirror up to date.
const moveEvery = time.Second

// moveTimeout bounds one attempt to do so, and to find out where the records are.
const moveTimeout = 10 * time.Second

var recordsStuck = alarm.Kind{Name: "records_not_mirrored", Raised: "records not mirrored", Cleared: "records mirrored again"}

// followRecords mirrors the records, or waits until they are where this node is granted
// mastership.
func (n *Node) followRecords() {
	switch {
	case n.store.records == nil || len(n.providers) == 1:
	case len(n.authorities) == 2:
		for n.ctx.Err() == nil {
			n.mirror()
			_ = backoff.Sleep(n.ctx, moveEvery)
		}
	default:
		for n.awaitRecords() {
			_ = backoff.Sleep(n.ctx, moveEvery/2)
		}
	}
}

// mirror makes one attempt, on the master.
func (n *Node) mirror() {
	if !n.elector.IsMaster() {
		return
	}
	ctx, cancel := context.WithTimeout(n.ctx, moveTimeout)
	defer cancel()
	last, _ := n.move.Load()
	move, err := n.store.records.Mirror(ctx, n.destination())
	switch {
	case err == nil:
		n.alarms.Clear(recordsStuck, "")
	case !errors.Is(err, driver.ErrConflict): // another one was at it
		n.alarms.Raise(recordsStuck, "", "error", err)
		return
	}
	n.move.Store(move)
	switch {
	case last.From != "" && move.From != "" && move.From != last.From:
		n.log.Info("records moved", "from", last.From, "provider", move.From)
		n.store.prompts.write()
	case move.Mirrored && !last.Mirrored:
		n.log.Info("records mirrored", "from", move.From, "provider", move.To)
	}
}

// destination is the authority at which the records are to be: the only one of some members, or
// the one that is named last if all members name both. Empty: where they are.
func (n *Node) destination() string {
	var alone []string
	for _, m := range n.members.View().Members {
		switch {
		case !m.DetailsKnown:
			return ""
		case len(m.Authorities) == 1 && !slices.Contains(alone, m.Authorities[0]):
			alone = append(alone, m.Authorities[0])
		}
	}
	switch len(alone) {
	case 0:
		return n.cfg.Mastership.Authority[1]
	case 1:
		return alone[0]
	}
	return ""
}

// awaitRecords finds out whether the records are where this node is granted mastership, and
// reports whether to ask again. If that cannot be found out it is no reason to wait.
func (n *Node) awaitRecords() (again bool) {
	ctx, cancel := context.WithTimeout(n.ctx, moveTimeout)
	defer cancel()
	err := n.store.records.Elsewhere(ctx)
	if !errors.Is(err, authorities.ErrElsewhere) {
		n.elsewhere.Store(new(string))
		n.notify()
		return err != nil && n.ctx.Err() == nil
	}
	n.elsewhere.Store(new(err.Error()))
	n.notify()
	return n.ctx.Err() == nil
}

// recordsElsewhere says that the records are not where this node is granted mastership, or that
// it is not known yet.
func (n *Node) recordsElsewhere() obstacle {
	if n.store.records == nil || len(n.providers) == 1 || len(n.authorities) == 2 {
		return obstacle{}
	}
	reason := n.elsewhere.Load()
	switch {
	case reason == nil:
		return obstacle{WaitRecords, "it is not known yet whether the records of the cluster are at " + n.authorities[0].Name}
	case *reason != "":
		return obstacle{WaitRecords, *reason}
	}
	return obstacle{}
}

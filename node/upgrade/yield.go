package upgrade

import (
	"context"
	"log/slog"
	"time"

	"github.com/musterhq/muster/node"
)

const (
	// yieldAfter is how long a node lacks a step before it makes way: where all hosts start at
	// once, its own may be about to come.
	yieldAfter = time.Second
	// yieldFor is how long a node keeps from being master while no other node becomes it: then
	// a master that lacks a step is better than none.
	yieldFor = 15 * time.Second
	// yieldPause is how long it is a candidate then, before it makes way again.
	yieldPause = time.Minute
	// yieldMost bounds the time for which a node makes way for one announcement while another
	// member is master, or none is: it may be false, and that member never become master. Then it
	// is ignored for ignoreFirst, and each time twice as long, up to ignoreMost.
	yieldMost   = 2 * time.Minute
	ignoreFirst = 10 * time.Minute
	ignoreMost  = 24 * time.Hour
	// resignTimeout bounds one resignation.
	resignTimeout = 10 * time.Second
)

// patience is that with announcements of which nothing comes, by name and instance.
type patience map[string]map[string]*trial

// trial is what has come of an announcement so far.
type trial struct {
	since   time.Time     // it is a reason to make way
	until   time.Time     // it is ignored
	ignored time.Duration // last time, 0: never
}

// trusted returns those of the members whose announcements of name are not ignored. ahead are all
// that have announced more of it than is done, and than this node has. That of the master, who may
// be nil, is believed: nothing is lost by it, and the step may take long. While a step runs here,
// which nothing interrupts, no patience is lost.
func (p *patience) trusted(now time.Time, name string, ahead []node.Member, master *node.Master, working bool) []node.Member {
	last := (*p)[name]
	delete(*p, name)
	var trusted []node.Member
	next := make(map[string]*trial)
	for _, m := range ahead {
		t := last[m.InstanceID]
		if t == nil || master != nil && master.InstanceID == m.InstanceID {
			t = &trial{since: now}
		}
		next[m.InstanceID] = t
		switch {
		case now.Before(t.until):
			continue
		case t.since.Before(t.until), working:
			t.since = now // it has another try
		}
		if now.Sub(t.since) >= yieldMost {
			t.ignored = min(max(2*t.ignored, ignoreFirst), ignoreMost)
			t.until = now.Add(t.ignored)
			continue
		}
		trusted = append(trusted, m)
	}
	if len(next) > 0 {
		if *p == nil {
			*p = make(patience)
		}
		(*p)[name] = next
	}
	return trusted
}

// yielding is whether a node makes way for another one as master.
type yielding struct {
	node    Node
	logger  *slog.Logger
	leave   func(leaving bool) bool // says that it does, or no longer; false: it must not
	stop    func()                  // ends the abstention; nil: there is none
	since   time.Time               // it has a reason to make way
	alone   time.Time
	resumes time.Time
}

// set makes way for the given reason, or no longer if it is empty. The channel says when to call
// again at the latest.
func (y *yielding) set(ctx context.Context, reason string) (again <-chan time.Time) {
	now := time.Now()
	if reason == "" {
		y.end()
		y.since, y.alone, y.resumes = time.Time{}, time.Time{}, time.Time{}
		return nil
	}
	if y.since.IsZero() {
		y.since = now
	}
	if left := yieldAfter - now.Sub(y.since); left > 0 {
		return time.After(left)
	}
	if now.Before(y.resumes) {
		return time.After(y.resumes.Sub(now))
	}
	master := y.node.View().Master
	switch {
	case master != nil:
		y.alone = time.Time{}
	case y.alone.IsZero():
		y.alone = now
	case now.Sub(y.alone) >= yieldFor:
		y.logger.Info("no other node becomes master", "reason", reason)
		y.end()
		y.alone, y.resumes = time.Time{}, now.Add(yieldPause)
		return time.After(yieldPause)
	}
	y.begin(ctx, reason)
	return time.After(time.Second)
}

// begin abstains, or resigns each time that this node is master, where it cannot abstain.
func (y *yielding) begin(ctx context.Context, reason string) {
	if a, ok := y.node.(abstainer); ok {
		if y.stop == nil && y.leave(true) {
			y.logger.Info("mastership is left to another node", "reason", reason)
			y.stop = a.Abstain(reason)
		}
		return
	}
	view := y.node.View()
	if view.Master == nil || view.Master.InstanceID != y.node.InstanceID() || !y.leave(true) {
		return
	}
	defer y.leave(false)
	y.logger.Info("mastership is left to another node", "reason", reason)
	ctx, cancel := context.WithTimeout(ctx, resignTimeout)
	defer cancel()
	if err := y.node.Resign(ctx); err != nil {
		y.logger.Info("resignation failed", "error", err)
	}
}

func (y *yielding) end() {
	if y.stop != nil {
		y.stop()
		y.stop = nil
		y.leave(false)
	}
}

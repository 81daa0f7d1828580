package mastership

import (
	"context"
	"iter"
	"time"
)

// ActiveGrant is the grant that this node uses, as one who acts on its behalf elsewhere has to
// know it: in a process of its own, say. Its times are readings of Config.Clock.
type ActiveGrant struct {
	// State is that of the election. The other fields are zero unless it is Active or Releasing.
	State     State
	Term      Term
	ClusterID string
	// Deadline is when the grant expires for this node. It moves with each renewal, also while
	// functions drain.
	Deadline time.Duration
	// DrainBy is when the functions of WhileMaster have to have returned, zero while Active. A
	// function that returns later, or after Deadline, has the grant left to expire.
	DrainBy time.Duration
}

// Grants yields the grant in use now and after each change, each renewal among them, until ctx
// ends or Run has returned. States in between may be skipped. Unlike Check it knows of a grant
// while functions drain, when this node is no longer master.
func (e *Elector) Grants(ctx context.Context) iter.Seq[ActiveGrant] { return e.grants.Watch(ctx) }

// publishGrant stores what Grants yields, if it has changed.
func (e *Elector) publishGrant() {
	g := ActiveGrant{State: e.m.state}
	if h := e.m.grant; h != nil && (g.State == Active || g.State == Releasing) {
		g.Term, g.ClusterID, g.Deadline = h.grant.Term, h.grant.ClusterID, time.Duration(h.deadline)
		if g.State == Releasing {
			g.DrainBy = time.Duration(h.drainBy)
		}
	}
	if last, ok := e.grants.Load(); !ok || last != g {
		e.grants.Store(g)
	}
}

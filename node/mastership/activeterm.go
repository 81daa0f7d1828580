package mastership

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
)

// Token is proof of one mastership of this node. Keep it for as long as you like:
// it stops to hold when that mastership ends, and never holds again.
type Token struct {
	// Term is the fencing token: attach it to every effect outside this process,
	// and have the other side refuse a lower one than it has seen.
	Term      Term
	ClusterID string
	Holder    Holder
	// Deadline is until when the mastership stood when the token was made, as Config.Clock
	// reads it. It may have been extended since, or ended.
	Deadline time.Duration

	active *activeTerm
}

// Check returns nil if this node is master in the token's term at the moment it
// is asked, and otherwise an error as Elector.Check does. It reads the clock and
// takes no lock. A positive answer is about that moment: a caller that acts on it may
// be paused in between, and only the term protects what lies outside the process.
func (t Token) Check() error {
	if t.active == nil {
		return ErrNoMaster
	}
	if _, ok := t.active.valid(); ok {
		return nil
	}
	return t.active.elector.whyNot()
}

// activeTerm is one mastership of this node, as Check and the functions of WhileMaster use it.
type activeTerm struct {
	elector   *Elector
	term      driver.Term
	clusterID string

	// deadline is in nanoseconds of the boot clock; ended after the end, for good.
	deadline atomic.Int64

	// ctx ends with the mastership.
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu      sync.Mutex
	timer   *time.Timer
	running int // functions of WhileMaster
	over    bool
}

const ended = math.MinInt64

func newActiveTerm(e *Elector, b begun) *activeTerm {
	t := &activeTerm{elector: e, term: b.term, clusterID: b.clusterID}
	t.ctx, t.cancel = context.WithCancelCause(context.Background())
	t.deadline.Store(int64(b.deadline))
	t.mu.Lock() // guard may run before the timer is set
	t.timer = time.AfterFunc(max(b.deadline.Sub(b.at), 0), t.guard)
	t.mu.Unlock()
	return t
}

// valid compares the clock with the deadline. The clock is read last: whatever
// happens between the two readings makes the answer later, never too early. The
// rules of the machine never change, so that they can be asked from anywhere.
func (t *activeTerm) valid() (clock.Instant, bool) {
	deadline := clock.Instant(t.deadline.Load())
	return deadline, t.elector.m.r.holds(t.elector.now(), deadline)
}

// extend moves the deadline, unless the term has expired in the meantime.
func (t *activeTerm) extend(deadline clock.Instant) {
	for {
		old := t.deadline.Load()
		if old == ended {
			return
		}
		if t.deadline.CompareAndSwap(old, int64(deadline)) {
			t.rearm(deadline)
			return
		}
	}
}

// rearm moves the timer of guard, which so does not fire while renewals succeed.
func (t *activeTerm) rearm(deadline clock.Instant) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.over {
		t.timer.Reset(max(deadline.Sub(t.elector.now()), time.Millisecond))
	}
}

// expired reports whether the deadline has passed, and if so makes that final: a
// renewal whose answer is just being handled is ignored; otherwise this node would be
// master after the contexts of WhileMaster were cancelled.
func (t *activeTerm) expired() (deadline clock.Instant, yes bool) {
	for {
		deadline, ok := t.valid()
		if ok || deadline == ended {
			return deadline, !ok
		}
		if t.deadline.CompareAndSwap(int64(deadline), ended) {
			t.cancel(fmt.Errorf("%w: term %d: %s", ErrEnded, t.term, ReasonDeadline))
			t.elector.post(expiry{t.term})
			return deadline, true
		}
	}
}

// guard ends the context at the hard deadline even if the loop hangs, in a log
// handler say. An extension may come just when it runs.
func (t *activeTerm) guard() {
	if deadline, expired := t.expired(); !expired {
		t.rearm(deadline)
	}
}

// finish ends the term: first the check fails, then the context ends. It reports
// whether no function runs; otherwise the last one to leave tells the elector.
func (t *activeTerm) finish(why Reason) (drained bool) {
	t.deadline.Store(ended)
	t.mu.Lock()
	t.over = true
	drained = t.running == 0
	t.timer.Stop()
	t.mu.Unlock()
	t.cancel(fmt.Errorf("%w: term %d: %s", ErrEnded, t.term, why))
	return drained
}

// enter counts a function in, unless the term has ended.
func (t *activeTerm) enter() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return false
	}
	t.running++
	return true
}

func (t *activeTerm) leave() {
	t.mu.Lock()
	t.running--
	drained := t.over && t.running == 0
	t.mu.Unlock()
	if drained {
		t.elector.post(functionsOut{t.term})
	}
}

func (t *activeTerm) token(deadline clock.Instant) Token {
	return Token{Term: t.term, ClusterID: t.clusterID, Holder: t.elector.cfg.Holder, Deadline: time.Duration(deadline), active: t}
}

type tokenKey struct{}

// TokenFrom returns the token of the mastership in whose name ctx was handed out
// by WhileMaster. Unlike Elector.Check, which answers for the node, its Check
// fails once that very mastership has ended, even if the node is master again.
func TokenFrom(ctx context.Context) (Token, bool) {
	t, ok := ctx.Value(tokenKey{}).(Token)
	return t, ok
}

package mastership

import (
	"context"
	crand "crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/alarm"
	"github.com/musterhq/muster/internal/backoff"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/internal/watch"
)

// Elector takes part in the election on behalf of one node. Its methods may be
// called from any goroutine, before, while and after Run runs, and none of them
// waits for the authority except Resign.
type Elector struct {
	cfg    Config
	alarms *alarm.Set

	mu     sync.Mutex
	inbox  []event
	closed bool
	signal chan struct{}

	started atomic.Bool
	done    chan struct{} // closed when Run returns

	current       atomic.Pointer[activeTerm] // nil unless Active
	status        atomic.Pointer[Status]
	local         atomic.Pointer[datedAnnouncement]
	statuses      watch.Value[Status]
	announcements watch.Value[Announcement]
	terms         watch.Value[*activeTerm]
	grants        watch.Value[ActiveGrant]

	refresh chan struct{} // asks for a fresh observation; holds one

	// Of the loop alone.
	m         *machine
	announced clock.Instant // when this node's mastership was last announced
	waiters   []chan<- error
	calls     sync.WaitGroup
	suspecter driver.Suspecter // the authority, if it is one
	learner   driver.Learner   // likewise
	trusting  bool             // it was told that the master is vouched for
}

type datedAnnouncement struct {
	Announcement
	at clock.Instant
}

// New returns an Elector. It does nothing until Run is called. Errors are joined
// and wrap driver.ErrInvalid.
func New(c Config) (*Elector, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	c.Logger = c.Logger.With("node_id", c.Holder.NodeID, "instance_id", c.Holder.InstanceID)
	e := &Elector{
		cfg:     c,
		alarms:  alarm.New(c.Logger),
		signal:  make(chan struct{}, 1),
		done:    make(chan struct{}),
		refresh: make(chan struct{}, 1),
		m: newMachine(params{
			self:             c.Holder,
			freshID:          newClusterID(),
			drain:            c.DrainTimeout,
			isolationGrace:   c.IsolationGrace,
			poll:             c.PollInterval,
			callTimeout:      c.CallTimeout,
			cooldown:         c.ResignCooldown,
			announceInterval: c.AnnounceInterval,
			forgottenWait:    max(2*c.TTL, forgottenWait),
			announced:        c.Announced,
			random:           rand.N[time.Duration],
		}, rulesInForce()),
	}
	e.suspecter, _ = c.Authority.(driver.Suspecter)
	e.learner, _ = c.Authority.(driver.Learner)
	e.publish(e.now())
	return e, nil
}

func newClusterID() string {
	var b [16]byte
	_, _ = crand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// Run takes part until ctx ends; then it gives up mastership in good order, which
// is bounded by the drain timeout and a few call timeouts, and returns. The error
// is nil if nothing is left behind, and otherwise says what was. Run can be called
// once.
func (e *Elector) Run(ctx context.Context) error {
	if !e.started.CompareAndSwap(false, true) {
		return errors.New("mastership: Run was called before")
	}
	defer close(e.done)
	defer e.closeFeeds()
	defer e.alarms.Close()
	calls, cancelCalls := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelCalls()
	e.calls.Go(func() { e.observe(calls) })

	timer := time.NewTimer(0)
	defer timer.Stop()
	stopping, limit := ctx.Done(), (<-chan time.Time)(nil)
	var leftover error
	for {
		for _, ev := range e.take() {
			e.step(calls, ev)
		}
		if stopping == nil && e.m.quiet() {
			leftover = e.m.outcome
			break
		}
		timer.Reset(e.untilWake())
		select {
		case <-e.signal:
		case <-timer.C:
			e.step(calls, tick{})
		case <-stopping:
			stopping, limit = nil, time.After(e.cfg.DrainTimeout+3*e.cfg.CallTimeout)
			e.step(calls, stop{})
			continue
		case <-limit:
			leftover = errors.Join(e.m.outcome, fmt.Errorf("%w: stopped while a call was under way", driver.ErrUnavailable))
		}
		if leftover != nil {
			break
		}
	}
	e.close()
	cancelCalls()
	return errors.Join(leftover, e.join())
}

// closeFeeds ends what listeners read, once they have the newest of it.
func (e *Elector) closeFeeds() {
	e.statuses.Close()
	e.announcements.Close()
	e.terms.Close()
	e.grants.Close()
}

// join waits for the calls, which have been cancelled.
func (e *Elector) join() error {
	joined := make(chan struct{})
	go func() {
		e.calls.Wait()
		close(joined)
	}()
	select {
	case <-joined:
		return nil
	case <-time.After(e.cfg.CallTimeout):
		return fmt.Errorf("%w: a call to the authority ignores its context", driver.ErrUnavailable)
	}
}

func (e *Elector) now() clock.Instant { return clock.Instant(e.cfg.Clock()) }

// untilWake is at least a little, so that a clock that does not move does not make
// the loop spin.
func (e *Elector) untilWake() time.Duration {
	if e.m.wakeAt == never {
		return time.Hour
	}
	return max(e.m.wakeAt.Sub(e.now()), time.Millisecond)
}

// post hands an event to the loop. It never waits.
func (e *Elector) post(ev event) {
	e.mu.Lock()
	if !e.closed {
		e.inbox = append(e.inbox, ev)
	}
	e.mu.Unlock()
	select {
	case e.signal <- struct{}{}:
	default:
	}
}

func (e *Elector) take() []event {
	e.mu.Lock()
	defer e.mu.Unlock()
	evs := e.inbox
	e.inbox = nil
	return evs
}

func (e *Elector) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed, e.inbox = true, nil
}

// resignation is a resign whose caller waits for the outcome.
type resignation struct {
	resign
	outcome chan<- error
}

// step runs the machine for one event and carries out what it says, in order.
func (e *Elector) step(calls context.Context, ev event) {
	now := e.now()
	announce := false
	for _, c := range e.m.step(now, ev) {
		switch c := c.(type) {
		case doCall:
			e.calls.Go(func() { e.do(calls, c.call) })
		case begun:
			announce = true
			e.begin(now, c)
		case extended:
			announce = announce || !now.Before(e.announced.Add(e.cfg.AnnounceInterval))
			e.extend(c)
		case over:
			announce = true
			e.end(now, c)
		case suspect:
			e.warn(c)
		case observeAfresh:
			select {
			case e.refresh <- struct{}{}:
			default:
			}
		}
	}
	e.endDispute()
	e.publish(now)
	if trusting := now.Before(e.m.known.trusts()); e.suspecter != nil && trusting != e.trusting {
		e.trusting = trusting
		e.suspecter.Suspect(!trusting)
	}
	if announce {
		e.announced = now
		e.announcements.Store(e.local.Load().Announcement)
	}
	if r, ok := ev.(resignation); ok {
		e.waiters = append(e.waiters, r.outcome)
	}
	if len(e.waiters) > 0 && e.m.quiet() {
		for _, w := range e.waiters {
			w <- e.m.outcome
		}
		e.waiters = nil
	}
}

func (e *Elector) begin(now clock.Instant, c begun) {
	e.cfg.Observer(Event{Kind: Began, Term: c.term, ClusterID: c.clusterID, At: time.Duration(c.at), Deadline: time.Duration(c.deadline)})
	t := newActiveTerm(e, c)
	e.current.Store(t)
	e.publish(now)
	e.terms.Store(t)
	e.cfg.Logger.Info("mastership active", append(e.attrs(c.term, c.clusterID),
		slog.Int64("t_boot_ns", int64(c.at)), slog.Int64("deadline_ns", int64(c.deadline)))...)
}

func (e *Elector) extend(c extended) {
	t := e.current.Load()
	e.cfg.Observer(Event{
		Kind: Extended, Term: c.term, ClusterID: t.clusterID,
		At: time.Duration(c.at), Sent: time.Duration(c.sent), Deadline: time.Duration(c.deadline),
	})
	t.extend(c.deadline)
	e.cfg.Logger.Debug("mastership renewed", append(e.attrs(c.term, t.clusterID),
		slog.Int64("t_boot_ns", int64(c.at)), slog.Int64("sent_ns", int64(c.sent)),
		slog.Int64("deadline_ns", int64(c.deadline)))...)
}

// end reports the end in this order: the check fails; the status says so; the
// functions' context ends; the observer is called; it is logged.
func (e *Elector) end(now clock.Instant, c over) {
	t := e.current.Load()
	t.deadline.Store(ended)
	e.current.Store(nil)
	e.publish(now)
	drained := t.finish(c.reason)
	e.cfg.Observer(Event{
		Kind: Ended, Term: c.term, ClusterID: c.clusterID, Reason: c.reason,
		At: time.Duration(c.at), Deadline: time.Duration(c.deadline), Until: time.Duration(c.until),
	})
	attrs := append(e.attrs(c.term, c.clusterID), slog.String("reason", string(c.reason)),
		slog.Int64("t_boot_ns", int64(c.at)), slog.Int64("until_ns", int64(c.until)),
		slog.Int64("deadline_ns", int64(c.deadline)))
	if err := e.status.Load().Err; err != nil {
		attrs = append(attrs, slog.Any("error", err))
	}
	e.logEnd(c.reason, attrs)
	if drained {
		e.post(functionsOut{c.term})
	}
}

// lost is cleared when a master is known again.
var lost = alarm.Kind{Name: "mastership_lost", Raised: "mastership ended", Cleared: "master known again"}

func (e *Elector) logEnd(reason Reason, attrs []any) {
	switch reason {
	case ReasonDeadline, ReasonLost, ReasonRenewal, ReasonMajority, ReasonFailed:
		e.alarms.Raise(lost, "", attrs...)
	default:
		e.cfg.Logger.Info("mastership ended", attrs...)
	}
}

func (e *Elector) attrs(term driver.Term, clusterID string) []any {
	return []any{slog.Uint64("term", uint64(term)), slog.String("cluster_id", clusterID)}
}

// publish makes the state of the machine visible. That a renewal has succeeded is
// there for callers of Status and notifies no listener: it happens several times a second. Nor do
// the counters of what was heard, which others can raise as often as they like.
func (e *Elector) publish(now clock.Instant) {
	e.local.Store(&datedAnnouncement{e.m.announcement(now), now})
	e.publishGrant()
	s := e.m.status(now)
	last := e.status.Swap(&s)
	if last != nil {
		renewed := *last
		renewed.Deadline, renewed.Renewals, renewed.RenewalLatency = s.Deadline, s.Renewals, s.RenewalLatency
		renewed.vouched, renewed.MasterUntil, renewed.Hearsay = s.vouched, s.MasterUntil, s.Hearsay
		if reflect.DeepEqual(renewed, s) {
			return
		}
	}
	if s.Master != nil {
		e.alarms.Clear(lost, "", "term", s.MasterTerm)
	}
	e.statuses.Store(s)
}

// do makes one call. The loop may have given up on it when it returns.
func (e *Elector) do(ctx context.Context, c call) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	r := result{seq: c.seq}
	switch c.kind {
	case acquiring:
		r.grant, r.err = e.cfg.Authority.Acquire(ctx, c.claim)
	case renewing:
		r.grant, r.err = e.cfg.Authority.Renew(ctx, c.grant)
	case releasing:
		r.err = e.cfg.Authority.Release(ctx, c.grant)
	}
	e.post(r)
}

// observe follows the authority's word, and asks for it afresh now and then.
func (e *Elector) observe(ctx context.Context) {
	retry := backoff.Backoff{Min: 50 * time.Millisecond, Max: 2 * time.Second}
	for ctx.Err() == nil {
		poll, cancel := context.WithCancel(ctx)
		var good atomic.Bool
		var failure error
		var timing sync.WaitGroup
		timing.Go(func() {
			e.untilPoll(poll, &good)
			cancel()
		})
		for m, err := range e.cfg.Authority.Observe(poll) {
			if err != nil && poll.Err() != nil {
				break
			}
			if failure = err; err == nil {
				good.Store(true)
			}
			e.post(observation{m, err})
		}
		expired := poll.Err() != nil
		cancel()
		timing.Wait()
		switch {
		case ctx.Err() != nil:
			return
		case expired && good.Load() && failure == nil:
			retry.Reset()
			continue
		case expired && !good.Load():
			e.post(observation{err: fmt.Errorf("%w: nothing to be observed within %v", driver.ErrUnavailable, e.cfg.PollInterval)})
		}
		_ = retry.Wait(ctx)
	}
}

// vouchedPolls is how many times the poll interval the authority is left alone while
// the master that it shows is learned of by gossip: no news is good news then.
const vouchedPolls = 12

// refreshPause is the least time between two observations that gossip gave reason for.
const refreshPause = time.Second

// forgottenWait is how long a vacancy is left alone for a master of which only gossip tells,
// where the TTL of grants is not known.
const forgottenWait = 15 * time.Second

// untilPoll waits until it is time to observe the authority afresh, or until ctx ends. What
// gossip gives reason for waits for an answer to the last time, and a while.
func (e *Elector) untilPoll(ctx context.Context, good *atomic.Bool) {
	interval := func() time.Duration { return e.cfg.PollInterval - rand.N(e.cfg.PollInterval/10+1) }
	timer := time.NewTimer(interval())
	defer timer.Stop()
	started, urgent := time.Now(), false
	for polls := 1; ; {
		select {
		case <-ctx.Done():
			return
		case <-e.refresh:
			if !urgent && good.Load() {
				urgent = true
				timer.Reset(refreshPause - time.Since(started))
			}
		case <-timer.C:
			if urgent || polls == vouchedPolls || !good.Load() || !e.now().Before(e.Status().vouched) {
				return
			}
			polls++
			timer.Reset(interval())
		}
	}
}

// SetConditions replaces the conditions. Before the first call this node is no
// candidate.
func (e *Elector) SetConditions(c Conditions) { e.post(conditions{c}) }

// Learn takes in what another node announced. It does not wait.
func (e *Elector) Learn(a Announcement) {
	if e.learner != nil && a.Proof != "" {
		e.learner.Learn(a.Proof) // at once: it says that the grant stood before now
	}
	if a.Term > 0 {
		e.post(learned{a})
	}
}

// MemberGone says that an instance is no longer a member. If it was known as the
// master, that name is withdrawn until it shows a sign of life.
func (e *Elector) MemberGone(instanceID string) { e.post(memberGone{instanceID}) }

// Doubt says that there is reason to look whether an instance is still there, as when a
// connection to it has ended. Nothing is concluded from it but that the authority should be
// looked at. It is over when the instance announces itself again.
func (e *Elector) Doubt(instanceID string) { e.post(doubted{instanceID}) }

// Check returns a token if this node is master at the moment it is asked, which
// it tells by the clock and without a lock. Otherwise the error is a
// *NotMasterError that names the master; a *NoQuorumError if no master is known
// and too few members are in sight, or too few voters can be reached; or
// ErrNoMaster. The token's AppAddrs are shared: do not change them.
//
// It is false before any context of WhileMaster ends and before any listener hears
// of the end, and after the deadline even if everything else in the process hangs.
func (e *Elector) Check() (Token, error) {
	if t := e.current.Load(); t != nil {
		if deadline, ok := t.valid(); ok {
			return t.token(deadline), nil
		}
	}
	return Token{}, e.whyNot()
}

// IsMaster is Check for those who need no token. It does not allocate.
func (e *Elector) IsMaster() bool {
	t := e.current.Load()
	if t == nil {
		return false
	}
	_, ok := t.valid()
	return ok
}

// whyNot is the error for one who is not master.
func (e *Elector) whyNot() error {
	s := e.status.Load()
	if s.Master != nil && (s.Master.InstanceID != e.cfg.Holder.InstanceID || e.IsMaster()) {
		holder := *s.Master
		return &NotMasterError{Master: &holder, Term: s.MasterTerm}
	}
	if s.Need > 0 && s.Have < s.Need {
		return &NoQuorumError{Have: s.Have, Need: s.Need}
	}
	if s.Observed.Expected > 0 && errors.Is(s.Err, driver.ErrUnavailable) {
		return &NoQuorumError{Need: Majority(s.Observed.Expected)}
	}
	return ErrNoMaster
}

// Status returns what is known now.
func (e *Elector) Status() Status { return *e.status.Load() }

// Watch yields the status now and after changes, until ctx ends or Run has
// returned. That a renewal has succeeded is no change. States in between may be
// skipped; Config.Observer is called for each.
func (e *Elector) Watch(ctx context.Context) iter.Seq[Status] { return e.statuses.Watch(ctx) }

// Announcements yields what the other nodes should be told at once: at the
// beginning and the end of this node's mastership, and in between at each renewal
// that comes an AnnounceInterval or more after the last announcement. Of several that
// were not taken in time the latest is yielded.
func (e *Elector) Announcements(ctx context.Context) iter.Seq[Announcement] {
	return e.announcements.Watch(ctx)
}

// LocalAnnouncement returns what a node that has just joined should be told: the
// master this node knows of, or at least the highest term. It reports false if
// there is nothing to tell.
func (e *Elector) LocalAnnouncement() (Announcement, bool) {
	d := e.local.Load()
	a := d.Announcement
	if a.Active {
		if a.ValidFor -= e.now().Sub(d.at); a.ValidFor <= 0 {
			a = Announcement{Term: a.Term, ClusterID: a.ClusterID}
		}
	}
	return a, a.Term > 0
}

// Resign gives up mastership in good order and leaves the next term to others for
// the resign cooldown. It returns when the grant was released, at once if this
// node is not master; with ErrDrainTimeout if functions did not return in time; or
// when ctx ends, with the resignation still going on.
func (e *Elector) Resign(ctx context.Context) error {
	outcome := make(chan error, 1)
	e.post(resignation{outcome: outcome})
	select {
	case err := <-outcome:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-e.done:
		return ErrStopped
	}
}

// WhileMasterOption changes what WhileMaster does. The zero value changes nothing.
type WhileMasterOption struct{ keep bool }

// KeepOnError has the node stay master if the function returns an error, as where other
// functions do the work of the master.
func KeepOnError() WhileMasterOption { return WhileMasterOption{keep: true} }

// WhileMaster runs fn each time that this node becomes master, and at once if it
// is. fn is given the term and a context that ends with the mastership, which then
// is its cause (ErrEnded), or with ctx. fn should return soon after; see
// Config.DrainTimeout.
//
// If fn returns nil, or an error that is but that of its context, WhileMaster
// waits for the next term; fn is not called again in the same one. Any other error
// ends WhileMaster, which returns it, and the mastership: a master whose functions have
// failed is in the way of one that works. It is given up in good order, with ReasonFailed, and the
// next term is left to other nodes for the resign cooldown; with KeepOnError it is kept.
// Once WhileMaster has returned such an error, this node is not master in that term. A
// panic of fn is not recovered from. WhileMaster also ends with ctx, with its cause, and
// with Run, with ErrStopped.
//
// Calls of WhileMaster do not wait for one another. Within one call fn is never
// run for a term before it has returned from the one before: if it hangs, that
// call alone misses terms.
func (e *Elector) WhileMaster(ctx context.Context, fn func(ctx context.Context, term Term) error, options ...WhileMasterOption) error {
	keep := slices.ContainsFunc(options, func(o WhileMasterOption) bool { return o.keep })
	var last driver.Term
	for t := range e.terms.Watch(ctx) {
		if t.term <= last || !t.enter() {
			continue
		}
		last = t.term
		if err := t.run(ctx, fn); err != nil {
			if !keep {
				e.post(failed{t.term})
				select {
				case <-t.ctx.Done():
				case <-e.done:
				}
			}
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return ErrStopped
}

// run calls fn under a context of both the caller and the term.
func (t *activeTerm) run(parent context.Context, fn func(context.Context, driver.Term) error) error {
	defer t.leave()
	deadline, expired := t.expired()
	if expired {
		return nil
	}
	ctx, cancel := context.WithCancelCause(context.WithValue(parent, tokenKey{}, t.token(deadline)))
	defer cancel(nil)
	defer context.AfterFunc(t.ctx, func() { cancel(context.Cause(t.ctx)) })()
	err := fn(ctx, t.term)
	if err != nil && ctx.Err() != nil && (errors.Is(err, ctx.Err()) || errors.Is(err, context.Cause(ctx))) {
		return nil
	}
	return err
}

package mastership

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
)

// machine is the election as one node sees it, without goroutines, clocks or
// calls: events with the time at which they are handled go in, commands come out.
// The Elector runs it; the tests run many of them in virtual time.
//
// Handlers of events record facts. What follows from the facts and the time is
// worked out in advance, by the state, after each event; it also notes when to be
// woken if nothing happens, so that no decision can be without its timer.
type machine struct {
	p params
	r rules

	state State
	since clock.Instant

	// What is known.
	cond       Conditions
	seen       bool // the authority was observed at least once
	observed   driver.Mastership
	observedAt clock.Instant
	known      known
	highest    driver.Term // heard of anywhere
	ended      driver.Term // highest term that is over here: once active, or given back
	clusterID  string

	// Intentions.
	stopped       bool
	cooldownUntil clock.Instant
	minorityAt    clock.Instant // since when there is no majority, 0 if there is one

	// Calls to the authority: at most one is waited for. Those given up on may
	// still have taken effect, so their answers are expected for ever.
	seq       uint64
	call      *call
	abandoned map[uint64]*call
	// orphans are grants that were got and are not used. They are given back.
	orphans []orphan

	// hold is the grant while Active or Releasing, and after a drain timeout until
	// it has expired or the functions have returned.
	hold *hold

	// Candidacy.
	retryAt     clock.Instant
	vacantSince clock.Instant
	tries       int
	triedAt     clock.Instant

	// For the status.
	alarm, callErr, observeErr, outcome error
	announceSeq                         uint64
	transitions, renewals, failures     uint64
	latency                             Histogram

	wakeAt   clock.Instant
	commands []command
}

// params do not change.
type params struct {
	self           driver.Holder
	freshID        string // the cluster id to propose where none is known
	drain          time.Duration
	isolationGrace time.Duration
	poll           time.Duration
	callTimeout    time.Duration // of Acquire and Release
	cooldown       time.Duration
	random         func(n time.Duration) time.Duration // uniform in [0, n)
}

const (
	never = clock.Instant(math.MaxInt64)

	// Tries after a vacancy was seen come soon, as its candidates are many and
	// each try is cheap; later ones are spaced out.
	fastWindow   = 5 * time.Second
	fastRetryMin = 20 * time.Millisecond
	fastRetryMax = 150 * time.Millisecond
	slowRetryMax = 2 * time.Second
	// refusedRetry spaces tries that will not succeed before an operator acts.
	refusedRetry = 5 * time.Second

	// maxAbandoned bounds the calls that a driver that breaks its contract may let
	// hang. Beyond it no further call is made until one returns.
	maxAbandoned = 8
)

type callKind int

const (
	acquiring callKind = iota
	renewing
	releasing
)

// call is an attempt. sent is the time of the step that asked for it, which is
// before it was really sent, whatever happened in between.
type call struct {
	seq     uint64
	kind    callKind
	sent    clock.Instant
	timeout time.Duration
	claim   driver.Claim // of acquiring
	grant   driver.Grant // of renewing and releasing
}

// hold is a grant in use, or one that still protects functions that run.
type hold struct {
	grant     driver.Grant
	plan      plan
	sent      clock.Instant // of the latest call that extended it
	deadline  clock.Instant
	renewAt   clock.Instant
	failures  int
	confirmed bool // the authority was observed to show it

	// After the end:
	drained   bool
	drainBy   clock.Instant
	releaseBy clock.Instant
}

func (h *hold) soft() clock.Instant { return h.deadline.Add(-h.plan.drain) }

type orphan struct {
	grant driver.Grant
	until clock.Instant // by then it has expired
}

// Commands.
type (
	command interface{ command() }

	// doCall asks for a call to be made. Its answer comes back as a result.
	doCall struct{ call }
	// begun: this node is master from now on.
	begun struct {
		at, deadline clock.Instant
		term         driver.Term
		clusterID    string
	}
	// extended: the deadline has moved.
	extended struct {
		at, sent, deadline clock.Instant
		term               driver.Term
	}
	// over: this node is master no longer. A result drained is to follow once the
	// functions have returned.
	over struct {
		at, deadline, until clock.Instant
		term                driver.Term
		clusterID           string
		reason              Reason
	}
)

func (doCall) command()   {}
func (begun) command()    {}
func (extended) command() {}
func (over) command()     {}

func newMachine(p params, r rules) *machine {
	return &machine{p: p, r: r, abandoned: make(map[uint64]*call), wakeAt: never}
}

// event is something that happened. apply records it.
type event interface {
	apply(m *machine, now clock.Instant)
}

// step handles one event at a time now, which never goes back.
func (m *machine) step(now clock.Instant, ev event) []command {
	m.commands = nil
	// First of all: whatever the event says, and however late we are woken up, a
	// mastership whose time has passed is over and nothing revives it.
	if m.state == Active && !m.r.holds(now, m.hold.deadline) {
		m.end(now, ReasonDeadline)
		m.enter(now, Follower)
	}
	ev.apply(m, now)
	m.advance(now)
	return m.commands
}

// isMaster is the check at use.
func (m *machine) isMaster(now clock.Instant) bool {
	return m.state == Active && m.r.holds(now, m.hold.deadline)
}

// The events.
type (
	// tick: it is time.
	tick struct{}
	// result is the answer to the call seq.
	result struct {
		seq   uint64
		grant driver.Grant
		err   error
	}
	// observation is what Authority.Observe yielded.
	observation struct {
		mastership driver.Mastership
		err        error
	}
	conditions   struct{ Conditions }
	learned      struct{ Announcement }
	memberGone   struct{ instance string }
	functionsOut struct{ term driver.Term } // all functions of the term have returned
	lapse        struct{ term driver.Term } // the deadline was found to have passed
	resign       struct{}
	stop         struct{}
)

func (tick) apply(*machine, clock.Instant) {}

func (e conditions) apply(m *machine, now clock.Instant) {
	m.cond = e.Conditions
	m.hear(e.MinTerm)
	m.adoptClusterID(e.Conditions.ClusterID, "the other members")
}

func (e learned) apply(m *machine, now clock.Instant) {
	a := e.Announcement
	if !m.adoptClusterID(a.ClusterID, "node "+a.Holder.NodeID) {
		return // it speaks of another cluster
	}
	m.hear(a.Term)
	m.known.learn(now, a)
	if m.state == Active && a.Active && a.Term == m.hold.grant.Term && a.Holder.InstanceID != m.p.self.InstanceID {
		m.alarm = fmt.Errorf("node %s at %s claims our own term %d", a.Holder.NodeID, a.Holder.Addr, a.Term)
		m.retire(now, ReasonSuperseded)
	}
}

func (e memberGone) apply(m *machine, now clock.Instant) { m.known.memberGone(e.instance) }

func (e functionsOut) apply(m *machine, now clock.Instant) {
	if m.hold != nil && m.state != Active && m.hold.grant.Term == e.term {
		m.hold.drained = true
		m.hold.releaseBy = max(m.hold.deadline, now.Add(m.p.callTimeout))
	}
}

func (e lapse) apply(m *machine, now clock.Instant) {
	if m.state == Active && m.hold.grant.Term == e.term {
		m.end(now, ReasonDeadline)
		m.enter(now, Follower)
	}
}

func (resign) apply(m *machine, now clock.Instant) {
	m.cooldownUntil = now.Add(m.p.cooldown)
	m.forgetOutcome()
	if m.state == Active {
		m.retire(now, ReasonResigned)
	}
}

func (stop) apply(m *machine, _ clock.Instant) {
	m.stopped = true
	m.forgetOutcome()
}

// forgetOutcome clears the outcome of an earlier mastership, for one who asks
// about what is held now.
func (m *machine) forgetOutcome() {
	if m.state != Releasing {
		m.outcome = nil
	}
}

func (e observation) apply(m *machine, now clock.Instant) {
	m.observeErr = e.err
	if e.err != nil {
		m.known.observeFailed(now)
		return
	}
	o := e.mastership
	fresh := !m.seen || m.observed.Holder != nil || m.observed.Term != o.Term
	m.seen, m.observed, m.observedAt = true, o, now
	if o.Holder != nil && !m.isSelf(o.Holder) {
		m.callErr = nil // what failed when it was free matters no more
	}
	if m.adoptClusterID(o.ClusterID, "the authority") {
		m.alarm = nil
		m.known.observe(o)
		m.hear(o.Term)
	} else { // what it says of terms and masters is about another cluster
		m.known.observe(driver.Mastership{})
	}
	if m.state == Active || m.state == Releasing {
		m.judge(now, o)
	}
	if m.vacant() {
		gap := fastRetryMax // there may be news that does not show
		if fresh {
			m.vacantSince, m.tries = now, 0
			gap = fastRetryMin
		}
		m.retryAt = min(m.retryAt, max(now, m.triedAt.Add(gap)))
	}
}

// judge looks for our own grant in what the authority shows.
func (m *machine) judge(now clock.Instant, o driver.Mastership) {
	h := m.hold
	switch {
	case o.ClusterID != "" && o.ClusterID != h.grant.ClusterID:
		m.lose(now)
	case o.Term > h.grant.Term:
		m.lose(now)
	case o.Term == h.grant.Term && m.isSelf(o.Holder):
		h.confirmed = true
	case o.Term == h.grant.Term || h.confirmed:
		m.lose(now)
	}
	// A lower term before ours was ever shown is an observation from before it.
}

// lose ends what the authority says is over: there is nothing to be given back.
func (m *machine) lose(now clock.Instant) {
	if m.state == Active {
		m.end(now, ReasonLost)
	}
	m.hold = nil
	m.enter(now, Follower)
}

func (e result) apply(m *machine, now clock.Instant) {
	c := m.abandoned[e.seq]
	late := c != nil
	switch {
	case late:
		delete(m.abandoned, e.seq)
	case m.call != nil && m.call.seq == e.seq:
		c, m.call = m.call, nil
	default:
		return
	}
	switch c.kind {
	case acquiring:
		m.acquired(now, c, e, late)
	case renewing:
		m.renewed(now, c, e, late)
	case releasing:
		m.released(now, c, e, late)
	}
}

// acquired handles the answer to an Acquire, which if it is late may come at any
// moment and in any state.
func (m *machine) acquired(now clock.Instant, c *call, e result, late bool) {
	g, ok := m.r.granted(answer{claim: c.claim, grant: e.grant, err: e.err})
	if !ok {
		if !late {
			m.refused(now, e.err)
		}
		return
	}
	m.callErr = nil
	if m.state == Active || m.state == Releasing {
		if g.Term == m.hold.grant.Term {
			m.extend(now, c, g)
			return
		}
		m.abandonGrant(c, g)
		m.hear(g.Term)
		return
	}
	_, err := planFor(g.ValidFor, m.p.drain)
	if err != nil {
		m.callErr = err
	}
	p, tooLate := planFor(m.left(now, c, g), m.p.drain)
	h := &hold{grant: g, plan: p, sent: c.sent, deadline: m.r.deadline(c.sent, now, g.ValidFor)}
	otherwise := m.seen && m.observed.Term == g.Term && !m.isSelf(m.observed.Holder)
	switch {
	case err != nil,
		!m.adoptClusterID(g.ClusterID, "the authority"),
		!m.r.fresh(g.Term, m.ended, m.highest),
		otherwise, // the authority has shown since that it is over
		tooLate != nil,
		!m.r.holds(now, h.soft()),
		m.call != nil,
		m.blocked(now) != "":
		m.abandonGrant(c, g)
		m.retryAt = now
		if err != nil {
			m.retryAt = now.Add(refusedRetry)
		}
		return
	}
	m.enter(now, Acquired)
	m.hold = h
	m.begin(now)
}

// begin makes the hold active.
func (m *machine) begin(now clock.Instant) {
	h := m.hold
	h.renewAt = m.nextRenewal(h.sent, h)
	if h.plan.validFor != h.grant.ValidFor {
		h.renewAt = m.nextRenewal(now, h) // it was long in coming
	}
	h.confirmed = m.seen && m.observed.Term == h.grant.Term && m.isSelf(m.observed.Holder)
	m.hear(h.grant.Term)
	m.tries, m.outcome, m.alarm = 0, nil, nil
	m.dropOrphans(h.grant.Term)
	m.announceSeq = 1
	m.transitions++
	m.enter(now, Active)
	m.emit(begun{at: now, deadline: h.deadline, term: h.grant.Term, clusterID: h.grant.ClusterID})
}

// end makes this node master no longer. The caller enters the next state.
func (m *machine) end(now clock.Instant, why Reason) {
	h := m.hold
	m.ended = max(m.ended, h.grant.Term)
	m.known.end(h.grant.Term)
	m.announceSeq++
	m.transitions++
	h.drainBy = now.Add(m.p.drain)
	m.retryAt, m.vacantSince, m.tries = now, now, 0
	m.emit(over{
		at: now, deadline: h.deadline, until: min(now, h.deadline),
		term: h.grant.Term, clusterID: h.grant.ClusterID, reason: why,
	})
}

// retire ends in good order: the functions return, then the grant is given back.
func (m *machine) retire(now clock.Instant, why Reason) {
	m.end(now, why)
	m.enter(now, Releasing)
}

// extend counts a successful renewal. It never shortens, and it never revives: the
// caller has made sure that the grant is in use.
func (m *machine) extend(now clock.Instant, c *call, g driver.Grant) {
	h := m.hold
	h.deadline = max(h.deadline, m.r.deadline(c.sent, now, g.ValidFor))
	if c.sent >= h.sent {
		h.sent, h.grant, h.failures = c.sent, g, 0
		if p, err := planFor(m.left(now, c, g), m.p.drain); err == nil {
			h.plan = p
		}
		h.renewAt = m.nextRenewal(c.sent, h)
	}
	m.announceSeq++
	if m.state == Active {
		m.emit(extended{at: now, sent: c.sent, deadline: h.deadline, term: h.grant.Term})
	}
}

func (m *machine) renewed(now clock.Instant, c *call, e result, late bool) {
	if m.hold == nil || m.state != Active && m.state != Releasing || m.hold.grant.Term != c.grant.Term {
		return
	}
	h := m.hold
	switch {
	case e.err == nil && e.grant.Term != h.grant.Term:
		m.callErr = fmt.Errorf("the authority answered the renewal of term %d with term %d", h.grant.Term, e.grant.Term)
		m.lose(now)
	case e.err == nil:
		m.renewals++
		m.latency.observe(now.Sub(c.sent))
		m.callErr = nil
		m.extend(now, c, e.grant)
	case errors.Is(e.err, driver.ErrSessionLost):
		m.failures++
		m.callErr = e.err
		m.lose(now)
	case !late:
		m.renewalFailed(now, e.err)
	}
}

func (m *machine) renewalFailed(now clock.Instant, err error) {
	h := m.hold
	m.failures++
	m.callErr = err
	// Promptly, but not in a tight loop where calls fail at once.
	bound := min(h.plan.renewEvery/10<<min(h.failures, 2), 500*time.Millisecond)
	h.failures++
	h.renewAt = now.Add(bound/2 + m.p.random(bound/2+1))
}

func (m *machine) released(now clock.Instant, c *call, e result, late bool) {
	done := e.err == nil || errors.Is(e.err, driver.ErrNotFound)
	if !done && !late {
		m.callErr = e.err
		m.retryAt = now.Add(m.fastRetry())
	}
	if done {
		m.callErr = nil
		m.dropOrphans(c.grant.Term)
		m.retryAt = now
		if m.state == Releasing && m.hold.grant.Term == c.grant.Term {
			m.hold = nil
			m.enter(now, Follower)
		}
	}
}

// refused schedules the next try after an Acquire that did not succeed.
func (m *machine) refused(now clock.Instant, err error) {
	m.tries++
	switch {
	case errors.Is(err, driver.ErrClusterMismatch):
		m.callErr = err
		m.retryAt = now.Add(refusedRetry + m.p.random(refusedRetry/2))
	case errors.Is(err, driver.ErrConflict):
		m.callErr = nil
		m.observedAt = now // as good as an observation that somebody stands
		m.retryAt = now.Add(m.retryAfter(now))
	case !driver.Retryable(err):
		m.callErr = err
		m.retryAt = now.Add(refusedRetry + m.p.random(refusedRetry/2))
	default:
		m.callErr = err
		m.retryAt = now.Add(m.retryAfter(now))
	}
}

func (m *machine) fastRetry() time.Duration {
	return fastRetryMin + m.p.random(fastRetryMax-fastRetryMin)
}

func (m *machine) retryAfter(now clock.Instant) time.Duration {
	if now.Sub(m.vacantSince) < fastWindow {
		return m.fastRetry()
	}
	bound := min(fastRetryMax<<min(m.tries, 8), slowRetryMax)
	return bound/2 + m.p.random(bound/2)
}

// advance draws the conclusions, until nothing changes any more.
func (m *machine) advance(now clock.Instant) {
	for {
		m.wakeAt = never
		m.watchMajority(now)
		m.giveUpOnCall(now)
		for _, t := range m.known.expiries() {
			if now.Before(t) {
				m.wakeAt = min(m.wakeAt, t)
			}
		}
		before := m.state
		switch m.state {
		case Active:
			m.whileActive(now)
		case Releasing:
			m.whileReleasing(now)
		default:
			m.whileFollower(now)
		}
		if m.state == before {
			return
		}
	}
}

// due reports whether t has come, and otherwise sees to being woken then.
func (m *machine) due(now, t clock.Instant) bool {
	if !now.Before(t) {
		return true
	}
	m.wakeAt = min(m.wakeAt, t)
	return false
}

func (m *machine) watchMajority(now clock.Instant) {
	if m.cond.majority() {
		m.minorityAt = 0
	} else if m.minorityAt == 0 {
		m.minorityAt = now
	}
}

// giveUpOnCall stops waiting for a call whose time is over. A driver that honours
// its context has answered by then.
func (m *machine) giveUpOnCall(now clock.Instant) {
	c := m.call
	if c == nil || !m.due(now, c.sent.Add(c.timeout)) {
		return
	}
	m.abandoned[c.seq], m.call = c, nil
	err := fmt.Errorf("%w: no answer within %v", driver.ErrUnavailable, c.timeout)
	switch {
	case c.kind == acquiring:
		m.refused(now, err)
	case c.kind == releasing:
		m.callErr, m.retryAt = err, now
	case m.hold != nil && m.hold.grant.Term == c.grant.Term:
		m.failures++
		m.callErr = err
		m.hold.renewAt = now
	}
}

func (m *machine) whileActive(now clock.Instant) {
	h := m.hold
	if m.due(now, h.deadline) {
		m.end(now, ReasonDeadline)
		m.enter(now, Follower)
		return
	}
	if why := m.mustRetire(now); why != "" {
		m.retire(now, why)
		return
	}
	m.renewWhenDue(now)
}

func (m *machine) mustRetire(now clock.Instant) Reason {
	h := m.hold
	if m.highest > h.grant.Term {
		m.alarm = fmt.Errorf("term %d was heard of while this node was master in term %d", m.highest, h.grant.Term)
		return ReasonSuperseded
	}
	isolated := m.minorityAt != 0 && m.due(now, m.minorityAt.Add(m.p.isolationGrace))
	late := m.due(now, h.soft())
	switch {
	case m.stopped:
		return ReasonStopped
	case m.cond.Draining:
		return ReasonDraining
	case !m.cond.Eligible || m.observed.Ineligible != "":
		return ReasonIneligible
	case isolated:
		return ReasonMajority
	case late:
		return ReasonRenewal
	}
	return ""
}

func (m *machine) renewWhenDue(now clock.Instant) {
	h := m.hold
	if m.free() && m.due(now, h.renewAt) {
		m.send(now, call{kind: renewing, grant: h.grant, timeout: h.plan.callTimeout})
	}
}

// left is the validity that is to be divided up: all of it, unless the answer was
// long in coming. A driver whose call has to wait for others may make up for that
// with a longer validity, which then is not a longer time to go.
func (m *machine) left(now clock.Instant, c *call, g driver.Grant) time.Duration {
	if took := now.Sub(c.sent); took > g.ValidFor/5 {
		return g.ValidFor - took
	}
	return g.ValidFor
}

// nextRenewal is a third of the validity after from, a little less so that nodes
// do not fall into step.
func (m *machine) nextRenewal(from clock.Instant, h *hold) clock.Instant {
	return from.Add(h.plan.renewEvery - m.p.random(h.plan.renewEvery/20+1))
}

func (m *machine) whileReleasing(now clock.Instant) {
	h := m.hold
	if !m.r.releasable(h.drained) {
		timedOut, expired := m.due(now, h.drainBy), m.due(now, h.deadline)
		if timedOut || expired {
			// Functions that hang may still act. A successor that is let in now would
			// act beside them; the rest of the validity is theirs.
			m.outcome = ErrDrainTimeout
			m.enter(now, Follower)
			return
		}
		m.renewWhenDue(now) // so that no successor stands while functions drain
		return
	}
	if h.releaseBy == 0 {
		h.releaseBy = max(h.deadline, now.Add(m.p.callTimeout))
	}
	if m.due(now, h.releaseBy) {
		m.outcome = fmt.Errorf("the grant could not be given back and was left to expire: %w", m.callErr)
		m.hold = nil
		m.enter(now, Follower)
		return
	}
	// A renewal that is under way may be overtaken by the release: it changes
	// nothing then. But one at a time.
	if m.free() && m.due(now, m.retryAt) {
		m.send(now, call{kind: releasing, grant: h.grant, timeout: m.p.callTimeout})
	}
}

// lingering reports whether functions of an ended mastership still run under a
// grant that has not expired. Until then nothing is done that could let a
// successor in.
func (m *machine) lingering(now clock.Instant) bool {
	if m.hold == nil {
		return false
	}
	if m.hold.drained || m.due(now, m.hold.deadline) {
		m.hold = nil
		return false
	}
	return true
}

func (m *machine) whileFollower(now clock.Instant) {
	if m.call != nil {
		return
	}
	if m.lingering(now) || !m.free() {
		m.enter(now, Follower)
		return
	}
	m.expireOrphans(now)
	if len(m.orphans) > 0 {
		if m.due(now, m.retryAt) {
			m.send(now, call{kind: releasing, grant: m.orphans[0].grant, timeout: m.p.callTimeout})
		}
		return
	}
	if m.blocked(now) != "" {
		m.enter(now, Follower)
		return
	}
	// A watch is only eventual: after a while without news of the master, ask by trying.
	if !m.vacant() && !m.due(now, max(m.observedAt.Add(m.p.poll), m.known.vouched())) {
		m.enter(now, Follower)
		return
	}
	m.enter(now, Candidate)
	if m.due(now, m.retryAt) {
		m.triedAt = now
		id, known := m.clusterID, true
		if id == "" {
			id, known = m.p.freshID, false
		}
		m.send(now, call{
			kind: acquiring, timeout: m.p.callTimeout,
			claim: driver.Claim{Holder: m.p.self, MinTerm: m.highest, ClusterID: id, Known: known},
		})
	}
}

// vacant reports whether the authority shows nobody, or a grant in our own name
// that we do not use: the answer to its Acquire was lost.
func (m *machine) vacant() bool {
	return m.seen && (m.observed.Holder == nil || m.isSelf(m.observed.Holder))
}

func (m *machine) isSelf(h *driver.Holder) bool {
	return h != nil && h.InstanceID == m.p.self.InstanceID
}

// blocked says what keeps this node from being a candidate, in words, or "".
func (m *machine) blocked(now clock.Instant) string {
	cooling := !m.due(now, m.cooldownUntil)
	switch {
	case m.stopped:
		return "this node is stopping"
	case m.cond.Draining:
		return "this node is draining"
	case !m.cond.Eligible:
		return "this node is not eligible to be master"
	case !m.seen && m.observeErr != nil:
		return fmt.Sprintf("waiting for the authority: %v", m.observeErr)
	case !m.seen:
		return "waiting for the authority to be heard of"
	case m.observed.Ineligible != "":
		return "this node cannot be master: " + m.observed.Ineligible
	case m.observed.ClusterID != "" && m.observed.ClusterID != m.clusterID:
		return "the authority records another cluster under this name; give one of them another name"
	case m.forgotten(now):
		return "the authority has forgotten the last term, whose master may still stand; waiting for it to run out"
	case !m.cond.majority():
		return fmt.Sprintf("waiting for a majority: sees %d of the %d needed", m.cond.Have, m.cond.Need)
	case m.forming() && !m.cond.Formation.Allowed:
		if m.cond.Formation.Reason == "" {
			return "waiting for leave to form a cluster"
		}
		return m.cond.Formation.Reason
	case !m.cond.Ready:
		return "waiting for this node to be ready"
	case cooling:
		return "this node has resigned and leaves the next term to others for a while"
	}
	return ""
}

// forgotten reports whether gossip tells of a master in a term that the authority
// does not know of: then it is only about to be heard, or the authority was wiped or
// restored, and would grant beside a master that still stands.
func (m *machine) forgotten(now clock.Instant) bool {
	heard := &m.known.heard
	return heard.Active && heard.Term > m.observed.Term && heard.Term > m.known.ended &&
		!m.isSelf(&heard.Holder) && !m.due(now, m.known.heardUntil)
}

// forming reports whether the next grant would be the first of a new cluster.
func (m *machine) forming() bool {
	return m.observed.ClusterID == "" && m.clusterID == "" && m.highest == 0
}

func (m *machine) send(now clock.Instant, c call) {
	if c.kind == releasing {
		// From here on the term is spent, used or not: if this call is given up on
		// it may still arrive, and must not free a grant that was made active since.
		m.ended = max(m.ended, c.grant.Term)
	}
	m.seq++
	c.seq, c.sent = m.seq, now
	m.call = &c
	m.due(now, now.Add(c.timeout))
	m.emit(doCall{c})
}

// free reports whether a call may be made.
func (m *machine) free() bool { return m.call == nil && len(m.abandoned) < maxAbandoned }

func (m *machine) emit(c command) { m.commands = append(m.commands, c) }

func (m *machine) enter(now clock.Instant, s State) {
	if m.state != s {
		m.state, m.since = s, now
	}
}

func (m *machine) hear(t driver.Term) { m.highest = max(m.highest, t) }

// adoptClusterID takes over the first id that is heard of. It reports false, and
// raises the alarm, if another one was known.
func (m *machine) adoptClusterID(id, from string) bool {
	if id == "" || id == m.clusterID {
		return true
	}
	if m.clusterID == "" {
		m.clusterID = id
		return true
	}
	m.alarm = fmt.Errorf("%w: this one is %s, %s says %s", driver.ErrClusterMismatch, m.clusterID, from, id)
	return false
}

// abandonGrant sees to it that a grant that is not used is given back.
func (m *machine) abandonGrant(c *call, g driver.Grant) {
	for _, o := range m.orphans {
		if o.grant.Term == g.Term {
			return
		}
	}
	// It may stand a little longer than we would count on it.
	m.orphans = append(m.orphans, orphan{grant: g, until: c.sent.Add(g.ValidFor + m.p.callTimeout)})
}

// dropOrphans forgets the grants of terms up to t: a grant of t proves that they
// are over or the same.
func (m *machine) dropOrphans(t driver.Term) {
	kept := m.orphans[:0]
	for _, o := range m.orphans {
		if o.grant.Term > t {
			kept = append(kept, o)
		}
	}
	m.orphans = kept
}

func (m *machine) expireOrphans(now clock.Instant) {
	kept := m.orphans[:0]
	for _, o := range m.orphans {
		if !m.due(now, o.until) {
			kept = append(kept, o)
		}
	}
	m.orphans = kept
}

// quiet reports whether nothing is held and nothing is under way that could
// become a grant.
func (m *machine) quiet() bool {
	return m.state != Active && m.state != Releasing && m.call == nil && len(m.orphans) == 0
}

// master is whom this node takes for the master.
func (m *machine) master(now clock.Instant) (*driver.Holder, driver.Term) {
	if m.state == Active {
		return &m.p.self, m.hold.grant.Term
	}
	return m.known.master(now, m.p.self.InstanceID)
}

// announcement is what to tell the others now; the zero value is nothing.
func (m *machine) announcement(now clock.Instant) Announcement {
	switch {
	case m.isMaster(now):
		return Announcement{
			Term: m.hold.grant.Term, ClusterID: m.hold.grant.ClusterID, Holder: m.p.self,
			Active: true, Seq: m.announceSeq, ValidFor: m.hold.deadline.Sub(now),
		}
	case m.ended > 0 && m.ended == m.highest:
		return Announcement{Term: m.ended, ClusterID: m.clusterID, Holder: m.p.self, Seq: m.announceSeq}
	}
	k := &m.known
	if h, t := k.master(now, m.p.self.InstanceID); h != nil && t == k.heard.Term && now.Before(k.heardUntil) {
		a := k.heard
		a.ValidFor = k.heardUntil.Sub(now)
		return a
	}
	if m.highest > 0 {
		return Announcement{Term: m.highest, ClusterID: m.clusterID}
	}
	return Announcement{}
}

func (m *machine) status(now clock.Instant) Status {
	s := Status{
		State: m.state, Since: m.since, MaxTerm: m.highest, ClusterID: m.clusterID,
		Observed: m.observed, Have: m.cond.Have, Need: m.cond.Need,
		Transitions: m.transitions, Renewals: m.renewals, RenewalFailures: m.failures,
		RenewalLatency: m.latency,
		vouched:        m.known.vouched(),
	}
	if m.state == Active || m.state == Releasing {
		s.Term, s.Deadline = m.hold.grant.Term, m.hold.deadline
	}
	if h, t := m.master(now); h != nil {
		holder := *h
		s.Master, s.MasterTerm = &holder, t
	}
	for _, err := range []error{m.alarm, m.callErr, m.observeErr} {
		if s.Err = err; err != nil {
			break
		}
	}
	if s.Master == nil {
		if s.WaitingFor = m.blocked(now); s.WaitingFor == "" {
			s.WaitingFor = "waiting for the authority to grant mastership"
		}
	}
	return s
}

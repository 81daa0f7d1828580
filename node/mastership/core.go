package mastership

import (
	"cmp"
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

	cond Conditions
	knowledge
	calling
	candidacy
	counters

	// Intentions.
	stopped       bool
	cooldownUntil clock.Instant
	minorityAt    clock.Instant // since when there is no majority, 0 if there is one

	// grant is the one in use while Active or Releasing, and after a drain timeout until
	// it has expired or the functions have returned.
	grant *activeGrant

	alarm, callErr, observeErr, outcome error

	wakeAt   clock.Instant
	commands []command
}

// knowledge is what a node has seen and learned of the election. What the authority has shown
// or granted is proven; what other nodes announce is hearsay, which names, warns and raises
// the next claim, and decides nothing.
type knowledge struct {
	seen       bool // the authority was observed at least once
	observed   driver.Mastership
	observedAt clock.Instant
	known      known
	ended      driver.Term // highest term that is over here: once active, or released

	proven     driver.Term
	inPart     driver.Term // highest that was shown in part (driver.Mastership): claims are above it
	heard      driver.Term
	clusterID  string        // proven
	heardID    string        // counts while none is proven
	heardIDAt  clock.Instant // when it was last repeated
	dispute    error         // contradicts this node's mastership, nil if that is settled
	disputedAt clock.Instant // when the last such was heard
	hearsay    Hearsay
	shown      driver.Term // highest term proven or named
}

// calling is the state of the calls to the authority: at most one is waited for. Those given
// up on may still have taken effect, so their answers are expected without end.
type calling struct {
	seq       uint64
	call      *call
	abandoned map[uint64]*call
	// orphans are grants that were acquired and are not used. They are released.
	orphans []orphan
}

// candidacy says when to try next.
type candidacy struct {
	retryAt clock.Instant
	// unheard is how many tries were made while the authority showed us as the holder, of a grant
	// of which no answer had come, and restUntil is when the next is made, if there were many.
	unheard     int
	restUntil   clock.Instant
	vacantSince clock.Instant
	tries       int
	triedAt     clock.Instant
	releaseAt   clock.Instant // when to try to release an orphan
	behindAt    clock.Instant // from when on it counts that the authority shows an earlier term; 0 if it does not
	waitedSince clock.Instant // since when a vacancy is left alone, see forgotten; 0 if it is not
	outbid      int           // grants in a row that were released since a higher term was announced
}

// counters are for the status and for announcements.
type counters struct {
	announceSeq                     uint64
	transitions, renewals, failures uint64
	latency                         Histogram
}

// params do not change.
type params struct {
	self           driver.Holder
	freshID        string // the cluster id to propose if none is known
	drain          time.Duration
	isolationGrace time.Duration
	poll           time.Duration
	callTimeout    time.Duration // of Acquire and Release
	cooldown       time.Duration
	// announceInterval is the least time between two announcements of a mastership.
	announceInterval time.Duration
	forgottenWait    time.Duration                       // longest wait for a master that the authority has forgotten
	announced        bool                                // other nodes announce their masterships to this one
	random           func(n time.Duration) time.Duration // uniform in [0, n)
}

const (
	never = clock.Instant(math.MaxInt64)

	// Tries after a vacancy was seen come soon, as its candidates are many and
	// each try is cheap; later ones are spaced out.
	fastWindow   = 5 * time.Second
	fastRetryMin = 20 * time.Millisecond
	fastRetryMax = 150 * time.Millisecond
	slowRetryMax = 2 * time.Second
	// Who takes the grant and never gets the answer keeps all others from it. After maxUnheard
	// tries it rests, for unheardRest at first and twice as long each time, until the grant has
	// expired and another was faster.
	maxUnheard     = 3
	unheardRest    = 5 * time.Second
	unheardRestMax = time.Minute

	// refusedRetry spaces tries that will not succeed before an operator acts.
	refusedRetry = 5 * time.Second

	// heardStep bounds how far a term that is only learned of may be above what is proven.
	// No cluster counts that far between two answers of its authority, and 2^30 such
	// steps do not use up the terms.
	heardStep = 1 << 32

	// heardIDStands is how long a cluster id that is only learned of outranks another one.
	heardIDStands = time.Minute

	// maxOutbid bounds the grants that are released, one after the other, since a
	// higher term was announced while they were acquired.
	maxOutbid = 3

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

// activeGrant is the grant in use, or one that still protects functions that run.
type activeGrant struct {
	grant     driver.Grant
	plan      plan
	sent      clock.Instant // of the latest call that extended it
	deadline  clock.Instant
	renewAt   clock.Instant
	failures  int
	askedAt   clock.Instant // when a renewal was last sent
	confirmed bool          // the authority was observed to show it

	// After the end:
	drained   bool
	drainBy   clock.Instant
	releaseBy clock.Instant
}

func (h *activeGrant) soft() clock.Instant { return h.deadline.Add(-h.plan.drain) }

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

// suspect is what was heard and not believed, or contradicts this node's mastership.
type suspect struct {
	kind suspicion
	said Announcement
	err  error
}

type suspicion int

const (
	absurdTerm suspicion = iota
	foreignCluster
	disputed
	settled // of disputed: the authority has confirmed this node's mastership
	suspicions
)

// observeAfresh asks for a fresh observation of the authority.
type observeAfresh struct{}

func (suspect) command()       {}
func (observeAfresh) command() {}

func (doCall) command()   {}
func (begun) command()    {}
func (extended) command() {}
func (over) command()     {}

func newMachine(p params, r rules) *machine {
	return &machine{
		p: p, r: r, wakeAt: never,
		calling:   calling{abandoned: make(map[uint64]*call)},
		knowledge: knowledge{known: known{announced: p.announced && !r.names(false)}},
	}
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
	if m.state == Active && !m.r.holds(now, m.grant.deadline) {
		m.end(now, ReasonDeadline)
		m.enter(now, Follower)
	}
	ev.apply(m, now)
	m.advance(now)
	return m.commands
}

// isMaster is the check at use.
func (m *machine) isMaster(now clock.Instant) bool {
	return m.state == Active && m.r.holds(now, m.grant.deadline)
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
	doubted      struct{ instance string }  // there is reason to look whether it is there
	functionsOut struct{ term driver.Term } // all functions of the term have returned
	expiry       struct{ term driver.Term } // the deadline was found to have passed
	failed       struct{ term driver.Term } // a function of the term returned an error
	resign       struct{}
	stop         struct{}
)

func (tick) apply(*machine, clock.Instant) {}

func (e conditions) apply(m *machine, _ clock.Instant) { m.cond = e.Conditions }

func (e learned) apply(m *machine, now clock.Instant) {
	a := e.Announcement
	if !m.believable(now, a) {
		return
	}
	m.heard = max(m.heard, a.Term)
	if m.isSelf(&a.Holder) {
		return // this node knows better
	}
	m.known.learn(now, a)
	if m.state == Follower && m.observeErr == nil && now.Before(m.known.vouches()) {
		// The master that the authority shows is in office: what failed while this node
		// doubted that matters no more.
		m.callErr = nil
	}
	if m.seen && a.Active && a.Term > m.observed.Term {
		m.emit(observeAfresh{})
	}
	if m.state == Active {
		m.doubt(now, a)
	}
}

// believable reports whether what is announced can be of this cluster. What cannot is
// counted, reported and otherwise ignored: no message can lead this node into another
// cluster or use up the terms.
func (m *machine) believable(now clock.Instant, a Announcement) bool {
	if !m.r.plausible(a.Term, m.proven) {
		if m.seen { // before, nothing is proven
			m.hearsay.AbsurdTerms++
			m.emit(suspect{kind: absurdTerm, said: a,
				err: fmt.Errorf("term %d is more than %d above term %d, the last that the authority has shown", a.Term, uint64(heardStep), m.proven)})
		}
		return false
	}
	if a.ClusterID == "" {
		return true
	}
	if m.clusterID == "" {
		if a.ClusterID != m.heardID && m.heardID != "" && now.Before(m.heardIDAt.Add(heardIDStands)) {
			return false
		}
		m.heardID, m.heardIDAt = a.ClusterID, now
		if m.r.adopts() {
			m.clusterID = a.ClusterID
		}
		return true
	}
	if a.ClusterID != m.clusterID {
		m.hearsay.ForeignClusters++
		m.emit(suspect{kind: foreignCluster, said: a,
			err: fmt.Errorf("%w: this one is %s, and %s was announced", driver.ErrClusterMismatch, m.clusterID, a.ClusterID)})
		return false
	}
	return true
}

// doubt notes an announcement that contradicts this node's mastership, which has it ask
// the authority.
func (m *machine) doubt(now clock.Instant, a Announcement) {
	own := m.grant.grant.Term
	switch {
	case a.Term > own:
		m.dispute = fmt.Errorf("term %d was announced while this node is master in term %d", a.Term, own)
	case a.Term == own && a.Active:
		m.dispute = fmt.Errorf("node %s at %s claims term %d, in which this node is master", a.Holder.NodeID, a.Holder.Addr, own)
	default:
		return
	}
	if m.r.ends(a.Term, own) {
		m.retire(now, ReasonLost)
		return
	}
	m.disputedAt = now
	m.hearsay.Disputes++
	m.emit(suspect{kind: disputed, said: a, err: m.dispute})
}

// settle notes that the authority has confirmed, in answer to a call sent then, that this
// node is master.
func (m *machine) settle(sent clock.Instant) {
	if m.dispute != nil && sent >= m.disputedAt {
		m.emit(suspect{kind: settled, err: m.dispute})
		m.dispute, m.disputedAt = nil, 0
	}
}

func (e doubted) apply(m *machine, now clock.Instant) { m.known.doubt(now, e.instance) }

func (e memberGone) apply(m *machine, now clock.Instant) { m.known.memberGone(now, e.instance) }

func (e functionsOut) apply(m *machine, now clock.Instant) {
	if m.grant != nil && m.state != Active && m.grant.grant.Term == e.term {
		m.grant.drained = true
		m.grant.releaseBy = max(m.grant.deadline, now.Add(m.p.callTimeout))
	}
}

func (e expiry) apply(m *machine, now clock.Instant) {
	if m.state == Active && m.grant.grant.Term == e.term {
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

// A node whose function has failed leaves the next term to others, like one that resigns.
func (e failed) apply(m *machine, now clock.Instant) {
	if m.state == Active && m.grant.grant.Term == e.term {
		m.cooldownUntil = now.Add(m.p.cooldown)
		m.forgetOutcome()
		m.retire(now, ReasonFailed)
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
	o, last := e.mastership, m.observed
	fresh := !m.seen || m.observed.Holder != nil || m.observed.Term != o.Term
	m.seen, m.observed, m.observedAt = true, o, now
	if o.Holder != nil && !m.isSelf(o.Holder) {
		m.callErr = nil // what failed when it was free matters no more
	}
	if m.adoptClusterID(o.ClusterID, "the authority records") {
		m.alarm = nil
		m.known.observe(now, o)
		m.noteTerm(now, last, o)
		if o.Partial {
			m.inPart = max(m.inPart, o.Term)
		} else {
			m.prove(o.Term)
		}
	} else { // what it records of terms and masters is about another cluster
		m.known.observe(now, driver.Mastership{})
	}
	if !m.vacant() {
		m.waitedSince = 0
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
	h := m.grant
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

// lose ends what the authority says is over: there is nothing to release.
func (m *machine) lose(now clock.Instant) {
	if m.state == Active {
		m.end(now, ReasonLost)
	}
	m.grant = nil
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
		if g.Term == m.grant.grant.Term {
			m.extend(now, c, g)
			return
		}
		m.abandonGrant(c, g)
		m.prove(g.Term)
		return
	}
	_, err := planFor(g.ValidFor, m.p.drain)
	if err != nil {
		m.callErr = err
	}
	p, tooLate := planFor(m.left(now, c, g), m.p.drain)
	h := &activeGrant{grant: g, plan: p, sent: c.sent, deadline: m.r.deadline(c.sent, now, g.ValidFor)}
	otherwise := m.seen && m.observed.Term == g.Term && !m.isSelf(m.observed.Holder)
	switch {
	case err != nil,
		!m.adoptClusterID(g.ClusterID, "the authority granted mastership of"),
		!m.r.fresh(g.Term, m.ended, m.proven),
		m.isOutbid(g.Term),
		otherwise, // the authority has shown since that it is over
		tooLate != nil,
		!m.r.holds(now, h.soft()),
		m.call != nil,
		m.blocked(now).reason != "":
		m.abandonGrant(c, g)
		m.releaseAt, m.retryAt = now, now
		switch {
		case g.ClusterID != m.clusterID:
		case !late && g.Term < m.proven:
			err = fmt.Errorf("%w: the authority granted term %d after term %d", driver.ErrInvalid, g.Term, m.proven)
			m.callErr = err
		default:
			m.prove(g.Term)
		}
		if err != nil {
			m.retryAt = now.Add(refusedRetry)
		}
		return
	}
	m.enter(now, Acquired)
	m.grant = h
	m.begin(now)
}

// begin makes the grant active.
func (m *machine) begin(now clock.Instant) {
	h := m.grant
	h.renewAt = m.nextRenewal(h.sent, h)
	if h.plan.validFor != h.grant.ValidFor {
		h.renewAt = m.nextRenewal(now, h) // it was long in coming
	}
	h.confirmed = m.seen && m.observed.Term == h.grant.Term && m.isSelf(m.observed.Holder)
	m.prove(h.grant.Term)
	m.tries, m.outcome, m.alarm = 0, nil, nil
	m.outbid, m.waitedSince = 0, 0
	m.unheard = 0
	m.dispute, m.disputedAt = nil, 0
	m.dropOrphans(h.grant.Term)
	m.announceSeq = 1
	m.transitions++
	m.enter(now, Active)
	m.emit(begun{at: now, deadline: h.deadline, term: h.grant.Term, clusterID: h.grant.ClusterID})
}

// end makes this node master no longer. The caller enters the next state.
func (m *machine) end(now clock.Instant, why Reason) {
	h := m.grant
	m.ended = max(m.ended, h.grant.Term)
	m.known.end(h.grant.Term)
	m.announceSeq++
	m.transitions++
	h.drainBy = now.Add(m.p.drain)
	m.retryAt, m.releaseAt, m.vacantSince, m.tries = now, now, now, 0
	m.dispute, m.disputedAt = nil, 0
	m.emit(over{
		at: now, deadline: h.deadline, until: min(now, h.deadline),
		term: h.grant.Term, clusterID: h.grant.ClusterID, reason: why,
	})
}

// retire ends in good order: the functions return, then the grant is released.
func (m *machine) retire(now clock.Instant, why Reason) {
	m.end(now, why)
	m.enter(now, Releasing)
}

// extend counts a successful renewal. It never shortens, and it never revives: the
// caller has made sure that the grant is in use.
func (m *machine) extend(now clock.Instant, c *call, g driver.Grant) {
	h := m.grant
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
	if m.grant == nil || m.state != Active && m.state != Releasing || m.grant.grant.Term != c.grant.Term {
		return
	}
	h := m.grant
	switch {
	case e.err == nil && e.grant.Term != h.grant.Term:
		m.callErr = fmt.Errorf("the authority answered the renewal of term %d with term %d", h.grant.Term, e.grant.Term)
		m.lose(now)
	case e.err == nil:
		m.renewals++
		m.latency.observe(now.Sub(c.sent))
		m.callErr = nil
		m.extend(now, c, e.grant)
		m.settle(c.sent)
	case errors.Is(e.err, driver.ErrSessionLost):
		m.failures++
		m.callErr = e.err
		m.lose(now)
	case !late:
		m.renewalFailed(now, e.err)
	}
}

func (m *machine) renewalFailed(now clock.Instant, err error) {
	h := m.grant
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
		m.releaseAt = now.Add(m.fastRetry())
	}
	if done {
		m.callErr = nil
		m.dropOrphans(c.grant.Term)
		m.releaseAt = now
		if m.state == Releasing && m.grant.grant.Term == c.grant.Term {
			m.grant = nil
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
		m.observedAt = now // as good as an observation of a holder
		m.retryAt = now.Add(m.retryAfter(now))
	case !driver.Retryable(err):
		m.callErr = err
		m.retryAt = now.Add(refusedRetry + m.p.random(refusedRetry/2))
	default:
		m.callErr = err
		m.retryAt = now.Add(m.retryAfter(now))
		if m.unheard >= maxUnheard && m.isSelf(m.observed.Holder) {
			bound := min(unheardRest<<min(m.unheard-maxUnheard, 8), unheardRestMax)
			m.restUntil = now.Add(bound + m.p.random(bound/2))
		}
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
		m.wakeAt = min(m.wakeAt, m.known.nextChange(now))
		m.due(now, m.behindAt)
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
		m.callErr, m.releaseAt = err, now
	case m.grant != nil && m.grant.grant.Term == c.grant.Term:
		m.failures++
		m.callErr = err
		m.grant.renewAt = now
	}
}

func (m *machine) whileActive(now clock.Instant) {
	h := m.grant
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
	h := m.grant
	isolated := m.minorityAt != 0 && m.due(now, m.minorityAt.Add(m.p.isolationGrace))
	late := m.due(now, h.soft())
	switch {
	case m.stopped:
		return ReasonStopped
	case m.cond.Draining:
		return ReasonDraining
	case !m.cond.Eligible || m.observed.Ineligible != "":
		return ReasonIneligible
	case m.cond.Abstains != "":
		return ReasonAbstains
	case isolated:
		return ReasonMajority
	case late:
		return ReasonRenewal
	}
	return ""
}

func (m *machine) renewWhenDue(now clock.Instant) {
	h := m.grant
	at := h.renewAt
	if m.dispute != nil && m.disputedAt > h.askedAt {
		// At once; but however often others contradict, no more than twice as often as
		// without.
		at = min(at, h.askedAt.Add(h.plan.renewEvery/2))
	}
	if m.free() && m.due(now, at) {
		h.askedAt = now
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
func (m *machine) nextRenewal(from clock.Instant, h *activeGrant) clock.Instant {
	return from.Add(h.plan.renewEvery - m.p.random(h.plan.renewEvery/20+1))
}

func (m *machine) whileReleasing(now clock.Instant) {
	h := m.grant
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
		m.outcome = fmt.Errorf("the grant could not be released and was left to expire: %w", m.callErr)
		m.grant = nil
		m.enter(now, Follower)
		return
	}
	// A renewal that is under way may be overtaken by the release: it changes
	// nothing then. But one at a time.
	if m.free() && m.due(now, m.releaseAt) {
		m.send(now, call{kind: releasing, grant: h.grant, timeout: m.p.callTimeout})
	}
}

// lingering reports whether functions of an ended mastership still run under a
// grant that has not expired. Until then nothing is done that could let a
// successor in.
func (m *machine) lingering(now clock.Instant) bool {
	if m.grant == nil {
		return false
	}
	if m.grant.drained || m.due(now, m.grant.deadline) {
		m.grant = nil
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
		if m.due(now, m.releaseAt) {
			m.send(now, call{kind: releasing, grant: m.orphans[0].grant, timeout: m.p.callTimeout})
		}
		return
	}
	if m.blocked(now).reason != "" {
		m.enter(now, Follower)
		return
	}
	// A watch is only eventual: after a while without news of the master, ask by trying.
	// Gossip can vouch for the master for some time, and not indefinitely.
	vouched := min(m.known.vouches(), m.observedAt.Add(vouchedPolls*m.p.poll))
	if !m.vacant() && !m.due(now, max(m.observedAt.Add(m.p.poll), vouched)) {
		m.enter(now, Follower)
		return
	}
	m.enter(now, Candidate)
	if m.due(now, m.retryAt) {
		m.triedAt = now
		if m.isSelf(m.observed.Holder) {
			m.unheard++
		}
		m.send(now, call{
			kind: acquiring, timeout: m.p.callTimeout,
			claim: driver.Claim{
				Holder: m.p.self, MinTerm: min(max(m.highest(), m.inPart), driver.MaxTerm),
				// An id that is only learned of is proposed, and not insisted on.
				ClusterID: cmp.Or(m.cluster(), m.p.freshID), Known: m.clusterID != "",
			},
		})
	}
}

// vacant reports whether the authority shows no holder, or a grant in our own name
// that we do not use: the answer to its Acquire was lost.
func (m *machine) vacant() bool {
	return m.seen && (m.observed.Holder == nil || m.isSelf(m.observed.Holder))
}

func (m *machine) isSelf(h *driver.Holder) bool {
	return h != nil && h.InstanceID == m.p.self.InstanceID
}

// blocked says what keeps this node from being a candidate.
func (m *machine) blocked(now clock.Instant) obstacle {
	cooling := !m.due(now, m.cooldownUntil)
	switch {
	case m.stopped:
		return obstacle{WaitLeaving, "this node is stopping"}
	case m.cond.Draining:
		return obstacle{WaitLeaving, "this node is draining"}
	case !m.cond.Eligible:
		return obstacle{WaitNotEligible, "this node is not eligible to be master"}
	case !m.seen && m.observeErr != nil:
		return obstacle{WaitAuthority, fmt.Sprintf("waiting for the authority: %v", m.observeErr)}
	case !m.seen:
		return obstacle{WaitAuthority, "waiting for the first answer of the authority"}
	case m.observed.Ineligible != "":
		return obstacle{WaitNotEligible, "this node cannot be master: " + m.observed.Ineligible}
	case m.observed.Blocked != "":
		return obstacle{BlockedBy(m.observed), m.observed.Blocked}
	case m.observed.ClusterID != "" && m.observed.ClusterID != m.clusterID:
		return obstacle{WaitCluster, "the authority records another cluster under this name; " + mismatchHint}
	case m.forgotten(now):
		return obstacle{WaitForgotten, "the authority has forgotten the last term, whose master may still count on it; waiting for it to expire"}
	case m.cond.Abstains != "":
		return obstacle{WaitAbstains, "this node abstains: " + m.cond.Abstains}
	case !m.cond.majority():
		return obstacle{WaitMajority, fmt.Sprintf("waiting for a majority: sees %d of the %d needed", m.cond.Have, m.cond.Need)}
	case m.forming() && !m.cond.Formation.Allowed:
		return obstacle{WaitFormation, cmp.Or(m.cond.Formation.Reason, "waiting for leave to form a cluster")}
	case !m.cond.Ready:
		return obstacle{WaitNotReady, "waiting for this node to be ready"}
	case !m.due(now, m.restUntil):
		return obstacle{WaitAuthority, fmt.Sprintf("the authority grants mastership to this node, and its answers do not arrive in time (%v); leaving it to others for a while", m.callErr)}
	case cooling:
		return obstacle{WaitResigned, "this node has resigned and leaves the next term to others for a while"}
	}
	return obstacle{}
}

// forgotten reports whether gossip names a master in a term that the authority
// does not know of: then that is only about to be observed, or the authority was wiped or
// restored, and would grant beside a master that is still valid. A vacancy is left alone for
// that no longer than grants are valid, whatever is heard meanwhile.
func (m *machine) forgotten(now clock.Instant) bool {
	if !m.vacant() {
		return false
	}
	heard, ok := m.known.best(now, m.p.self.InstanceID, m.observed.Term)
	if !ok {
		return false
	}
	if m.waitedSince == 0 {
		m.waitedSince = now
	}
	return !m.due(now, m.r.yields(heard.until, m.waitedSince.Add(m.p.forgottenWait)))
}

// isOutbid reports whether a grant is not to be used since a higher term was learned of
// meanwhile: if the authority was wiped, terms rise all the same. After a few of them it is
// used, since others can repeat that for as long as they like.
func (m *machine) isOutbid(t driver.Term) bool {
	if t >= m.highest() || m.outbid >= maxOutbid {
		return false
	}
	m.outbid++
	return true
}

// forming reports whether the next grant would be the first of a new cluster.
func (m *machine) forming() bool {
	return m.observed.ClusterID == "" && m.cluster() == "" && m.highest() == 0
}

// highest is the highest term that is proven, or learned of and no more than a step above.
func (m *machine) highest() driver.Term {
	if m.heard > m.proven && m.r.plausible(m.heard, m.proven) {
		return m.heard
	}
	return m.proven
}

// prove notes a term that the authority has shown or granted.
func (m *machine) prove(t driver.Term) { m.proven = max(m.proven, t) }

// cluster is the id of the cluster, as far as it is known.
func (m *machine) cluster() string { return cmp.Or(m.clusterID, m.heardID) }

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

// adoptClusterID takes over the id that the authority shows. It reports false, and raises
// the alarm, if it has shown another one before.
func (m *machine) adoptClusterID(id, from string) bool {
	if id == "" || id == m.clusterID {
		return true
	}
	if m.clusterID != "" {
		m.alarm = fmt.Errorf("%w: this node belongs to cluster %s, %s cluster %s; %s",
			driver.ErrClusterMismatch, m.clusterID, from, id, mismatchHint)
		return false
	}
	if m.heardID != "" && m.heardID != id {
		m.heard = 0
		m.known.forget() // it was about another cluster
	}
	m.clusterID, m.heardID = id, ""
	return true
}

// noteTerm notes whether the authority shows o, after last, with a term below one that it has
// shown or granted before: it was restored from an old copy, or emptied. What is observed may
// lag behind a grant for a moment. One that names no holder, and named a later term before, does
// not lag.
func (m *machine) noteTerm(now clock.Instant, last, o driver.Mastership) {
	switch {
	case o.Term >= m.proven:
		m.behindAt = 0
	case o.Partial:
	case o.Holder == nil && o.Term < last.Term:
		m.behindAt = now
	case m.behindAt == 0:
		m.behindAt = now.Add(trialTime)
	}
}

// behind says that the authority has gone back. Where another node is master in an earlier
// term, that is an alarm. Where none is, the next claim raises the term: a warning will do.
func (m *machine) behind(now clock.Instant) (warning string, alarm error) {
	if m.behindAt == 0 || now.Before(m.behindAt) || m.observeErr != nil || m.state == Active {
		return "", nil
	}
	h := m.observed.Holder
	if h == nil || m.isSelf(h) {
		return fmt.Sprintf("the authority records term %d, and this node has seen term %d of cluster %s: "+
			"what it recorded was lost, or restored from an old copy; the next master has a higher term", m.observed.Term, m.proven, m.cluster()), nil
	}
	return "", fmt.Errorf("%w: it records node %s at %s as master with term %d, and this node has seen term %d of cluster %s; "+
		"run muster resign on %s, whose successor has a higher term, or bring back the later copy; until then this node names no master",
		ErrTermBehind, h.NodeID, h.Addr, m.observed.Term, m.proven, m.cluster(), h.NodeID)
}

// mismatchHint says what an operator can do about two clusters of one name.
const mismatchHint = "if two clusters share the name, rename one of them; " +
	"if the authority was reset or replaced on purpose, restart this node; if not, restore its data"

// abandonGrant has a grant that is not used released.
func (m *machine) abandonGrant(c *call, g driver.Grant) {
	for _, o := range m.orphans {
		if o.grant.Term == g.Term {
			return
		}
	}
	// It may be valid a little longer than we would count on it.
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

// master is the node that this one treats as the master.
func (m *machine) master(now clock.Instant) (*driver.Holder, driver.Term) {
	if m.state == Active {
		return &m.p.self, m.grant.grant.Term
	}
	return m.known.master(now, m.p.self.InstanceID)
}

// announcement is what to tell the others now; the zero value is nothing.
func (m *machine) announcement(now clock.Instant) Announcement {
	switch {
	case m.isMaster(now):
		return Announcement{
			Term: m.grant.grant.Term, ClusterID: m.grant.grant.ClusterID, Holder: m.p.self,
			Active: true, Seq: m.announceSeq, ValidFor: m.grant.deadline.Sub(now),
			Next: m.announcesBy(now), Proof: m.grant.grant.Proof,
		}
	case m.ended > 0 && m.ended >= m.proven:
		return Announcement{Term: m.ended, ClusterID: m.clusterID, Holder: m.p.self, Seq: m.announceSeq}
	}
	if h, t := m.known.master(now, m.p.self.InstanceID); h != nil {
		if c := m.known.claims[h.InstanceID]; c.Term == t && c.active(now) {
			c.ValidFor = c.until.Sub(now)
			if c.Next > 0 {
				c.Next = max(c.next().Sub(now), time.Millisecond)
			}
			return c.Announcement
		}
	}
	if t := m.highest(); t > 0 {
		return Announcement{Term: t, ClusterID: m.cluster()}
	}
	return Announcement{}
}

// announcesBy is how long it takes until this master has announced itself again: with its
// next renewal, or with the one after the interval. An answer that takes more than half of
// what a call may is reason enough for the others to look.
func (m *machine) announcesBy(now clock.Instant) time.Duration {
	return max(m.grant.renewAt.Sub(now), 0) + m.grant.plan.callTimeout/2 + 3*m.p.announceInterval
}

func (m *machine) status(now clock.Instant) Status {
	s := Status{
		State: m.state, Since: time.Duration(m.since), ClusterID: m.cluster(), ClusterProven: m.clusterID != "",
		Observed: m.observed, Have: m.cond.Have, Need: m.cond.Need,
		Transitions: m.transitions, Renewals: m.renewals, RenewalFailures: m.failures,
		RenewalLatency: m.latency,
		Hearsay:        m.hearsay,
		vouched:        m.known.vouches(),
	}
	if m.state == Active || m.state == Releasing {
		s.Term, s.Deadline = m.grant.grant.Term, time.Duration(m.grant.deadline)
	}
	warning, alarm := m.behind(now)
	if h, t := m.master(now); h != nil && alarm == nil {
		holder := *h
		s.Master, s.MasterTerm = &holder, t
		if s.MasterUntil = time.Duration(m.known.counts(h, t)); m.isSelf(h) {
			s.MasterUntil = time.Duration(m.grant.deadline)
		}
	}
	m.shown = max(m.shown, m.proven, s.MasterTerm)
	s.MaxTerm = m.shown
	s.Alarm, s.Warning = alarm, warning
	if m.alarm != nil {
		s.Alarm = m.alarm
	}
	for _, err := range []error{s.Alarm, m.dispute, m.callErr, m.observeErr} {
		if s.Err = err; err != nil {
			break
		}
	}
	if s.Master == nil {
		o := m.waitingFor(now)
		s.WaitingReason, s.WaitingFor = o.reason, o.text
	}
	return s
}

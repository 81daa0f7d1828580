package mastership

import (
	"container/heap"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
)

// The simulation runs machines in virtual time against an authority with the
// semantics of a lease store, through a network that delays, loses and cuts, on
// nodes whose clocks drift, that are paused, crash and restart. True time is what
// an outside observer has; nobody in the simulation can read it but the checker.

// moment is true time.
type moment time.Duration

func (t moment) add(d time.Duration) moment { return t + moment(d) }

type scenario struct {
	seed     uint64
	rules    rules
	stuck    bool // the authority never raises its term: a broken authority
	wipe     bool // the store is wiped once, while nobody is paused or cut off
	hostile  bool // a member announces whatever may do harm, all the time
	logLines bool
}

type simulation struct {
	scenario
	rng   *rand.Rand
	now   moment
	queue events
	order uint64

	validFor  time.Duration
	expiryLag time.Duration
	majority  bool
	waits     bool // an Acquire waits for others, and allows for it
	nodes     []*simNode
	auth      simAuthority
	calm      bool // no faults from now on
	settled   bool // everything has been well for long enough
	grants    int
	lies      int

	// The checker's.
	lastTerm  driver.Term
	clusterID string
	begins    int
	seen      map[string]int // how often what happened
	violation error
	log       []string
}

type simNode struct {
	s         *simulation
	host      int
	offset    clock.Instant
	drift     float64 // the clock runs at 1+drift
	life      int     // counts starts; what belongs to an earlier one is dropped
	alive     bool
	m         *machine
	wake      moment // when the pending timer fires
	paused    bool
	backlog   []event
	cut       bool // from the authority
	group     int  // nodes of one group hear each other
	slow      bool // answers of the authority are late
	cond      Conditions
	observeAt moment // observations arrive in order
	open      driver.Term
	deadline  clock.Instant // of the open term
	work      []*work
}

// work is the functions of one term.
type work struct {
	term     driver.Term
	deadline clock.Instant // until when the node counts on its grant
	running  bool
}

type simAuthority struct {
	drift   float64
	up      bool
	term    driver.Term
	id      string
	holder  *driver.Holder
	version int    // of the lease, to recognise a stale expiry
	locked  moment // no grant before, after an operator's revocation
}

type simEvent struct {
	at    moment
	order uint64
	run   func()
}

type events []simEvent

func (q events) Len() int { return len(q) }
func (q events) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].order < q[j].order
}
func (q events) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *events) Push(x any)   { *q = append(*q, x.(simEvent)) }
func (q *events) Pop() any {
	old := *q
	x := old[len(old)-1]
	*q = old[:len(old)-1]
	return x
}

// simulate runs one scenario and returns what the checker found, or nil.
func simulate(sc scenario) (*simulation, error) {
	s := &simulation{scenario: sc, rng: rand.New(rand.NewPCG(sc.seed, 0x6d7573746572))}
	validities := []time.Duration{400 * time.Millisecond, 2 * time.Second, 5 * time.Second, 10 * time.Second, 15 * time.Second}
	s.seen = make(map[string]int)
	s.validFor = validities[s.rng.IntN(len(validities))]
	if s.chance(0.5) {
		s.expiryLag = s.upTo(500 * time.Millisecond)
	}
	s.majority = s.chance(0.5) && !s.wipe
	s.waits = s.chance(0.3)
	s.auth = simAuthority{drift: s.rate(), up: true}
	for host := range 2 + s.rng.IntN(4) {
		n := &simNode{s: s, host: host, offset: clock.Instant(1e9 + s.rng.Int64N(1e15)), drift: s.rate()}
		s.nodes = append(s.nodes, n)
		s.after(s.upTo(200*time.Millisecond), n.start)
	}
	s.after(time.Millisecond, s.fault)
	if s.hostile {
		s.after(time.Millisecond, s.lie)
	}

	chaos := moment(10*s.validFor + 20*time.Second)
	if s.wipe {
		s.at(moment(4*s.validFor+5*time.Second), s.wipeStore)
	}
	s.runUntil(chaos)
	s.heal()
	// The last lease runs out, at worst afresh after a restart of the store; then
	// a candidate that has backed off tries; then the news spreads. A hostile member can
	// delay the first of these, and hide a name for a while.
	horizon := 3*s.validFor + 20*time.Second
	if s.hostile {
		horizon += max(2*s.validFor, forgottenWait) + 2*outranksFor
	}
	s.runUntil(s.now.add(horizon))
	s.checkLiveness()
	s.settled = true
	s.runUntil(s.now.add(2*s.validFor + 5*time.Second))
	s.checkLiveness()
	if most := driver.Term(s.grants) * (heardStep + 1); s.auth.term > most && s.violation == nil {
		s.violate("term %d after %d grants: a few more such steps use up the terms", s.auth.term, s.grants)
	}
	return s, s.violation
}

func (s *simulation) runUntil(end moment) {
	for s.violation == nil && len(s.queue) > 0 && s.queue[0].at <= end {
		e := heap.Pop(&s.queue).(simEvent)
		s.now = e.at
		e.run()
	}
	s.now = max(s.now, end)
}

func (s *simulation) at(t moment, run func()) {
	s.order++
	heap.Push(&s.queue, simEvent{at: t, order: s.order, run: run})
}

func (s *simulation) after(d time.Duration, run func()) { s.at(s.now.add(d), run) }

func (s *simulation) chance(p float64) bool { return s.rng.Float64() < p }
func (s *simulation) upTo(d time.Duration) time.Duration {
	return time.Duration(s.rng.Int64N(int64(d) + 1))
}
func (s *simulation) share(lo, hi float64) time.Duration {
	return time.Duration((lo + s.rng.Float64()*(hi-lo)) * float64(s.validFor))
}

// rate is a drift of up to ρ, often the whole of it.
func (s *simulation) rate() float64 {
	const limit = 1.0 / driftDivisor
	switch s.rng.IntN(4) {
	case 0:
		return limit
	case 1:
		return -limit
	}
	return (2*s.rng.Float64() - 1) * limit
}

func (s *simulation) notef(format string, args ...any) {
	if s.logLines {
		s.log = append(s.log, fmt.Sprintf("%12.6f ", time.Duration(s.now).Seconds())+fmt.Sprintf(format, args...))
	}
}

func (s *simulation) violate(format string, args ...any) {
	if s.violation == nil {
		s.violation = fmt.Errorf("at %v: %s", time.Duration(s.now), fmt.Sprintf(format, args...))
		s.notef("VIOLATION %v", s.violation)
	}
}

// delay is that of one message.
func (s *simulation) delay() time.Duration {
	switch p := s.rng.Float64(); {
	case s.calm || p < 0.85:
		return 100*time.Microsecond + s.upTo(3*time.Millisecond)
	case p < 0.96:
		return s.upTo(200 * time.Millisecond)
	default:
		return s.upTo(s.validFor + time.Second)
	}
}

// Nodes.

func (n *simNode) local(t moment) clock.Instant {
	return n.offset + clock.Instant(float64(t)*(1+n.drift))
}

// when is the first moment at which the node's clock shows at least c.
func (n *simNode) when(c clock.Instant) moment {
	t := moment(float64(c-n.offset) / (1 + n.drift))
	for n.local(t) < c {
		t += moment(time.Microsecond)
	}
	return t
}

func (n *simNode) holder() driver.Holder {
	return driver.Holder{NodeID: fmt.Sprintf("n%d", n.host), InstanceID: fmt.Sprintf("n%d-%d", n.host, n.life), Addr: fmt.Sprintf("10.0.0.%d:7946", n.host)}
}

func (n *simNode) start() {
	if n.alive {
		return
	}
	s := n.s
	n.life++
	n.alive, n.paused, n.backlog, n.open, n.work = true, false, nil, 0, nil
	n.observeAt, n.wake = s.now, -1
	n.m = newMachine(params{
		self: n.holder(), freshID: "id-of-" + n.holder().InstanceID,
		drain: time.Second, isolationGrace: 10 * time.Second, poll: 5 * time.Second,
		callTimeout: 2 * time.Second, cooldown: 3 * time.Second,
		forgottenWait: max(2*s.validFor, forgottenWait), announced: true,
		random: func(d time.Duration) time.Duration { return time.Duration(s.rng.Int64N(int64(d))) },
	}, s.rules)
	n.cond = Conditions{Eligible: true, Formation: Decision{Allowed: true}}
	s.notef("%s starts, drift %+.4f", n.holder().InstanceID, n.drift)
	s.memberships()
	life := n.life
	s.after(s.upTo(300*time.Millisecond), func() {
		if n.life == life && n.alive {
			n.cond.Ready = true
			n.deliver(conditions{n.cond})
		}
	})
	n.poll(life)
}

func (n *simNode) crash() {
	n.s.notef("%s crashes", n.holder().InstanceID)
	n.alive, n.m, n.work, n.backlog = false, nil, nil, nil
	n.s.memberships()
}

// memberships tells every node, after a while, which others it sees.
func (s *simulation) memberships() {
	for _, n := range s.nodes {
		life := n.life
		s.after(100*time.Millisecond+s.upTo(2*time.Second), func() {
			if !n.alive || n.life != life {
				return
			}
			have := 0
			for _, o := range s.nodes {
				if o.alive && o.group == n.group {
					have++
				}
			}
			n.cond.Have = have
			if s.majority {
				n.cond.Need = Majority(len(s.nodes))
			}
			n.deliver(conditions{n.cond})
		})
	}
}

// deliver hands an event to the node's process, or keeps it for when it runs again.
func (n *simNode) deliver(ev event) {
	if !n.alive {
		return
	}
	if n.paused {
		n.backlog = append(n.backlog, ev)
		return
	}
	n.step(ev)
}

// later delivers an event to this life of the node.
func (n *simNode) later(d time.Duration, ev event) {
	life := n.life
	n.s.after(d, func() {
		if n.life == life {
			n.deliver(ev)
		}
	})
}

func (n *simNode) pause(d time.Duration) {
	if !n.alive || n.paused {
		return
	}
	s, life := n.s, n.life
	s.notef("%s pauses for %v", n.holder().InstanceID, d)
	n.paused = true
	s.after(d, func() {
		if n.life == life {
			s.notef("%s runs again", n.holder().InstanceID)
			n.resume(life)
		}
	})
}

// resume handles what has piled up, the late timer somewhere among it, one event
// after another.
func (n *simNode) resume(life int) {
	if n.life != life || !n.alive {
		return
	}
	if len(n.backlog) == 0 {
		n.paused = false
		n.step(tick{})
		return
	}
	ev := n.backlog[0]
	n.backlog = n.backlog[1:]
	n.step(ev)
	if n.s.violation == nil {
		n.s.after(n.s.upTo(time.Millisecond), func() { n.resume(life) })
	}
}

func (n *simNode) step(ev event) {
	s := n.s
	n.count(ev)
	for _, c := range n.m.step(n.local(s.now), ev) {
		n.execute(c)
	}
	if h := n.m.grant; h != nil {
		for _, w := range n.work {
			if w.term == h.grant.Term {
				w.deadline = max(w.deadline, h.deadline)
			}
		}
	}
	n.setTimer()
}

// count keeps book of what is hard to bring about, so that the tests can tell that
// it was.
func (n *simNode) count(ev event) {
	seen := n.s.seen
	r, ok := ev.(result)
	if !ok {
		return
	}
	c := n.m.abandoned[r.seq]
	switch {
	case c == nil && r.err == nil && n.m.call != nil && n.m.call.kind == releasing && len(n.m.orphans) > 0:
		seen["unused grant given back"]++
	case c != nil && r.err == nil && c.kind == acquiring:
		seen["late grant"]++
	case c != nil && r.err == nil && c.kind == renewing && n.m.state == Active:
		seen["late renewal"]++
	case errors.Is(r.err, driver.ErrConflict):
		seen["conflict"]++
	}
}

// setTimer arranges the next tick. Timers are a little late.
func (n *simNode) setTimer() {
	if n.m.wakeAt == never {
		return
	}
	s, life := n.s, n.life
	wake := max(n.when(n.m.wakeAt), s.now+1)
	if s.chance(0.2) && !s.calm {
		wake = wake.add(s.upTo(20 * time.Millisecond))
	}
	if n.wake > s.now && n.wake <= wake {
		return // the pending timer comes first, and sets the next one
	}
	n.wake = wake
	s.at(wake, func() {
		if n.life != life || n.wake != wake || !n.alive {
			return
		}
		n.wake = -1
		n.deliver(tick{})
	})
}

func (n *simNode) execute(c command) {
	s := n.s
	switch c := c.(type) {
	case doCall:
		n.call(c.call)
	case begun:
		s.notef("%s ACTIVE in term %d for %v", n.holder().InstanceID, c.term, c.deadline.Sub(c.at))
		n.begun(c)
		n.gossip()
	case suspect:
		s.seen["suspicion "+fmt.Sprint(c.kind)]++
	case observeAfresh:
		if n.reaches() && s.chance(0.1) { // it is limited
			n.observe()
		}
	case extended:
		if n.open != c.term {
			s.violate("%s extends term %d, which is not open", n.holder().InstanceID, c.term)
		}
		if c.deadline < n.deadline {
			s.violate("%s moves its deadline back from %v to %v", n.holder().InstanceID, n.deadline, c.deadline)
		}
		n.deadline = c.deadline
		s.checkAlone(n)
		n.gossip()
	case over:
		s.notef("%s ends term %d: %s", n.holder().InstanceID, c.term, c.reason)
		n.over(c)
		n.gossip()
	}
}

func (n *simNode) begun(c begun) {
	s := n.s
	s.begins++
	me := n.holder().InstanceID
	if n.open != 0 {
		s.violate("%s begins term %d before the end of term %d", me, c.term, n.open)
	}
	if c.term <= s.lastTerm {
		s.violate("%s begins term %d after term %d was begun", me, c.term, s.lastTerm)
	}
	if s.clusterID == "" {
		s.clusterID = c.clusterID
	}
	if c.clusterID == "" || c.clusterID != s.clusterID {
		s.violate("%s begins term %d of cluster %q, which is %q", me, c.term, c.clusterID, s.clusterID)
	}
	if known := n.m.cond; !known.majority() {
		s.violate("%s begins term %d though it sees %d of the %d needed", me, c.term, known.Have, known.Need)
	}
	s.lastTerm, n.open, n.deadline = max(s.lastTerm, c.term), c.term, c.deadline
	n.work = append(n.work, &work{term: c.term, deadline: c.deadline, running: true})
	s.checkAlone(n)
}

func (n *simNode) over(c over) {
	s := n.s
	if n.open != c.term {
		s.violate("%s ends term %d, which is not open", n.holder().InstanceID, c.term)
	}
	if c.until > c.deadline || c.until > c.at {
		s.violate("%s was master until %v, after its deadline %v or its end %v", n.holder().InstanceID, c.until, c.deadline, c.at)
	}
	s.seen[string(c.reason)]++
	if s.settled {
		s.violate("%s ends term %d though nothing is wrong: %s", n.holder().InstanceID, c.term, c.reason)
	}
	if c.until < c.at {
		s.seen["end noticed late"]++
	}
	n.open = 0
	var d time.Duration
	switch p := s.rng.Float64(); {
	case p < 0.7:
		d = s.upTo(30 * time.Millisecond)
	case p < 0.9:
		d = s.upTo(1200 * time.Millisecond)
	default:
		d = s.upTo(2*s.validFor + 5*time.Second)
	}
	life := n.life
	s.after(d, func() {
		if n.life != life {
			return
		}
		for _, w := range n.work {
			if w.term == c.term {
				w.running = false
			}
		}
		n.deliver(functionsOut{c.term})
	})
}

// checkAlone is the invariant. At the moment at which n has become master, or has
// extended its mastership, no other node would answer that it is master, were it
// asked at this very moment, even if it is paused; and no other node's functions
// still run under a grant that it counts on.
func (s *simulation) checkAlone(n *simNode) {
	if !n.m.isMaster(n.local(s.now)) {
		return
	}
	for _, o := range s.nodes {
		if o == n || !o.alive {
			continue
		}
		local := o.local(s.now)
		if o.m.isMaster(local) {
			s.violate("two masters: %s in term %d, and %s in term %d has %v left",
				n.holder().InstanceID, n.open, o.holder().InstanceID, o.m.grant.grant.Term, o.m.grant.deadline.Sub(local))
		}
		for _, w := range o.work {
			if w.running && local < w.deadline {
				s.violate("%s is master in term %d while functions of %s run under its grant of term %d for another %v",
					n.holder().InstanceID, n.open, o.holder().InstanceID, w.term, w.deadline.Sub(local))
			}
		}
	}
}

func (n *simNode) gossip() {
	s := n.s
	a := n.m.announcement(n.local(s.now))
	if a.Term == 0 {
		return
	}
	a, err := DecodeAnnouncement(a.Encode())
	if err != nil {
		s.violate("announcement: %v", err)
	}
	for _, o := range s.nodes {
		if o != n && o.group == n.group && (s.calm || s.wipe || s.chance(0.9)) {
			o.later(s.delay(), learned{a})
		}
	}
}

// poll observes the authority afresh now and then.
func (n *simNode) poll(life int) {
	if n.life != life || !n.alive {
		return
	}
	s := n.s
	if n.reaches() {
		n.observe()
	} else if s.chance(0.5) {
		n.later(s.delay(), observation{err: driver.ErrUnavailable})
	}
	s.after(500*time.Millisecond+s.upTo(time.Second), func() { n.poll(life) })
}

func (n *simNode) reaches() bool { return n.s.auth.up && !n.cut }

// observe sends the node what the authority shows now.
func (n *simNode) observe() {
	s := n.s
	o := driver.Mastership{Term: s.auth.term, ClusterID: s.auth.id}
	if s.auth.holder != nil {
		h := *s.auth.holder
		o.Holder = &h
	}
	n.observeAt = max(n.observeAt+1, s.now.add(s.delay()))
	n.later(time.Duration(n.observeAt-s.now), observation{mastership: o})
}

// The authority.

// call makes one call: the request travels, is applied, and the answer travels,
// each of which may fail. A driver that honours its context answers by the
// timeout; a bad one, sometimes, whenever the answer comes.
func (n *simNode) call(c call) {
	s := n.s
	life, host := n.life, n.holder()
	hangs := s.chance(0.2) && !s.calm
	limit := s.now.add(time.Duration(float64(c.timeout) / (1 + n.drift)))
	answered := false
	answer := func(r result) {
		if !answered && n.life == life {
			answered = true
			n.deliver(r)
		}
	}
	lost := func() {
		if hangs {
			s.after(c.timeout+s.upTo(5*time.Second), func() { answer(result{seq: c.seq, err: driver.ErrUnavailable}) })
		}
	}
	if !hangs {
		s.at(limit, func() { answer(result{seq: c.seq, err: driver.ErrUnavailable}) })
	}
	if n.cut && s.chance(0.5) {
		s.after(s.upTo(5*time.Millisecond), func() { answer(result{seq: c.seq, err: driver.ErrUnavailable}) })
		return
	}
	if n.cut || s.chance(0.02) && !s.calm {
		lost()
		return
	}
	d := s.delay()
	if s.waits && c.kind == acquiring {
		d += s.upTo(1500 * time.Millisecond)
	}
	s.after(d, func() {
		if !s.auth.up {
			lost()
			return
		}
		g, err := s.apply(host, c)
		if s.waits && c.kind == acquiring {
			g.ValidFor += n.local(s.now).Sub(c.sent) // by the node's own clock
		}
		if n.cut || s.chance(0.04) && !s.calm {
			lost()
			return
		}
		d := s.delay()
		if n.slow && !s.calm {
			d += s.share(0.02, 0.4)
		}
		s.after(d, func() { answer(result{seq: c.seq, grant: g, err: err}) })
	})
}

func (s *simulation) apply(host driver.Holder, c call) (driver.Grant, error) {
	a := &s.auth
	mine := a.holder != nil && a.holder.InstanceID == host.InstanceID
	switch c.kind {
	case acquiring:
		if c.claim.MinTerm > driver.MaxTerm {
			return driver.Grant{}, driver.ErrInvalid
		}
		if c.claim.Known && a.id != "" && a.id != c.claim.ClusterID {
			return driver.Grant{}, driver.ErrClusterMismatch
		}
		if a.holder != nil && !mine || s.now < a.locked {
			return driver.Grant{}, driver.ErrConflict
		}
		if !mine {
			if !s.stuck || a.term == 0 {
				a.term = max(a.term, c.claim.MinTerm) + 1
			}
			a.holder = &host
			s.grants++
			if a.id == "" {
				a.id = c.claim.ClusterID
			}
			s.notef("authority grants term %d to %s", a.term, host.InstanceID)
			s.changed()
		}
	case renewing:
		if !mine || a.term != c.grant.Term {
			return driver.Grant{}, driver.ErrSessionLost
		}
	case releasing:
		if mine && a.term == c.grant.Term {
			s.notef("authority takes back term %d from %s", a.term, host.InstanceID)
			s.vacate()
		}
		return driver.Grant{}, nil
	}
	s.lease()
	return driver.Grant{Term: a.term, ClusterID: a.id, ValidFor: s.validFor}, nil
}

// lease starts the holder's lease afresh, by the authority's own clock.
func (s *simulation) lease() {
	s.auth.version++
	version := s.auth.version
	s.after(time.Duration(float64(s.validFor)/(1+s.auth.drift))+s.expiryLag, func() {
		if s.auth.version == version && s.auth.up {
			s.notef("authority lets term %d of %s expire", s.auth.term, s.auth.holder.InstanceID)
			s.vacate()
		}
	})
}

// revoke is an operator who takes the grant away. The authority keeps its promise
// all the same, and grants no other before the time of this one is over.
func (s *simulation) revoke() {
	if s.auth.holder == nil {
		return
	}
	s.notef("authority revokes term %d of %s", s.auth.term, s.auth.holder.InstanceID)
	s.auth.locked = s.now.add(time.Duration(float64(s.validFor) / (1 + s.auth.drift)))
	s.vacate()
}

func (s *simulation) vacate() {
	s.auth.holder = nil
	s.auth.version++
	s.changed()
}

// changed tells those who watch.
func (s *simulation) changed() {
	for _, n := range s.nodes {
		if n.alive && n.reaches() && (s.calm || s.chance(0.9)) {
			n.observe()
		}
	}
}

// restartStore stops the authority for a while. Its leases start afresh after.
func (s *simulation) restartStore(d time.Duration) {
	if !s.auth.up {
		return
	}
	s.notef("authority is down for %v", d)
	s.auth.up = false
	s.after(d, func() {
		s.auth.up = true
		if s.auth.holder != nil {
			s.lease()
		}
		s.changed()
	})
}

// wipeStore takes the authority down for as long as a grant is valid, after which
// it knows nothing.
func (s *simulation) wipeStore() {
	s.restartStore(s.validFor + s.validFor/10 + 2*time.Second)
	s.notef("authority is wiped")
	s.auth.term, s.auth.id, s.auth.holder = 0, "", nil
	s.auth.version++
}

// lie announces something that may do harm to some node, and comes again.
func (s *simulation) lie() {
	s.after(10*time.Millisecond+s.upTo(300*time.Millisecond), s.lie)
	s.lies++
	x := driver.Holder{NodeID: "x", InstanceID: fmt.Sprintf("x%d", s.rng.IntN(100)), Addr: "10.0.9.9:7946"}
	a := Announcement{ClusterID: s.auth.id, Holder: x, Active: s.chance(0.7), Seq: s.rng.Uint64(), From: "x"}
	switch s.rng.IntN(6) {
	case 0:
		a.ClusterID = "foreign"
	case 1:
		a.ClusterID = ""
	}
	terms := []driver.Term{driver.MaxTerm, driver.MaxTerm - 1, 2 * driver.MaxTerm, math.MaxUint64, s.auth.term + heardStep + 1,
		s.auth.term + heardStep, s.auth.term + 1, s.auth.term + 1, s.auth.term + 1, s.auth.term + 2, s.auth.term, max(s.auth.term, 1) - 1, 1}
	a.Term = terms[s.rng.IntN(len(terms))]
	switch s.rng.IntN(4) {
	case 0:
		a.Holder = s.nodes[s.rng.IntN(len(s.nodes))].holder()
	case 1:
		if s.auth.holder != nil {
			a.Holder = *s.auth.holder
		}
	case 2:
		if s.chance(0.3) {
			a.Holder = driver.Holder{}
		}
	}
	a.ValidFor = []time.Duration{0, time.Second, maxAnnouncedValidity}[s.rng.IntN(3)]
	for _, n := range s.nodes {
		if a.Term > 0 && s.chance(0.7) {
			n.later(s.delay(), learned{a})
		}
	}
}

// Faults.

// fault does something bad and comes again.
func (s *simulation) fault() {
	if s.calm {
		return
	}
	s.after(s.upTo(s.validFor+500*time.Millisecond), s.fault)
	n := s.nodes[s.rng.IntN(len(s.nodes))]
	for _, o := range s.nodes {
		if o.alive && o.open != 0 && s.chance(0.7) {
			n = o // trouble likes masters
		}
	}
	if s.wipe { // only faults under which every node hears every term
		switch s.rng.IntN(2) {
		case 0:
			n.later(0, resign{})
		case 1:
			n.later(0, functionsOut{}) // of no term: ignored
		}
		return
	}
	switch s.rng.IntN(9) {
	case 0, 1:
		n.cut = true
		d := s.share(0.1, 2.5)
		s.notef("%s is cut off from the authority for %v", n.holder().InstanceID, d)
		s.after(d, func() { n.cut = false })
	case 2, 3:
		n.pause(s.share(0.05, 2.5))
	case 4:
		if n.alive && s.chance(0.6) {
			n.crash()
			s.after(50*time.Millisecond+s.share(0, 2), n.start)
		}
	case 5:
		n.slow = true
		s.after(s.share(0.5, 2), func() { n.slow = false })
	case 6:
		n.group = s.rng.IntN(2)
		s.memberships()
		s.after(s.share(0.5, 3)+5*time.Second, func() { n.group = 0; s.memberships() })
	case 7:
		if s.auth.up && s.chance(0.2) {
			s.revoke()
		}
		if s.chance(0.3) {
			s.restartStore(s.share(0.05, 1.5))
		}
	case 8:
		switch s.rng.IntN(4) {
		case 0:
			n.later(0, resign{})
		case 3:
			n.cond.Eligible = !n.cond.Eligible
			n.later(0, conditions{n.cond})
		case 1:
			n.cond.Draining = true
			n.later(0, conditions{n.cond})
			life := n.life
			s.after(s.share(0, 2), func() {
				if n.life == life {
					n.cond.Draining = false
					n.deliver(conditions{n.cond})
				}
			})
		case 2:
			gone := s.nodes[s.rng.IntN(len(s.nodes))].holder().InstanceID
			n.later(0, memberGone{gone})
		}
	}
}

func (s *simulation) heal() {
	s.notef("everything heals")
	s.calm = true
	for _, n := range s.nodes {
		n.cut, n.slow, n.group = false, false, 0
		n.start()
		n.cond.Draining, n.cond.Eligible = false, true
		if n.paused {
			n.resume(n.life)
		}
		n.deliver(conditions{n.cond})
	}
	s.memberships()
}

// checkLiveness holds once everything has been well for long enough: one node is
// master, and every other one knows it.
func (s *simulation) checkLiveness() {
	if s.violation != nil {
		return
	}
	var master *simNode
	for _, n := range s.nodes {
		if n.alive && n.m.isMaster(n.local(s.now)) {
			master = n
		}
	}
	if master == nil {
		var all []string
		for _, n := range s.nodes {
			st := n.m.status(n.local(s.now))
			all = append(all, fmt.Sprintf("%s %v (%s; %v; call %v)", n.holder().InstanceID, st.State, st.WaitingFor, st.Err, n.m.call))
		}
		s.violate("no master long after everything healed: %s", strings.Join(all, ", "))
		return
	}
	// A forged end hides the name for a while, once.
	patience := s.now
	if s.hostile {
		patience = s.now.add(2 * outranksFor)
	}
	for _, n := range s.nodes {
		h, t := n.m.master(n.local(s.now))
		for s.now < patience && s.violation == nil && h == nil {
			s.runUntil(s.now.add(200 * time.Millisecond))
			h, t = n.m.master(n.local(s.now))
		}
		if h == nil || h.InstanceID != master.holder().InstanceID || t != master.open {
			s.violate("%s names %v of term %d master, which is %s of term %d",
				n.holder().InstanceID, h, t, master.holder().InstanceID, master.open)
		}
	}
}

// The broken variants. Each breaks one rule in a way that real systems have.

type variant struct {
	name  string
	seeds int // within which the checker has to notice
	wreck func(*scenario)
}

// unbounded is a wait that others can make as long as they like.
func unbounded(heardUntil, _ clock.Instant) clock.Instant { return heardUntil }

func variants() []variant {
	return []variant{
		{"deadline counted from the receipt of the answer", 300, func(sc *scenario) {
			sc.rules.deadline = func(_, answered clock.Instant, validFor time.Duration) clock.Instant {
				return answered.Add(usable(validFor))
			}
		}},
		{"drift of clocks ignored", 300, func(sc *scenario) {
			sc.rules.deadline = func(sent, _ clock.Instant, validFor time.Duration) clock.Instant {
				return sent.Add(validFor - margin)
			}
		}},
		{"no check at use, timers relied on", 300, func(sc *scenario) {
			sc.rules.holds = func(_, _ clock.Instant) bool { return true }
		}},
		{"an Acquire without an answer taken for a grant", 300, func(sc *scenario) {
			sc.rules.granted = func(a answer) (driver.Grant, bool) {
				if errors.Is(a.err, driver.ErrUnavailable) {
					return driver.Grant{Term: a.claim.MinTerm + 1, ClusterID: a.claim.ClusterID, ValidFor: 2 * time.Second}, true
				}
				return a.grant, a.err == nil
			}
		}},
		{"released before the functions have returned", 300, func(sc *scenario) {
			sc.rules.releasable = func(bool) bool { return true }
		}},
		{"an ended term begun again", 300, func(sc *scenario) {
			sc.rules.fresh = func(_, _, _ driver.Term) bool { return true }
		}},
		{"a term that was learned of ends a mastership", 300, func(sc *scenario) {
			sc.hostile = true
			sc.rules.ends = func(heard, own driver.Term) bool { return heard > own }
		}},
		{"any term that was learned of raises a claim", 300, func(sc *scenario) {
			sc.hostile = true
			sc.rules.plausible = func(_, _ driver.Term) bool { return true }
		}},
		{"a vacancy is left alone for as long as others announce a master", 300, func(sc *scenario) {
			sc.hostile = true
			sc.rules.yields = unbounded
		}},
		{"a cluster id that was learned of is adopted for good", 300, func(sc *scenario) {
			sc.hostile = true
			sc.rules.adopts = func() bool { return true }
		}},
		{"the authority does not raise the term", 300, func(sc *scenario) { sc.stuck = true; sc.rules.fresh = func(_, _, _ driver.Term) bool { return true } }},
	}
}

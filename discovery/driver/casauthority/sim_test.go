package casauthority

import (
	"container/heap"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
)

// The simulation runs machines in virtual time over a store that can compare and set,
// through a network that delays and loses, on nodes whose clocks drift, that are paused,
// crash and restart. The store reads stale, fails over, is restored, emptied and edited
// by hand. True time is what an outside observer has; nobody but the checker can read it.

// moment is true time.
type moment time.Duration

func (t moment) add(d time.Duration) moment { return t + moment(d) }

type scenario struct {
	seed     uint64
	rules    rules
	logLines bool
}

const (
	simMin = 400 * time.Millisecond
	simMax = 4 * time.Second
)

type simulation struct {
	scenario
	rng   *rand.Rand
	now   moment
	queue events
	order uint64
	calm  bool // no faults from now on

	store  simStore
	nodes  []*simNode
	nonces int

	// hears says that every node learns of each term at once. Where nobody remembers the
	// terms of a store that was emptied, nobody can raise them.
	hears bool
	// deaf says that no node learns what others announce of their grants.
	deaf  bool
	heard driver.Term
	// strangers says that a node which starts knows of no cluster before it has read a
	// record, as one with an empty disk that reaches nobody. Then the record may be deleted
	// by hand, and nothing else is forgotten.
	strangers bool
	// clusterID is the one that all nodes know, empty before the first grant. Clusters are all
	// that ever were: a store that forgets the first grant may see another one founded.
	clusterID string
	clusters  map[string]bool
	editedAt  moment
	resetAt   moment
	granted   int // in which incarnation the last grant was given

	// The checker's.
	grants    map[string]*simGrant // by nonce
	seen      map[string]int       // how often what happened
	violation error
	log       []string
}

// simGrant is what a node was given, in true time: by the promise of driver.Authority
// no other holder is granted from from to until.
type simGrant struct {
	who         string
	term        driver.Term
	cluster     string
	from, until moment
	over        bool // released
}

// simStore is a store at one moment, and what it was before.
type simStore struct {
	simState
	named    bool // it tells its incarnation
	revision driver.Revision
	history  []simState
	written  map[string]moment // when a nonce was first written
}

type simState struct {
	at          moment
	data        []byte
	revision    driver.Revision // 0: no record
	ceiling     []byte
	ceilingAt   driver.Revision // its revision
	incarnation int
}

// simCeiling is its key.
const simCeiling = "ceiling"

type simNode struct {
	s       *simulation
	host    int
	offset  clock.Instant
	drift   float64
	ttl     time.Duration
	cadence time.Duration // of reading
	life    int
	alive   bool
	paused  bool
	backlog []func()
	cut     bool
	m       *machine
	heard   driver.Term
	knows   bool // of the cluster

	call     *simCall // the attempt that is under way
	reading  bool
	active   bool
	grant    driver.Grant
	deadline clock.Instant
	renewAt  clock.Instant
}

// simCall is an attempt and what is to be done when it is done.
type simCall struct {
	attempt attempt
	began   clock.Instant
	done    func(driver.Grant, error)
	over    bool
	waits   int // counts calls to the store, to tell a late answer
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
	s := &simulation{
		scenario: sc, rng: rand.New(rand.NewPCG(sc.seed, 0x636173)),
		grants: make(map[string]*simGrant), seen: make(map[string]int), clusters: make(map[string]bool),
	}
	s.store = simStore{named: s.chance(0.8), written: make(map[string]moment)}
	s.store.incarnation = 1
	s.strangers = s.chance(0.3)
	s.hears = s.strangers || s.chance(0.5)
	s.deaf = s.chance(0.3)
	for host := range 2 + s.rng.IntN(3) {
		n := &simNode{s: s, host: host, offset: clock.Instant(1e12 + s.rng.Int64N(1e15)), drift: s.rate()}
		n.ttl = s.someTTL()
		n.cadence = []time.Duration{20 * time.Millisecond, n.ttl / 8, n.ttl, 5 * n.ttl}[s.rng.IntN(4)]
		s.nodes = append(s.nodes, n)
		s.after(s.upTo(200*time.Millisecond), n.start)
	}
	s.after(2*time.Second, s.fault)
	s.runUntil(moment(60 * time.Second))
	s.heal()
	s.runUntil(s.now.add(4*simMax + 10*time.Second))
	s.checkLiveness()
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

func (s *simulation) after(d time.Duration, run func()) {
	s.order++
	heap.Push(&s.queue, simEvent{at: s.now.add(d), order: s.order, run: run})
}

func (s *simulation) chance(p float64) bool { return s.rng.Float64() < p }
func (s *simulation) upTo(d time.Duration) time.Duration {
	return time.Duration(s.rng.Int64N(int64(d) + 1))
}

func (s *simulation) someTTL() time.Duration {
	return []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, simMax}[s.rng.IntN(4)]
}

// rate is a drift of up to ρ, often the whole of it.
func (s *simulation) rate() float64 {
	const limit = 1.0 / driftDivisor
	switch s.rng.IntN(3) {
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
		return 100*time.Microsecond + s.upTo(2*time.Millisecond)
	case p < 0.97:
		return s.upTo(200 * time.Millisecond)
	default:
		return s.upTo(simMax + time.Second)
	}
}

// The store.

func (s *simStore) value(of simState) Value {
	v := Value{Data: of.data, Revision: of.revision}
	if s.named {
		v.Incarnation = fmt.Sprintf("i%d", of.incarnation)
	}
	return v
}

// change makes the state that follows.
func (s *simulation) change(data []byte, exists bool) {
	st := &s.store
	st.history = append(st.history, st.simState)
	st.revision++
	st.simState = simState{at: s.now, data: data, ceiling: st.ceiling, ceilingAt: st.ceilingAt, incarnation: st.incarnation}
	if exists {
		st.simState.revision = st.revision
	}
}

// anyRevision is demanded by a careless variant that does not compare.
const anyRevision = ^driver.Revision(0)

func (s *simulation) compareAndSet(data []byte, prev driver.Revision) (Value, error) {
	st := &s.store
	if prev != st.simState.revision && prev != anyRevision {
		return Value{}, driver.ErrConflict
	}
	s.change(data, true)
	if r, err := (bounds{simMin, simMax}).parse(data); err == nil {
		if _, ok := st.written[r.Nonce]; !ok {
			st.written[r.Nonce] = s.now
		}
		s.goBy(r)
	}
	v := st.value(st.simState)
	v.Data = nil
	return v, nil
}

// goBy is the operator, who sees to it that all go by the cluster that is recorded.
func (s *simulation) goBy(r record) {
	if r.Holder == nil || r.ClusterID == s.clusterID {
		return
	}
	if s.clusterID != "" {
		s.seen["founded beside"]++
	}
	s.clusterID = r.ClusterID
	s.clusters[r.ClusterID] = true
}

func (s *simulation) raise(data []byte, prev driver.Revision) (Value, error) {
	st := &s.store
	if prev != st.ceilingAt {
		return Value{}, driver.ErrConflict
	}
	st.history = append(st.history, st.simState)
	st.revision++
	st.at, st.ceiling, st.ceilingAt = s.now, data, st.revision
	return st.value(simState{revision: st.revision, incarnation: st.incarnation}), nil
}

// readState is what a read shows, which now and then is not the newest.
func (s *simulation) readState() simState {
	h := s.store.history
	if len(h) > 0 && !s.calm && s.chance(0.03) {
		s.seen["stale read"]++
		return h[len(h)-1-s.rng.IntN(min(len(h), 5))]
	}
	return s.store.simState
}

// goBack has the store be what it was at some moment, in a new incarnation.
func (s *simulation) goBack(to moment, what string) {
	st := &s.store
	state := simState{}
	if to >= 0 {
		to = max(to, s.resetAt) // a backup from before a reset wants another reset
	}
	for _, h := range append(slices.Clone(st.history), st.simState) {
		if h.at <= to {
			state = h
		}
	}
	s.notef("store %s: what it was at %v: %s", what, time.Duration(to), state.data)
	s.seen[what]++
	st.history = append(st.history, st.simState)
	incarnation := st.incarnation + 1
	st.simState = state
	st.simState.at, st.simState.incarnation = s.now, incarnation
	st.incarnation = incarnation
	s.resetLater() // what it was may have been edited
	if r, err := (bounds{simMin, simMax}).parse(state.data); err == nil {
		s.goBy(r)
	}
}

// Nodes.

func (n *simNode) local() clock.Instant { return n.localAt(n.s.now) }

func (n *simNode) localAt(t moment) clock.Instant {
	return n.offset + clock.Instant(float64(t)*(1+n.drift))
}

func (n *simNode) holder() driver.Holder {
	return driver.Holder{NodeID: fmt.Sprintf("n%d", n.host), InstanceID: fmt.Sprintf("n%d-%d", n.host, n.life), Addr: fmt.Sprintf("10.0.0.%d:1", n.host)}
}

func (n *simNode) start() {
	if n.alive {
		return
	}
	n.life++
	n.alive, n.paused, n.backlog, n.call, n.reading, n.active = true, false, nil, nil, false, false
	n.heard, n.knows = n.s.heard, !n.s.strangers
	n.m = newMachine(params{name: "sim", key: "key", ceiling: simCeiling, bounds: bounds{simMin, simMax}, nonce: func() string {
		n.s.nonces++
		return fmt.Sprintf("x%d", n.s.nonces)
	}}, n.s.rules, n.ttl)
	n.s.notef("%s starts, drift %+.4f, ttl %v, reads every %v", n.holder().InstanceID, n.drift, n.ttl, n.cadence)
	n.tick(n.life)
}

func (n *simNode) crash() {
	n.s.notef("%s crashes", n.holder().InstanceID)
	n.s.seen["crash"]++
	n.alive, n.active, n.m = false, false, nil
}

// do runs f in this life of the node, after a pause if there is one.
func (n *simNode) do(life int, f func()) {
	switch {
	case !n.alive || n.life != life:
	case n.paused:
		n.backlog = append(n.backlog, f)
	default:
		f()
	}
}

func (n *simNode) pause(d time.Duration) {
	if !n.alive || n.paused {
		return
	}
	life := n.life
	n.s.notef("%s pauses for %v", n.holder().InstanceID, d)
	n.s.seen["pause"]++
	n.paused = true
	n.s.after(d, func() { n.resume(life) })
}

func (n *simNode) resume(life int) {
	if n.life != life || !n.paused {
		return
	}
	n.s.notef("%s runs again", n.holder().InstanceID)
	n.paused = false
	backlog := n.backlog
	n.backlog = nil
	for _, f := range backlog {
		n.do(life, f)
	}
}

// ask makes one call to the store, whose answer may be lost, and may come late.
func (n *simNode) ask(c command, answered func(answer)) {
	s, life, sent := n.s, n.life, n.local()
	if n.cut || s.chance(0.02) && !s.calm {
		s.seen["lost request"]++
		return
	}
	s.after(s.delay(), func() {
		var v Value
		var err error
		switch state := s.readState(); {
		case c.op == write && c.key == simCeiling:
			v, err = s.raise(c.data, c.prev)
		case c.op == write:
			v, err = s.compareAndSet(c.data, c.prev)
		case c.key == simCeiling:
			// It is seldom written: only the oldest one is much of a stale one.
			old := func(h simState) bool { return h.ceilingAt != 0 }
			if i := slices.IndexFunc(s.store.history, old); i >= 0 && !s.calm && s.chance(0.3) {
				state = s.store.history[i]
			}
			v = s.store.value(simState{data: state.ceiling, revision: state.ceilingAt, incarnation: state.incarnation})
		default:
			v = s.store.value(state)
		}
		if n.cut || s.chance(0.04) && !s.calm {
			s.seen["lost answer"]++
			return
		}
		s.after(s.delay(), func() {
			n.do(life, func() { answered(answer{sent: sent, at: n.local(), value: v, err: err}) })
		})
	})
}

// attempt runs one call of the authority. It is given up after a while, as by a context
// that ends: what it has sent may still come to pass.
func (n *simNode) attempt(t attempt, done func(driver.Grant, error)) {
	c := &simCall{attempt: t, began: n.local(), done: done}
	n.call = c
	n.follow(c, t.start(n.local()))
}

func (n *simNode) follow(c *simCall, next command) {
	if next.op == done {
		c.over = true
		n.call = nil
		c.done(next.grant, next.err)
		return
	}
	c.waits++
	waits := c.waits
	n.ask(next, func(a answer) {
		if !c.over && c.waits == waits {
			n.follow(c, c.attempt.step(a))
		}
	})
}

func (n *simNode) giveUp(c *simCall) {
	c.waits++
	n.follow(c, c.attempt.step(answer{sent: n.local(), at: n.local(), err: driver.ErrUnavailable}))
}

// tick does what is to be done, and comes again.
func (n *simNode) tick(life int) {
	if n.life != life || !n.alive {
		return
	}
	n.do(life, n.act)
	n.s.after(5*time.Millisecond+n.s.upTo(20*time.Millisecond), func() { n.tick(life) })
}

func (n *simNode) act() {
	s, now := n.s, n.local()
	if n.active && !now.Before(n.deadline) {
		n.active = false
		s.seen["expired"]++
	}
	if c := n.call; c != nil {
		if now.Sub(c.began) > 600*time.Millisecond {
			n.giveUp(c)
		}
		return
	}
	switch {
	case n.active && s.chance(0.003) && !s.calm:
		n.release()
	case n.active && !now.Before(n.renewAt):
		n.renew()
	case n.active:
	default:
		n.look(now)
	}
}

func (n *simNode) release() {
	s := n.s
	n.active = false
	for _, g := range s.grants {
		if g.who == n.holder().InstanceID && g.term == n.grant.Term {
			g.until, g.over = min(g.until, s.now), true
		}
	}
	s.notef("%s releases term %d", n.holder().InstanceID, n.grant.Term)
	s.seen["released"]++
	n.attempt(&releasing{m: n.m, g: n.grant}, func(driver.Grant, error) {})
}

func (n *simNode) renew() {
	began, sent, old := n.s.now, n.local(), n.grant
	n.attempt(&renewing{m: n.m, g: old}, func(g driver.Grant, err error) {
		n.renewAt = n.local().Add(old.ValidFor / 10)
		switch {
		case errors.Is(err, driver.ErrSessionLost):
			n.s.seen["lost"]++
			n.s.notef("%s loses term %d: %v", n.holder().InstanceID, old.Term, err)
			n.s.endGrant(old)
			n.active = false
		case err == nil:
			n.granted(g, began, sent)
		}
	})
}

// endGrant notes that the holder knows that its grant is over.
func (s *simulation) endGrant(old driver.Grant) {
	if g := s.grants[old.Token.(token).nonce]; g != nil {
		g.until = min(g.until, s.now)
	}
}

// look reads, and tries to acquire where nobody seems to be master.
func (n *simNode) look(now clock.Instant) {
	s := n.s
	state, _ := n.m.mastership(now)
	vacant := n.m.seen && (state.Holder == nil || state.Holder.InstanceID == n.holder().InstanceID)
	if !vacant && !s.chance(0.01) {
		if !n.m.seen || now.Sub(n.m.at) > n.cadence {
			n.read()
		}
		return
	}
	if slices.ContainsFunc(n.m.learned, func(l learned) bool { return l.at == n.m.since }) {
		s.seen["counted from a proof"]++
	}
	n.knows = n.knows || n.m.record.ClusterID != ""
	claim := driver.Claim{Holder: n.holder(), MinTerm: n.heard, ClusterID: s.clusterID, Known: s.clusterID != "" && n.knows}
	if s.hears {
		claim.MinTerm = s.heard
	}
	if !claim.Known {
		s.nonces++
		claim.MinTerm, claim.ClusterID = 0, fmt.Sprintf("id-%d", s.nonces)
	}
	if s.chance(0.02) && !s.calm && n.knows {
		claim.MinTerm = []driver.Term{1<<64 - 1, driver.MaxTerm + 1, driver.MaxTerm + 1e6}[s.rng.IntN(3)]
	}
	began, sent := s.now, n.local()
	n.attempt(&acquiring{m: n.m, claim: claim}, func(g driver.Grant, err error) {
		switch {
		case err == nil:
			n.granted(g, began, sent)
		case errors.Is(err, driver.ErrConflict):
			s.seen["conflict"]++
		}
	})
}

func (n *simNode) read() {
	if n.reading {
		return
	}
	n.reading = true
	m, life := n.m, n.life
	n.ask(command{op: read}, func(a answer) {
		n.reading = false
		m.see(a.sent, a.at, a.value)
	})
	n.s.after(600*time.Millisecond, func() { n.do(life, func() { n.reading = false }) })
}

// granted takes a grant into use, and is the checker.
func (n *simNode) granted(g driver.Grant, began moment, sent clock.Instant) {
	s, me := n.s, n.holder().InstanceID
	nonce := g.Token.(token).nonce
	n.active, n.grant = true, g
	n.deadline = sent.Add(usable(g.ValidFor))
	n.renewAt = sent.Add(g.ValidFor / 3)

	have := s.grants[nonce]
	if have == nil {
		from, ok := s.store.written[nonce]
		if !ok {
			s.violate("%s was granted term %d, which was never written", me, g.Term)
		}
		have = &simGrant{who: me, term: g.Term, cluster: g.ClusterID, from: from}
		s.grants[nonce] = have
		s.seen["granted"]++
		s.notef("%s is granted term %d, ttl %v", me, g.Term, g.ValidFor)
		s.heard = max(s.heard, g.Term)
		// The first term after the store forgot is heard by all: a block is skipped for
		// what it forgets then, and not for two such losses.
		first := s.granted != s.store.incarnation
		s.granted = s.store.incarnation
		for _, o := range s.nodes {
			if first || s.chance(0.5) {
				o.heard = max(o.heard, g.Term)
			}
		}
	}
	if have.over {
		s.violate("%s was given term %d again, which it has released", me, g.Term)
	}
	if have.who != me || have.term != g.Term || have.cluster != g.ClusterID || !s.clusters[g.ClusterID] {
		s.violate("%s was given term %d of cluster %q; the grant was %+v, of cluster %q", me, g.Term, g.ClusterID, *have, s.clusterID)
	}
	if g.Term == 0 || g.Term > 1e7 {
		s.violate("term %d was granted", g.Term)
	}
	have.until = max(have.until, began.add(g.ValidFor))
	s.announce(n, g.Proof)
	s.checkAlone(have)
}

// announce sends a proof to the others, as gossip does: now and then not, late or twice.
func (s *simulation) announce(from *simNode, proof string) {
	for _, n := range s.nodes {
		if n == from || !s.calm && (s.deaf || s.chance(0.2)) {
			continue
		}
		for range 1 + s.rng.IntN(2) {
			life := n.life
			s.after(s.delay(), func() { n.do(life, func() { n.m.learn(n.local(), proof) }) })
		}
	}
}

// forge has a node learn what somebody announces who has read all that ever stood in the store,
// and who guesses what will.
func (s *simulation) forge(n *simNode) {
	state := s.store.simState
	if h := s.store.history; len(h) > 0 && s.chance(0.5) {
		state = h[len(h)-1-s.rng.IntN(min(len(h), 20))]
	}
	r, err := (bounds{simMin, simMax}).parse(state.data)
	if err != nil || !n.alive {
		return
	}
	s.seen["forged"]++
	proof := []string{r.Proof, fmt.Sprint(r.Renewals + 1), fmt.Sprint(r.Renewals + 2)}[s.rng.IntN(3)]
	n.do(n.life, func() { n.m.learn(n.local(), proof) })
}

// checkAlone is the promise of driver.Authority, in true time.
func (s *simulation) checkAlone(g *simGrant) {
	for _, o := range s.grants {
		if o == g {
			continue
		}
		if g.who != o.who && g.from < o.until && o.from < g.until {
			s.violate("two grants: term %d of %s from %v to %v, and term %d of %s from %v to %v", g.term, g.who,
				time.Duration(g.from), time.Duration(g.until), o.term, o.who, time.Duration(o.from), time.Duration(o.until))
		}
		if (g.from < o.from) != (g.term < o.term) && g.cluster == o.cluster {
			s.violate("terms do not rise: %d of %s at %v, and %d of %s at %v", g.term, g.who, time.Duration(g.from), o.term, o.who, time.Duration(o.from))
		}
	}
}

// Faults.

// fault does something bad and comes again.
func (s *simulation) fault() {
	if s.calm {
		return
	}
	s.after(s.upTo(3*time.Second), s.fault)
	n := s.nodes[s.rng.IntN(len(s.nodes))]
	for _, o := range s.nodes {
		if o.alive && o.active && s.chance(0.7) {
			n = o // trouble likes masters
		}
	}
	for range 5 {
		s.after(s.upTo(3*time.Second), func() { s.forge(s.nodes[s.rng.IntN(len(s.nodes))]) })
	}
	switch s.rng.IntN(9) {
	case 0:
		n.pause(s.upTo(3 * n.ttl))
	case 1:
		n.cut = true
		s.notef("%s is cut off", n.holder().InstanceID)
		s.after(s.upTo(3*n.ttl), func() { n.cut = false })
	case 2:
		if n.alive && s.chance(0.5) {
			n.crash()
			s.after(50*time.Millisecond+s.upTo(2*n.ttl), n.start)
		}
	case 3:
		s.reload(n)
	case 4:
		s.annotate(5)
	case 5, 6:
		switch {
		case s.strangers:
			s.lose()
		case s.store.named:
			s.failOver(n)
		}
	case 7:
		s.lose()
	case 8:
		s.edit()
	}
}

// reload gives a node another TTL.
func (s *simulation) reload(n *simNode) {
	n.ttl = s.someTTL()
	if n.alive {
		n.m.ttl = n.ttl
		s.seen["reload"]++
		s.notef("%s has ttl %v from now on", n.holder().InstanceID, n.ttl)
	}
}

// annotate writes the record again as it is, which is no sign of life.
func (s *simulation) annotate(times int) {
	if s.store.simState.revision != 0 {
		s.seen["annotated"]++
		s.change(s.store.data, true)
	}
	if times > 0 {
		s.after(s.upTo(300*time.Millisecond), func() { s.annotate(times - 1) })
	}
}

// failOver has the store forget the latest writes, or many. The holder is often cut off
// from it at that moment, so that it does not learn at once.
func (s *simulation) failOver(n *simNode) {
	if s.chance(0.5) {
		n.cut = true
		s.after(s.upTo(2*n.ttl), func() { n.cut = false })
	}
	if s.chance(0.7) {
		s.goBack(max(0, s.now.add(-s.upTo(2*time.Second))), "failed over")
	} else {
		s.goBack(max(0, s.now.add(-s.upTo(20*time.Second))), "restored")
	}
}

// lose deletes the record, or empties the store.
func (s *simulation) lose() {
	if !s.hears || s.clusterID == "" || !s.chance(0.5) {
		return
	}
	s.notef("the record is deleted")
	s.seen["deleted"]++
	if o := s.nodes[s.rng.IntN(len(s.nodes))]; s.strangers && o.alive && !o.active {
		o.crash() // so that one comes who knows nothing
		s.after(s.upTo(50*time.Millisecond), o.start)
	}
	if s.store.named && !s.strangers && s.chance(0.5) {
		s.seen["emptied"]++
		s.goBack(-1, "emptied")
		return
	}
	s.change(nil, false)
}

// edit writes what is no record, or one out of bounds. An operator puts it right.
func (s *simulation) edit() {
	if s.store.simState.revision == 0 || s.clusterID == "" || !s.hears || s.strangers {
		return
	}
	r, err := (bounds{simMin, simMax}).parse(s.store.data)
	if err != nil {
		return
	}
	data := []byte("by hand")
	switch s.rng.IntN(5) {
	case 0:
		r.TTL = 0
		data = r.encode()
	case 1:
		r.TTL = -time.Second
		data = r.encode()
	case 2:
		r.TTL = 365 * 24 * time.Hour
		data = r.encode()
	case 3:
		r.Term = driver.MaxTerm + 1
		data = r.encode()
	}
	s.seen["edited"]++
	s.notef("edited by hand: %s", data)
	s.change(data, true)
	s.resetLater()
}

// resetLater is the operator, who waits until no node can count on a grant.
func (s *simulation) resetLater() {
	s.editedAt = s.now
	s.after(2*simMax, func() {
		if s.editedAt.add(2*simMax) <= s.now {
			s.reset()
		}
	})
}

// reset is the operator's. All nodes are told the new id of the cluster.
func (s *simulation) reset() {
	if _, err := (bounds{simMin, simMax}).parse(s.store.data); err == nil || s.store.simState.revision == 0 {
		return
	}
	id := fmt.Sprintf("reset-%d", s.now)
	m := newMachine(params{name: "sim", key: "key", bounds: bounds{simMin, simMax}, nonce: func() string { return id }}, s.rules, simMax)
	t := &resetting{m: m, o: driver.ResetOptions{ClusterID: id, Term: s.heard, Force: true}}
	t.start(1)
	c := t.step(answer{sent: 1, at: 1, value: s.store.value(s.store.simState)})
	if c.op != write {
		s.violate("reset of %s: %v", s.store.data, c.err)
		return
	}
	if _, err := s.compareAndSet(c.data, c.prev); err != nil {
		s.violate("reset: %v", err)
	}
	s.notef("reset, cluster %s", id)
	s.seen["reset"]++
	s.clusterID, s.resetAt = id, s.now
	s.clusters[id] = true
}

func (s *simulation) heal() {
	s.notef("everything heals")
	s.calm = true
	s.after(2*simMax, s.reset) // a backup may have had what was edited
	for _, n := range s.nodes {
		n.cut, n.cadence = false, min(n.cadence, 200*time.Millisecond)
		n.start()
		n.resume(n.life)
	}
	s.annotateOften()
}

// annotateOften annotates until the end, over a holder that is dead in every other
// history: one who takes a revision for a sign of life waits in vain.
func (s *simulation) annotateOften() {
	if s.seed%2 == 0 && len(s.nodes) > 2 {
		for _, n := range s.nodes {
			if n.alive && n.active {
				n.crash()
				break
			}
		}
	}
	var again func()
	again = func() {
		if s.store.simState.revision != 0 {
			s.change(s.store.data, true)
		}
		s.after(300*time.Millisecond, again)
	}
	s.after(0, again)
}

// checkLiveness holds once everything has been well for long enough: one node is
// master, and every other one knows it.
func (s *simulation) checkLiveness() {
	if s.violation != nil {
		return
	}
	var master *simNode
	for _, n := range s.nodes {
		if n.alive && n.active && n.local().Before(n.deadline) {
			master = n
		}
	}
	if master == nil {
		s.violate("no master long after everything healed: the record is %s", s.store.data)
		return
	}
	for _, n := range s.nodes {
		if !n.alive {
			continue
		}
		if m, _ := n.m.mastership(n.local()); m.Holder == nil || m.Holder.InstanceID != master.holder().InstanceID {
			s.violate("%s knows %+v, but the master is %s", n.holder().InstanceID, m, master.holder().InstanceID)
		}
	}
}

// The careless variants. Each breaks one rule in a way that real systems have.

type variant struct {
	name  string
	seeds int // within which the checker has to notice
	wreck func(*rules)
}

func variants() []variant {
	return []variant{
		{"a ttl that changes within a term", 100, func(r *rules) {
			r.validFor = func(_, configured, _ time.Duration) time.Duration { return configured }
		}},
		{"a record in our own name is a grant", 100, func(r *rules) { r.byRead = func() bool { return true } }},
		{"a conflict is a grant", 100, func(r *rules) {
			r.granted = func(err error) bool { return err == nil || isConflict(err) }
		}},
		{"a holder counted from before the read was sent", 300, func(r *rules) {
			r.first = func(sent, _ clock.Instant) clock.Instant { return sent }
		}},
		{"a proof that can be guessed", 100, func(r *rules) {
			r.proof = func(_ func() string, renewals uint64) string { return fmt.Sprint(renewals) }
		}},
		{"a renewal counted from its receipt", 300, func(r *rules) {
			r.validFor = func(recorded, _, took time.Duration) time.Duration { return recorded + took }
		}},
		{"taken without the revision", 100, func(r *rules) {
			r.prev = func(driver.Revision) driver.Revision { return anyRevision }
		}},
		{"one series over two incarnations", 100, func(r *rules) {
			r.continuous = func(_, _ string) bool { return true }
		}},
		{"a record that is gone has no holder", 100, func(r *rules) {
			r.unknown = func(time.Duration) time.Duration { return 0 }
		}},
		{"a deleted record had no longer ttl than ours", 500, func(r *rules) {
			r.founding = func(own, _ time.Duration) time.Duration { return own }
		}},
		{"the longest ttl is not written down", 300, func(r *rules) {
			r.notes = func(_, _ time.Duration, _ bool) bool { return false }
		}},
		{"the longest ttl that was read is believed", 1000, func(r *rules) {
			r.notes = func(ceiling, own time.Duration, _ bool) bool { return own > ceiling }
		}},
		{"a ttl out of bounds is believed", 300, func(r *rules) {
			r.parse = func(b bounds, data []byte) (record, error) {
				return bounds{-1 << 62, 1 << 62}.parse(data)
			}
		}},
		{"a term that was heard is believed", 100, func(r *rules) {
			r.next = func(recorded, minTerm, floor driver.Term) (driver.Term, error) {
				return max(recorded, minTerm, floor) + 1, nil
			}
		}},
		{"no block of terms is skipped", 300, func(r *rules) {
			r.next = func(recorded, minTerm, _ driver.Term) (driver.Term, error) {
				if minTerm > driver.MaxTerm {
					return 0, driver.ErrInvalid
				}
				return max(recorded, minTerm) + 1, nil
			}
		}},
		{"drift of clocks ignored", 300, func(r *rules) {
			r.wait = func(ttl time.Duration) time.Duration { return ttl }
		}},
		{"renewals are no sign of life", 100, func(r *rules) {
			r.alike = func(_, _ Value, a, b record) bool { return a.Term == b.Term && a.Nonce == b.Nonce }
		}},
		{"a revision is a sign of life", 100, func(r *rules) {
			r.alike = func(before, now Value, a, b record) bool { return before.Revision == now.Revision && a.same(b) }
		}},
	}
}

func (s *simulation) summary() string {
	var all string
	for _, what := range slices.Sorted(maps.Keys(s.seen)) {
		all += fmt.Sprintf(" %s=%d", what, s.seen[what])
	}
	return all
}

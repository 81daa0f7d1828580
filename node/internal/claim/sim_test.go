package claim

import (
	"container/heap"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// The simulation: nodes that come and go, an authority that grants leases, and a store to which
// calls are late, and lost, and whose answers are. Time is a number. What is wrong is noted where
// the true state of all is known.
type sim struct {
	scenario
	rng    *rand.Rand
	now    int
	events eventHeap
	serial int

	nodes  []*simNode
	store  Record
	found  bool
	rev    driver.Revision
	claims map[string]bool // tokens that were recorded as Running
	before Record          // what the claim that is recorded was written on top of

	returned map[string]bool // fires whose last claim was given back

	holder      int // of the lease
	term        driver.Term
	leaseTo     int
	runs        []simRun
	allowed     map[string]int // runs beyond the first, by operators and wipes
	doneTokens  map[string]bool
	quietStarts int
	err         error
	seen        map[string]int
}

// scenario is what a history is made of.
type scenario struct {
	seed    uint64
	rules   rules
	cron    bool // fires of a job, and not steps of an upgrade
	restart bool
	wipe    bool
	// slow has one node count on its lease for too long, as one does whose clock stood still.
	slow bool

	runFirst  bool // broken: the work runs before its claim is recorded
	eventGate bool // broken: gates open by what is announced alone
}

type simRun struct {
	what  string
	term  driver.Term
	token string
	ended bool
}

type simNode struct {
	id       int
	life     int // rises with each crash
	up       bool
	pausedTo int
	term     driver.Term
	deadline int
	machine  *Machine
	token    string
	call     int
	goal     int
	base     string // the last fire that this node took as dealt with when its term began
	run      *simRun
	gate     bool
}

type event struct {
	at, order int
	f         func()
}

type eventHeap []event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].order < h[j].order
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(event)) }
func (h *eventHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	*h = old[:len(old)-1]
	return e
}

const (
	simSteps = 3
	simQuiet = 1200 // nothing goes wrong from here on
	simEnd   = 2400
	simLease = 60
)

func compareNumbers(a, b string) int {
	var x, y int
	fmt.Sscan(a, &x)
	fmt.Sscan(b, &y)
	return x - y
}

func simulate(sc scenario) (*sim, error) {
	s := &sim{scenario: sc, rng: rand.New(rand.NewPCG(sc.seed, 16)), claims: map[string]bool{}, returned: map[string]bool{}, holder: -1,
		allowed: map[string]int{}, doneTokens: map[string]bool{}, seen: map[string]int{}}
	if s.cron { // a job is recorded before it is claimed first
		s.store, s.found, s.rev = Record{State: Free}, true, 1
	}
	for i := range 3 {
		n := &simNode{id: i, up: true}
		s.nodes = append(s.nodes, n)
		s.tick(n, 0)
	}
	s.after(s.rng.IntN(40), s.fault)
	s.after(50, s.operate)
	for len(s.events) > 0 && s.err == nil {
		e := heap.Pop(&s.events).(event)
		if e.at > simEnd {
			break
		}
		s.now = e.at
		e.f()
	}
	if s.err == nil {
		s.err = s.atEnd()
	}
	return s, s.err
}

func (s *sim) after(d int, f func()) {
	s.serial++
	heap.Push(&s.events, event{s.now + d, s.serial, f})
}

// on runs f on n after d: not before a pause has ended, and not if n has crashed meanwhile.
func (s *sim) on(n *simNode, d int, f func()) {
	life := n.life
	var g func()
	g = func() {
		switch {
		case n.life != life || !n.up:
		case n.pausedTo > s.now:
			s.after(n.pausedTo-s.now+s.rng.IntN(3), g)
		default:
			f()
		}
	}
	s.after(d, g)
}

func (s *sim) wrong(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf("at %d: "+format, append([]any{s.now}, args...)...)
	}
}

func (s *sim) fault() {
	if s.now > simQuiet {
		return
	}
	n := s.nodes[s.rng.IntN(len(s.nodes))]
	if s.holder >= 0 && s.rng.IntN(2) == 0 {
		n = s.nodes[s.holder] // the interesting one
	}
	switch s.rng.IntN(4) {
	case 0:
		s.seen["crash"]++
		n.up, n.run, n.machine, n.term, n.gate = false, nil, nil, 0, false
		n.life++
		s.after(s.rng.IntN(100), func() { n.up = true; s.tick(n, 0) })
	case 1, 2:
		s.seen["pause"]++
		n.pausedTo = s.now + s.rng.IntN(3*simLease)
	case 3:
		if s.wipe && s.rng.IntN(4) == 0 {
			s.seen["wipe"]++
			s.found, s.store = false, Record{}
			s.rev++
			for i := range simEnd {
				s.allowed[fmt.Sprint(i)]++
			}
			s.doneTokens = map[string]bool{}
		}
	}
	s.after(s.rng.IntN(120), s.fault)
}

// operate retries or resolves what is interrupted or failed, as an operator does, now and then.
func (s *sim) operate() {
	s.after(50+s.rng.IntN(200), s.operate)
	if s.cron || !s.found || s.store.State != Interrupted && s.store.State != Failed {
		return
	}
	r := s.store
	if s.rng.IntN(3) == 0 {
		s.seen["resolve"]++
		r.State = Done
		s.doneTokens["op"] = true
		r.Token = "op"
	} else {
		s.seen["retry"]++
		s.allowed[r.What]++
		r.State, r.Token = Free, "op"
	}
	r.Owner = Owner{}
	s.rev++
	s.store = r
}

// tick is a node's own life: it acquires and renews the lease, and does the master's work.
func (s *sim) tick(n *simNode, d int) {
	s.on(n, d, func() {
		if n.term != 0 && s.now >= n.deadline && n.run == nil {
			n.term = 0 // what it claims just now it may give back
		}
		sent := s.now
		switch {
		case n.term != 0 && s.holder == n.id && s.term == n.term && s.now < s.leaseTo:
			if s.rng.IntN(4) > 0 || s.now > simQuiet {
				s.leaseTo, n.deadline = s.now+simLease, sent+s.believed(n)
			}
		case n.term == 0 && s.now >= s.leaseTo:
			s.term++
			s.holder, s.leaseTo = n.id, s.now+simLease
			n.term, n.deadline, n.goal, n.base, n.machine = s.term, sent+s.believed(n), 1, s.dealt(), nil
			s.on(n, 0, func() { s.work(n) })
		}
		if n.term != 0 && n.run != nil && s.now >= n.deadline {
			s.endRun(n, errors.New("stopped"), true)
		}
		if !s.eventGate {
			s.look(n)
		}
		s.tick(n, 10)
	})
}

// dealt is the last fire that a new master takes as dealt with, as what is recorded says.
func (s *sim) dealt() string {
	if s.store.State == Running || s.restart && s.store.State == Interrupted {
		return "" // the machine decides
	}
	return s.store.What
}

// believed is for how long a node counts on a lease.
func (s *sim) believed(n *simNode) int {
	if s.slow && n.id == 0 && s.now < simQuiet {
		return 5 * simLease
	}
	return simLease
}

// look is a gate that reads what is recorded.
func (s *sim) look(n *simNode) {
	if s.found && (compareNumbers(s.store.What, fmt.Sprint(simSteps)) >= 0 && s.store.State == Done) {
		n.gate = true
	}
}

func (s *sim) valid(n *simNode) bool { return n.term != 0 && s.now < n.deadline }

// work begins the attempt that is next.
func (s *sim) work(n *simNode) {
	if !s.valid(n) || n.machine != nil {
		return
	}
	what := fmt.Sprint(n.goal)
	if s.cron {
		what = fmt.Sprint(s.now / 100 * 100)
		dealt := compareNumbers(what, n.base) <= 0
		if dealt && s.returned[what] && !s.wipe { // what is wiped cannot be put back
			s.wrong("P52: fire %s was given back, and node %d takes it as dealt with", what, n.id)
		}
		if dealt {
			s.on(n, 20, func() { s.work(n) })
			return
		}
	} else if n.goal > simSteps {
		return
	}
	s.serial++
	n.token = fmt.Sprint("t", s.serial)
	owner := Owner{Term: n.term, NodeID: fmt.Sprint(n.id), InstanceID: fmt.Sprint(n.id, ".", n.life)}
	m, first := New(Goal{What: what, Compare: compareNumbers, Restart: s.restart, PassOver: s.cron}, owner, n.token)
	m.rules = s.rules
	n.machine = m
	s.do(n, m, first)
}

func (s *sim) do(n *simNode, m *Machine, c Command) {
	if n.machine != m {
		return
	}
	next := func(c Command) { s.do(n, m, c) }
	switch c.Action {
	case Read:
		s.call(n, func() func() {
			r, found, rev := s.store, s.found, s.rev
			if !found {
				rev = 0
			}
			return func() { next(m.Read(r, found, rev, time.Time{}, s.valid(n))) }
		}, func() { next(c) })
	case Write:
		if s.runFirst && c.Record.State == Running {
			s.begin(n, c.Record)
		}
		s.call(n, func() func() {
			have := s.rev
			if !s.found {
				have = 0
			}
			if c.Prev != have {
				return func() { next(m.WriteFailed()) }
			}
			s.apply(c.Record)
			rev := s.rev
			return func() { next(m.Wrote(rev, s.valid(n))) }
		}, func() { next(m.WriteFailed()) })
	case Run:
		if !s.runFirst {
			s.begin(n, c.Record)
		}
		s.on(n, s.rng.IntN(80), func() {
			if n.run != nil && n.machine == m {
				var err error
				if s.rng.IntN(10) == 0 {
					err = errors.New("failed")
				}
				s.endRun(n, err, false)
			}
		})
	case Finish:
		s.finished(n, c)
	}
}

// call makes a call of the store: the request, the answer, or both may be late or lost.
func (s *sim) call(n *simNode, serve func() (answer func()), timeout func()) {
	s.serial++
	id := s.serial
	n.call = id
	delay := func() int {
		if s.now < simQuiet && s.rng.IntN(10) == 0 {
			return s.rng.IntN(200)
		}
		return s.rng.IntN(4)
	}
	lost := s.now < simQuiet && s.rng.IntN(20) == 0
	s.after(delay(), func() {
		answer := serve()
		if lost {
			s.seen["lost answer"]++
			return
		}
		s.on(n, delay(), func() {
			if n.call == id {
				n.call = 0
				answer()
			}
		})
	})
	s.on(n, 30, func() {
		if n.call == id {
			n.call = 0
			s.seen["timeout"]++
			timeout()
		}
	})
}

// apply is the store, and checks what becomes of the record.
func (s *sim) apply(r Record) {
	was := s.store
	if was.State == Running && (r.State == Free || r.Token != was.Token && r.Token == s.before.Token) {
		s.giveBack(r)
		return
	}
	if s.found && r.State == Running && r.Term < was.Term {
		s.wrong("I14: a claim of term %d replaced one of term %d", r.Term, was.Term)
	}
	if r.State == Done && (r.Token != was.Token || !s.claims[r.Token]) {
		s.wrong("I14: done was recorded for claim %s on top of claim %s", r.Token, was.Token)
	}
	if r.State == Done {
		s.doneTokens[r.Token] = true
		ended := false
		for i := range s.runs {
			ended = ended || s.runs[i].token == r.Token && s.runs[i].ended
		}
		if !ended {
			s.wrong("I14: %s was recorded as done and did not run to its end", r.What)
		}
	}
	if r.State == Running {
		s.claims[r.Token] = true
		s.before = was
		delete(s.returned, r.What)
	}
	s.rev++
	s.store, s.found = r, true
	if r.State == Done && r.What == fmt.Sprint(simSteps) && s.eventGate {
		for _, n := range s.nodes { // the announcement, which reaches those that are there
			n.gate = n.up
		}
	}
}

// giveBack has r recorded again, which was there before the claim that is recorded now.
func (s *sim) giveBack(r Record) {
	s.seen["given back"]++
	for _, run := range s.runs {
		if run.token == s.store.Token {
			s.wrong("I14: the claim of %s was given back after it had begun", s.store.What)
		}
	}
	s.returned[s.store.What] = true
	s.rev++
	s.store, s.before = r, Record{Token: "nothing is known of what was there before"}
}

// begin is the moment at which the work starts, and checks that it may.
func (s *sim) begin(n *simNode, r Record) {
	if !s.slow && (s.holder != n.id || s.term != n.term || s.now >= s.leaseTo) {
		s.wrong("I14, P45: node %d starts %s in term %d and is not master", n.id, r.What, n.term)
	}
	if !s.claims[r.Token] {
		s.wrong("I14: node %d starts %s before it was claimed", n.id, r.What)
	}
	starts := 0
	for _, other := range s.runs {
		if other.what != r.What {
			continue
		}
		starts++
		if other.term >= r.Term && s.allowed[r.What] == 0 {
			s.wrong("I15: %s runs again in term %d after term %d", r.What, r.Term, other.term)
		}
		if s.doneTokens[other.token] && s.allowed[r.What] == 0 {
			s.wrong("I14, I15: %s runs again although it was done", r.What)
		}
	}
	if !s.restart && starts > s.allowed[r.What] {
		s.wrong("I14, I15: %s runs %d times", r.What, starts+1)
	}
	if s.now > simQuiet {
		s.quietStarts++
	}
	s.runs = append(s.runs, simRun{what: r.What, term: r.Term, token: r.Token})
	run := s.runs[len(s.runs)-1]
	n.run = &run
}

func (s *sim) endRun(n *simNode, err error, interrupted bool) {
	run := n.run
	n.run = nil
	for i := range s.runs {
		if s.runs[i].token == run.token {
			s.runs[i].ended = err == nil
		}
	}
	if interrupted {
		s.seen["stopped"]++
	}
	m := n.machine
	s.do(n, m, m.Ran(err, interrupted, time.Time{}))
}

func (s *sim) finished(n *simNode, c Command) {
	n.machine = nil
	pause := 20
	switch {
	case errors.Is(c.Err, ErrSuperseded):
		s.seen["superseded"]++
	case errors.Is(c.Err, ErrBusy):
		if !s.wipe { // then a claim that is late is believed to be the first
			s.wrong("node %d is busy with what it does not run", n.id)
		}
	case c.Record.State == Done || compareNumbers(c.Record.What, fmt.Sprint(n.goal)) > 0:
		n.goal++
		pause = 0
	default:
		s.seen[string(c.Record.State)]++
	}
	if s.cron {
		pause = 20
	}
	s.on(n, pause, func() { s.work(n) })
}

// atEnd checks that it went on once nothing went wrong any more.
func (s *sim) atEnd() error {
	if s.cron {
		if want := (simEnd - simQuiet) / 100 / 2; s.quietStarts < want {
			return fmt.Errorf("P52: only %d fires in quiet times, of %d at least", s.quietStarts, want)
		}
		return nil
	}
	if s.wipe {
		return nil // until the next term nobody looks whether something is missing
	}
	if s.store.What != fmt.Sprint(simSteps) || s.store.State != Done {
		return fmt.Errorf("P46: in the end step %q is %q", s.store.What, s.store.State)
	}
	for _, n := range s.nodes {
		if n.up && !n.gate {
			return fmt.Errorf("P47: the gate of node %d never opened", n.id)
		}
	}
	return nil
}

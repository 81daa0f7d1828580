package call

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/musterhq/muster/node"
)

// The simulation: nodes that are granted mastership for a while each, crash, and stand still; and
// callers that learn late who is master, over connections that break while what was sent goes on
// its way. Time is a number. What is wrong is noted where the true state of all is known.
type sim struct {
	scenario
	rng    *rand.Rand
	now    int
	events [simEnd + 1][]func() // by when, in the order in which they were made

	nodes  []*simNode
	holder int
	term   node.Term
	lease  int // until when
	calls  []*simCall
	err    error
	seen   map[string]int
}

// scenario is what a history is made of.
type scenario struct {
	seed  uint64
	rules rules
	// slow has one node count on its grants for too long, as one does whose clock stood still.
	slow bool
	// absurd has callers believe in a term far above all others for a while.
	absurd bool
}

type simNode struct {
	id       int
	life     int
	up       bool
	pausedTo int
	// What it believes of its own mastership.
	term     node.Term
	deadline int
	// confirmed is the highest term that was claimed, before the authority named it again.
	confirmed node.Term
}

// simCall is one call, as its caller sees it, and what became of it in truth.
type simCall struct {
	id         int
	idempotent bool
	began, by  int // when, and the deadline
	route      *route
	attempt    int // rises with each, so that news of an old one is ignored
	known      masterAt
	over       bool
	ran        int // how often the handler was begun
}

const (
	simLease   = 60
	simTimeout = 300 // of a call
	simQuiet   = 1500
	simEnd     = 2600
)

func simulate(sc scenario) (*sim, error) {
	s := &sim{scenario: sc, rng: rand.New(rand.NewPCG(sc.seed, 17)), holder: -1, seen: map[string]int{}}
	for i := range 3 {
		n := &simNode{id: i, up: true}
		s.nodes = append(s.nodes, n)
		s.tick(n)
	}
	s.after(s.rng.IntN(40), s.fault)
	s.after(s.rng.IntN(20), s.caller)
	for ; s.now <= simEnd; s.now++ {
		for i := 0; i < len(s.events[s.now]) && s.err == nil; i++ { // each may add to them
			s.events[s.now][i]()
		}
		if s.err != nil {
			break
		}
	}
	for _, c := range s.calls {
		if !c.over && c.by < simEnd {
			s.wrong("I12: call %d never ended", c.id)
		}
	}
	return s, s.err
}

func (s *sim) after(d int, f func()) {
	if at := s.now + d; at <= simEnd {
		s.events[at] = append(s.events[at], f)
	}
}

// on runs f on an instance after d: not while it stands still, and not if it has crashed.
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

func (s *sim) quiet() bool { return s.now > simQuiet }

// delay is how long something is on its way.
func (s *sim) delay() int {
	if !s.quiet() && s.rng.IntN(8) == 0 {
		return s.rng.IntN(150)
	}
	return 1 + s.rng.IntN(4)
}

func (s *sim) fault() {
	if s.quiet() {
		return
	}
	n := s.nodes[s.rng.IntN(len(s.nodes))]
	if s.holder >= 0 && s.rng.IntN(2) == 0 {
		n = s.nodes[s.holder]
	}
	switch s.rng.IntN(4) {
	case 0:
		s.seen["crash"]++
		n.up, n.term, n.confirmed = false, 0, 0
		n.life++
		s.after(s.rng.IntN(60), func() { n.up = true; s.tick(n) })
	case 1:
		s.seen["pause"]++
		n.pausedTo = s.now + s.rng.IntN(3*simLease)
	default:
		if s.holder == n.id { // it resigns in good order
			s.seen["resign"]++
			n.term, n.deadline, s.lease = 0, 0, s.now
		}
	}
	s.after(s.rng.IntN(90), s.fault)
}

// tick is a node's part in the election: it renews its grant, or gets the next.
func (s *sim) tick(n *simNode) {
	s.on(n, 10, func() {
		if n.term != 0 && s.now >= n.deadline {
			n.term = 0
		}
		believed := simLease
		if s.slow && n.id == 0 && !s.quiet() {
			believed *= 6
		}
		switch {
		case n.term != 0 && s.holder == n.id && s.term == n.term && s.now < s.lease:
			s.lease, n.deadline = s.now+simLease, s.now+believed
		case n.term == 0 && s.now >= s.lease && s.rng.IntN(2) == 0:
			s.term++
			s.holder, s.lease = n.id, s.now+simLease
			n.term, n.deadline, n.confirmed = s.term, s.now+believed, 0
		case n.term != 0 && n.term < s.term && s.now >= s.lease:
			// It counts on an old grant still, and is given another, of which it learns late.
			s.seen["late grant"]++
			s.term++
			s.holder, s.lease = n.id, s.now+simLease
			granted := s.term
			s.on(n, s.rng.IntN(simLease), func() {
				n.term, n.deadline, n.confirmed = granted, s.now, 0
			})
		}
		s.tick(n)
	})
}

// trulyMaster is what the authority knows.
func (s *sim) trulyMaster(n *simNode) bool {
	return s.holder == n.id && s.term == n.term && s.now < s.lease
}

func (s *sim) instance(n *simNode) string {
	return strconv.Itoa(n.id) + "." + strconv.Itoa(n.life)
}

// caller begins a call now and then.
func (s *sim) caller() {
	c := &simCall{id: len(s.calls), idempotent: s.rng.IntN(2) == 0, began: s.now, by: s.now + simTimeout}
	c.route = &route{idempotent: c.idempotent, rules: s.rules}
	s.calls = append(s.calls, c)
	s.learn(c)
	s.after(simTimeout, func() { s.deadline(c) })
	s.follow(c, c.route.look(c.known))
	s.after(5+s.rng.IntN(40), s.caller)
}

// learn is what the caller's view says: late, if at all.
func (s *sim) learn(c *simCall) {
	if s.holder >= 0 && s.now < s.lease && (s.quiet() || s.rng.IntN(3) > 0) {
		c.known = masterAt{s.term, s.instance(s.nodes[s.holder])}
		if s.absurd && !s.quiet() && s.rng.IntN(2) == 0 {
			s.seen["absurd term"]++
			c.known.term += 1000
		}
	}
}

// deadline is that of a call.
func (s *sim) deadline(c *simCall) {
	if c.over {
		return
	}
	if c.attempt > 0 && c.route.sent != (masterAt{}) { // in flight
		s.seen["deadline in flight"]++
		s.end(c, c.route.ended(outcome{verdict: mayHaveRun, err: context.DeadlineExceeded}), true)
		return
	}
	s.end(c, c.route.expired(context.DeadlineExceeded, false), true)
}

// follow does what the machine says.
func (s *sim) follow(c *simCall, next command) {
	switch {
	case c.over:
	case next.over:
		s.end(c, next, false)
	case next.send == (masterAt{}):
		c.route.sent = masterAt{}
		s.after(3+s.rng.IntN(10), func() {
			if c.over || c.route.sent != (masterAt{}) {
				return
			}
			s.learn(c)
			if s.rng.IntN(2) == 0 {
				s.follow(c, c.route.look(c.known))
			} else {
				s.follow(c, c.route.paused(c.known))
			}
		})
	default:
		s.send(c, next.send)
	}
}

// send makes one attempt.
func (s *sim) send(c *simCall, to masterAt) {
	c.attempt++
	attempt := c.attempt
	of, lived, _ := strings.Cut(to.instance, ".")
	id, _ := strconv.Atoi(of)
	life, _ := strconv.Atoi(lived)
	n := s.nodes[id]
	report := func(o outcome) {
		if !c.over && c.attempt == attempt && c.route.sent == to {
			s.follow(c, c.route.ended(o))
		}
	}
	if n.life != life && s.rules.instance {
		s.seen["another instance"]++
		s.after(s.delay(), func() { report(outcome{verdict: notRun, err: ErrLeft}) })
		return
	}
	if !n.up {
		s.after(s.delay(), func() { report(outcome{verdict: notRun, err: ErrUnreachable}) })
		return
	}
	born := n.life
	// The connection breaks at the crash, at the latest. Before that it may break for the caller
	// alone, and what was sent goes on its way.
	var watch func()
	watch = func() {
		if c.over || c.attempt != attempt {
			return
		}
		if n.life != born || !s.quiet() && s.rng.IntN(60) == 0 {
			s.seen["broken connection"]++
			report(outcome{verdict: mayHaveRun, err: ErrUnreachable})
			return
		}
		s.after(5, watch)
	}
	s.after(5, watch)
	answer := func(o outcome) { s.after(s.delay(), func() { report(o) }) }
	s.on(n, s.delay(), func() { s.receive(c, n, to, answer) })
}

// receive is the node that was called.
func (s *sim) receive(c *simCall, n *simNode, to masterAt, answer func(outcome)) {
	valid := n.term != 0 && s.now < n.deadline
	if !s.rules.admits(n.term, valid, to.term, n.confirmed) {
		s.seen["refused"]++
		if valid {
			s.seen["doubted"]++
			s.confirm(n, to.term)
		}
		var hint masterAt
		if s.holder >= 0 && s.rng.IntN(2) == 0 {
			hint = masterAt{s.term, s.instance(s.nodes[s.holder])}
		}
		answer(outcome{verdict: notRun, err: ErrNoMaster, master: hint})
		return
	}
	c.ran++
	term := n.term
	switch {
	case s.instance(n) != to.instance:
		s.wrong("I19: call %d for %s runs on %s", c.id, to.instance, s.instance(n))
	case c.ran > 1 && !c.idempotent:
		s.wrong("P37: call %d may run once, and runs %d times", c.id, c.ran)
	case !s.slow && !s.trulyMaster(n):
		s.wrong("P42: call %d runs on a node that is not master", c.id)
	case s.slow && to.term > n.term && !s.trulyMaster(n):
		s.wrong("P42: call %d for term %d runs in term %d", c.id, to.term, n.term)
	case c.over && !c.route.ran:
		s.wrong("P34: call %d was said not to have run, and runs", c.id)
	}
	s.on(n, s.rng.IntN(30), func() {
		var failed error
		if s.rng.IntN(6) == 0 {
			failed = errors.New("handler")
		}
		valid := n.term == term && s.now < n.deadline
		if ended, err := s.rules.settle(valid, failed); ended {
			s.seen["ended meanwhile"]++
			answer(outcome{verdict: mayHaveRun, err: err})
		} else {
			if !s.slow && err == nil && !s.trulyMaster(n) {
				s.wrong("P42: call %d has an answer of a node that is master no longer", c.id)
			}
			answer(outcome{verdict: answered, err: err})
		}
	})
}

// confirm has the authority asked whether n is still its master.
func (s *sim) confirm(n *simNode, claimed node.Term) {
	term := n.term
	s.on(n, s.delay(), func() {
		if n.term == term && s.trulyMaster(n) {
			n.confirmed = max(n.confirmed, claimed)
		}
	})
}

// end checks what the caller is told.
func (s *sim) end(c *simCall, last command, expired bool) {
	c.over = true
	switch {
	case !last.over: // the deadline ended an attempt that is idempotent
		last = c.route.expired(context.DeadlineExceeded, false)
	}
	if last.err == nil && c.ran == 0 {
		s.wrong("P34: call %d has an answer, and has not run", c.id)
	}
	if !last.mayHaveRun && c.ran > 0 {
		s.wrong("P34: call %d has run, and is said not to have: %v", c.id, last.err)
	}
	if c.began > simQuiet+3*simLease && last.err != nil && last.err.Error() != "handler" {
		s.wrong("call %d began in quiet times and ended with %v", c.id, last.err)
	}
	if expired {
		s.seen["expired"]++
	}
	if last.err == nil {
		s.seen["answered"]++
	}
}

package supervise

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/internal/testing/race"
)

var (
	seeds = flag.Int("seeds", 1000, "random histories of TestModel")
	seed  = flag.Int("seed", -1, "the one history to run, with what happened")
)

const (
	simValid = 600 * time.Millisecond // of each renewal
	simDrain = 400 * time.Millisecond
	simDies  = 20 * time.Millisecond // from SIGKILL to the end of everything, at most
)

// sim is a host with an agent, its wrapper, and the processes of the command, in virtual time.
type sim struct {
	t      *testing.T
	rng    *rand.Rand
	rules  rules
	now    clock.Instant
	log    strings.Builder
	broken string // what promise was broken first

	// The agent. It is the authority as well: a term is over at its deadline or when it is
	// released.
	term      uint64
	deadline  clock.Instant
	drainBy   clock.Instant
	released  bool
	stalledTo clock.Instant // sends and renews nothing
	holds     []*simHold    // of the term
	stream    *simHold      // nil: there is none
	inFlight  []flight

	m        *machine
	executed bool          // the wrapper has had a command executed
	pausedTo clock.Instant // the wrapper
	queue    []any

	procs []*proc
}

// simHold is a stream that the wrapper is counted in by.
type simHold struct {
	term    uint64        // 0: not yet in this one
	written clock.Instant // the last deadline of the stream
	done    bool
	lost    bool // it has ended without a word
}

// over reports whether the agent need not wait for it.
func (h *simHold) over(now clock.Instant) bool {
	return h.term == 0 || h.done || h.lost && now >= h.written
}

// flight is an event on its way to the wrapper.
type flight struct {
	at    clock.Instant
	event any
}

// proc is a command with its supervisor.
type proc struct {
	term     uint64
	deadline clock.Instant // that its supervisor knows
	execAt   clock.Instant // 0 once executed
	alive    bool
	dead     bool
	diesAt   clock.Instant // 0: not yet
	killed   bool          // SIGKILL is on its way
	expired  bool          // its supervisor sent it
	status   int
	orphan   bool // its wrapper has died
}

func newSim(t *testing.T, seed int, r rules) *sim {
	s := &sim{t: t, rng: rand.New(rand.NewPCG(uint64(seed), 17)), rules: r, now: clock.Instant(time.Hour)}
	s.startWrapper()
	return s
}

func (s *sim) logf(format string, args ...any) {
	fmt.Fprintf(&s.log, "%6d ms  %s\n", s.now.Sub(clock.Instant(time.Hour)).Milliseconds(), fmt.Sprintf(format, args...))
}

func (s *sim) violate(format string, args ...any) {
	if s.broken == "" {
		s.broken = fmt.Sprintf(format, args...)
		s.logf("VIOLATION: %s", s.broken)
	}
}

func (s *sim) chance(p float64) bool { return s.rng.Float64() < p }

func (s *sim) upTo(d time.Duration) time.Duration { return time.Duration(s.rng.Int64N(int64(d) + 1)) }

func (s *sim) startWrapper() {
	policy := []Restart{RestartNever, RestartOnFailure, RestartAlways}[s.rng.IntN(3)]
	once := s.chance(0.3)
	s.m = &machine{rules: s.rules, restart: policy, once: once, jitter: func(d time.Duration) time.Duration { return d }}
	s.queue, s.inFlight, s.stream, s.pausedTo, s.executed = nil, nil, nil, 0, false
	s.logf("wrapper started, restart %s, once %t", policy, once)
}

// post hands an event to the machine, or keeps it while the wrapper is paused.
func (s *sim) post(event any) {
	s.queue = append(s.queue, event)
	s.drain()
}

func (s *sim) drain() {
	for s.now >= s.pausedTo && len(s.queue) > 0 {
		event := s.queue[0]
		s.queue = s.queue[1:]
		for _, c := range s.m.step(s.now, event) {
			s.do(c)
		}
	}
}

func (s *sim) do(command any) {
	s.logf("%T %+v", command, command)
	switch c := command.(type) {
	case start:
		p := &proc{term: c.grant.Term, deadline: c.grant.Deadline, execAt: s.now.Add(s.upTo(60 * time.Millisecond))}
		if s.chance(0.05) {
			p.execAt = s.now.Add(s.upTo(2 * time.Second)) // the supervisor and the stage are paused
			if s.chance(0.5) {
				s.pausedTo = p.execAt // and the wrapper, as with a frozen container
			}
		}
		s.procs = append(s.procs, p)
	case extend:
		s.current().deadline = c.deadline
	case pass:
		if p := s.current(); c.signal == syscall.SIGTERM && p.diesAt == 0 && s.chance(0.7) {
			p.diesAt = s.now.Add(s.upTo(500 * time.Millisecond))
		}
	case kill:
		s.kill(s.current())
	case done:
		for _, p := range s.procs {
			if p.alive && p.term == c.term && c.term != 0 {
				s.violate("the agent is told that term %d is done while its command runs", c.term)
			}
		}
		if s.stream != nil && s.stream.term == c.term && c.term != 0 {
			s.stream.done = true
			if c.leave && s.drainBy == 0 {
				s.askBack()
			}
		}
	case exit:
		s.lose()
		s.startWrapper()
	}
}

// current is the process of the wrapper that lives.
func (s *sim) current() *proc { return s.procs[len(s.procs)-1] }

func (s *sim) kill(p *proc) {
	if !p.killed {
		p.killed, p.status = true, 137
		at := s.now.Add(s.upTo(simDies))
		if p.diesAt == 0 || at < p.diesAt {
			p.diesAt = at
		}
	}
}

func (s *sim) askBack() {
	s.drainBy = s.now.Add(simDrain)
	s.logf("mastership of term %d is asked back", s.term)
}

// lose ends the stream from the agent's side.
func (s *sim) lose() {
	if s.stream != nil {
		s.stream.lost = true
	}
	s.stream, s.inFlight = nil, nil
}

func (s *sim) over() bool { return s.released || s.now >= s.deadline }

// send writes what the agent knows to the stream.
func (s *sim) send() {
	h := s.stream
	if h == nil {
		return
	}
	if h.term != s.term {
		h.term, h.done = 0, false
		if s.drainBy == 0 && !s.over() {
			h.term = s.term
			s.holds = append(s.holds, h)
		}
	}
	g := Grant{}
	if !s.over() && h.term != 0 && !h.done {
		g = Grant{Term: s.term, Deadline: s.deadline, DrainBy: s.drainBy}
		h.written = max(h.written, s.deadline)
	}
	at := s.now.Add(s.upTo(30 * time.Millisecond))
	if n := len(s.inFlight); n > 0 {
		at = max(at, s.inFlight[n-1].at)
	}
	s.inFlight = append(s.inFlight, flight{at, granted{g}})
}

// agent is a step of the agent, in which it does one thing.
func (s *sim) agent(calm bool) {
	if s.now < s.stalledTo {
		return
	}
	drained := true
	for _, h := range s.holds {
		drained = drained && h.over(s.now)
		if h.lost && h.over(s.now) && !h.done && s.drainBy == 0 && !s.over() {
			s.askBack() // nobody does the work here
		}
	}
	switch {
	case s.drainBy == 0 || s.over():
	case drained:
		s.logf("agent releases term %d", s.term)
		s.released = true
	case s.now >= s.drainBy:
		return // left to expire, and renewed no more
	}
	rare := 0.002
	if calm {
		rare = 0
	}
	switch {
	case s.over():
		if s.term == 0 || s.chance(0.05) || calm {
			s.term++
			s.deadline, s.drainBy, s.released, s.holds = s.now.Add(simValid), 0, false, nil
			s.logf("agent is master of term %d", s.term)
			s.send()
		}
	case s.stream == nil && s.chance(0.1):
		s.stream = &simHold{}
		s.logf("stream open")
		s.send()
	case s.deadline.Sub(s.now) < simValid*2/3 && s.chance(0.5):
		s.deadline = s.now.Add(simValid)
		s.send()
	case s.drainBy == 0 && s.chance(2*rare):
		s.askBack()
		s.send()
	case s.stream != nil && s.chance(rare):
		s.logf("stream broken")
		s.lose()
		s.post(agentGone{})
	case s.chance(rare):
		s.stalledTo = s.now.Add(s.upTo(2 * time.Second))
		s.logf("agent stalls")
	}
}

// processes is a step of the commands and their supervisors.
func (s *sim) processes() {
	for _, p := range s.procs {
		if p.dead {
			continue
		}
		if p.execAt != 0 && s.now >= p.execAt {
			p.execAt = 0
			if p.alive = !p.killed && (s.now.Before(p.deadline) || s.rules.blindStage); !p.alive {
				p.dead = true
				s.finish(p, ended{unstarted: true})
				continue
			}
			if !p.orphan {
				if s.executed && s.m.once {
					s.violate("a wrapper of one command runs a second one")
				}
				s.executed = true
			}
			if s.chance(0.2) {
				p.diesAt, p.status = s.now.Add(s.upTo(5*time.Second)), s.rng.IntN(2)
			}
		}
		if p.execAt == 0 && !s.rules.ignoreDeadline && !s.now.Before(p.deadline.Add(-killLead)) {
			p.expired = p.expired || !p.killed
			s.kill(p)
		}
		if p.alive && p.diesAt != 0 && s.now >= p.diesAt {
			p.alive, p.dead = false, true
			s.finish(p, ended{status: p.status, expired: p.expired})
		}
	}
}

func (s *sim) finish(p *proc, e ended) {
	s.logf("command of term %d has ended: %+v", p.term, e)
	if !p.orphan {
		s.post(e)
	}
}

// wrapper delivers what has arrived, and now and then something befalls it.
func (s *sim) wrapper(calm bool) {
	for len(s.inFlight) > 0 && s.now >= s.inFlight[0].at {
		event := s.inFlight[0].event
		s.inFlight = s.inFlight[1:]
		s.post(event)
	}
	locked := true
	for _, p := range s.procs {
		locked = locked && !(p.orphan && !p.dead)
	}
	if locked && !s.m.locked {
		s.post(gotLock{})
	}
	if at, ok := s.m.wakeAt(s.now); ok && s.now >= at {
		s.post(tick{})
	}
	s.drain()
	if calm || s.now < s.pausedTo {
		return
	}
	switch {
	case s.chance(0.001):
		s.pausedTo = s.now.Add(s.upTo(2 * time.Second))
		s.logf("wrapper paused")
	case s.chance(0.0005):
		s.post(signaled{syscall.SIGTERM})
	case s.chance(0.001):
		s.logf("wrapper dies; what it ran is an orphan until its supervisor notices, or its deadline")
		for _, p := range s.procs {
			p.orphan = true
			if !p.dead && p.diesAt == 0 && s.chance(0.5) {
				p.diesAt = s.now.Add(s.upTo(time.Second))
			}
		}
		s.lose()
		s.startWrapper()
	}
}

func (s *sim) check() {
	alive := 0
	for _, p := range s.procs {
		if !p.alive {
			continue
		}
		alive++
		switch {
		case p.term != s.term || s.released:
			s.violate("a command of term %d runs after the grant was released", p.term)
		case s.now >= s.deadline:
			s.violate("a command of term %d runs %v after its deadline", p.term, s.now.Sub(s.deadline))
		}
	}
	if alive > 1 {
		s.violate("%d commands run at one time", alive)
	}
}

// run runs one history, and then a calm while at whose end the command has to run.
func (s *sim) run() string {
	const step = time.Millisecond
	for range 6000 {
		s.now = s.now.Add(step)
		s.agent(false)
		s.wrapper(false)
		s.processes()
		s.check()
	}
	for i := 0; s.broken == "" && i < 120_000; i++ {
		s.now = s.now.Add(step)
		s.agent(true)
		s.wrapper(true)
		s.processes()
		s.check()
		if n := len(s.procs); i > 3000 && n > 0 && s.current().alive {
			return s.broken
		}
	}
	if s.broken == "" {
		s.violate("a master runs no command")
	}
	return s.broken
}

// Over thousands of histories the command never runs after the deadline that the wrapper knew,
// after the grant was released, or beside an orphan; and it runs while nothing is wrong.
func TestModel(t *testing.T) {
	first, n := 0, *seeds
	if race.Enabled {
		n = min(n, 50)
	}
	if *seed >= 0 {
		first, n = *seed, 1
	}
	ran := 0
	for i := first; i < first+n; i++ {
		s := newSim(t, i, rules{})
		if broken := s.run(); broken != "" {
			t.Fatalf("seed %d: %s\n%s", i, broken, s.log.String())
		}
		if *seed >= 0 {
			t.Log(s.log.String())
		}
		ran += len(s.procs)
	}
	if ran < n {
		t.Errorf("%d commands were run in %d histories", ran, n)
	}
}

// The checker notices a machine that is broken.
func TestModelNoticesBrokenVariants(t *testing.T) {
	if race.Enabled {
		t.Skip("one goroutine at a time, so that there are no races: it runs without the detector")
	}
	for name, r := range map[string]rules{
		"the deadline is not watched":          {ignoreDeadline: true},
		"the stage does not look at the clock": {blindStage: true},
		"a second command beside an orphan":    {ignoreLock: true},
		"done before the command has ended":    {doneEarly: true},
		"a second command where one is to be":  {runsAgain: true},
	} {
		found := -1
		for i := 0; i < 3000 && found < 0; i++ {
			if newSim(t, i, r).run() != "" {
				found = i
			}
		}
		if found < 0 {
			t.Errorf("not noticed: %s", name)
		} else {
			t.Logf("%s: noticed at seed %d", name, found)
		}
	}
}

package supervise

import (
	"cmp"
	"syscall"
	"time"

	"github.com/musterhq/muster/internal/clock"
)

// Grant is what the wrapper knows of its node's grant. The times are of its own boot clock.
type Grant struct {
	// Term is 0 if there is no grant for the command.
	Term      uint64
	ClusterID string
	NodeID    string
	// Deadline is when the grant expires, if it is not renewed.
	Deadline clock.Instant
	// DrainBy is when the command has to have ended; 0 if mastership is not asked back.
	DrainBy clock.Instant
}

// Restart says when a command that has ended by itself is run again in the same term.
type Restart string

// The policies. One that is not run again ends the wrapper.
const (
	RestartNever     Restart = "never"
	RestartOnFailure Restart = "on-failure"
	RestartAlways    Restart = "always"
)

const (
	// killLead is how long before the deadline the command is killed: it takes time.
	killLead = 25 * time.Millisecond
	// groupLead is that where no namespace kills all processes at once.
	groupLead = 150 * time.Millisecond
	// drainLead is how long before the end of the drain timeout, at most: the agent has to learn
	// in time that the command has ended. It is a quarter of a drain timeout that is short.
	drainLead = 100 * time.Millisecond

	// A command that has ended by itself is run again after minRetry, doubled each time, up to
	// maxRetry, and from minRetry again if it has run for steadyAfter.
	minRetry    = 100 * time.Millisecond
	maxRetry    = 30 * time.Second
	steadyAfter = 30 * time.Second
)

// rules are what the machine keeps to. The tests break them one by one.
type rules struct {
	ignoreDeadline bool // does not watch it
	ignoreLock     bool // runs a command without the lock
	doneEarly      bool // says that the command has ended when it was only asked to
	blindStage     bool // executes the command without another look at the clock
	runsAgain      bool // runs a second command where there is to be one
}

// machine decides what the wrapper does. It has no clock, goroutine or process.
type machine struct {
	rules   rules
	restart Restart
	once    bool // it runs one command, and ends with it
	// lead is how long before the deadline the command is killed; 0 for killLead.
	lead time.Duration
	// jitter returns a duration a little shorter than d.
	jitter func(d time.Duration) time.Duration

	grant     Grant
	connected bool // grant is what the agent says now
	locked    bool
	run       *run
	// owed is the term that the agent counts us in for, 0 if none.
	owed uint64
	// retryAt is when an ended command may be run again, failures in a row.
	retryAt  clock.Instant
	failures int
	stopping bool
	stopped  bool // exit was emitted
	status   int
}

// run is a command that has been started and not yet ended.
type run struct {
	term     uint64
	lead     time.Duration
	began    clock.Instant
	deadline clock.Instant // the last that is known
	soft     clock.Instant // asked to end by then, since the grant was not renewed
	drainBy  clock.Instant // 0: not asked back
	drainAt  clock.Instant // killed by then, if asked back
	asked    bool          // it was sent SIGTERM on account of the grant
	killed   bool
}

// The events.
type (
	granted   struct{ grant Grant } // what the agent says now
	agentGone struct{}
	gotLock   struct{}
	ended     struct { // the command, with all that it has started
		status int
		// unstarted says that the stage found the deadline passed.
		unstarted bool
		// expired says that the supervisor killed it, at the last deadline that it had been given:
		// this wrapper, too, may have been late.
		expired bool
		// unseen says that the supervisor was killed, before it had killed the rest.
		unseen bool
	}
	signaled struct{ signal syscall.Signal }
	tick     struct{}
)

// The commands.
type (
	start  struct{ grant Grant }
	extend struct{ deadline clock.Instant }
	pass   struct{ signal syscall.Signal }
	kill   struct{}
	// done says to the agent that nothing runs in the term; leave, that nothing will.
	done struct {
		term  uint64
		leave bool
	}
	exit struct{ status int }
)

// step takes an event and returns what is to be done, in order.
func (m *machine) step(now clock.Instant, event any) (out []any) {
	if m.stopped {
		return nil
	}
	// First what is due: an event that comes late changes nothing about it.
	out = m.due(now, out)
	switch e := event.(type) {
	case granted:
		m.grant, m.connected = e.grant, true
		m.owed = max(m.owed, e.grant.Term)
		out = m.take(now, e.grant, out)
	case agentGone:
		m.connected, m.owed = false, 0 // whatever it counted us in for, it knows that we are gone
	case gotLock:
		m.locked = true
	case ended:
		out = m.end(now, e, out)
	case signaled:
		if e.signal == syscall.SIGTERM || e.signal == syscall.SIGINT {
			m.stopping = true
			if m.run == nil {
				m.status = 128 + int(e.signal)
			}
		}
		if m.run != nil {
			out = append(out, pass(e))
		}
	}
	out = m.due(now, out)
	return m.next(now, out)
}

// take has the run know of a grant.
func (m *machine) take(now clock.Instant, g Grant, out []any) []any {
	r := m.run
	switch {
	case r == nil || r.killed:
		return out
	case g.Term != r.term:
		r.killed = true
		return append(out, kill{})
	}
	if g.Deadline > r.deadline {
		r.extend(now, g.Deadline)
		out = append(out, extend{r.deadline})
	}
	if g.DrainBy != 0 && r.drainBy == 0 {
		r.drainBy = g.DrainBy
		r.drainAt = g.DrainBy.Add(-min(drainLead, g.DrainBy.Sub(now)/4))
		if !r.asked {
			r.asked = true
			out = append(out, pass{syscall.SIGTERM})
		}
		if m.rules.doneEarly {
			out = append(out, done{term: r.term})
		}
	}
	return out
}

// extend moves the deadline. The last quarter of what is left is for the command to end, if no
// renewal comes.
func (r *run) extend(now clock.Instant, deadline clock.Instant) {
	r.deadline = deadline
	r.soft = deadline.Add(-deadline.Sub(now) / 4)
}

// leadOf is how long before a deadline a command is killed.
func leadOf(namespaced bool) time.Duration {
	if namespaced {
		return killLead
	}
	return groupLead
}

// killAt is when the command is killed at the latest.
func (r *run) killAt() clock.Instant {
	at := r.deadline.Add(-r.lead)
	if r.drainBy != 0 {
		at = min(at, r.drainAt)
	}
	return at
}

// due does what the time demands.
func (m *machine) due(now clock.Instant, out []any) []any {
	r := m.run
	if r == nil || r.killed || m.rules.ignoreDeadline {
		return out
	}
	if !now.Before(r.killAt()) {
		r.killed = true
		return append(out, kill{})
	}
	if !r.asked && !now.Before(r.soft) {
		r.asked = true
		out = append(out, pass{syscall.SIGTERM})
	}
	return out
}

// end takes in that the run has ended.
func (m *machine) end(now clock.Instant, e ended, out []any) []any {
	r := m.run
	if r == nil {
		return out
	}
	m.run = nil
	switch {
	case m.stopping, m.once && !e.unstarted && !m.rules.runsAgain:
		m.stopping, m.status = true, e.status
	case e.unstarted, e.expired, r.asked, r.killed:
		// It did not end by itself.
	case m.restart == RestartAlways, m.restart == RestartOnFailure && e.status != 0:
		if now.Sub(r.began) >= steadyAfter {
			m.failures = 0
		}
		m.retryAt = now.Add(m.jitter(min(minRetry<<min(m.failures, 16), maxRetry)))
		m.failures++
	default:
		m.stopping, m.status = true, e.status
	}
	return out
}

// next does what can be done when no command runs.
func (m *machine) next(now clock.Instant, out []any) []any {
	if m.run != nil {
		return out
	}
	lead := cmp.Or(m.lead, killLead)
	locked := m.locked || m.rules.ignoreLock
	if m.stopping {
		m.stopped = true
		if locked {
			out = append(out, done{term: m.owed, leave: true})
		}
		return append(out, exit{m.status})
	}
	if !locked {
		return out // an orphan may run, of which we know nothing
	}
	if m.owed != 0 && m.connected && (m.grant.Term != m.owed || m.grant.DrainBy != 0) {
		// The agent waits for us to have ended, as also where nothing was run.
		out = append(out, done{term: m.owed})
		m.owed = 0
		if m.grant.Term != 0 {
			m.grant = Grant{} // nothing more is run in this term
		}
	}
	if !m.connected || m.grant.Term == 0 || m.grant.DrainBy != 0 ||
		now.Before(m.retryAt) || !now.Before(m.grant.Deadline.Add(-2*lead)) {
		return out
	}
	m.run = &run{term: m.grant.Term, lead: lead, began: now}
	m.run.extend(now, m.grant.Deadline)
	return append(out, start{m.grant})
}

// wakeAt is when step has to be called with a tick, if nothing happens until then; false for never.
func (m *machine) wakeAt(now clock.Instant) (clock.Instant, bool) {
	switch r := m.run; {
	case r != nil && r.killed:
		return 0, false
	case r != nil && r.asked:
		return r.killAt(), true
	case r != nil:
		return min(r.killAt(), r.soft), true
	case now.Before(m.retryAt):
		return m.retryAt, true
	}
	return 0, false
}

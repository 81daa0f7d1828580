package claim

import (
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// Errors that end an attempt without a result, to be tested with errors.Is.
var (
	// ErrSuperseded means that a node of a later term has claimed the record, or that this
	// one is not master any more. Where the work had not begun, it is as if this node had never
	// claimed it.
	ErrSuperseded = errors.New("claim: superseded: this node is not master in the latest term")
	// ErrBusy means that this node runs the very thing already, in this term.
	ErrBusy = errors.New("claim: this node runs it already")
	// ErrInterrupted is what an error of the work wraps if it was stopped, or if it is not known
	// what became of it, although the mastership goes on.
	ErrInterrupted = errors.New("interrupted")
	// ErrNotBegun is what an error of the work wraps if nothing of it has begun, nor will: the
	// claim is given back.
	ErrNotBegun = errors.New("not begun")
)

// Goal is what an attempt is to reach.
type Goal struct {
	// What names the work, and Compare orders such names. A record of something later says
	// that What is past.
	What    string
	Compare func(a, b string) int
	// Restart allows What to run again where an earlier run of it was interrupted.
	Restart bool
	// PassOver allows What to be claimed where something earlier did not end well. The caller
	// sees to it that nothing earlier runs on this node.
	PassOver bool
	// OnClaim and OnEnd return the Data of the record that is to be written: OnClaim from the
	// record before, OnEnd from the one that is to be written. Nil: it is kept as it is.
	OnClaim, OnEnd func(Record) json.RawMessage
}

// Action is what a Command asks for.
type Action int

// The actions. Finish ends the attempt.
const (
	Read Action = iota
	Write
	Run
	Finish
)

// Command is what to do next.
type Command struct {
	Action Action
	// Record is what to write if the revision is still Prev; with Run the claim in whose name;
	// with Finish what is recorded: whether that is the goal is for its State to say.
	Record Record
	Prev   driver.Revision
	// Err, of Finish, is ErrSuperseded, ErrBusy or ErrNotBegun, or nil.
	Err error
}

type phase int

const (
	reading   phase = iota // looks at what is recorded
	claiming               // the claim is being written, and perhaps recorded
	returning              // nothing has begun, and what was there before the claim is being written
	running                // the work runs
	ending                 // the end is being written, and perhaps recorded
	marking                // an interruption is being written, on behalf of a node that is gone
	finished
)

// Machine is one attempt of one node to do one thing in one term: read, claim, run, record the
// end. Each event returns the next command. It has no clock, and makes no calls; valid says
// whether the work may begin at the moment of the event: the node is master, and wants it still.
type Machine struct {
	goal  Goal
	owner Owner
	token string
	rules rules

	phase phase
	was   Record          // what was there before the claim
	why   error           // why that is recorded again
	mine  Record          // what is being written, or was claimed
	prev  driver.Revision // that of the claim, once it is recorded
}

// rules are those that the tests break, one at a time.
type rules struct {
	fence    bool // a claim of a later term is not replaced
	deadline bool // start nothing that no valid mastership stands behind
	compare  bool // an end is recorded on top of this very claim only
	remember bool // a claim whose answer was lost is found again by its token
	restart  bool // what was interrupted runs again only if it may
	undo     bool // a claim that is given back leaves all of what was there before
}

func soundRules() rules { return rules{true, true, true, true, true, true} }

// New returns an attempt, and its first command. The token is a random text that was never used
// before.
func New(goal Goal, owner Owner, token string) (*Machine, Command) {
	m := &Machine{goal: goal, owner: owner, token: token, rules: rulesInForce()}
	return m, Command{Action: Read}
}

// Read says what is recorded. Where there is no record, found is false and the revision 0. A
// read that fails is repeated by the caller, for as long as it likes.
func (m *Machine) Read(r Record, found bool, revision driver.Revision, now time.Time, valid bool) Command {
	if !found {
		r = Record{State: Free}
	}
	mine := found && r.Token == m.token
	switch m.phase {
	case claiming:
		if mine && m.rules.remember {
			return m.claimed(r, revision, valid)
		}
	case returning:
		if mine && r.State == Running {
			return m.undo(revision)
		}
		return m.finish(r, m.why)
	case ending:
		switch {
		case mine && r.State != Running:
			return m.finish(r, nil)
		case mine || !m.rules.compare:
			return m.write(m.mine, revision)
		}
		return m.finish(r, ErrSuperseded)
	}
	return m.decide(r, revision, now, valid)
}

// decide looks at a record that is not the claim of this attempt.
func (m *Machine) decide(r Record, revision driver.Revision, now time.Time, valid bool) Command {
	if m.rules.deadline && !valid || m.rules.fence && r.outranks(m.owner) {
		return m.finish(r, ErrSuperseded)
	}
	if r.What == "" || r.State == Free && r.Runs == 0 { // nothing was ever begun
		return m.claim(r, revision, now)
	}
	order := m.goal.Compare(r.What, m.goal.What)
	ours := r.Owner == m.owner
	switch {
	case order > 0, order == 0 && (r.State == Done || r.State == Failed):
		return m.finish(r, nil)
	case r.State == Running && ours && !(order < 0 && m.goal.PassOver):
		return m.finish(r, ErrBusy)
	case order == 0 && r.State == Free, order == 0 && (m.goal.Restart || !m.rules.restart),
		order < 0 && (m.goal.PassOver || r.State == Done):
		return m.claim(r, revision, now)
	case r.State == Running:
		return m.interrupt(r, revision, now)
	}
	return m.finish(r, nil)
}

// interrupt makes it visible that a run has no end, and will get none: the token is another one.
func (m *Machine) interrupt(r Record, revision driver.Revision, now time.Time) Command {
	m.phase = marking
	r = r.Interrupt(now)
	r.Token = m.token
	return m.write(r, revision)
}

func (m *Machine) claim(r Record, revision driver.Revision, now time.Time) Command {
	next := Record{
		What: m.goal.What, State: Running, Owner: m.owner, Token: m.token, Claimed: now, Runs: 1, Data: r.Data,
	}
	if r.What == m.goal.What {
		next.Runs += r.Runs
	}
	if m.goal.OnClaim != nil {
		next.Data = m.goal.OnClaim(r)
	}
	m.phase, m.was = claiming, r
	if revision == 0 {
		m.was.What = m.goal.What // a record names something, and this one cannot be deleted
	}
	return m.write(next, revision)
}

func (m *Machine) write(r Record, prev driver.Revision) Command {
	m.mine = r
	return Command{Action: Write, Record: r, Prev: prev}
}

// Wrote says that what was to be written is recorded, at a revision.
func (m *Machine) Wrote(revision driver.Revision, valid bool) Command {
	switch m.phase {
	case claiming:
		return m.claimed(m.mine, revision, valid)
	case returning:
		return m.finish(m.mine, m.why)
	}
	return m.finish(m.mine, nil)
}

// WriteFailed says that a write was refused, or that it is not known whether it was made. What
// is recorded decides.
func (m *Machine) WriteFailed() Command {
	return Command{Action: Read}
}

// claimed starts the work if it may still begin: the answer may have come late. Otherwise what did
// not begin is given back.
func (m *Machine) claimed(r Record, revision driver.Revision, valid bool) Command {
	m.mine, m.prev = r, revision
	if m.rules.deadline && !valid {
		return m.giveBack(ErrSuperseded)
	}
	m.phase = running
	return Command{Action: Run, Record: r}
}

// giveBack ends the attempt with an error, and leaves what was there before the claim.
func (m *Machine) giveBack(why error) Command {
	m.phase, m.why = returning, why
	if !m.rules.undo {
		m.was = m.mine
		m.was.State = Free
	}
	return m.undo(m.prev)
}

// undo writes what was there before the claim, with the token and the term that it had: to all
// others it is as if this node had never claimed.
func (m *Machine) undo(revision driver.Revision) Command { return m.write(m.was, revision) }

// Ran says how the work ended: err is nil if it was done, and interrupted says that it failed
// because it was stopped.
func (m *Machine) Ran(err error, interrupted bool, now time.Time) Command {
	if errors.Is(err, ErrNotBegun) {
		return m.giveBack(ErrNotBegun)
	}
	r := m.mine
	r.State, r.Ended = Done, now
	if err != nil {
		// The state says already that it was interrupted.
		r.State, r.Error = Failed, strings.TrimPrefix(err.Error(), ErrInterrupted.Error()+": ")
	}
	if err != nil && interrupted {
		r.State = Interrupted
	}
	if m.goal.OnEnd != nil {
		r.Data = m.goal.OnEnd(r)
	}
	m.phase = ending
	return m.write(r, m.prev)
}

func (m *Machine) finish(r Record, err error) Command {
	m.phase = finished
	return Command{Action: Finish, Record: r, Err: err}
}

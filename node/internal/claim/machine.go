package claim

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// Errors that end an attempt without a result, to be tested with errors.Is.
var (
	// ErrSuperseded means that a node of a later term has claimed the record, or that this
	// one is not master any more.
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
	// Err, of Finish, is ErrSuperseded or ErrBusy, or nil.
	Err error
}

type phase int

const (
	reading  phase = iota // looks at what is recorded
	claiming              // the claim is being written, and perhaps recorded
	running               // the work runs
	ending                // the end is being written, and perhaps recorded
	marking               // an interruption is being written, on behalf of a node that is gone
	finished
)

// Machine is one attempt of one node to do one thing in one term: read, claim, run, record the
// end. Each event returns the next command. It has no clock, and makes no calls; valid says
// whether the node is master at the moment of the event.
type Machine struct {
	goal  Goal
	owner Owner
	token string
	rules rules

	phase phase
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
}

func soundRules() rules { return rules{true, true, true, true, true} }

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
	if r.What == "" {
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
	r.State, r.Ended, r.Token = Interrupted, now, m.token
	r.Error = "the node that ran it ceased to be master, or to be, before it had ended"
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
	m.phase, m.mine, m.prev = claiming, next, revision
	return m.write(next, revision)
}

func (m *Machine) write(r Record, prev driver.Revision) Command {
	m.mine = r
	return Command{Action: Write, Record: r, Prev: prev}
}

// Wrote says that what was to be written is recorded, at a revision.
func (m *Machine) Wrote(revision driver.Revision, valid bool) Command {
	if m.phase == claiming {
		return m.claimed(m.mine, revision, valid)
	}
	return m.finish(m.mine, nil)
}

// WriteFailed says that a write was refused, or that it is not known whether it was made. What
// is recorded decides.
func (m *Machine) WriteFailed() Command {
	return Command{Action: Read}
}

// claimed starts the work if the node is still master: the answer may have come late. Otherwise
// what did not begin is given back, so that the next term need not take it for interrupted.
func (m *Machine) claimed(r Record, revision driver.Revision, valid bool) Command {
	m.mine, m.prev = r, revision
	if m.rules.deadline && !valid {
		return m.giveBack()
	}
	m.phase = running
	return Command{Action: Run, Record: r}
}

// giveBack leaves what was claimed to others.
func (m *Machine) giveBack() Command {
	r := m.mine
	r.State, r.Runs = Free, r.Runs-1
	m.phase = ending
	return m.write(r, m.prev)
}

// Ran says how the work ended: err is nil if it was done, and interrupted says that it failed
// because it was stopped.
func (m *Machine) Ran(err error, interrupted bool, now time.Time) Command {
	if errors.Is(err, ErrNotBegun) {
		return m.giveBack()
	}
	r := m.mine
	r.State, r.Ended = Done, now
	if err != nil {
		r.State, r.Error = Failed, err.Error()
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

package call

import (
	"github.com/musterhq/muster/node"
)

// verdict is what one attempt to make a call has shown.
type verdict int

const (
	// answered: the handler's answer, or its error.
	answered verdict = iota
	// notRun: no handler has seen the call, nor will. It may be sent again.
	notRun
	// refused is notRun where to send the call again is of no use.
	refused
	// mayHaveRun: it is not known whether a handler has seen the call, or what it has done is
	// uncertain.
	mayHaveRun
)

// outcome is how one attempt ended.
type outcome struct {
	verdict verdict
	err     error
	peer    node.Peer
	master  masterAt // the one that the node has named instead of itself
}

// masterAt is a mastership: its term, and the instance that was granted it. Zero: none.
type masterAt struct {
	term     node.Term
	instance string
}

// command is what to do next of a call to the master.
type command struct {
	// send is the mastership to send the call to. Zero: wait, until another master is known, or
	// for a pause.
	send masterAt
	// over says that the call has ended, with err. mayHaveRun counts all attempts.
	over       bool
	err        error
	mayHaveRun bool
}

// route is one call to the master: where it is sent next, and how it ends. It has no clock and no
// goroutine: what happens goes in, and what to do comes out.
type route struct {
	idempotent bool
	rules      rules

	sent    masterAt // what the attempt that goes on was sent to
	avoid   masterAt // the last one that did not run it: not again before a pause
	hint    masterAt // the highest mastership that a node has named
	ran     bool     // an attempt before may have run
	last    error    // how the last attempt ended
	waiting bool     // for a master
}

// look says which master this node knows of, at first and whenever that may have changed.
func (r *route) look(known masterAt) command {
	to := known
	if r.hint.term > to.term {
		to = r.hint
	}
	if to == (masterAt{}) {
		r.waiting = true
		return command{}
	}
	if to == r.avoid {
		return command{}
	}
	r.sent, r.waiting = to, false
	return command{send: to}
}

// paused says that it has waited for a while since the last attempt: what failed may do now.
func (r *route) paused(known masterAt) command {
	r.avoid = masterAt{}
	if r.hint.term <= known.term {
		r.hint = masterAt{}
	}
	return r.look(known)
}

// ended says how the attempt ended.
func (r *route) ended(o outcome) command {
	switch {
	case o.verdict == answered:
		return command{over: true, err: o.err, mayHaveRun: true}
	case o.verdict == refused:
		return r.end(o.err)
	case o.verdict == mayHaveRun:
		r.ran = true
		if !r.idempotent && r.rules.once {
			return r.end(o.err)
		}
	case !r.rules.remember:
		r.ran = false
	}
	r.last, r.avoid = o.err, r.sent
	if r.hint = o.master; o.master.term <= r.sent.term {
		r.hint = masterAt{} // it knows less than the node that calls
	}
	return command{}
}

// expired says that the deadline has passed, or that the caller has cancelled, while no attempt
// goes on. A deadline has a reason: that of the last attempt.
func (r *route) expired(cause error, cancelled bool) command {
	switch {
	case cancelled:
		return r.end(cause)
	case r.waiting && !r.ran:
		return r.end(ErrNoMaster)
	case r.last != nil:
		return r.end(r.last)
	}
	return r.end(cause)
}

func (r *route) end(err error) command {
	return command{over: true, err: err, mayHaveRun: r.ran}
}

// rules are those that the tests break, one at a time.
type rules struct {
	once     bool // what may have run is not sent again, unless it is idempotent
	remember bool // what an attempt before may have done counts for the whole call
	check    bool // the receiver runs nothing unless it is master
	recheck  bool // and reports what it ran when its mastership has ended meanwhile
	term     bool // it refuses a higher term than its own until the authority has confirmed that one
	instance bool // a call reaches the instance that it is meant for, or none
	deadline bool // it has its caller's deadline, on the way and in the handler
}

func soundRules() rules { return rules{true, true, true, true, true, true, true} }

// admits reports whether a receiver may run a call that is meant for the master in term claimed:
// its own term is valid, and either it is no earlier than that, or the authority has confirmed it
// since it was doubted by a claim up to confirmed.
func (r rules) admits(own node.Term, valid bool, claimed, confirmed node.Term) bool {
	return (valid || !r.check) && (claimed <= max(own, confirmed) || !r.term)
}

// settle is what becomes of a call that a handler of the master has run, with its error: whether
// the mastership, which is valid now or not, has held all the time.
func (r rules) settle(valid bool, err error) (ended bool, _ error) {
	if valid || !r.recheck {
		return false, err
	}
	if err == nil {
		err = ErrUncertain
	}
	return true, err
}

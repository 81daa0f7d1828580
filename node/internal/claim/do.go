package claim

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/backoff"
	"github.com/musterhq/muster/node/mastership"
)

// endTimeout bounds how long the end of a run is tried to be recorded after the mastership has
// ended: the node that comes next waits no longer for it than that.
const endTimeout = time.Second

// Attempt is what Do needs.
type Attempt struct {
	Ledger Ledger
	Key    string
	Goal   Goal
	Owner  Owner
	// Now is the wall clock. Nil: time.Now.
	Now func() time.Time
	// Logger takes what goes wrong with the ledger. It is not nil.
	Logger *slog.Logger
	// Wanted returns why the work need not begin any more, such as that it is too late. It is asked
	// before each claim, and once it is recorded. Nil: it is wanted until ctx ends.
	Wanted func() error
	// Failing is told of each call of the ledger that failed and is tried again. It may be nil.
	Failing func(error)
	// Work is what runs once it is claimed.
	Work func(ctx context.Context, claim Record) error
}

// Do reaches the goal of a, or finds out why it is not to be reached, and returns what is
// recorded then. ctx is that of a WhileMaster: when it ends, so does the context of the work,
// and its end is recorded if it comes soon. Do blocks until then. A ledger that fails is tried
// again until ctx ends; Do returns an error if that happens, or where the record cannot be read
// by this version, or is another node's by now, or where Wanted has kept the work from beginning.
func Do(ctx context.Context, a Attempt) (Record, error) {
	d := doer{Attempt: a, endLate: func() {}}
	defer func() { d.endLate() }()
	if d.Now == nil {
		d.Now = time.Now
	}
	m, next := New(a.Goal, a.Owner, newToken())
	d.machine = m
	d.transactor, _ = a.Ledger.(Transactor)
	if d.transactor != nil {
		m.goal.Restart = true // nothing of a run that did not end is left
	}
	for next.Action != Finish {
		var err error
		if next, err = d.step(ctx, next); err != nil {
			return Record{}, err
		}
	}
	if d.unwanted != nil && errors.Is(next.Err, ErrSuperseded) {
		return next.Record, d.unwanted
	}
	return next.Record, next.Err
}

type doer struct {
	Attempt
	machine    *Machine
	transactor Transactor
	unwanted   error
	retry      backoff.Backoff
	late       context.Context
	endLate    context.CancelFunc
}

func newToken() string { return rand.Text() }

// valid reports whether the mastership of ctx stands at this moment, which it tells by the
// clock: the end of a context comes a moment later.
func valid(ctx context.Context) bool {
	if ctx.Err() != nil {
		return false
	}
	token, ok := mastership.TokenFrom(ctx)
	return !ok || token.Check() == nil
}

// may reports whether the work may begin at this moment.
func (d *doer) may(ctx context.Context) bool {
	if d.Wanted != nil && d.unwanted == nil {
		d.unwanted = d.Wanted()
	}
	return d.unwanted == nil && valid(ctx)
}

// Replaceable returns ErrSuperseded if the master of ctx must not write on top of r: its mastership
// has ended, or r is of a later term than owner's.
func Replaceable(ctx context.Context, r Record, owner Owner) error {
	if !valid(ctx) || r.outranks(owner) {
		return ErrSuperseded
	}
	return nil
}

// step does what the machine asks for, and hands it the answer.
func (d *doer) step(ctx context.Context, c Command) (Command, error) {
	switch c.Action {
	case Run:
		return d.run(ctx, c)
	case Write:
		rev, err := set(d.calling(ctx), d.Ledger, d.Key, c.Record, c.Prev)
		switch {
		case err == nil:
			d.retry.Reset()
			return d.machine.Wrote(rev, d.may(ctx)), nil
		case errors.Is(err, driver.ErrConflict):
			return d.machine.WriteFailed(), nil
		}
		return d.machine.WriteFailed(), d.failed(ctx, "write", err)
	}
	r, found, rev, err := get(d.calling(ctx), d.Ledger, d.Key)
	if err != nil {
		return c, d.failed(ctx, "read", err)
	}
	return d.machine.Read(r, found, rev, d.Now(), d.may(ctx)), nil
}

// calling is the context of calls: once that of the mastership has ended it is one in which a
// run may still be recorded, or given back.
func (d *doer) calling(ctx context.Context) context.Context {
	if ctx.Err() == nil {
		return ctx
	}
	if d.late == nil {
		d.late, d.endLate = context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	}
	return d.late
}

// failed waits for a while before the next try, and returns an error if there is to be none.
func (d *doer) failed(ctx context.Context, what string, err error) error {
	if errors.Is(err, driver.ErrInvalid) || errors.Is(err, driver.ErrClosed) || errors.Is(err, driver.ErrUnsupported) {
		return err
	}
	d.Logger.Info("ledger failed", "call", what, "key", d.Key, "error", err)
	if d.Failing != nil {
		d.Failing(err)
	}
	for _, until := range []context.Context{ctx, d.calling(ctx)} {
		if until.Err() == nil && d.retry.Wait(until) == nil {
			return nil
		}
	}
	if d.calling(ctx).Err() == nil {
		return nil
	}
	return fmt.Errorf("claim: %s %s: %w: %w", what, d.Key, err, context.Cause(ctx))
}

func (d *doer) run(ctx context.Context, c Command) (Command, error) {
	d.Wanted = nil // from here on it has begun
	if d.transactor == nil {
		err := Contain(func() error { return d.Work(ctx, c.Record) })
		return d.machine.Ran(err, interrupted(ctx, err), d.Now()), nil
	}
	var rev driver.Revision
	err := d.transactor.Transact(ctx, func(ctx context.Context) error {
		if err := Contain(func() error { return d.Work(ctx, c.Record) }); err != nil {
			return err
		}
		end := d.machine.Ran(nil, false, d.Now())
		var err error
		rev, err = set(ctx, d.Ledger, d.Key, end.Record, end.Prev)
		return err
	})
	if err == nil {
		return d.machine.Wrote(rev, valid(ctx)), nil
	}
	// Nothing was changed, or the answer to the commit was lost: what is recorded decides,
	// before a failure is.
	return d.machine.Ran(err, interrupted(ctx, err), d.Now()), nil
}

func interrupted(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, ErrInterrupted)
}

// Contain runs f, and makes an error of a panic, and of an end of its goroutine by runtime.Goexit:
// it is the work that fails, and not the node. f has a goroutine of its own; Contain blocks until
// it has ended.
func Contain(f func() error) error {
	ended := make(chan error, 1)
	go func() {
		err := errors.New("it ended its goroutine with runtime.Goexit")
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			}
			ended <- err
		}()
		err = f()
	}()
	return <-ended
}

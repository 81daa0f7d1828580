package upgrade

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/internal/claim"
)

// Ledger is where it is recorded what has become of the steps. That of a node, Node.Store, is
// one, and every driver.Store.
type Ledger interface {
	// Get returns the record at key, or an error that wraps discovery.ErrNotFound. It shows every
	// Set that has returned before.
	Get(ctx context.Context, key string) (driver.Record, error)
	// Set writes value at key if its revision is still prev, where 0 stands for a key that does
	// not exist, and returns the new revision; otherwise its error wraps discovery.ErrConflict.
	// After any other error it may or may not have happened.
	Set(ctx context.Context, key string, value []byte, prev driver.Revision) (driver.Revision, error)
}

// Transactor is implemented by a Ledger in the database that the steps change: a step and the
// record of its end are then one transaction.
type Transactor interface {
	// Transact calls f with a context in which Set, and what the step changes, belong to one
	// transaction. It is committed if f returns nil, and otherwise rolled back.
	Transact(ctx context.Context, f func(ctx context.Context) error) error
}

// lister is implemented by a Ledger that can list its records.
type lister interface {
	Records(ctx context.Context, prefix string) ([]driver.Record, error)
}

// Validate reports what is wrong with a name and a version, as an error that wraps
// discovery.ErrInvalid. All functions here do.
func Validate(name string, v Version) error {
	if err := errors.Join(validateName(name), v.validate()); err != nil {
		return fmt.Errorf("upgrade: %w: %w", driver.ErrInvalid, err)
	}
	return nil
}

// Wait blocks until version v of name is done, and returns nil then, and at once if it is. It
// returns a *FailedError if a step on the way there has failed, or was interrupted and may not
// run again; and the cause of ctx, with what it waited for, where that ends first. It waits for
// a ledger that does not answer, but not for one whose record cannot be read: the error wraps
// discovery.ErrInvalid.
func Wait(ctx context.Context, l Ledger, name string, v Version) error {
	if err := Validate(name, v); err != nil {
		return err
	}
	waiting := "nothing is known of it yet"
	for range claim.Changes(ctx, l, stepsPrefix+name) {
		s, found, err := recorded(ctx, l, name)
		switch {
		case errors.Is(err, driver.ErrInvalid), errors.Is(err, driver.ErrUnsupported), errors.Is(err, node.ErrStopped):
			return fmt.Errorf("upgrade: %s %s: %w", name, v, err)
		case err != nil && ctx.Err() == nil:
			waiting = "the ledger does not answer: " + err.Error()
		case err != nil:
		case !found:
			waiting = "no step of it has begun"
		case s.reached(v):
			return nil
		case s.Stuck():
			return &FailedError{s}
		default:
			waiting = s.text()
		}
	}
	return fmt.Errorf("upgrade: %s %s is not done: %s: %w", name, v, waiting, context.Cause(ctx))
}

// Retry has a step run again that has failed or was interrupted. It returns an error that wraps
// discovery.ErrNotFound if nothing is recorded of name, and discovery.ErrConflict if the latest
// step of it is another one, or is in another state. It blocks until that is recorded. The node
// and the term of the last run are no longer recorded then, so that whatever term was written there
// keeps no master from it.
func Retry(ctx context.Context, l Ledger, name string, v Version) error {
	return amend(ctx, l, name, v, func(r claim.Record, found bool) (claim.Record, error) {
		s := statusOf(name, r)
		if !found || s.Version.Compare(v) != 0 || s.State != Failed && s.State != Interrupted {
			return r, refuse(ctx, l, name, v, s, found)
		}
		r.State, r.Owner, r.Error = claim.Free, claim.Owner{}, ""
		return r, nil
	})
}

// Resolve records version v of name as done: by an operator who knows that it is, as where a node
// was stopped at its very end. It is the way out of a record that cannot be read, or that names a
// term which no master has. It returns an error that wraps discovery.ErrNotFound if nothing is
// recorded of name, and discovery.ErrConflict if the latest step of it is another one: nothing
// takes back that a step which nobody meant is done, and all before it. It blocks until that is
// recorded.
func Resolve(ctx context.Context, l Ledger, name string, v Version) error {
	return amend(ctx, l, name, v, func(r claim.Record, found bool) (claim.Record, error) {
		s := statusOf(name, r)
		if found && s.Version.Compare(v) == 0 {
			return resolved(r, v), nil
		}
		err := refuse(ctx, l, name, v, s, found)
		if errors.Is(err, errUnreadable) {
			return resolved(r, v), nil
		}
		return r, err
	})
}

// ResolveLost is Resolve where the record of the step was lost, as when the store was wiped or
// restored: nothing is recorded of name, or an earlier version. Make sure of both, as nobody else
// does. It returns an error that wraps discovery.ErrConflict if a later version is recorded.
func ResolveLost(ctx context.Context, l Ledger, name string, v Version) error {
	return amend(ctx, l, name, v, func(r claim.Record, found bool) (claim.Record, error) {
		if s := statusOf(name, r); found && s.Version.Compare(v) > 0 {
			return r, refuse(ctx, l, name, v, s, found)
		}
		return resolved(r, v), nil
	})
}

func resolved(r claim.Record, v Version) claim.Record {
	r.What, r.State, r.Owner, r.Error = string(v), claim.Done, claim.Owner{}, ""
	return r
}

func amend(ctx context.Context, l Ledger, name string, v Version, change func(claim.Record, bool) (claim.Record, error)) error {
	if err := Validate(name, v); err != nil {
		return err
	}
	return claim.Amend(ctx, l, stepsPrefix+name, func(r claim.Record, found bool) (claim.Record, error) {
		if found && Version(r.What).validate() != nil {
			r, found = claim.Record{}, false // no more than one that cannot be read
		}
		return change(r, found)
	})
}

var errUnreadable = fmt.Errorf("%w: its record cannot be read", driver.ErrConflict)

// refuse says why a step is not the one to decide about: found is whether s is what is recorded.
func refuse(ctx context.Context, l Ledger, name string, v Version, s Status, found bool) error {
	if found {
		return fmt.Errorf("upgrade: %s %s: %w: %s", name, v, driver.ErrConflict, s.text())
	}
	switch _, there, err := claim.Get(ctx, l, stepsPrefix+name); {
	case there:
		return fmt.Errorf("upgrade: %s %s: %w", name, v, errUnreadable)
	case err != nil:
		return err
	}
	return fmt.Errorf("upgrade: %s %s: %w: nothing is recorded of %[1]s", name, v, driver.ErrNotFound)
}

// text says what is recorded, and of which node, unless an operator has decided since.
func (s Status) text() string {
	if s.NodeID == "" {
		return fmt.Sprintf("%s is %s", s.Version, s.State)
	}
	return fmt.Sprintf("%s is %s, last on node %s in term %d", s.Version, s.State, s.NodeID, s.Term)
}

// Statuses returns what is recorded of the names, in their order, without those of which nothing
// is. A record that cannot be read is an error. With no names it returns all, by name, those that
// cannot be read as Unreadable; that wants a ledger that has a method Records, as that of a node
// has.
func Statuses(ctx context.Context, l Ledger, names ...string) ([]Status, error) {
	var all []Status
	if len(names) == 0 {
		lister, ok := l.(lister)
		if !ok {
			return nil, fmt.Errorf("upgrade: %w: the ledger cannot list its records: say which names", driver.ErrUnsupported)
		}
		records, err := lister.Records(ctx, stepsPrefix)
		for _, r := range records {
			all = append(all, listed(r))
		}
		return all, err
	}
	for _, name := range names {
		s, found, err := recorded(ctx, l, name)
		if err != nil {
			return nil, err
		}
		if found {
			all = append(all, s)
		}
	}
	return all, nil
}

// Watch yields what Statuses returns of all names: now, and after each change, for as long and
// with the errors that the Watch of the store has.
func Watch(ctx context.Context, s node.Store) iter.Seq2[[]Status, error] {
	return func(yield func([]Status, error) bool) {
		for records, err := range s.Watch(ctx, stepsPrefix) {
			var all []Status
			for _, r := range records {
				all = append(all, listed(r))
			}
			if !yield(all, err) {
				return
			}
		}
	}
}

package claim

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/backoff"
)

// Ledger is where claims are recorded. Every driver.Store is one.
type Ledger interface {
	// Get returns the record at key, or an error that wraps driver.ErrNotFound. It shows every
	// Set that has returned before.
	Get(ctx context.Context, key string) (driver.Record, error)
	// Set writes value at key if its revision is still prev, where 0 stands for a key that does
	// not exist, and returns the new revision; otherwise its error wraps driver.ErrConflict.
	// After any other error it may or may not have happened.
	Set(ctx context.Context, key string, value []byte, prev driver.Revision) (driver.Revision, error)
}

// Transactor is implemented by a Ledger in the database that the work changes.
type Transactor interface {
	// Transact calls f with a context in which Set, and whatever the work changes, belong to one
	// transaction. It is committed if f returns nil, and otherwise rolled back.
	Transact(ctx context.Context, f func(ctx context.Context) error) error
}

// callTimeout bounds each call of a Ledger, which may hang.
const callTimeout = 5 * time.Second

// read makes one call, which is bounded.
func read(ctx context.Context, l Ledger, key string) (driver.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return l.Get(ctx, key)
}

// get reads the record at key. found is false if there is none.
func get(ctx context.Context, l Ledger, key string) (r Record, found bool, rev driver.Revision, err error) {
	raw, err := read(ctx, l, key)
	switch {
	case errors.Is(err, driver.ErrNotFound):
		return Record{}, false, 0, nil
	case err != nil:
		return Record{}, false, 0, err
	}
	r, err = Parse(key, raw.Value)
	return r, true, raw.Revision, err
}

func set(ctx context.Context, l Ledger, key string, r Record, prev driver.Revision) (driver.Revision, error) {
	value, err := r.encode()
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return l.Set(ctx, key, value, prev)
}

// Get returns what is recorded at key, and false if nothing is.
func Get(ctx context.Context, l Ledger, key string) (Record, bool, error) {
	r, found, _, err := get(ctx, l, key)
	return r, found, err
}

// Amend meets a record that was changed under its hands no more than amendTries times, and waits
// for amendMaxWait at most before it looks again.
const (
	amendTries   = 20
	amendMaxWait = 500 * time.Millisecond
)

// Amend changes the record at key as an operator does: change is given what is recorded, and
// returns what ought to be, or an error, which Amend then returns. A record that cannot be read
// is given as none. The new record has a token of its own, so that a run that goes on cannot
// record an end any more. It blocks until the record is written, or ctx ends.
func Amend(ctx context.Context, l Ledger, key string, change func(r Record, found bool) (Record, error)) error {
	wait := backoff.Backoff{Max: amendMaxWait}
	for try := 1; ; try++ {
		raw, err := read(ctx, l, key)
		found := err == nil
		if !found && !errors.Is(err, driver.ErrNotFound) {
			return err
		}
		var r Record
		if found {
			if r, err = Parse(key, raw.Value); err != nil {
				r, found = Record{}, false
			}
		}
		if r, err = change(r, found); err != nil {
			return err
		}
		r.Token = newToken()
		_, err = set(ctx, l, key, r, raw.Revision)
		if !errors.Is(err, driver.ErrConflict) || try == amendTries {
			return err
		}
		if err := wait.Wait(ctx); err != nil {
			return err
		}
	}
}

// Intervals at which a Ledger is read by those who wait for a change of it.
const (
	// pollEvery is that of one which does not report changes.
	pollEvery = 500 * time.Millisecond
	// checkEvery is that of one which does, in case that a report is lost.
	checkEvery = 5 * time.Second
)

// Changes yields at once, and after each change of what is recorded at a key that starts with
// prefix, within a second, until ctx ends. It yields whether l has reported a change, or it is the
// first time; otherwise there may be none. It says nothing about what has changed: the caller
// reads.
func Changes(ctx context.Context, l Ledger, prefix string) iter.Seq[bool] {
	return func(yield func(reported bool) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		changed, every := make(chan struct{}, 1), pollEvery
		if records := watch(ctx, l, prefix); records != nil {
			every = checkEvery
			done := make(chan struct{})
			defer func() { cancel(); <-done }()
			go func() {
				defer close(done)
				for range records {
					select {
					case changed <- struct{}{}:
					default:
					}
				}
			}()
		}
		tick := time.NewTicker(every)
		defer tick.Stop()
		for reported := true; yield(reported); {
			select {
			case <-changed:
				reported = true
			case <-tick.C:
				reported = false
			case <-ctx.Done():
				return
			}
		}
	}
}

// Watcher is implemented by a Ledger that reports changes, as that of a node does.
type Watcher interface {
	Watch(ctx context.Context, prefix string) iter.Seq2[[]driver.Record, error]
}

// Reports says whether l reports changes.
func Reports(l Ledger) bool {
	switch l.(type) {
	case Watcher, driver.Store:
		return true
	}
	return false
}

// watch is how l reports changes, and nil if it does not.
func watch(ctx context.Context, l Ledger, prefix string) iter.Seq2[[]driver.Record, error] {
	switch l := l.(type) {
	case Watcher:
		return l.Watch(ctx, prefix)
	case driver.Store:
		return discovery.WatchRecords(ctx, l, prefix)
	}
	return nil
}

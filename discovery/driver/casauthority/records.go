package casauthority

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// Get returns the record at key.
func (a *Authority) Get(ctx context.Context, key string) (driver.Record, error) {
	ctx, cancel, err := a.bind(ctx)
	if err != nil {
		return driver.Record{}, err
	}
	defer cancel()
	if err := a.checkKey(key); err != nil {
		return driver.Record{}, err
	}
	v, err := a.c.Store.Read(ctx, a.records+key)
	switch {
	case err != nil:
		return driver.Record{}, err
	case v.Revision == 0:
		return driver.Record{}, fmt.Errorf("%s: record %q: %w", a.c.Name, key, driver.ErrNotFound)
	}
	return a.record(a.records+key, v), nil
}

func (a *Authority) record(at string, v Value) driver.Record {
	if v.Data == nil {
		v.Data = []byte{}
	}
	return driver.Record{Key: strings.TrimPrefix(at, a.records), Value: v.Data, Revision: v.Revision}
}

func (a *Authority) checkKey(key string) error {
	if key == "" {
		return fmt.Errorf("%s: %w: record without a key", a.c.Name, driver.ErrInvalid)
	}
	return nil
}

// Set writes the record at key.
func (a *Authority) Set(ctx context.Context, key string, value []byte, prev driver.Revision) (driver.Revision, error) {
	ctx, cancel, err := a.bind(ctx)
	if err != nil {
		return 0, err
	}
	defer cancel()
	if err := a.checkKey(key); err != nil {
		return 0, err
	}
	if len(value) > driver.MaxRecordSize {
		return 0, fmt.Errorf("%s: record %q: %w: %d bytes; at most %d are kept", a.c.Name, key, driver.ErrInvalid, len(value), driver.MaxRecordSize)
	}
	if value == nil {
		value = []byte{}
	}
	v, err := a.c.Store.CompareAndSet(ctx, a.records+key, value, prev)
	return v.Revision, err
}

// Delete removes the record at key.
func (a *Authority) Delete(ctx context.Context, key string, prev driver.Revision) error {
	ctx, cancel, err := a.bind(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	if err := a.checkKey(key); err != nil {
		return err
	}
	have, err := a.c.Store.Read(ctx, a.records+key)
	switch {
	case err != nil:
		return err
	case have.Revision == 0:
		return fmt.Errorf("%s: record %q: %w", a.c.Name, key, driver.ErrNotFound)
	case have.Revision != prev:
		return fmt.Errorf("%s: record %q: %w: it has revision %d and not %d", a.c.Name, key, driver.ErrConflict, have.Revision, prev)
	}
	_, err = a.c.Store.CompareAndSet(ctx, a.records+key, nil, prev)
	return err
}

// Records lists the records whose keys start with prefix.
func (a *Authority) Records(ctx context.Context, prefix string) ([]driver.Record, error) {
	ctx, cancel, err := a.bind(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	values, err := a.c.Store.List(ctx, a.records+prefix)
	if err != nil {
		return nil, err
	}
	records := make([]driver.Record, 0, len(values))
	for at, v := range values {
		records = append(records, a.record(at, v))
	}
	slices.SortFunc(records, func(a, b driver.Record) int { return cmp.Compare(a.Key, b.Key) })
	return records, nil
}

// watchAgain is how long a watch waits for a report before it looks without one.
const watchAgain = time.Minute

// WatchRecords yields the records now and after each change. It yields ErrUnsupported
// if the store is no Watcher.
func (a *Authority) WatchRecords(ctx context.Context, prefix string) iter.Seq2[[]driver.Record, error] {
	return func(yield func([]driver.Record, error) bool) {
		w, ok := a.c.Store.(Watcher)
		if !ok {
			yield(nil, fmt.Errorf("%s: watch records: %w", a.c.Name, driver.ErrUnsupported))
			return
		}
		var mark uint64
		var last []driver.Record
		var p rateLimit
		for first := true; ; {
			next, err := a.waitRecords(ctx, w, prefix, mark)
			if err == nil {
				mark = next
				var records []driver.Record
				if records, err = a.Records(ctx, prefix); err == nil && (first || !sameRecords(records, last)) {
					first, last = false, records
					p = rateLimit{}
					if !yield(records, nil) {
						return
					}
				} else if err == nil {
					p.pause(ctx, 0)
				}
			}
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

func (a *Authority) waitRecords(ctx context.Context, w Watcher, prefix string, mark uint64) (uint64, error) {
	ctx, cancel, err := a.bind(ctx)
	if err != nil {
		return 0, err
	}
	defer cancel()
	wait, stop := context.WithTimeout(ctx, watchAgain)
	defer stop()
	next, err := w.Wait(wait, a.records+prefix, mark)
	if err != nil && wait.Err() != nil && ctx.Err() == nil {
		return mark, nil
	}
	if err != nil && a.ctx.Err() != nil {
		return 0, a.ended(ctx)
	}
	return next, err
}

func sameRecords(a, b []driver.Record) bool {
	return slices.EqualFunc(a, b, func(a, b driver.Record) bool { return a.Key == b.Key && a.Revision == b.Revision })
}

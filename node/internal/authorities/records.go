package authorities

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"

	"github.com/musterhq/muster/discovery/driver"
)

// ErrElsewhere means that the records of the cluster are not at the store that this node uses
// alone: they have not been mirrored to it yet, or have moved on.
var ErrElsewhere = errors.New("the records are elsewhere")

// Records is a driver.Store over the store of one authority, or of the two between which the
// records move. Its methods are safe for concurrent use.
type Records struct {
	stores    []Named // by name
	preferred string
	guarded   bool
	rules     rules

	mu    sync.Mutex
	known *source // nil: to be found
}

// rules are what the proof rests on, to be broken by tests.
type rules struct {
	verify     bool // an operation looks at the marker again
	touch      bool // the last pass writes what is equal, too
	checkRound bool // a pass looks at the round again
	entomb     bool // a record is created by way of a tombstone, and deleted by one
	lastPass   bool // there is a pass after the seal
}

func soundRules() rules { return rules{true, true, true, true, true} }

// NewRecords returns the records over the stores of one authority or two, each of which is a
// driver.Store. The first of two has the records unless a marker says otherwise; it must not be
// the only one that has none. guarded says
// that the records may move while they are used, as where more providers are configured: each
// operation then costs one more read. The caller closes the authorities.
func NewRecords(guarded bool, stores ...Named) *Records {
	r := &Records{stores: slices.Clone(stores), preferred: stores[0].Name, guarded: guarded || len(stores) > 1, rules: soundRules()}
	slices.SortFunc(r.stores, func(a, b Named) int { return cmp.Compare(a.Name, b.Name) })
	return r
}

// source is the store that has the records.
type source struct {
	Named
	marker marker
}

// find returns the source.
func (r *Records) find(ctx context.Context) (source, error) {
	r.mu.Lock()
	known := r.known
	r.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	var s source
	if len(r.stores) == 1 {
		m, err := readMarker(ctx, r.stores[0])
		if err != nil {
			return source{}, err
		}
		s = source{r.stores[0], m}
	} else {
		l, err := r.layout(ctx)
		if err != nil {
			return source{}, err
		}
		s = source{l.from, l.fromMark}
	}
	if err := r.elsewhere(s); err != nil {
		return source{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known = &s
	return s, nil
}

// elsewhere says why s does not have the records.
func (r *Records) elsewhere(s source) error {
	var err error
	switch {
	case s.marker.Role == truth:
		return nil
	case len(r.stores) > 1:
		return fmt.Errorf("authority %s: %w: its records are on the way to %s", s.Name, driver.ErrUnavailable, s.marker.Peer)
	case s.marker.Role == mirror:
		err = fmt.Errorf("authority %s: %w: it does not have all records of %s yet", s.Name, ErrElsewhere, s.marker.Peer)
	default:
		err = fmt.Errorf("authority %s: %w: they have moved to %s", s.Name, ErrElsewhere, s.marker.Peer)
	}
	return fmt.Errorf("%w: %w; name both in mastership.authority on a node until they have moved", driver.ErrUnavailable, err)
}

// Elsewhere returns ErrElsewhere, with the reason, if the records of a single authority are not
// there. Any other error means that it is not known.
func (r *Records) Elsewhere(ctx context.Context) error {
	if len(r.stores) > 1 {
		return nil
	}
	m, err := readMarker(ctx, r.stores[0])
	if err != nil {
		return err
	}
	return r.elsewhere(source{r.stores[0], m})
}

// verify reports whether s had the records until now.
func (r *Records) verify(ctx context.Context, s source) (bool, error) {
	if !r.guarded || !r.rules.verify {
		return true, nil
	}
	m, err := readMarker(ctx, s.Named)
	if err != nil {
		return false, err
	}
	if m.Role == truth && m.Epoch == s.marker.Epoch {
		return true, nil
	}
	r.forget()
	return false, nil
}

func (r *Records) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known = nil
}

// layout returns where the records are, of two stores, and records the choice if there is one.
func (r *Records) layout(ctx context.Context) (layout, error) {
	low, high := r.stores[0], r.stores[1]
	for {
		lm, err := readMarker(ctx, low)
		if err != nil {
			return layout{}, err
		}
		hm, err := readMarker(ctx, high)
		if err != nil {
			return layout{}, err
		}
		if lm.revision != 0 || hm.revision != 0 {
			return decide(low, high, lm, hm), nil
		}
		if err := r.checkOrder(ctx); err != nil {
			return layout{}, err
		}
		choice := marker{Role: truth}
		if r.preferred == high.Name {
			choice = marker{Role: mirror, Peer: high.Name, Epoch: 1, Round: 1}
		}
		if _, err := lm.write(ctx, low, choice); err != nil && !errors.Is(err, driver.ErrConflict) {
			return layout{}, err
		}
	}
}

// checkOrder refuses an order of the two that would hide the records: if the one that was named
// first has none, and the other has.
func (r *Records) checkOrder(ctx context.Context) error {
	var empty, full string
	for _, s := range r.stores {
		records, err := source{s, marker{}}.list(ctx, "")
		switch {
		case err != nil:
			return s.failed(err)
		case len(records) > 0:
			full = s.Name
		default:
			empty = s.Name
		}
	}
	if full != "" && empty == r.preferred {
		return fmt.Errorf("%w: authority %s is named first and has no records, but %s has; name %s first in mastership.authority, or delete its records if they are not in use",
			driver.ErrUnavailable, empty, full, full)
	}
	return nil
}

// tries bounds how often an operation is repeated that has met a move.
const tries = 4

// read carries out what changes nothing.
func (r *Records) read(ctx context.Context, do func(source) error) error {
	for range tries {
		s, err := r.find(ctx)
		if err != nil {
			return err
		}
		outcome := do(s)
		if valid, err := r.verify(ctx, s); err != nil || valid {
			return cmp.Or(outcome, err)
		}
	}
	return fmt.Errorf("%w: the records move", driver.ErrUnavailable)
}

// write carries out what may change a record. Where the records moved meanwhile, what was
// written before that is among them, and what was written after it is not.
func (r *Records) write(ctx context.Context, do func(source) error) error {
	for range tries {
		s, err := r.find(ctx)
		if err != nil {
			return err
		}
		outcome := do(s)
		valid, err := r.verify(ctx, s)
		switch {
		case err == nil && valid:
			return outcome
		case errors.Is(outcome, driver.ErrConflict), errors.Is(outcome, driver.ErrNotFound), errors.Is(outcome, driver.ErrInvalid):
			if err != nil {
				return err
			}
		default:
			return fmt.Errorf("%w: the records moved meanwhile, so that it may have been written or not: %w", driver.ErrUnavailable, cmp.Or(outcome, err, ErrElsewhere))
		}
	}
	return fmt.Errorf("%w: the records move", driver.ErrUnavailable)
}

// Get implements driver.Store.
func (r *Records) Get(ctx context.Context, key string) (record driver.Record, err error) {
	err = r.read(ctx, func(s source) error {
		found, err := s.get(ctx, key)
		record = s.marker.user(found)
		return err
	})
	if err != nil {
		return driver.Record{}, err
	}
	return record, nil
}

func (s source) get(ctx context.Context, key string) (driver.Record, error) {
	found, err := s.store().Get(ctx, s.marker.space()+key)
	if err == nil && isTombstone(found) {
		err = s.failed(fmt.Errorf("record %s: %w", key, driver.ErrNotFound))
	}
	return found, err
}

// Set implements driver.Store.
func (r *Records) Set(ctx context.Context, key string, value []byte, prev driver.Revision) (revision driver.Revision, err error) {
	if string(value) == tombstone {
		return 0, fmt.Errorf("%w: record %s: its value is reserved", driver.ErrInvalid, key)
	}
	err = r.write(ctx, func(s source) error {
		at, ours := s.marker.untag(prev)
		if !ours {
			return s.moved(key)
		}
		written, err := s.store().Set(ctx, s.marker.space()+key, value, at)
		if errors.Is(err, driver.ErrConflict) && prev == 0 && s.marker.Epoch > 0 {
			if there, e := s.store().Get(ctx, s.marker.space()+key); e == nil && isTombstone(there) {
				written, err = s.store().Set(ctx, s.marker.space()+key, value, there.Revision)
			}
		}
		revision = s.marker.tag(written)
		return err
	})
	if err != nil {
		return 0, err
	}
	return revision, nil
}

// moved is the error of a write over a revision that was read before the records moved.
func (s source) moved(key string) error {
	return s.failed(fmt.Errorf("record %s: %w: it was read before the records moved here", key, driver.ErrConflict))
}

// Delete implements driver.Store.
func (r *Records) Delete(ctx context.Context, key string, prev driver.Revision) error {
	return r.write(ctx, func(s source) error {
		if at, ours := s.marker.untag(prev); ours {
			err := s.store().Delete(ctx, s.marker.space()+key, at)
			if !errors.Is(err, driver.ErrConflict) || s.marker.Epoch == 0 {
				return err
			}
		}
		if _, err := s.get(ctx, key); err != nil {
			return err
		}
		return s.failed(fmt.Errorf("record %s: %w: it is not at this revision", key, driver.ErrConflict))
	})
}

// Records implements driver.Store.
func (r *Records) Records(ctx context.Context, prefix string) (records []driver.Record, err error) {
	err = r.read(ctx, func(s source) (err error) {
		records, err = s.list(ctx, prefix)
		for i := range records {
			records[i] = s.marker.user(records[i])
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return records, nil
}

// list returns the records of the user, as they are in the store.
func (s source) list(ctx context.Context, prefix string) ([]driver.Record, error) {
	all, err := s.store().Records(ctx, s.marker.space()+prefix)
	return s.hide(all), err
}

// hide leaves out what is not the user's, in place.
func (s source) hide(records []driver.Record) []driver.Record {
	return slices.DeleteFunc(records, func(r driver.Record) bool {
		return isTombstone(r) || s.marker.Epoch == 0 && strings.HasPrefix(r.Key, Reserved)
	})
}

// WatchRecords implements driver.StoreWatcher. It yields ErrUnsupported where the records may move:
// no store reports that.
func (r *Records) WatchRecords(ctx context.Context, prefix string) iter.Seq2[[]driver.Record, error] {
	return func(yield func([]driver.Record, error) bool) {
		watcher, reports := r.stores[0].Authority.(driver.StoreWatcher)
		if !reports || r.guarded {
			yield(nil, driver.ErrUnsupported)
			return
		}
		s, err := r.find(ctx)
		if err != nil {
			yield(nil, err)
			return
		}
		for records, err := range watcher.WatchRecords(ctx, s.marker.space()+prefix) {
			records = s.hide(records)
			for i := range records {
				records[i] = s.marker.user(records[i])
			}
			if !yield(records, err) {
				return
			}
		}
	}
}

// At returns the name of the authority that has the records, or why that is not known.
func (r *Records) At(ctx context.Context) string {
	r.forget()
	s, err := r.find(ctx)
	if err != nil {
		return "unknown: " + err.Error()
	}
	return s.Name
}

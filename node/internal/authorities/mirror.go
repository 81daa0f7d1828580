package authorities

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/musterhq/muster/discovery/driver"
)

// Move is how far the records have moved.
type Move struct {
	// From has the records, and To is their mirror.
	From, To string
	// Mirrored says that To had all of them when the pass ended.
	Mirrored bool
}

// Mirror makes one attempt to bring the mirror up to date, of two stores, and returns how far it
// has come. Where destination names the mirror, the records move to it once it has them all: from
// then on it is the other way round. Any number of nodes may call Mirror at any time; one is
// enough. An ErrConflict means that another one was at it: call it again.
func (r *Records) Mirror(ctx context.Context, destination string) (Move, error) {
	l, err := r.layout(ctx)
	if err == nil && !l.moving {
		l, err = r.begin(ctx, l)
	}
	if err != nil {
		return Move{}, err
	}
	move := Move{From: l.from.Name, To: l.to.Name}
	halfway := l.fromMark.Role == sealed
	if !halfway {
		if err := r.pass(ctx, l, false); err != nil {
			return move, err
		}
		move.Mirrored = true
	}
	if !halfway && destination != move.To {
		return move, nil
	}
	if err := r.finish(ctx, l); err != nil {
		return move, err
	}
	return Move{From: l.to.Name, To: l.from.Name}, nil
}

// begin makes the other store the mirror, in a space that was never used.
func (r *Records) begin(ctx context.Context, l layout) (layout, error) {
	if l.fromMark.Role == sealed && l.toMark.Role == sealed && l.fromMark.Peer == l.to.Name && l.toMark.Peer == l.from.Name {
		// A store was restored from a copy. The one whose records are younger has them.
		m, err := l.fromMark.write(ctx, l.from, marker{Role: truth, Epoch: l.fromMark.Epoch})
		if err != nil {
			return l, err
		}
		l.fromMark = m
	}
	if l.fromMark.Role != truth {
		return l, fmt.Errorf("%w: authority %s: %w: they are at %s", driver.ErrUnavailable, l.from.Name, ErrElsewhere, l.fromMark.Peer)
	}
	next := marker{Role: mirror, Peer: l.from.Name, Epoch: max(l.fromMark.Epoch, l.toMark.Epoch) + 1, Round: 1}
	m, err := l.toMark.write(ctx, l.to, next)
	l.toMark, l.moving = m, err == nil
	return l, err
}

// finish moves the records. Each step can be repeated, and another node can go on after any.
func (r *Records) finish(ctx context.Context, l layout) (err error) {
	defer r.forget()
	next := l.toMark
	next.Round++
	if l.toMark, err = l.toMark.write(ctx, l.to, next); err != nil {
		return err
	}
	if l.fromMark.Role == truth {
		// What is written there from here on is no longer among the records.
		next := marker{Role: sealed, Peer: l.to.Name, Epoch: l.fromMark.Epoch}
		if l.fromMark, err = l.fromMark.write(ctx, l.from, next); err != nil {
			return err
		}
	}
	if r.rules.lastPass {
		if err := r.pass(ctx, l, r.rules.touch); err != nil {
			return err
		}
	}
	_, err = l.toMark.write(ctx, l.to, marker{Role: truth, Epoch: l.toMark.Epoch})
	return err
}

// pass makes the mirror equal to what it mirrors. With touch it also writes what is equal, so
// that what others have sent before that, and is still on the way, finds another revision.
func (r *Records) pass(ctx context.Context, l layout, touch bool) error {
	to := source{l.to, l.toMark}
	there, err := l.to.store().Records(ctx, l.toMark.space())
	if err != nil {
		return l.to.failed(err)
	}
	want, err := source{l.from, l.fromMark}.list(ctx, "")
	if err != nil {
		return l.from.failed(err)
	}
	have := make(map[string]driver.Record, len(there))
	for _, record := range there {
		have[strings.TrimPrefix(record.Key, l.toMark.space())] = record
	}
	// A record begins as a tombstone, which does no harm however late it comes.
	values := make(map[string][]byte, len(want))
	for _, record := range want {
		key := strings.TrimPrefix(record.Key, l.fromMark.space())
		values[key] = record.Value
		if _, ok := have[key]; !ok && r.rules.entomb {
			revision, err := to.put(ctx, key, []byte(tombstone), 0)
			if err != nil {
				return err
			}
			have[key] = driver.Record{Value: []byte(tombstone), Revision: revision}
		} else if !ok {
			have[key] = driver.Record{Value: []byte(tombstone)}
		}
	}
	// What was found is of this round, so that it was not before the touch of a later one.
	if now, err := readMarker(ctx, l.to); err != nil {
		return err
	} else if now.revision != l.toMark.revision && r.rules.checkRound {
		return l.to.failed(fmt.Errorf("%w: another node mirrors", driver.ErrConflict))
	}
	for _, key := range slices.Sorted(maps.Keys(have)) {
		record := have[key]
		value, wanted := values[key]
		if !wanted {
			value = []byte(tombstone)
		}
		if !touch && string(value) == string(record.Value) {
			continue
		}
		if !wanted && !r.rules.entomb {
			if err := l.to.store().Delete(ctx, l.toMark.space()+key, record.Revision); err != nil && !errors.Is(err, driver.ErrNotFound) {
				return l.to.failed(err)
			}
			continue
		}
		if _, err := to.put(ctx, key, value, record.Revision); err != nil {
			return err
		}
	}
	return nil
}

func (s source) put(ctx context.Context, key string, value []byte, prev driver.Revision) (driver.Revision, error) {
	revision, err := s.store().Set(ctx, s.marker.space()+key, value, prev)
	if err != nil {
		err = s.failed(fmt.Errorf("mirror record %s: %w", key, err))
	}
	return revision, err
}

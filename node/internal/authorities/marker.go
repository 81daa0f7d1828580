package authorities

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/musterhq/muster/discovery/driver"
)

// The keys below which a store keeps what is not the user's: the marker, and the spaces of
// records that were mirrored.
const (
	Reserved  = "muster/"
	markerKey = Reserved + "marker"
	spaces    = Reserved + "space/"
)

// role is what a store is for the records of the cluster.
type role string

const (
	// truth: it has the records. A store without a marker has this role, with epoch 0.
	truth role = "truth"
	// mirror: the records are at Peer, and are mirrored to this store.
	mirror role = "mirror"
	// sealed: it had the records until they moved to Peer.
	sealed role = "sealed"
)

// marker is the record of a store that says what the store is.
type marker struct {
	V    int    `json:"v"`
	Role role   `json:"role"`
	Peer string `json:"peer,omitempty"`
	// Epoch names the space of the records: it rises each time that the records move.
	Epoch uint64 `json:"epoch"`
	// Round counts the attempts to complete a mirror: a write of an earlier one is void.
	Round uint64 `json:"round,omitempty"`

	revision driver.Revision
}

const markerVersion = 1

// maxEpoch bounds what is believed of a marker: a revision carries the epoch in one byte.
const maxEpoch = 1 << 40

// space is how the keys of the records begin.
func (m marker) space() string {
	if m.Epoch == 0 {
		return ""
	}
	return fmt.Sprintf("%s%d/", spaces, m.Epoch)
}

// readMarker returns the marker of a store. One that cannot be understood is an error, which
// names it: nothing is guessed about where the records are.
func readMarker(ctx context.Context, s Named) (marker, error) {
	r, err := s.store().Get(ctx, markerKey)
	switch {
	case errors.Is(err, driver.ErrNotFound):
		return marker{Role: truth}, nil
	case err != nil:
		return marker{}, s.failed(err)
	}
	var m marker
	err = json.Unmarshal(r.Value, &m)
	if err != nil || m.V != markerVersion || m.Epoch > maxEpoch || m.Role != truth && m.Role != mirror && m.Role != sealed {
		return marker{}, s.failed(fmt.Errorf("%w: record %s is no marker of version %d: %.100q; correct or delete it",
			driver.ErrUnavailable, markerKey, markerVersion, r.Value))
	}
	m.revision = r.Revision
	return m, nil
}

// write replaces the marker by next if it is still m.
func (m marker) write(ctx context.Context, s Named, next marker) (marker, error) {
	next.V = markerVersion
	b, err := json.Marshal(next)
	if err != nil {
		return m, err
	}
	next.revision, err = s.store().Set(ctx, markerKey, b, m.revision)
	if err != nil {
		return m, s.failed(err)
	}
	return next, nil
}

// layout says where the records are, of two stores.
type layout struct {
	from, to         Named
	fromMark, toMark marker
	// moving says that to is the mirror of from.
	moving bool
}

// decide makes a layout of two stores and their markers, of which there is one at least.
func decide(a, b Named, am, bm marker) layout {
	ab := layout{from: a, to: b, fromMark: am, toMark: bm}
	ba := layout{from: b, to: a, fromMark: bm, toMark: am}
	for _, l := range []*layout{&ab, &ba} {
		l.moving = l.toMark.Role == mirror && l.toMark.Peer == l.from.Name
	}
	switch {
	case ab.moving && ba.moving: // which no sequence of steps makes: a store was restored from a copy
		return first(am.Epoch <= bm.Epoch, ab, ba)
	case ab.moving && (am.Role == truth || am.Role == sealed && am.Peer == b.Name):
		return ab
	case ba.moving && (bm.Role == truth || bm.Role == sealed && bm.Peer == a.Name):
		return ba
	case (am.Role == truth) != (bm.Role == truth):
		return first(am.Role == truth, ab, ba)
	}
	return first(am.Epoch >= bm.Epoch, ab, ba)
}

func first(is bool, a, b layout) layout {
	if is {
		return a
	}
	return b
}

// The deleted are kept in a space, so that a write which is late finds a revision that has
// passed, and not an absence that has come back.
const tombstone = Reserved + "deleted/b7f1c2"

func isTombstone(r driver.Record) bool { return string(r.Value) == tombstone }

// A revision carries the epoch of its space, so that none of one store is taken for one of the
// other. Outside of a space it is the store's own, all bits of which may count.
const epochShift = 56

func (m marker) tag(r driver.Revision) driver.Revision {
	if m.Epoch == 0 {
		return r
	}
	return r&(1<<epochShift-1) | driver.Revision(m.Epoch&0xff)<<epochShift
}

// untag returns the revision of the store, and false if it is one of another space.
func (m marker) untag(r driver.Revision) (driver.Revision, bool) {
	if r == 0 || m.Epoch == 0 {
		return r, true
	}
	return r & (1<<epochShift - 1), uint64(r>>epochShift) == m.Epoch&0xff
}

// user returns r as the user sees it.
func (m marker) user(r driver.Record) driver.Record {
	r.Key = strings.TrimPrefix(r.Key, m.space())
	r.Revision = m.tag(r.Revision)
	return r
}

func (n Named) store() driver.Store { return n.Authority.(driver.Store) }

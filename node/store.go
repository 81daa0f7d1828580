package node

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/within"
	"github.com/musterhq/muster/node/internal/authorities"
)

// Record is one entry of a Store.
type Record = driver.Record

// Revision names one version of one record: it is compared for equality, within one process and
// with the same key. 0 stands for a record that does not exist.
type Revision = driver.Revision

// MaxRecordSize bounds the value of a Record, in bytes.
const MaxRecordSize = driver.MaxRecordSize

// Store keeps small records of the cluster where its mastership is granted, and changes them by
// compare-and-set. All nodes of the cluster share them, and they outlive the nodes.
//
// Each call is one attempt, bounded by its context and by StoreTimeout. Errors are those of
// package discovery, to be tested with errors.Is: ErrNotFound, ErrConflict, ErrInvalid,
// ErrUnavailable and ErrUnsupported, which says that no provider of this node keeps records; and
// ErrStopped once the node has ended. Keys that begin with ReservedKeys belong to Muster: they
// are not shown, and cannot be written. A key is one segment or several with a slash between two,
// none of them empty, "." or "..".
type Store interface {
	// Get returns the record at key, or ErrNotFound. It sees every write that had returned when
	// the call began, of any node.
	Get(ctx context.Context, key string) (Record, error)

	// Set writes value at key if its revision is still prev, where 0 stands for a key that does
	// not exist, and returns the new revision; otherwise it returns ErrConflict. After any other
	// error the write may or may not have happened: read before you decide. The value is not
	// kept, and has at most MaxRecordSize bytes.
	Set(ctx context.Context, key string, value []byte, prev Revision) (Revision, error)

	// Delete removes the record at key if its revision is still prev, and otherwise returns
	// ErrConflict, or ErrNotFound if there is none.
	Delete(ctx context.Context, key string, prev Revision) error

	// Records returns every record whose key starts with prefix, by key.
	Records(ctx context.Context, prefix string) ([]Record, error)

	// Watch yields every record whose key starts with prefix, by key: now, and after each
	// change, until ctx or the node ends. Several changes may be yielded as one. A change by a
	// node of the cluster is seen within a second of it where the provider and gossip work, and
	// one by any other program within a minute. An error is yielded without records, and does not
	// end the sequence unless no later try can succeed: ErrUnsupported and ErrStopped. Once it is
	// over the records are yielded, changed or not.
	Watch(ctx context.Context, prefix string) iter.Seq2[[]Record, error]
}

// ReservedKeys is how the keys begin that a Store keeps for itself.
const ReservedKeys = authorities.Reserved

// StoreTimeout bounds each call of a Store, whose context may end sooner.
const StoreTimeout = 10 * time.Second

// Store returns the records of the cluster. It does not block. If no provider of this node keeps
// records, each call of the Store says so.
func (n *Node) Store() Store { return n.store }

// store is the Store of a node.
type store struct {
	node    *Node
	records *authorities.Records // nil: there are none, because of missing
	missing error
	prompts *prompts
}

// openStore returns the store of the node's authority, or of the two between which it moves.
func (n *Node) openStore() *store {
	s := &store{node: n, prompts: newPrompts()}
	if never := n.noAuthority(); never != nil {
		s.missing = fmt.Errorf("node: store: %w: %w", driver.ErrUnsupported, never)
		return s
	}
	stores := slices.Clone(n.authorities)
	for _, a := range stores {
		if _, ok := a.Authority.(driver.Store); !ok {
			s.missing = fmt.Errorf("node: store: %w: provider %s keeps no records", driver.ErrUnsupported, a.Name)
			return s
		}
	}
	if len(stores) == 2 && stores[0].Name != n.cfg.Mastership.Authority[0] {
		slices.Reverse(stores) // they are by name, and are to be as they were named
	}
	s.records = authorities.NewRecords(len(n.providers) > 1, stores...)
	return s
}

// begin bounds one call, and says why it cannot be made.
func (s *store) begin(ctx context.Context) (context.Context, context.CancelFunc, error) {
	switch {
	case s.node.ctx.Err() != nil:
		return nil, nil, ErrStopped
	case s.missing != nil:
		return nil, nil, s.missing
	}
	ctx, unbind := within.Both(ctx, s.node.ctx)
	ctx, cancel := context.WithTimeout(ctx, StoreTimeout)
	return ctx, func() { cancel(); unbind() }, nil
}

// beginAt is begin for one record.
func (s *store) beginAt(ctx context.Context, key string) (context.Context, context.CancelFunc, error) {
	switch {
	case key == "":
		return nil, nil, fmt.Errorf("node: store: %w: a record needs a key", driver.ErrInvalid)
	case strings.HasPrefix(key, ReservedKeys):
		return nil, nil, fmt.Errorf("node: store: %w: key %q: what begins with %s is reserved; choose another key", driver.ErrInvalid, key, ReservedKeys)
	case slices.ContainsFunc(strings.Split(key, "/"), func(s string) bool { return s == "" || s == "." || s == ".." }):
		// Some providers take it and others cannot, to which the records could then not move.
		return nil, nil, fmt.Errorf("node: store: %w: key %q has an empty segment, or one of dots alone; write segments that are not empty, with one slash between two", driver.ErrInvalid, key)
	}
	return s.begin(ctx)
}

// failed is err as a call returns it.
func (s *store) failed(err error) error {
	if err != nil && s.node.ctx.Err() != nil {
		return fmt.Errorf("%w: %w", ErrStopped, err)
	}
	return err
}

func (s *store) Get(ctx context.Context, key string) (Record, error) {
	ctx, cancel, err := s.beginAt(ctx, key)
	if err != nil {
		return Record{}, err
	}
	defer cancel()
	r, err := s.records.Get(ctx, key)
	return r, s.failed(err)
}

func (s *store) Set(ctx context.Context, key string, value []byte, prev Revision) (Revision, error) {
	ctx, cancel, err := s.beginAt(ctx, key)
	if err != nil {
		return 0, err
	}
	defer cancel()
	revision, err := s.records.Set(ctx, key, value, prev)
	s.wrote(err)
	return revision, s.failed(err)
}

func (s *store) Delete(ctx context.Context, key string, prev Revision) error {
	ctx, cancel, err := s.beginAt(ctx, key)
	if err != nil {
		return err
	}
	defer cancel()
	err = s.records.Delete(ctx, key, prev)
	s.wrote(err)
	return s.failed(err)
}

func (s *store) Records(ctx context.Context, prefix string) ([]Record, error) {
	ctx, cancel, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	records, err := s.records.Records(ctx, prefix)
	return records, s.failed(err)
}

// wrote prompts all nodes to read, after a write that may have happened.
func (s *store) wrote(err error) {
	for _, not := range []error{driver.ErrConflict, driver.ErrNotFound, driver.ErrInvalid, driver.ErrDenied} {
		if errors.Is(err, not) {
			return
		}
	}
	s.prompts.write()
}

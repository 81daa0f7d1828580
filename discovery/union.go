package discovery

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"

	"github.com/musterhq/muster/discovery/driver"
)

// Union is several registries read as one: what any of them knows is known. It
// keeps nothing itself. All methods are safe for concurrent use.
type Union struct {
	registries []*Registry
}

// NewUnion returns the union of registries, whose order is that of precedence: where
// two list the same instance, the entry of the earlier one stands for both. All
// readers should use one order, as the authority's provider first and then by name.
//
// A registry may be used beside the union, and may be closed before it: its part is
// stale from then on.
func NewUnion(registries ...*Registry) *Union {
	return &Union{registries: slices.Clone(registries)}
}

// Registries returns the registries in the order of precedence.
func (u *Union) Registries() []*Registry { return slices.Clone(u.registries) }

// Close closes all registries. It is idempotent, and may be called from the body of
// a watch.
func (u *Union) Close() error {
	errs := make([]error, len(u.registries))
	var closing sync.WaitGroup
	for i, r := range u.registries {
		closing.Go(func() { errs[i] = r.Close() })
	}
	closing.Wait()
	return errors.Join(errs...)
}

// UnionSnapshot is what is known of a set of instances through several registries.
//
// The embedded Snapshot is the union:
//
//   - Instances are those of all registries, the last good ones of a registry that
//     fails among them. Entries with one InstanceID are one instance, and the first
//     in the order of precedence stands for them. An entry without an InstanceID, as
//     of a static list, is taken for the instance at the same address (see
//     driver.CanonicalAddr) if there is one, and otherwise for one with its like.
//   - Known says that at least one registry has answered.
//   - Stale says that what is known may be old or lack instances, since one of the
//     registries fails, or has not answered yet. Err names each of these.
//   - Skipped are those of all, At is the latest, and Revision is 0 unless there is
//     but one registry: revisions of different providers cannot be compared.
type UnionSnapshot struct {
	Snapshot

	// Parts are what each registry said last, in the order of precedence. They are
	// shared and must not be changed.
	Parts []Part

	providers map[string][]string // by Instance.Key
}

// Part is the share of one registry in a union. While nothing was heard from the
// registry, neither an answer nor an error, it has a zero Snapshot.
type Part struct {
	// Provider is the name of the registry.
	Provider string
	Snapshot
}

func (p Part) pending() bool { return !p.Known && p.Err == nil }

// Providers names the registries that list i, which is one of s.Instances, in the
// order of precedence.
func (s UnionSnapshot) Providers(i Instance) []string { return s.providers[i.Key()] }

// Settled reports whether every registry has answered or failed at least once. Until
// then what is known is what the quickest ones know.
func (s UnionSnapshot) Settled() bool { return !slices.ContainsFunc(s.Parts, Part.pending) }

// List reads the set of instances that match q from all registries at once. It
// returns when each of them has answered or failed, which takes one CallTimeout at
// most, provided that one has answered; otherwise it waits for the first one to
// answer, as Registry.List does. If ctx ends before that and something is known, it
// is returned. Whether anything may be missing is shown by Stale and Err of the
// snapshot. An error means that nothing is known.
func (u *Union) List(ctx context.Context, q Query) (UnionSnapshot, error) {
	var last UnionSnapshot
	for s := range u.Watch(ctx, q) {
		last = s
		if s.Settled() && (s.Known || s.hopeless()) {
			break
		}
	}
	switch {
	case last.Known:
		return last, nil
	case len(u.registries) == 0:
		last.Err = fmt.Errorf("%w: a union of no registries", driver.ErrInvalid)
	case ctx.Err() != nil && last.Err != nil:
		last.Err = fmt.Errorf("%w; last error: %w", ctx.Err(), last.Err)
	case ctx.Err() != nil:
		last.Err = ctx.Err()
	case last.Err == nil:
		last.Err = errClosed
	}
	return last, last.Err
}

// hopeless reports whether no retry can fix any of the failures.
func (s UnionSnapshot) hopeless() bool {
	return !slices.ContainsFunc(s.Parts, func(p Part) bool { return driver.Retryable(p.Err) })
}

// Watch yields the union of what the registries' own watches yield, as soon as one
// of them has, and then each change of any of them, until ctx ends or all registries
// are closed. No registry waits for another: a slow one is pending until it has
// answered. A slow consumer misses states, never the newest.
//
// A panic of a driver surfaces in the goroutine that ranges over the sequence.
func (u *Union) Watch(ctx context.Context, q Query) iter.Seq[UnionSnapshot] {
	return func(yield func(UnionSnapshot) bool) {
		ctx, cancel := context.WithCancel(ctx)
		type update struct {
			index int
			Snapshot
		}
		updates := make(chan update)
		var watches sync.WaitGroup
		panics := make(chan any, len(u.registries))
		for index, registry := range u.registries {
			watches.Go(func() {
				defer func() {
					if p := recover(); p != nil {
						panics <- p
						cancel() // the consumer raises it again
					}
				}()
				send := func(s Snapshot) {
					select {
					case updates <- update{index, s}:
					case <-ctx.Done():
					}
				}
				var last Snapshot
				for s := range registry.Watch(ctx, q) {
					last = s
					send(s)
				}
				if ctx.Err() == nil && !errors.Is(last.Err, ErrClosed) {
					last.Stale, last.Err = last.Known, errClosed
					send(last)
				}
			})
		}
		go func() {
			watches.Wait()
			close(updates)
		}()
		defer func() {
			cancel()
			for range updates { // until all watches have ended
			}
			select {
			case p := <-panics:
				panic(p)
			default:
			}
		}()

		parts := make([]Part, len(u.registries))
		for i, registry := range u.registries {
			parts[i].Provider = registry.Name()
		}
		for next := range updates {
			parts[next.index].Snapshot = next.Snapshot
			if ctx.Err() != nil || !yield(merge(slices.Clone(parts))) {
				return
			}
		}
	}
}

package authorities

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// Named is an authority with the name of its provider.
type Named struct {
	Name      string
	Authority driver.Authority
}

// RequireBoth returns an authority that grants only what both grant. It is how a cluster
// moves from the one to the other without ever having two masters: from {a} by way
// of {a, b} to {b}, each step a rolling change of all nodes. It owns both, and closes
// them.
//
// Why that is safe: a master of one step and a master of the next have an authority
// in common, which grants one at a time. It is Raft's argument for changing the voters
// by one.
//
// Why terms rise: a grant of both has one term, which both authorities have granted,
// as each raises its count to that of the other first. So two masters with an authority
// in common have different terms there, of which the later is the higher. A master of
// {b} that comes after one of both counts on from its term; before there was one of both,
// b knows nothing of the terms of a. So do not leave the middle step before a
// master was elected in it. Terms are not dense: a grant that came too low, or without
// the other, leaves a gap.
//
// The result is no driver.Store: Records is that of the two.
func RequireBoth(a, b Named) driver.Authority {
	// All nodes ask in the same order, whatever the order of their configuration. Two
	// candidates that each hold one of the grants would keep each other out.
	if b.Name < a.Name {
		a, b = b, a
	}
	return &both{first: a, second: b, turn: make(chan struct{}, 1)}
}

type both struct {
	first, second Named
	// turn is held by Acquire and Release: the elector may give up on a call and make
	// another, which must not run beside the cleanup of the first.
	turn chan struct{}
}

// bothToken is what Grant.Token holds: the two grants.
type bothToken struct{ first, second driver.Grant }

const (
	// levelTries bounds how often the counts of the two are brought level. Once is
	// enough unless others claim at the same time.
	levelTries = 4
	// releaseTimeout bounds the release of one grant if the other was refused. What is not
	// released expires.
	releaseTimeout = 2 * time.Second
)

// Acquire asks the first, then the second, and keeps neither alone.
func (b *both) Acquire(ctx context.Context, c driver.Claim) (driver.Grant, error) {
	if err := b.takeTurn(ctx); err != nil {
		return driver.Grant{}, err
	}
	defer b.endTurn()
	c, err := b.informed(ctx, c)
	if err != nil {
		return driver.Grant{}, err
	}
	first, err := b.first.Authority.Acquire(ctx, c)
	if err != nil {
		return driver.Grant{}, b.first.failed(err)
	}
	// What the first records is the cluster's id by now.
	c.ClusterID, c.Known = first.ClusterID, true
	second, err := b.second.Authority.Acquire(ctx, c)
	if err != nil {
		b.release(ctx, b.first, first)
		return driver.Grant{}, b.second.failed(err)
	}
	for range levelTries {
		if first.Term == second.Term {
			return driver.Grant{
				Term:      first.Term,
				ClusterID: first.ClusterID,
				// Each is counted from any moment before its call, and this call began
				// before both.
				ValidFor: min(first.ValidFor, second.ValidFor),
				Token:    bothToken{first, second},
				Proof:    proofs(first, second),
			}, nil
		}
		low, who, high := &first, b.first, second.Term
		if second.Term < first.Term {
			low, who, high = &second, b.second, first.Term
		}
		if err = who.Authority.Release(ctx, *low); err == nil {
			c.MinTerm = high - 1
			*low, err = who.Authority.Acquire(ctx, c)
		}
		if err != nil {
			b.release(ctx, b.first, first)
			b.release(ctx, b.second, second)
			return driver.Grant{}, who.failed(err)
		}
	}
	b.release(ctx, b.first, first)
	b.release(ctx, b.second, second)
	return driver.Grant{}, fmt.Errorf("%w: %s and %s count their terms %d and %d, and do not come together",
		driver.ErrConflict, b.first.Name, b.second.Name, first.Term, second.Term)
}

// informed adds to c what either authority knows: the cluster's id, which the other
// may not have yet, and the highest term, so that both begin to count from there. It
// returns ErrConflict if either is held by another node: a grant of the other one alone would
// raise its term above that of a master that is still valid.
func (b *both) informed(ctx context.Context, c driver.Claim) (driver.Claim, error) {
	first, err := b.first.now(ctx)
	if err != nil {
		return c, err
	}
	second, err := b.second.now(ctx)
	if err != nil {
		return c, err
	}
	if first.ClusterID != "" && second.ClusterID != "" && first.ClusterID != second.ClusterID {
		return c, fmt.Errorf("%w: %s records cluster id %q and %s %q", driver.ErrClusterMismatch,
			b.first.Name, first.ClusterID, b.second.Name, second.ClusterID)
	}
	if id := cmp.Or(first.ClusterID, second.ClusterID); id != "" {
		if c.Known && c.ClusterID != id {
			return c, fmt.Errorf("%w: recorded is cluster id %q, this node's cluster has %q", driver.ErrClusterMismatch, id, c.ClusterID)
		}
		c.ClusterID, c.Known = id, true
	}
	for _, one := range []struct {
		Named
		driver.Mastership
	}{{b.first, first}, {b.second, second}} {
		if h := one.Holder; h != nil && !heldBy(one.Mastership, c.Holder) {
			return c, one.failed(fmt.Errorf("%w: %s is master with term %d", driver.ErrConflict, h.NodeID, one.Term))
		}
	}
	known := max(first.Term, second.Term)
	if first.Term == second.Term && heldBy(first, c.Holder) && heldBy(second, c.Holder) {
		known-- // an answer was lost: this grant is found again
	}
	c.MinTerm = max(c.MinTerm, known)
	return c, nil
}

func heldBy(m driver.Mastership, h driver.Holder) bool {
	return m.Holder != nil && m.Holder.InstanceID == h.InstanceID
}

// now returns the present state of one authority.
func (n Named) now(ctx context.Context) (driver.Mastership, error) {
	for m, err := range n.Authority.Observe(ctx) {
		if err != nil {
			err = n.failed(err)
		}
		return m, err
	}
	return driver.Mastership{}, n.failed(fmt.Errorf("%w: nothing to be observed: %w", driver.ErrUnavailable, context.Cause(ctx)))
}

func (n Named) failed(err error) error { return fmt.Errorf("authority %s: %w", n.Name, err) }

// release releases one of the two grants, even if ctx has ended.
func (b *both) release(ctx context.Context, n Named, g driver.Grant) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	_ = n.Authority.Release(ctx, g) // it expires
}

// Renew renews both grants. If it fails for one, the whole is valid for as long as it was,
// and the other grant may be valid for longer.
func (b *both) Renew(ctx context.Context, g driver.Grant) (driver.Grant, error) {
	t, err := bothTokenOf(g)
	if err != nil {
		return driver.Grant{}, err
	}
	var first, second driver.Grant
	err = b.parallel(
		func() (err error) { first, err = b.first.Authority.Renew(ctx, t.first); return err },
		func() (err error) { second, err = b.second.Authority.Renew(ctx, t.second); return err },
	)
	if err != nil {
		return driver.Grant{}, err
	}
	g.ValidFor, g.Token, g.Proof = min(first.ValidFor, second.ValidFor), bothToken{first, second}, proofs(first, second)
	return g, nil
}

// Release releases both grants.
func (b *both) Release(ctx context.Context, g driver.Grant) error {
	t, err := bothTokenOf(g)
	if err != nil {
		return err
	}
	if err := b.takeTurn(ctx); err != nil {
		return err
	}
	defer b.endTurn()
	return b.parallel(
		func() error { return b.first.Authority.Release(ctx, t.first) },
		func() error { return b.second.Authority.Release(ctx, t.second) },
	)
}

// Close closes both.
func (b *both) Close(ctx context.Context) error {
	return b.parallel(
		func() error { return b.first.Authority.Close(ctx) },
		func() error { return b.second.Authority.Close(ctx) },
	)
}

// parallel does one thing for each authority at the same time.
func (b *both) parallel(first, second func() error) error {
	other := make(chan error, 1)
	go func() { other <- second() }()
	var errs []error
	if err := first(); err != nil {
		errs = append(errs, b.first.failed(err))
	}
	if err := <-other; err != nil {
		errs = append(errs, b.second.failed(err))
	}
	return errors.Join(errs...)
}

func (b *both) takeTurn(ctx context.Context) error {
	select {
	case b.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", driver.ErrUnavailable, context.Cause(ctx))
	}
}

func (b *both) endTurn() { <-b.turn }

func bothTokenOf(g driver.Grant) (bothToken, error) {
	t, ok := g.Token.(bothToken)
	if !ok {
		return bothToken{}, fmt.Errorf("%w: not a grant of two authorities", driver.ErrInvalid)
	}
	return t, nil
}

// Observe yields what the two say together, or the error of one that fails.
func (b *both) Observe(ctx context.Context) iter.Seq2[driver.Mastership, error] {
	return func(yield func(driver.Mastership, error) bool) {
		inner, cancel := context.WithCancel(ctx)
		var observing sync.WaitGroup
		defer observing.Wait()
		defer cancel()
		observed := [2]chan observation{make(chan observation), make(chan observation)}
		for i, n := range []Named{b.first, b.second} {
			observing.Go(func() {
				defer close(observed[i])
				for m, err := range n.Authority.Observe(inner) {
					if err != nil {
						err = n.failed(err)
					}
					select {
					case observed[i] <- observation{m, err, true}:
					case <-inner.Done():
						return
					}
				}
			})
		}
		var seen [2]observation
		var last observation
		for {
			ok := false
			var which int
			var got observation
			select {
			case got, ok = <-observed[0]:
			case got, ok = <-observed[1]:
				which = 1
			}
			if !ok {
				return // the caller calls again
			}
			seen[which] = got
			if !seen[0].known || !seen[1].known {
				if got.err != nil && !yield(driver.Mastership{}, got.err) {
					return
				}
				continue
			}
			now := observation{err: errors.Join(seen[0].err, seen[1].err), known: true}
			if now.err == nil {
				now.m = merge(seen[0].m, seen[1].m)
			}
			if now.err == nil && last.known && last.err == nil && reflect.DeepEqual(now.m, last.m) {
				continue
			}
			last = now
			if !yield(now.m, now.err) {
				return
			}
		}
	}
}

// observation is the last that one authority said.
type observation struct {
	m     driver.Mastership
	err   error
	known bool
}

// merge puts together what the first and the second say. The holder of the first alone
// is master if its node does not use the second yet, or is about to ask for it. The holder
// of the second is master if its node no longer uses the first: no node asks for the second
// without the first otherwise.
//
// The term is one that the holder was granted, and the higher one if it holds both at
// two terms, as while they are brought level. The other authority's may be higher: a
// candidate has just been granted that one, and is about to be refused by this. A master
// that saw its name with a term that it was not granted would treat itself as superseded.
// A term that only one of them has counted is partial: a candidate may have been granted it
// and then been refused, while a master with an earlier term stays. That is so as long as a node
// that has just started does not know yet who holds the other one.
func merge(first, second driver.Mastership) driver.Mastership {
	m := driver.Mastership{
		Term:       max(first.Term, second.Term),
		ClusterID:  cmp.Or(first.ClusterID, second.ClusterID),
		Holder:     second.Holder,
		Expected:   max(first.Expected, second.Expected),
		Voters:     slices.Concat(first.Voters, second.Voters),
		Ineligible: cmp.Or(first.Ineligible, second.Ineligible),
		Blocked:    cmp.Or(first.Blocked, second.Blocked),
		BlockedBy:  first.BlockedBy,
		Withheld:   cmp.Or(first.Withheld, second.Withheld),
		Voter:      cmp.Or(first.Voter, second.Voter),
		Warning:    strings.Join(slices.DeleteFunc([]string{first.Warning, second.Warning}, func(s string) bool { return s == "" }), "; "),
	}
	if first.Blocked == "" {
		m.BlockedBy = second.BlockedBy
	}
	switch {
	case first.Holder == nil && second.Holder == nil:
	case second.Holder == nil:
		m.Holder, m.Term = first.Holder, first.Term
	case !heldBy(first, *second.Holder):
		m.Term = second.Term
		return m
	}
	m.Partial = first.Term != second.Term
	return m
}

// Suspect implements driver.Suspecter for those of the two that do.
func (b *both) Suspect(suspected bool) {
	for _, a := range []driver.Authority{b.first.Authority, b.second.Authority} {
		if s, ok := a.(driver.Suspecter); ok {
			s.Suspect(suspected)
		}
	}
}

// proofs are those of both halves, which each authority knows its own from.
func proofs(first, second driver.Grant) string {
	return strings.TrimSpace(first.Proof + " " + second.Proof)
}

// Learn hands each half its own proof: for an authority only the latest that it has learned
// counts, so that the other one's would hide it. One alone may be of either.
func (b *both) Learn(proof string) {
	first, second, two := strings.Cut(proof, " ")
	if !two {
		second = first
	}
	if l, ok := b.first.Authority.(driver.Learner); ok {
		l.Learn(first)
	}
	if l, ok := b.second.Authority.(driver.Learner); ok {
		l.Learn(second)
	}
}

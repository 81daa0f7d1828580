package mastership

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

// Joint returns an authority that grants only what both grant. It is how a cluster
// moves from the one to the other without ever having two masters: from {a} by way
// of {a, b} to {b}, each step a rolling change of all nodes. It owns both, and closes
// them.
//
// Why that is safe: a master of one step and a master of the next have an authority
// in common, which grants one at a time. It is Raft's argument for changing the voters
// by one.
//
// Why terms rise: a joint grant has one number, which both authorities have granted,
// as each raises its count to that of the other first. So two masters with an authority
// in common have different terms there, of which the later is the higher. A master of
// {b} that comes after a joint one counts on from its term; before there was a joint
// one, b knows nothing of the terms of a. So do not leave the middle step before a
// master was elected in it. Terms are not dense: a grant that came too low, or without
// the other, leaves a gap.
//
// A joint authority is no driver.Store: of two stores, neither has all the records.
func Joint(a, b Named) driver.Authority {
	// All nodes ask in the same order, whatever order they were told. Two candidates
	// that each hold one half would keep one another out.
	if b.Name < a.Name {
		a, b = b, a
	}
	return &joint{first: a, second: b, turn: make(chan struct{}, 1)}
}

type joint struct {
	first, second Named
	// turn is held by Acquire and Release: the elector may give up on a call and make
	// another, which must not meet the first one's cleaning up.
	turn chan struct{}
}

// jointToken is what Grant.Token holds: the two halves.
type jointToken struct{ first, second driver.Grant }

const (
	// levelTries bounds how often the counts of the two are brought level. Once is
	// enough unless others claim at the same time.
	levelTries = 4
	// halfTimeout bounds giving back one half where the other was refused. What is not
	// given back expires.
	halfTimeout = 2 * time.Second
)

// Acquire asks the first, then the second, and keeps neither alone.
func (j *joint) Acquire(ctx context.Context, c driver.Claim) (driver.Grant, error) {
	if err := j.takeTurn(ctx); err != nil {
		return driver.Grant{}, err
	}
	defer j.endTurn()
	c, err := j.informed(ctx, c)
	if err != nil {
		return driver.Grant{}, err
	}
	first, err := j.first.Authority.Acquire(ctx, c)
	if err != nil {
		return driver.Grant{}, j.first.failed(err)
	}
	// What the first records is the cluster's id by now.
	c.ClusterID, c.Known = first.ClusterID, true
	second, err := j.second.Authority.Acquire(ctx, c)
	if err != nil {
		j.giveBack(ctx, j.first, first)
		return driver.Grant{}, j.second.failed(err)
	}
	for range levelTries {
		if first.Term == second.Term {
			return driver.Grant{
				Term:      first.Term,
				ClusterID: first.ClusterID,
				// Each is counted from any moment before its call, and this call began
				// before both.
				ValidFor: min(first.ValidFor, second.ValidFor),
				Token:    jointToken{first, second},
			}, nil
		}
		low, who, high := &first, j.first, second.Term
		if second.Term < first.Term {
			low, who, high = &second, j.second, first.Term
		}
		if err = who.Authority.Release(ctx, *low); err == nil {
			c.MinTerm = high - 1
			*low, err = who.Authority.Acquire(ctx, c)
		}
		if err != nil {
			j.giveBack(ctx, j.first, first)
			j.giveBack(ctx, j.second, second)
			return driver.Grant{}, who.failed(err)
		}
	}
	j.giveBack(ctx, j.first, first)
	j.giveBack(ctx, j.second, second)
	return driver.Grant{}, fmt.Errorf("%w: %s and %s count their terms %d and %d, and do not come together",
		driver.ErrConflict, j.first.Name, j.second.Name, first.Term, second.Term)
}

// informed adds to c what either authority knows: the cluster's id, which the other
// may not have yet, and the highest term, so that both begin to count from there. It
// returns ErrConflict where either is held by another: to take the one in vain would raise
// its term above that of a master who stands.
func (j *joint) informed(ctx context.Context, c driver.Claim) (driver.Claim, error) {
	first, err := j.first.now(ctx)
	if err != nil {
		return c, err
	}
	second, err := j.second.now(ctx)
	if err != nil {
		return c, err
	}
	if first.ClusterID != "" && second.ClusterID != "" && first.ClusterID != second.ClusterID {
		return c, fmt.Errorf("%w: %s records cluster id %q and %s %q", driver.ErrClusterMismatch,
			j.first.Name, first.ClusterID, j.second.Name, second.ClusterID)
	}
	if id := cmp.Or(first.ClusterID, second.ClusterID); id != "" {
		if c.Known && c.ClusterID != id {
			return c, fmt.Errorf("%w: recorded is cluster id %q, this node's cluster has %q", driver.ErrClusterMismatch, id, c.ClusterID)
		}
		c.ClusterID, c.Known = id, true
	}
	for _, half := range []struct {
		Named
		driver.Mastership
	}{{j.first, first}, {j.second, second}} {
		if h := half.Holder; h != nil && !heldBy(half.Mastership, c.Holder) {
			return c, half.failed(fmt.Errorf("%w: %s is master with term %d", driver.ErrConflict, h.NodeID, half.Term))
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

// giveBack releases one half, also where ctx has ended.
func (j *joint) giveBack(ctx context.Context, n Named, g driver.Grant) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), halfTimeout)
	defer cancel()
	_ = n.Authority.Release(ctx, g) // it expires
}

// Renew renews both halves. Where it fails for one, the grant is valid for as long as
// it was, and the other half may be for longer.
func (j *joint) Renew(ctx context.Context, g driver.Grant) (driver.Grant, error) {
	t, err := jointTokenOf(g)
	if err != nil {
		return driver.Grant{}, err
	}
	var first, second driver.Grant
	err = j.both(
		func() (err error) { first, err = j.first.Authority.Renew(ctx, t.first); return err },
		func() (err error) { second, err = j.second.Authority.Renew(ctx, t.second); return err },
	)
	if err != nil {
		return driver.Grant{}, err
	}
	g.ValidFor, g.Token = min(first.ValidFor, second.ValidFor), jointToken{first, second}
	return g, nil
}

// Release gives both halves back.
func (j *joint) Release(ctx context.Context, g driver.Grant) error {
	t, err := jointTokenOf(g)
	if err != nil {
		return err
	}
	if err := j.takeTurn(ctx); err != nil {
		return err
	}
	defer j.endTurn()
	return j.both(
		func() error { return j.first.Authority.Release(ctx, t.first) },
		func() error { return j.second.Authority.Release(ctx, t.second) },
	)
}

// Close closes both.
func (j *joint) Close(ctx context.Context) error {
	return j.both(
		func() error { return j.first.Authority.Close(ctx) },
		func() error { return j.second.Authority.Close(ctx) },
	)
}

// both does one thing for each authority at the same time.
func (j *joint) both(first, second func() error) error {
	other := make(chan error, 1)
	go func() { other <- second() }()
	var errs []error
	if err := first(); err != nil {
		errs = append(errs, j.first.failed(err))
	}
	if err := <-other; err != nil {
		errs = append(errs, j.second.failed(err))
	}
	return errors.Join(errs...)
}

func (j *joint) takeTurn(ctx context.Context) error {
	select {
	case j.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", driver.ErrUnavailable, context.Cause(ctx))
	}
}

func (j *joint) endTurn() { <-j.turn }

func jointTokenOf(g driver.Grant) (jointToken, error) {
	t, ok := g.Token.(jointToken)
	if !ok {
		return jointToken{}, fmt.Errorf("%w: not a grant of two authorities", driver.ErrInvalid)
	}
	return t, nil
}

// Observe yields what the two say together, while neither fails.
func (j *joint) Observe(ctx context.Context) iter.Seq2[driver.Mastership, error] {
	return func(yield func(driver.Mastership, error) bool) {
		inner, cancel := context.WithCancel(ctx)
		var observing sync.WaitGroup
		defer observing.Wait()
		defer cancel()
		views := [2]chan view{make(chan view), make(chan view)}
		for i, n := range []Named{j.first, j.second} {
			observing.Go(func() {
				defer close(views[i])
				for m, err := range n.Authority.Observe(inner) {
					if err != nil {
						err = n.failed(err)
					}
					select {
					case views[i] <- view{m, err, true}:
					case <-inner.Done():
						return
					}
				}
			})
		}
		var seen [2]view
		var last view
		for {
			ok := false
			var which int
			var got view
			select {
			case got, ok = <-views[0]:
			case got, ok = <-views[1]:
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
			now := view{err: errors.Join(seen[0].err, seen[1].err), known: true}
			if now.err == nil {
				now.m = together(seen[0].m, seen[1].m)
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

// view is the last that one authority said.
type view struct {
	m     driver.Mastership
	err   error
	known bool
}

// together puts together what the first and the second say. Who holds the first alone
// is master where its node has not come to the second yet, or is about to ask for
// that. Who holds the second is master where its node has left the first: nobody asks for
// the second without the first otherwise.
//
// The term is one that the holder was granted, and the higher one where it holds both at
// two terms, as while they are brought level. The other authority's may be higher: a
// claimant has just taken that one, and is about to be refused by this. A master who
// saw its name with a term that it was not granted would take itself for superseded.
func together(first, second driver.Mastership) driver.Mastership {
	m := driver.Mastership{
		Term:       max(first.Term, second.Term),
		ClusterID:  cmp.Or(first.ClusterID, second.ClusterID),
		Holder:     second.Holder,
		Expected:   max(first.Expected, second.Expected),
		Voters:     slices.Concat(first.Voters, second.Voters),
		Ineligible: cmp.Or(first.Ineligible, second.Ineligible),
		Warning:    strings.Join(slices.DeleteFunc([]string{first.Warning, second.Warning}, func(s string) bool { return s == "" }), "; "),
	}
	switch {
	case first.Holder == nil && second.Holder == nil:
	case second.Holder == nil:
		m.Holder, m.Term = first.Holder, first.Term
	case !heldBy(first, *second.Holder):
		m.Term = second.Term
	}
	return m
}

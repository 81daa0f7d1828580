package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/musterhq/muster/node/history"
)

// leaveTimeout bounds Leave where its context has no deadline, and the end of a
// node that ends by itself.
const leaveTimeout = 15 * time.Second

// What the steps of leaving may take at most. Giving mastership up waits for the
// functions of WhileMaster besides.
const (
	resignTimeout     = 2 * time.Second
	deregisterTimeout = 3 * time.Second
	goodbyeTimeout    = 2 * time.Second
)

// Leave ends the node in good order: it stops being master and lets the functions
// of WhileMaster return before mastership is given back, takes the registrations
// away, says goodbye to the members and closes. It blocks until that is done or ctx
// ends (after 15 s where it has no deadline), and closes the node in any case: with
// a context that has ended already, the node goes without a word, and the others
// wait until its mastership and its registration lapse. A step that fails or hangs
// does not keep the next from being taken. What failed on the way is returned. Later
// calls wait for the first and return nil.
func (n *Node) Leave(ctx context.Context) error {
	var errs []error
	n.leaveOnce.Do(func() {
		if _, bounded := ctx.Deadline(); !bounded {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, leaveTimeout)
			defer cancel()
		}
		n.log.Info("node leaving")
		n.record(history.Record{Kind: history.Leaving})
		close(n.draining)
		n.wake() // no candidate any more
		errs = append(errs,
			step(ctx, "give mastership up", n.cfg.Mastership.DrainTimeout+resignTimeout, n.elector.Resign),
			step(ctx, "deregister", deregisterTimeout, n.deregister),
			step(ctx, "say goodbye to the members", goodbyeTimeout, n.members.Leave),
			n.close(ctx))
	})
	select {
	case <-n.done:
	case <-ctx.Done():
	}
	return errors.Join(errs...)
}

// step takes one step of leaving, for which it has most, and half of what is left
// of ctx: the steps after it are owed the rest.
func step(ctx context.Context, what string, most time.Duration, take func(context.Context) error) error {
	if deadline, ok := ctx.Deadline(); ok {
		most = min(most, time.Until(deadline)/2)
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	if err := take(ctx); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// end leaves because of err, which Err then returns.
func (n *Node) end(err error) {
	if n.isDraining() {
		return // what ends now was asked to
	}
	n.mu.Lock()
	if n.err == nil {
		n.err = err
	}
	n.mu.Unlock()
	n.log.Error("node ends", "err", err)
	// Not on this goroutine, which close waits for.
	go func() { _ = n.Leave(context.Background()) }()
}

// close stops whatever runs, in the reverse order of the start, and releases the
// port. Start calls it too, for what it has started when it fails.
func (n *Node) close(ctx context.Context) error {
	var errs []error
	n.cancel()
	n.wg.Wait()
	_ = n.deregister(ctx) // done, but where Start has failed
	if n.members != nil {
		errs = append(errs, n.members.Close())
	}
	if n.authority != nil {
		errs = append(errs, n.authority.Close(ctx))
	}
	if n.link != nil {
		errs = append(errs, n.link.Close())
	}
	n.record(history.Record{Kind: history.Stop})
	close(n.done)
	return errors.Join(errs...)
}

func (n *Node) isDraining() bool {
	select {
	case <-n.draining:
		return true
	default:
		return false
	}
}

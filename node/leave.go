package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/musterhq/muster/internal/within"
	"github.com/musterhq/muster/node/history"
)

// leaveTimeout, and twice the drain timeout (see step), bound Leave where its context has no
// deadline, and the end of a node that ends by itself.
const leaveTimeout = 15 * time.Second

// What the steps of leaving may take at most. Giving mastership up waits for the functions of
// WhileMaster as well. The goodbye is waited for up to 2 s, and what is queued for members is
// sent for half a second after that; the rest is for a machine that does a lot else. All
// together stay below the 10 s that container engines wait before they kill.
const (
	resignTimeout     = 2 * time.Second
	farewellTimeout   = 3 * time.Second
	deregisterTimeout = 3 * time.Second
	goodbyeTimeout    = 3500 * time.Millisecond
)

// Leave ends the node in good order: it stops being master and lets the functions
// of WhileMaster return before the grant is released, calls what OnLeave was given, takes the
// registrations away, says goodbye to the members and closes. It blocks until that is done or ctx
// ends (after 15 s where it has no deadline), and closes the node in any case: with
// a context that has ended already, the node ends without a goodbye, and the others
// wait until its mastership and its registration expire. A step that fails or hangs
// does not keep the next from being taken. What failed on the way is returned; where ctx
// ended first, its error, and what a provider or a function has not returned from is left
// behind: Done is closed once the port is free.
//
// Later calls change nothing about how the node leaves. They block until it has ended, and
// return nil, or until their own context ends, and return its error.
func (n *Node) Leave(ctx context.Context) error {
	first := false
	n.leaveOnce.Do(func() {
		first = true
		bounded, cancel := ctx, context.CancelFunc(func() {})
		if _, ok := ctx.Deadline(); !ok {
			bounded, cancel = context.WithTimeout(ctx, leaveTimeout+2*n.cfg.Mastership.DrainTimeout)
		}
		n.log.Info("node leaving")
		n.record(history.Record{Kind: history.Leaving})
		close(n.draining)
		n.notify() // no candidate any more
		go func() {
			defer cancel()
			n.leave(bounded)
		}()
		ctx = bounded
	})
	if err := within.Done(ctx, n.done); err != nil {
		return fmt.Errorf("node: left before all was done: %w", err)
	}
	if first {
		return n.leaveErr
	}
	return nil
}

// leave takes the steps of leaving, and closes the node.
func (n *Node) leave(ctx context.Context) {
	n.leaveErr = errors.Join(
		step(ctx, "give mastership up", n.cfg.Mastership.DrainTimeout+resignTimeout, n.elector.Resign),
		step(ctx, "call what OnLeave was given", farewellTimeout, n.farewells.call),
		step(ctx, "deregister", deregisterTimeout, n.deregister),
		step(ctx, "say goodbye to the members", goodbyeTimeout, n.members.Leave))
	n.leaveErr = errors.Join(n.leaveErr, n.close(ctx))
	close(n.done)
}

// step takes one step of leaving, for which it has most, and half of what is left
// of ctx: the steps after it are owed the rest.
func step(ctx context.Context, what string, most time.Duration, take func(context.Context) error) error {
	if deadline, ok := ctx.Deadline(); ok {
		most = min(most, time.Until(deadline)/2)
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	if err := within.Do(ctx, take); err != nil {
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
	n.log.Error("node ends", "error", err)
	// Not on this goroutine, which close waits for.
	go func() { _ = n.Leave(context.Background()) }()
}

// close stops whatever runs, in the reverse order of the start, and releases the
// port. Start calls it too, for what it has started when it fails.
func (n *Node) close(ctx context.Context) error {
	var errs []error
	n.cancel()
	n.port.close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		n.wg.Wait()
	}()
	_ = within.Done(ctx, ended) // what goes on meets a closed link
	n.alarms.Close()
	_ = n.deregister(ctx) // done, but where Start has failed
	if n.members != nil {
		errs = append(errs, n.members.Close())
	}
	if n.authority != nil {
		errs = append(errs, within.Do(ctx, n.authority.Close))
	}
	if n.link != nil {
		errs = append(errs, n.link.Close())
	}
	if n.cfg.Alone {
		errs = append(errs, n.cfg.Registries[0].Close())
	}
	n.record(history.Record{Kind: history.Stop})
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

package node

import (
	"context"
	"errors"
	"time"
)

// leaveTimeout bounds Leave where its context has no deadline, and the end of a
// node that ends by itself.
const leaveTimeout = 15 * time.Second

// Leave ends the node in good order: it stops being master and lets the functions
// of WhileMaster return before mastership is given back, takes the registration
// away, says goodbye to the members and closes. It blocks until that is done or ctx
// ends (after 15 s where it has no deadline), and closes the node in any case: with
// a context that has ended already, the node goes without a word, and the others
// wait until its mastership and its registration lapse. What failed on the way is
// returned. Later calls wait for the first and return nil.
func (n *Node) Leave(ctx context.Context) error {
	var errs []error
	n.leaveOnce.Do(func() {
		if _, bounded := ctx.Deadline(); !bounded {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, leaveTimeout)
			defer cancel()
		}
		n.log.Info("node leaving")
		close(n.draining)
		n.wake() // no candidate any more
		errs = append(errs,
			n.elector.Resign(ctx),
			n.registrar.Stop(ctx),
			n.members.Leave(ctx),
			n.close(ctx))
	})
	<-n.done
	return errors.Join(errs...)
}

// end leaves because of err, which Err then returns.
func (n *Node) end(err error) {
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
	if n.registrar != nil {
		errs = append(errs, n.registrar.Stop(ctx))
	}
	if n.members != nil {
		errs = append(errs, n.members.Close())
	}
	if n.authority != nil {
		errs = append(errs, n.authority.Close(ctx))
	}
	if n.link != nil {
		errs = append(errs, n.link.Close())
	}
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

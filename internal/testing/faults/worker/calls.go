package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/musterhq/muster/internal/testing/checker"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/call"
)

const (
	workMethod = "faults.Work"
	// untilTold is what a handler takes that waits for the end of its context, and tiredAfter when
	// it gives up on that.
	untilTold  = -1
	tiredAfter = 10 * time.Second
	// heldTimeout is the deadline of the calls whose handlers wait for it.
	heldTimeout = 500 * time.Millisecond
	// rememberFor is how old what a caller knows of the members may be: some may be gone.
	rememberFor = 3 * time.Second
)

// task is what a call asks for, and done what its handler answers.
type task struct {
	ID    string
	Takes time.Duration
}

type done struct {
	InstanceID string
	Term       uint64
}

// callWork are calls, to members and to the master, and the handlers that serve them.
type callWork struct {
	app  *application
	mesh *call.Mesh
	// every is how often there is one of each, timeout their deadline, and takes how long the
	// handlers of some take at most.
	every, timeout, takes time.Duration

	ids atomic.Uint64
}

// start is called before anybody calls this node.
func (w *callWork) start(ctx context.Context, log *slog.Logger) (err error) {
	if w.mesh, err = call.Open(w.app.node, call.Options{Logger: log}); err != nil {
		return err
	}
	call.Handle(w.mesh, workMethod, w.work)
	if err := w.mesh.Start(); err != nil {
		return err
	}
	w.app.done.Go(func() {
		var known []node.Member
		var since time.Time
		w.app.every(ctx, w.every, func() {
			members := w.app.node.View().Members
			if time.Since(since) > rememberFor {
				known, since = members, time.Now()
			}
			if rand.IntN(2) == 0 {
				members = known
			}
			if len(members) == 0 {
				return
			}
			to := members[rand.IntN(len(members))]
			if rand.IntN(3) == 0 {
				w.call(checker.Note{Name: checker.ToNode, To: to.NodeID}, w.mesh.Node(to.NodeID))
			} else {
				w.call(checker.Note{Name: checker.ToMember, To: to.InstanceID}, w.mesh.Member(to))
			}
		})
	})
	w.app.done.Go(func() {
		w.app.every(ctx, w.every, func() { w.call(checker.Note{Name: checker.ToMaster}, w.mesh.Master()) })
	})
	return nil
}

// call makes a call in a goroutine of its own. It is on record before it is made, and again with
// what it came to.
func (w *callWork) call(n checker.Note, to grpc.ClientConnInterface) {
	n.Value = fmt.Sprintf("%.8s-%d", w.app.node.InstanceID(), w.ids.Add(1))
	n.Again = rand.IntN(2) == 0
	t, timeout := task{ID: n.Value}, w.timeout
	switch rand.IntN(8) {
	case 0:
		t.Takes, timeout = untilTold, heldTimeout
	case 1, 2:
		t.Takes = rand.N(w.takes + 1)
	}
	n.Kind, n.BootNS = checker.CallBegin, now()
	n.DeadlineNS = n.BootNS + int64(timeout)
	w.app.note(n)
	w.app.done.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		if n.Again {
			ctx = call.Idempotent(ctx)
		}
		d, err := call.Invoke[done](ctx, to, workMethod, t)
		n.Kind, n.BootNS, n.OK = checker.CallEnd, now(), err == nil
		n.Result, n.MayHaveRun = resultOf(err), err == nil || call.MayHaveRun(err)
		n.Seen, n.SeenTerm = d.InstanceID, d.Term
		w.app.note(n)
	})
}

// work is the handler.
func (w *callWork) work(ctx context.Context, t task) (done, error) {
	n := checker.Note{Kind: checker.CallRun, BootNS: now(), Value: t.ID}
	if caller, ok := call.From(ctx); ok {
		n.Term, n.Caller = uint64(caller.Term), caller.InstanceID
	}
	w.app.note(n)
	if t.Takes == untilTold {
		t.Takes = tiredAfter
	}
	timer := time.NewTimer(t.Takes)
	defer timer.Stop()
	var err error
	select {
	case <-timer.C:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	n.Kind, n.BootNS, n.OK = checker.CallRan, now(), err == nil
	w.app.note(n)
	return done{w.app.node.InstanceID(), n.Term}, err
}

// resultOf names the result of a call, and "" is one that has no name.
func resultOf(err error) string {
	if err == nil {
		return "ok"
	}
	if e := (*call.Error)(nil); !errors.As(err, &e) {
		return checker.HandlerError
	}
	if errors.As(err, new(*call.NotMasterError)) {
		return "not master"
	}
	for _, named := range []error{
		call.ErrLeft, call.ErrUnreachable, call.ErrNotReady, call.ErrNoHandler, call.ErrOverloaded,
		call.ErrNoMaster, call.ErrUncertain, context.DeadlineExceeded, context.Canceled,
	} {
		if errors.Is(err, named) {
			return named.Error()
		}
	}
	return ""
}

package call

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/mastership"
)

// attempt is what is known of one attempt to make a call, beside the error that gRPC returns.
type attempt struct {
	peer *peer
	// sent says that the request is on its way: from then on the handler may run.
	sent atomic.Bool
	// trailer is what came back, with or without an answer. Nil: nothing did.
	trailer atomic.Pointer[metadata.MD]
}

type attemptKey struct{}

// tracker is the stats.Handler that notes into the attempt of a context what becomes of it.
type tracker struct{}

func (tracker) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (tracker) HandleRPC(ctx context.Context, s stats.RPCStats) {
	switch s.(type) {
	case *stats.Begin, *stats.OutHeader, *stats.InTrailer, *stats.End:
	default:
		return
	}
	a, ok := ctx.Value(attemptKey{}).(*attempt)
	if !ok {
		return
	}
	switch s := s.(type) {
	case *stats.Begin:
		a.peer.pending.Add(1)
		if s.IsTransparentRetryAttempt {
			// gRPC sends it again by itself: the other end has said that it did not look at it.
			a.sent.Store(false)
		}
	case *stats.OutHeader:
		a.sent.Store(true)
	case *stats.InTrailer:
		a.trailer.Store(&s.Trailer)
	case *stats.End:
		a.peer.pending.Add(-1)
	}
}

func (tracker) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (tracker) HandleConn(context.Context, stats.ConnStats) {}

// outcome is how the attempt ended, with the error that gRPC has returned.
func (a *attempt) outcome(ctx context.Context, p *peer, err error) outcome {
	if err == nil {
		return outcome{peer: p.to}
	}
	if md := a.trailer.Load(); md != nil {
		o := p.judge(*md, err)
		if over := ended(ctx); o.verdict == answered && over != nil && status.Code(err) == codeOf(over) {
			o.err = &Error{Err: over, Peer: p.to, MayHaveRun: true} // the handler noticed it first
		}
		return o
	}
	o := outcome{verdict: notRun, peer: p.to}
	if a.sent.Load() {
		o.verdict = mayHaveRun
	}
	e := &Error{Peer: p.to, MayHaveRun: a.sent.Load()}
	o.err = e
	switch closed := p.closed.Load(); {
	case closed != nil:
		e.Err = *closed
	case p.cut.Load():
		e.Err = ErrLeft
	case ended(ctx) != nil:
		e.Err = ended(ctx)
	case a.sent.Load():
		if status.Code(err) != codes.Unavailable {
			// It was broken off for another reason than the connection, as for a message that is
			// too large: the caller's own, or of the handler's.
			return outcome{verdict: answered, err: err, peer: p.to}
		}
		e.Err, e.detail = ErrUnreachable, status.Convert(err).Message()
	default:
		p.notSent(e, err)
	}
	return o
}

// ended is the error of a context that has ended, or is about to: the other end of a call may
// notice a deadline first.
func ended(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok && ctx.Err() == nil && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}

// notSent says why a call was not sent: no connection could be made.
func (p *peer) notSent(e *Error, err error) {
	dialed := p.dialErr.Load()
	if dialed == nil {
		e.Err, e.detail = ErrUnreachable, status.Convert(err).Message()
		return
	}
	switch e.detail = (*dialed).Error(); {
	case errors.Is(*dialed, node.ErrStopped):
		e.Err = errStopped
	case errors.Is(*dialed, ErrLeft):
		e.Err = ErrLeft
	case errors.Is(*dialed, node.ErrNoListener):
		e.Err = ErrNotReady
	default:
		e.Err = ErrUnreachable
	}
}

// judge is the outcome of an attempt to which the other end has answered with an error.
func (p *peer) judge(md metadata.MD, err error) outcome {
	e := &Error{Peer: p.to, detail: status.Convert(err).Message()}
	o := outcome{verdict: notRun, err: e, peer: p.to}
	switch markOf(md, p.to.InstanceID) {
	case markNotMaster:
		e.detail = ""
		if m, ok := masterIn(md); ok {
			o.master = masterAt{m.Term, m.InstanceID}
			e.Err = &NotMasterError{Master: &mastership.Holder{NodeID: m.NodeID, InstanceID: m.InstanceID, Addr: m.Addr}, Term: m.Term}
		} else {
			e.Err, e.detail = ErrNoMaster, "the node that was called is not master, and knows none"
		}
	case markNotReady:
		e.Err = ErrNotReady
	case markOverloaded:
		o.verdict, e.Err, e.detail = refused, ErrOverloaded, ""
	case markNoHandler:
		o.verdict, e.Err, e.detail = refused, ErrNoHandler, ""
	case markUncertain:
		o.verdict, e.Err, e.detail, e.MayHaveRun = mayHaveRun, ErrUncertain, "", true
	case markEnded:
		return outcome{verdict: mayHaveRun, err: err, peer: p.to}
	default:
		return outcome{verdict: answered, err: err, peer: p.to}
	}
	return o
}

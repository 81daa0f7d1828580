package call

import (
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/mastership"
)

// attempt is what is known of one attempt to make a call, beside the error that gRPC returns.
type attempt struct {
	peer *peer
	// from is who is at the other end of the connection on which the request was sent: from then
	// on the handler may run. gRPC sets it for each call that has got a stream, however it ended,
	// and sends a call again by itself only if the other end has said that it did not look at it.
	from grpcpeer.Peer
	// trailer is what came back, with or without an answer.
	trailer metadata.MD
}

// options are those of the caller, and those that note what becomes of the attempt.
func (a *attempt) options(options []grpc.CallOption) []grpc.CallOption {
	return append(slices.Clip(options), grpc.Peer(&a.from), grpc.Trailer(&a.trailer))
}

func (a *attempt) sent() bool { return a.from.AuthInfo != nil }

// outcome is how the attempt ended, with the error that gRPC has returned.
func (a *attempt) outcome(ctx context.Context, err error) outcome {
	p := a.peer
	if err == nil {
		return outcome{peer: p.to}
	}
	if mark := markOf(a.trailer, p.to.InstanceID); mark != "" {
		o := p.judge(mark, a.trailer, err)
		if over := ended(ctx); o.verdict == answered && over != nil && status.Code(err) == codeOf(over) {
			o.err = &Error{Err: over, Peer: p.to, MayHaveRun: true} // the handler noticed it first
		}
		return o
	}
	o := outcome{verdict: notRun, peer: p.to}
	if a.sent() {
		o.verdict = mayHaveRun
	}
	e := &Error{Peer: p.to, MayHaveRun: a.sent()}
	o.err = e
	code := status.Code(err)
	switch closed := p.closed.Load(); {
	case closed != nil:
		e.Err = *closed
	case p.cut.Load():
		e.Err = ErrLeft
	case ended(ctx) != nil:
		e.Err = ended(ctx)
	case a.sent():
		if code != codes.Unavailable {
			// Not the connection, but gRPC at one of the ends: a message that is too large, or that
			// cannot be read.
			return outcome{verdict: answered, err: err, peer: p.to}
		}
		e.Err, e.detail = ErrUnreachable, status.Convert(err).Message()
	case code != codes.Unavailable && code != codes.Canceled && code != codes.DeadlineExceeded:
		// gRPC, or what the caller has given it, has refused it here: it does so anywhere.
		o.verdict, e.Err = refused, err
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
func (p *peer) judge(mark string, md metadata.MD, err error) outcome {
	e := &Error{Peer: p.to, detail: status.Convert(err).Message()}
	o := outcome{verdict: notRun, err: e, peer: p.to}
	switch mark {
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

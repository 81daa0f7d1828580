package call

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/node"
)

// The results of a call that has no answer, to be tested with errors.Is. A call whose context ended
// is a context.DeadlineExceeded or a context.Canceled, and one that a node has rejected because it
// is not master is a *node.NotMasterError, to be had with errors.As. All other errors are those of
// the handler, as gRPC has them.
var (
	// ErrLeft means that the instance which was called is no member any more, or never was.
	ErrLeft = node.ErrLeft

	// ErrUnreachable means that no connection could be made, or that it broke during the call.
	ErrUnreachable = errors.New("unreachable")

	// ErrNotReady means that the member does not serve calls, not yet or not any longer.
	ErrNotReady = errors.New("not ready")

	// ErrNoHandler means that the member serves calls, and has no handler for this method.
	ErrNoHandler = errors.New("no handler for this method")

	// ErrOverloaded means that the member works on as many calls as it may: see Limit.
	ErrOverloaded = errors.New("overloaded")

	// ErrNoMaster means that no master became known until the deadline.
	ErrNoMaster = node.ErrNoMaster

	// ErrUncertain means that a handler of the master returned no error, and that the mastership
	// had ended before: what it did may be no effect of a master.
	ErrUncertain = errors.New("mastership ended during the call")

	// ErrNested means that Each was called in a handler: see AllowNested.
	ErrNested = errors.New("a handler calls all")
)

// NotMasterError says who is master instead, as far as the node knows that was called.
type NotMasterError = node.NotMasterError

// Error is how a call ended that has no answer, unless the handler itself returned an error. It has
// a status of gRPC: status.Code(err) and the like work.
type Error struct {
	// Err is the result, one of those of this package.
	Err error
	// Method is the one that was called, as /SERVICE/METHOD, and Peer the instance that it was
	// sent to last, if any.
	Method string
	Peer   node.Peer
	// MayHaveRun says that the handler may have run, or may run still: see the function of this
	// name.
	MayHaveRun bool

	detail string // what gRPC says
}

func (e *Error) Error() string {
	text := "call"
	if e.Method != "" {
		text += " " + e.Method
	}
	if e.Peer.NodeID != "" {
		text += " at " + e.Peer.NodeID
	}
	text += ": " + e.Err.Error()
	if e.detail != "" {
		text += ": " + e.detail
	}
	if e.MayHaveRun {
		return text + "; it may have run"
	}
	return text + "; it has not run"
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// GRPCStatus is for package status of gRPC.
func (e *Error) GRPCStatus() *status.Status { return status.New(codeOf(e.Err), e.Error()) }

// codeOf returns the code of gRPC that is nearest to a result. One that callers often take as
// leave to send a call again belongs to none that may have run, but for those of a connection.
func codeOf(err error) codes.Code {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	case errors.Is(err, ErrNoHandler):
		return codes.Unimplemented
	case errors.Is(err, ErrOverloaded):
		return codes.ResourceExhausted
	case errors.Is(err, ErrUncertain):
		return codes.Unknown
	case errors.Is(err, ErrNested), errors.As(err, new(*NotMasterError)):
		return codes.FailedPrecondition
	}
	if s, ok := err.(interface{ GRPCStatus() *status.Status }); ok {
		return s.GRPCStatus().Code() // refused by gRPC before it was sent
	}
	return codes.Unavailable
}

// MayHaveRun reports whether the handler may have run, or may run still, of a call that ended with
// err. If it is false no handler has seen the call, nor will: it can be made again, elsewhere too,
// without being done twice. If it is true it is not known, unless err is nil or an error of the
// handler: then the handler did run. It is true for errors that are not of a call.
func MayHaveRun(err error) bool {
	if e := (*Error)(nil); errors.As(err, &e) {
		return e.MayHaveRun
	}
	return true
}

// result names how err ended a call, for metrics: one word each, and "ok" for nil.
func result(err error) string {
	if err == nil {
		return "ok"
	}
	e := (*Error)(nil)
	if !errors.As(err, &e) {
		return "error"
	}
	switch {
	case errors.Is(err, ErrLeft):
		return "left"
	case errors.Is(err, context.DeadlineExceeded):
		return "deadline"
	case errors.Is(err, context.Canceled):
		return "cancelled"
	case errors.Is(err, ErrNotReady):
		return "not_ready"
	case errors.Is(err, ErrNoHandler):
		return "no_handler"
	case errors.Is(err, ErrOverloaded):
		return "overloaded"
	case errors.Is(err, ErrNoMaster):
		return "no_master"
	case errors.Is(err, ErrUncertain):
		return "uncertain"
	case errors.Is(err, ErrNested):
		return "nested"
	case errors.As(err, new(*NotMasterError)):
		return "not_master"
	}
	if _, ok := e.Err.(interface{ GRPCStatus() *status.Status }); ok {
		return "error"
	}
	return "unreachable"
}

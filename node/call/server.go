package call

import (
	"context"
	"errors"
	"runtime/debug"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/mastership"
)

// Caller is who has made the call that a handler serves.
type Caller struct {
	// Peer is the instance that calls. Without TLS it may be any; see node.Peer.
	node.Peer
	// Term is that of the mastership in which this node serves a call to the master: attach it to
	// effects outside of the process. 0: the call was not to the master.
	Term node.Term
}

// From returns who calls, in the context of a handler or one derived from it. It reports false in
// any other.
func From(ctx context.Context) (Caller, bool) {
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return Caller{}, false
	}
	info, ok := p.AuthInfo.(peerInfo)
	if !ok {
		return Caller{}, false
	}
	c := Caller{Peer: info.peer}
	if token, ok := mastership.TokenFrom(ctx); ok {
		c.Term = token.Term
	}
	return c, true
}

func (m *Mesh) serveUnary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (answer any, _ error) {
	began := time.Now()
	md, err := m.serve(ctx, info.FullMethod, func(ctx context.Context) (err error) {
		answer, err = handler(ctx, request)
		return err
	})
	m.served.add(info.FullMethod, resultOf(md, err), time.Since(began))
	if err != nil {
		_ = grpc.SetTrailer(ctx, md) // which fails in no handler
	}
	return answer, err
}

func (m *Mesh) serveStream(service any, s grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	began := time.Now()
	md, err := m.serve(s.Context(), info.FullMethod, func(ctx context.Context) error {
		return handler(service, &serverStream{s, ctx})
	})
	m.served.add(info.FullMethod, resultOf(md, err), time.Since(began))
	if err != nil {
		s.SetTrailer(md)
	}
	return err
}

// serverStream is a stream with the context of its handler.
type serverStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *serverStream) Context() context.Context { return s.ctx }

// errUnknown is that of serveUnknown.
var errUnknown = &refusal{markNoHandler, codes.Unimplemented, ErrNoHandler.Error()}

// serve runs the handler of a call if it may be run here and now, and returns its error, and what
// is to be in the trailer.
func (m *Mesh) serve(ctx context.Context, method string, handler func(context.Context) error) (metadata.MD, error) {
	if err := ctx.Err(); err != nil {
		return nil, status.FromContextError(err).Err() // nobody waits for it
	}
	if !m.running.enter() {
		return m.mark(markNotReady, nil), status.Error(codes.Unavailable, "the node is leaving")
	}
	defer m.running.leave()
	claimed := metadata.ValueFromIncomingContext(ctx, termKey)
	if len(claimed) == 0 && m.options.Forward[serviceOf(method)].OnlyMaster {
		claimed = []string{"0"}
	}
	switch {
	case len(claimed) > 1:
		return m.mark(markFailed, nil), status.Errorf(codes.InvalidArgument, "%d values of %s", len(claimed), termKey)
	case len(claimed) == 1 && m.rules.check && !m.isMaster():
		return m.notMaster() // before it waits for a place here
	}
	limit := m.limits.of(method)
	switch err := limit.enter(ctx); {
	case err == ErrOverloaded:
		return m.mark(markOverloaded, nil), status.Error(codes.ResourceExhausted, ErrOverloaded.Error())
	case err != nil:
		return nil, status.FromContextError(err).Err()
	}
	defer limit.leave()
	ctx, release, err := m.enterCap(ctx, method)
	switch {
	case errors.Is(err, errStopped):
		return m.mark(markNotReady, nil), status.Error(codes.Unavailable, "the node is leaving")
	case ctx.Err() != nil:
		return nil, status.FromContextError(ctx.Err()).Err()
	case err != nil:
		return m.mark(markOverloaded, nil), status.Error(codes.FailedPrecondition, err.Error())
	}
	defer release()
	var md metadata.MD
	if len(claimed) > 0 {
		md, err = m.serveMaster(ctx, claimed[0], handler)
	} else {
		err = m.contain(ctx, handler)
	}
	if r, ok := err.(*refusal); ok {
		return m.mark(r.mark, nil), status.Error(r.code, r.text)
	}
	if err != nil && md == nil {
		md = m.mark(markFailed, nil)
	}
	return md, err
}

// serveMaster is serve for a call to the master.
func (m *Mesh) serveMaster(ctx context.Context, claimed string, handler func(context.Context) error) (metadata.MD, error) {
	term, err := strconv.ParseUint(claimed, 10, 64)
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "%s: %v", termKey, err)
	}
	g, ok := m.enter(node.Term(term))
	if !ok {
		return m.notMaster()
	}
	defer g.running.leave()
	bound := &masterContext{Context: ctx, grant: g.ctx}
	defer bound.release()
	err = m.contain(bound, handler)
	if _, ok := err.(*refusal); ok {
		return nil, err
	}
	uncertain := err == nil
	ended, err := m.rules.settle(g.token.Check() == nil, err)
	switch {
	case ended && uncertain:
		return m.mark(markUncertain, nil), status.Error(codes.Unknown, err.Error())
	case ended:
		return m.mark(markEnded, nil), err
	}
	return nil, err
}

// notMaster is the answer of a node that is not master.
func (m *Mesh) notMaster() (metadata.MD, error) {
	return m.mark(markNotMaster, m.otherMaster()), status.Error(codes.FailedPrecondition, mastership.ErrNotMaster.Error())
}

func (m *Mesh) mark(mark string, master *namedMaster) metadata.MD {
	return trailer(mark, m.node.InstanceID(), master)
}

// otherMaster is the master that this node names, if it is not itself.
func (m *Mesh) otherMaster() *namedMaster {
	named, ok := m.node.Master()
	if !ok || named.InstanceID == m.node.InstanceID() {
		return nil
	}
	return &namedMaster{named.Term, named.NodeID, named.InstanceID, named.Addr}
}

// contain runs a handler, and makes an error of its panic.
func (m *Mesh) contain(ctx context.Context, handler func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			method, _ := grpc.Method(ctx)
			m.log.Error("handler panicked", "method", method, "error", p, "stack", string(debug.Stack()))
			err = status.Errorf(codes.Internal, "panic: %v", p)
		}
	}()
	return handler(ctx)
}

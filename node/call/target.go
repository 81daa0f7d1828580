package call

import (
	"context"
	"errors"
	"io"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/internal/backoff"
	"github.com/musterhq/muster/node"
)

// Idempotent returns a context whose calls may be sent again after they may have run: to do them
// twice does no harm. It says nothing about calls that the handler makes.
func Idempotent(ctx context.Context) context.Context {
	return context.WithValue(ctx, idempotentKey{}, true)
}

type idempotentKey struct{}

func isIdempotent(ctx context.Context) bool { return ctx.Value(idempotentKey{}) != nil }

// Node returns the way to a node: each call is for the instance that is a member under this id when
// it begins, and for no later one. If there is none it ends at once with ErrLeft, and if that
// instance departs meanwhile, at once as well. It is sent once.
func (m *Mesh) Node(id string) grpc.ClientConnInterface {
	return counted{target{m, func() (*peer, error) {
		member, ok := byID(m.node.View(), id)
		if !ok {
			return nil, ErrLeft
		}
		return m.peer(member.InstanceID)
	}}, m}
}

// Member is Node for the instance that to is, also when the call is made later: once that has
// departed it is ErrLeft.
func (m *Mesh) Member(to node.Member) grpc.ClientConnInterface {
	return counted{target{m, func() (*peer, error) { return m.peer(to.InstanceID) }}, m}
}

// target is the way to one instance, which find returns for each call.
type target struct {
	mesh *Mesh
	find func() (*peer, error)
}

func (t target) Invoke(ctx context.Context, method string, args, reply any, options ...grpc.CallOption) error {
	ctx, cancel := t.mesh.bound(ctx)
	defer cancel()
	p, err := t.find()
	if err != nil {
		return wrap(method, err, false)
	}
	o := p.invoke(ctx, method, args, reply, options)
	return wrap(method, o.err, o.verdict == mayHaveRun)
}

func (t target) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, options ...grpc.CallOption) (grpc.ClientStream, error) {
	p, err := t.find()
	if err != nil {
		return nil, wrap(method, err, false)
	}
	s, o := p.stream(ctx, desc, method, options)
	if o.err != nil {
		return nil, wrap(method, o.err, o.verdict == mayHaveRun)
	}
	return s, nil
}

// Master returns the way to the master. A call is sent to the master that this node knows, and goes
// on to the next one for as long as it provably has not run; with Idempotent also if it may have.
// Without a master it waits for one. The handler is run if its node is master at that moment, and
// its context ends with the mastership. If that has ended before the handler returned, the call
// ends with the handler's error, or with ErrUncertain.
//
// A stream is opened at one master. If that refuses it, Recv returns the error.
func (m *Mesh) Master() grpc.ClientConnInterface { return counted{masterTarget{m}, m} }

type masterTarget struct{ mesh *Mesh }

func (t masterTarget) Invoke(ctx context.Context, method string, args, reply any, options ...grpc.CallOption) error {
	ctx, cancel := t.mesh.bound(ctx)
	defer cancel()
	return t.mesh.follows(ctx, method, func(ctx context.Context, p *peer) outcome {
		return p.invoke(ctx, method, args, reply, options)
	})
}

func (t masterTarget) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, options ...grpc.CallOption) (grpc.ClientStream, error) {
	var opened grpc.ClientStream
	err := t.mesh.follows(ctx, method, func(ctx context.Context, p *peer) (o outcome) {
		opened, o = p.stream(ctx, desc, method, options)
		return o
	})
	if err != nil {
		return nil, err
	}
	return opened, nil
}

// Between two attempts at one master.
const (
	minPause = 10 * time.Millisecond
	maxPause = 250 * time.Millisecond
)

// follows makes a call to the master with one attempt, or several.
func (m *Mesh) follows(ctx context.Context, method string, try func(context.Context, *peer) outcome) error {
	r := route{idempotent: isIdempotent(ctx), rules: m.rules}
	pauses := backoff.Backoff{Min: minPause, Max: maxPause}
	var changed <-chan struct{} // nil: no news can be missed, as nothing was waited for yet
	next := r.look(m.known())
	for !next.over {
		if next.send != (masterAt{}) {
			next = r.ended(m.tryMaster(ctx, next.send, try))
			if !next.over && ended(ctx) == nil {
				next = r.look(m.known())
			}
			if next.over || next.send != (masterAt{}) {
				continue
			}
		}
		if changed == nil {
			changed = m.news.next()
			if next = r.look(m.known()); next.send != (masterAt{}) {
				continue // it has changed since it was looked at
			}
		}
		pause := time.NewTimer(pauses.Next())
		select {
		case <-changed:
			changed = m.news.next()
			next = r.look(m.known())
		case <-pause.C:
			next = r.paused(m.known())
		case <-ctx.Done():
			next = r.expired(ctx.Err(), errors.Is(ctx.Err(), context.Canceled))
		case <-m.ctx.Done():
			next = r.end(errStopped)
		}
		pause.Stop()
	}
	return wrap(method, next.err, next.mayHaveRun)
}

// known is the mastership that this node knows of.
func (m *Mesh) known() masterAt {
	if named := m.node.View().Master; named != nil {
		return masterAt{named.Term, named.InstanceID}
	}
	return masterAt{}
}

// tryMaster makes one attempt at a master.
func (m *Mesh) tryMaster(ctx context.Context, to masterAt, try func(context.Context, *peer) outcome) outcome {
	p, err := m.peer(to.instance)
	if err != nil {
		return outcome{verdict: notRun, err: err}
	}
	return try(context.WithValue(ctx, claimKey{}, to.term), p)
}

// claimKey has the term of a call to the master.
type claimKey struct{}

// outgoing returns ctx with our own metadata alone beside that of the caller, who may have taken
// over all that a call of another had: a handler that passes on what it got.
func outgoing(ctx context.Context) context.Context {
	md, ok := metadata.FromOutgoingContext(ctx) // a copy
	term, toMaster := ctx.Value(claimKey{}).(node.Term)
	if !ok && !toMaster {
		return ctx
	}
	if md == nil {
		md = metadata.MD{}
	}
	maps.DeleteFunc(md, func(key string, _ []string) bool { return strings.HasPrefix(key, ownKeys) })
	if toMaster {
		md.Set(termKey, strconv.FormatUint(uint64(term), 10))
		ctx = context.WithValue(ctx, claimKey{}, nil) // it is not for calls that an interceptor makes
	}
	return metadata.NewOutgoingContext(ctx, md)
}

// bound gives a call its deadline.
func (m *Mesh) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if !m.rules.deadline {
		return context.WithoutCancel(ctx), func() {}
	}
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, m.options.Timeout)
}

// invoke makes one attempt.
func (p *peer) invoke(ctx context.Context, method string, args, reply any, options []grpc.CallOption) outcome {
	p.pending.Add(1)
	defer p.pending.Add(-1)
	a := attempt{peer: p}
	err := p.conn.Invoke(outgoing(ctx), method, args, reply, a.options(options)...)
	return a.outcome(ctx, err)
}

// stream opens a stream, and reports why if it does not.
func (p *peer) stream(ctx context.Context, desc *grpc.StreamDesc, method string, options []grpc.CallOption) (grpc.ClientStream, outcome) {
	p.pending.Add(1)
	over := sync.OnceFunc(func() { p.pending.Add(-1) })
	a := &attempt{peer: p}
	s, err := p.conn.NewStream(outgoing(ctx), desc, method, append(a.options(options), grpc.OnFinish(func(error) { over() }))...)
	if err != nil {
		over()
		return nil, a.outcome(ctx, err)
	}
	return &clientStream{ClientStream: s, ctx: ctx, attempt: a, method: method}, outcome{peer: p.to}
}

// clientStream is a stream whose errors are those of this package.
type clientStream struct {
	grpc.ClientStream
	ctx     context.Context
	attempt *attempt
	method  string

	once sync.Once
	err  error
}

func (s *clientStream) Header() (metadata.MD, error) {
	md, err := s.ClientStream.Header()
	return md, s.ended(err)
}

func (s *clientStream) SendMsg(m any) error { return s.ended(s.ClientStream.SendMsg(m)) }

func (s *clientStream) RecvMsg(m any) error { return s.ended(s.ClientStream.RecvMsg(m)) }

// ended returns the error of this package for one of gRPC: the same each time.
func (s *clientStream) ended(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	s.once.Do(func() {
		o := s.attempt.outcome(s.ctx, err)
		s.err = wrap(s.method, o.err, o.verdict == mayHaveRun)
	})
	return s.err
}

// wrap returns err as callers get it: errors of the handler, which have a status of gRPC, as they
// are, and all others as an Error.
func wrap(method string, err error, mayHaveRun bool) error {
	if err == nil {
		return nil
	}
	if e, ok := err.(*Error); ok {
		e := *e
		e.Method, e.MayHaveRun = method, mayHaveRun || e.MayHaveRun
		return &e
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return &Error{Err: err, Method: method, MayHaveRun: mayHaveRun}
}

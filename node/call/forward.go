package call

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/internal/backoff"
)

// Forward is a service that another program serves, as one beside the node: calls of members to it
// are passed on as they are, whatever their messages, with their metadata, deadlines and streams. A
// call for which no stream to the program can be opened ends with ErrNotReady: nothing has run.
//
// The program finds in the metadata of each call who makes it, in ForwardNode and ForwardInstance,
// and in ForwardTerm the term in which this node serves a call to the master. A caller cannot set
// these.
type Forward struct {
	// To is the way to the program, such as a *grpc.ClientConn.
	To grpc.ClientConnInterface
	// OnlyMaster has the service served by the master alone: a call to a member that is not ends
	// with a *NotMasterError, whichever way it came, and the context of one that is served ends
	// with the mastership.
	OnlyMaster bool
}

// What the calls that are passed on to a program have in their metadata.
const (
	ForwardNode     = "muster-caller-node"
	ForwardInstance = "muster-caller-instance"
	ForwardTerm     = "muster-run-term"
)

// ownKeys begins the keys of metadata that only this package sets.
const ownKeys = "muster-"

// refusal is the error of a handler that has not run.
type refusal struct {
	mark string
	code codes.Code
	text string
}

func (r *refusal) Error() string { return r.text }

// addForwards registers the services that other programs serve, so that they are announced.
func (m *Mesh) addForwards() error {
	for service, f := range m.options.Forward {
		if f.To == nil || service == "" || strings.ContainsAny(service, "/ ") {
			return fmt.Errorf("call: forward %q: want a name without slashes and spaces, and To", service)
		}
		m.server.RegisterService(&grpc.ServiceDesc{ServiceName: service, HandlerType: (*any)(nil)}, nil)
	}
	return nil
}

// serveUnknown is the handler of all methods that have none: of those that are passed on, too.
func (m *Mesh) serveUnknown(_ any, in grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(in)
	f, ok := m.options.Forward[serviceOf(method)]
	if !ok {
		return errUnknown
	}
	md := forwarded(in.Context())
	if c, ok := From(in.Context()); ok {
		md.Set(ForwardNode, c.NodeID)
		md.Set(ForwardInstance, c.InstanceID)
		if c.Term > 0 {
			md.Set(ForwardTerm, strconv.FormatUint(uint64(c.Term), 10))
		}
	}
	r := relay{in: in, method: method, to: f.To, md: md}
	err := r.run()
	if r.opened || err == nil || in.Context().Err() != nil {
		return err
	}
	return &refusal{markNotReady, codes.Unavailable, "the program that serves it does not answer: " + status.Convert(err).Message()}
}

// Forwarding returns the options of a server of gRPC without services of its own, all calls to
// which go to the node of that id, or to the master if it is empty: by it programs in any language
// call members, and tools such as grpcurl. Who may connect to it is for the caller to say, as with
// the listener. A call to the master that provably has not run goes on to the next one.
//
// Where a call has no answer and no error of the handler, the trailer has the result in
// ForwardResult, and in ForwardMayHaveRun whether the handler may have run.
func (m *Mesh) Forwarding(id string) []grpc.ServerOption {
	to := m.Master()
	if id != "" {
		to = m.Node(id)
	}
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{}),
		grpc.UnknownServiceHandler(func(_ any, in grpc.ServerStream) error {
			method, _ := grpc.MethodFromServerStream(in)
			r := relay{in: in, method: method, to: to, md: forwarded(in.Context()), again: id == ""}
			err := r.run()
			if e := (*Error)(nil); errors.As(err, &e) {
				in.SetTrailer(metadata.Pairs(ForwardResult, result(err), ForwardMayHaveRun, strconv.FormatBool(e.MayHaveRun)))
			}
			return err
		}),
	}
}

// What the trailer has of a call by way of Mesh.Forwarding: the result is one of left, unreachable,
// deadline, cancelled, not_ready, no_handler, overloaded, not_master, no_master and uncertain.
const (
	ForwardResult     = "muster-result"
	ForwardMayHaveRun = "muster-may-have-run"
)

// forwarded is the metadata with which a call is passed on.
func forwarded(ctx context.Context) metadata.MD {
	md, _ := metadata.FromIncomingContext(ctx)
	return passing(md.Copy())
}

// passing is md without what belongs to one connection, or to this package.
func passing(md metadata.MD) metadata.MD {
	for key := range md {
		if strings.HasPrefix(key, ownKeys) || key == "grpc-accept-encoding" || key == "content-type" {
			delete(md, key)
		}
	}
	return md
}

// keepMost bounds, in bytes, what is kept of the messages of a call, so that they can be sent to
// another master: a message of the greatest size, and what goes with it.
const keepMost = 5 << 20

// relay is one call that is passed on.
type relay struct {
	in     grpc.ServerStream
	method string
	to     grpc.ClientConnInterface
	md     metadata.MD // what is sent on
	again  bool        // what has not run is sent again

	opened   bool // a stream was
	requests chan *frame
	failed   error // why the requests have ended, nil if in order; valid once requests is closed

	// These are of the pump that goes on, and of the next one.
	kept     []*frame
	keptSize int
	half     bool // all requests have come
	lost     bool // kept are not all that came
	answered atomic.Bool
}

// run passes the call on, and returns how it has ended.
func (r *relay) run() error {
	ctx, cancel := context.WithCancel(r.in.Context())
	defer cancel()
	r.requests = make(chan *frame)
	go r.read(ctx)
	pauses := backoff.Backoff{Min: minPause, Max: maxPause}
	for {
		err := r.attempt(ctx)
		if e := (*Error)(nil); !r.again || r.lost || r.answered.Load() || !errors.As(err, &e) || !e.repeatable() {
			return err
		}
		pause := time.NewTimer(pauses.Next())
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return err
		}
	}
}

// repeatable reports whether a call has not run, and may at another master.
func (e *Error) repeatable() bool {
	if e.MayHaveRun {
		return false
	}
	switch result(e) {
	case "left", "unreachable", "not_ready", "not_master", "no_master":
		return !errors.Is(e, errStopped)
	}
	return false
}

// read takes the requests from the caller. It ends with the call.
func (r *relay) read(ctx context.Context) {
	defer close(r.requests)
	for {
		f := new(frame)
		switch err := r.in.RecvMsg(f); {
		case err == io.EOF:
			return
		case err != nil:
			r.failed = err
			return
		}
		select {
		case r.requests <- f:
		case <-ctx.Done():
			return
		}
	}
}

// attempt makes one stream of the call.
func (r *relay) attempt(ctx context.Context) error {
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(ctx, r.md))
	defer cancel()
	desc := &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	out, err := r.to.NewStream(ctx, desc, r.method, grpc.ForceCodecV2(codec{subtypeOf(r.in.Context())}))
	if err != nil {
		return err
	}
	r.opened = true
	pumped := make(chan struct{})
	go func() {
		defer close(pumped)
		r.pump(ctx, cancel, out)
	}()
	err = r.answers(out)
	cancel()
	<-pumped
	return err
}

// pump passes the requests on, those before that were kept first.
func (r *relay) pump(ctx context.Context, cancel context.CancelFunc, out grpc.ClientStream) {
	for _, f := range r.kept {
		if out.SendMsg(f) != nil {
			return // RecvMsg returns why
		}
	}
	for !r.half {
		select {
		case f, open := <-r.requests:
			if !open && r.failed != nil {
				cancel()
				return
			}
			if !open {
				r.half = true
				break
			}
			r.keep(f)
			if out.SendMsg(f) != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
	_ = out.CloseSend() // which never fails
}

func (r *relay) keep(f *frame) {
	r.keptSize += len(f.data)
	if !r.again || r.answered.Load() || r.keptSize > keepMost {
		r.kept, r.lost = nil, true
		return
	}
	r.kept = append(r.kept, f)
}

// answers passes back what comes, and returns how the stream has ended.
func (r *relay) answers(out grpc.ClientStream) error {
	header, err := out.Header()
	if err == nil && header != nil {
		r.answered.Store(true)
		if err := r.in.SendHeader(passing(header.Copy())); err != nil {
			return err
		}
	}
	for {
		f := new(frame)
		if err = out.RecvMsg(f); err != nil {
			break
		}
		r.answered.Store(true)
		if err := r.in.SendMsg(f); err != nil {
			return err
		}
	}
	r.in.SetTrailer(passing(out.Trailer().Copy()))
	if err == io.EOF {
		return nil
	}
	return err
}

// frame is a message as it travels.
type frame struct{ data []byte }

// codec passes frames as they are, and all else as gRPC does.
type codec struct{ subtype string }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	if f, ok := v.(*frame); ok {
		return mem.BufferSlice{mem.SliceBuffer(f.data)}, nil
	}
	return encoding.GetCodecV2("proto").Marshal(v)
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	if f, ok := v.(*frame); ok {
		f.data = data.Materialize()
		return nil
	}
	return encoding.GetCodecV2("proto").Unmarshal(data, v)
}

// Name is the subtype of the content, which is part of its type unless it is empty.
func (c codec) Name() string { return c.subtype }

// subtypeOf is what the content type of a call says of its messages.
func subtypeOf(ctx context.Context) string {
	const kind = "application/grpc"
	for _, v := range metadata.ValueFromIncomingContext(ctx, "content-type") {
		if rest, ok := strings.CutPrefix(strings.ToLower(v), kind); ok {
			return strings.TrimLeft(rest, "+;")
		}
	}
	return ""
}

package call_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/call"
	"github.com/musterhq/muster/node/nodetest"
)

const (
	echoService = "test.v1.Echo"
	echoMethod  = "/" + echoService + "/Talk"
	failMethod  = "/" + echoService + "/Fail"
	hangMethod  = "/" + echoService + "/Hang"
)

// program is one beside a node, with a service of gRPC of its own.
type program struct {
	addr    string
	stop    func()
	hanging chan struct{}
	noticed chan struct{} // a call of hangMethod has ended with its context
	runs    atomic.Int64
}

func startProgram(t *testing.T) *program {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &program{addr: l.Addr().String(), hanging: make(chan struct{}, 10), noticed: make(chan struct{}, 10)}
	server := grpc.NewServer()
	stream := func(name string, handler grpc.StreamHandler) grpc.StreamDesc {
		return grpc.StreamDesc{StreamName: name, Handler: handler, ServerStreams: true, ClientStreams: true}
	}
	server.RegisterService(&grpc.ServiceDesc{ServiceName: echoService, HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{
		stream("Talk", func(_ any, s grpc.ServerStream) error {
			p.runs.Add(1)
			md, _ := metadata.FromIncomingContext(s.Context())
			header := metadata.MD{}
			for _, key := range []string{"user-key", "user-bin", "muster-term", call.ForwardNode, call.ForwardInstance, call.ForwardTerm} {
				for _, v := range md[key] {
					header.Append("saw-"+key, v)
				}
			}
			if deadline, ok := s.Context().Deadline(); ok {
				header.Set("saw-deadline", time.Until(deadline).String())
			}
			if err := s.SendHeader(header); err != nil {
				return err
			}
			s.SetTrailer(metadata.Pairs("the-end", "yes", "muster-mark", "not-ready"))
			for {
				m := new(wrapperspb.StringValue)
				if err := s.RecvMsg(m); err == io.EOF {
					return nil
				} else if err != nil {
					return err
				}
				if err := s.SendMsg(wrapperspb.String("echo of " + m.Value)); err != nil {
					return err
				}
			}
		}),
		stream("Fail", func(any, grpc.ServerStream) error {
			p.runs.Add(1)
			s, err := status.New(codes.AlreadyExists, "as asked").WithDetails(durationpb.New(time.Hour))
			if err != nil {
				return err
			}
			return s.Err()
		}),
		stream("Hang", func(_ any, s grpc.ServerStream) error {
			p.hanging <- struct{}{}
			<-s.Context().Done()
			p.noticed <- struct{}{}
			return s.Context().Err()
		}),
	}}, nil)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	p.stop = sync.OnceFunc(func() {
		server.Stop()
		serving.Wait()
	})
	t.Cleanup(p.stop)
	return p
}

// conn is one of plain gRPC.
func conn(t *testing.T, addr string) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// startForwarding has a node pass the calls of a service on to a program.
func startForwarding(t *testing.T, n *node.Node, addr string, onlyMaster bool) *call.Mesh {
	t.Helper()
	m, err := call.Open(n, call.Options{Forward: map[string]call.Forward{echoService: {To: conn(t, addr), OnlyMaster: onlyMaster}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	call.Handle(m, "who", func(context.Context, struct{}) (string, error) { return n.InstanceID(), nil })
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	return m
}

// serveForwarding is a plain listener whose calls go to a node, or to the master.
func serveForwarding(t *testing.T, m *call.Mesh, id string) *grpc.ClientConn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(m.Forwarding(id)...)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() {
		server.Stop()
		serving.Wait()
	})
	return conn(t, l.Addr().String())
}

func talk(ctx context.Context, c grpc.ClientConnInterface, text string, options ...grpc.CallOption) (string, error) {
	out := new(wrapperspb.StringValue)
	err := c.Invoke(ctx, echoMethod, wrapperspb.String(text), out, options...)
	return out.Value, err
}

// A program beside a node is called as if it were the node itself: with streams, metadata,
// deadlines, cancellation and the status, and it knows who calls.
func TestForward(t *testing.T) {
	t.Parallel()
	cluster := nodetest.Start(t, 2)
	a, b := cluster.Nodes()[0], cluster.Nodes()[1]
	p := startProgram(t)
	ma, mb := startForwarding(t, a, p.addr, false), startForwarding(t, b, p.addr, false)
	to := ma.Node(b.ID())
	ctx, cancel := context.WithTimeout(wait.Context(t), time.Minute)
	defer cancel()

	ctx = metadata.AppendToOutgoingContext(ctx, "user-key", "1", "user-key", "2", "user-bin", "\x00\xff",
		call.ForwardTerm, "7", call.ForwardNode, "another") // which nobody believes
	var header, trailer metadata.MD
	got, err := talk(ctx, to, "x", grpc.Header(&header), grpc.Trailer(&trailer))
	if err != nil || got != "echo of x" {
		t.Fatalf("%q, %v", got, err)
	}
	for key, want := range map[string]string{
		"saw-user-key": "1,2", "saw-user-bin": "\x00\xff", "saw-" + call.ForwardNode: a.ID(), "saw-" + call.ForwardInstance: a.InstanceID(),
		"saw-" + call.ForwardTerm: "", "saw-muster-term": "",
	} {
		if got := strings.Join(header[key], ","); got != want {
			t.Errorf("header %s: %q, want %q", key, got, want)
		}
	}
	if d, err := time.ParseDuration(strings.Join(header["saw-deadline"], "")); err != nil || d <= 0 || d > time.Minute {
		t.Errorf("the deadline: %v, %v", header["saw-deadline"], err)
	}
	if strings.Join(trailer["the-end"], "") != "yes" || trailer["muster-mark"] != nil { // which is not the program's to set
		t.Errorf("the trailer: %v", trailer)
	}
	if who, err := who(ctx, to); err != nil || who != b.InstanceID() {
		t.Errorf("a handler beside it: %q, %v", who, err)
	}

	s, err := to.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, echoMethod)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Header(); err != nil { // it comes before the first message
		t.Fatal(err)
	}
	big := strings.Repeat("x", 3<<20)
	for i := range 10 {
		text := strconv.Itoa(i) + big[:i*len(big)/10]
		out := new(wrapperspb.StringValue)
		if err := errors.Join(s.SendMsg(wrapperspb.String(text)), s.RecvMsg(out)); err != nil || out.Value != "echo of "+text {
			t.Fatalf("message %d: %.20q, %v", i, out.Value, err)
		}
	}
	if err := errors.Join(s.CloseSend(), s.RecvMsg(new(wrapperspb.StringValue))); err != io.EOF && !errors.Is(err, io.EOF) {
		t.Errorf("the end of a stream: %v", err)
	}

	err = to.Invoke(ctx, failMethod, wrapperspb.String(""), new(wrapperspb.StringValue))
	if s := status.Convert(err); s.Code() != codes.AlreadyExists || s.Message() != "as asked" || len(s.Details()) != 1 || !call.MayHaveRun(err) {
		t.Errorf("an error of the program: %v with %v", err, status.Convert(err).Details())
	}
	err = to.Invoke(ctx, "/"+echoService+"/None", wrapperspb.String(""), new(wrapperspb.StringValue))
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("a method that the program lacks: %v", err)
	}
	if err := to.Invoke(ctx, "/none/None", wrapperspb.String(""), new(wrapperspb.StringValue)); !errors.Is(err, call.ErrNoHandler) || call.MayHaveRun(err) {
		t.Errorf("a service that nobody has: %v", err)
	}

	cancelled, cancelCall := context.WithCancel(ctx)
	go func() {
		<-p.hanging
		cancelCall()
	}()
	if err := to.Invoke(cancelled, hangMethod, wrapperspb.String(""), new(wrapperspb.StringValue)); !errors.Is(err, context.Canceled) {
		t.Errorf("a call that was cancelled: %v", err)
	}
	next(t, p.noticed)

	wait.NoError(t, func() error { // once the tags have spread
		_, err := talk(ctx, mb.Pool(call.Pool{}), "y")
		return err
	})
	p.stop()
	runs := p.runs.Load()
	wait.NoError(t, func() error { // a connection that has just ended may have carried it
		if _, err := talk(ctx, to, "x"); !errors.Is(err, call.ErrNotReady) || call.MayHaveRun(err) || status.Code(err) != codes.Unavailable {
			return err
		}
		return nil
	})
	if _, err := talk(ctx, to, "x"); !errors.Is(err, call.ErrNotReady) || call.MayHaveRun(err) || p.runs.Load() != runs {
		t.Errorf("a program that has ended: %v", err)
	}
}

// A service of the master is served by the master alone, whichever way the call comes, and the
// program is told the term.
func TestForwardOnlyMaster(t *testing.T) {
	t.Parallel()
	cluster := nodetest.Start(t, 2)
	p := startProgram(t)
	meshes := make(map[string]*call.Mesh)
	for _, n := range cluster.Nodes() {
		meshes[n.ID()] = startForwarding(t, n, p.addr, true)
	}
	master := cluster.Master()
	for _, n := range cluster.Nodes() {
		var header metadata.MD
		if _, err := talk(t.Context(), meshes[n.ID()].Master(), "x", grpc.Header(&header)); err != nil {
			t.Errorf("by %s: %v", n.ID(), err)
		}
		proof, err := master.Check()
		if term := strings.Join(header["saw-"+call.ForwardTerm], ","); err != nil || term != strconv.FormatUint(uint64(proof.Term), 10) {
			t.Errorf("by %s: the program saw term %q, %v", n.ID(), term, err)
		}
		runs := p.runs.Load()
		_, err = talk(t.Context(), meshes[master.ID()].Node(n.ID()), "x")
		if n == master {
			if err != nil || p.runs.Load() == runs {
				t.Errorf("to the master by its name: %v", err)
			}
			continue
		}
		if wrong := (*call.NotMasterError)(nil); !errors.As(err, &wrong) || wrong.Master.NodeID != master.ID() || call.MayHaveRun(err) || p.runs.Load() != runs {
			t.Errorf("to %s, which is not master: %v", n.ID(), err)
		}
	}

	// A call that goes on when mastership ends has its context ended.
	ended := make(chan error, 1)
	go func() {
		ended <- meshes[master.ID()].Node(master.ID()).Invoke(wait.Context(t), hangMethod, wrapperspb.String(""), new(wrapperspb.StringValue))
	}()
	next(t, p.hanging)
	cluster.Depose()
	next(t, p.noticed)
	if err := next(t, ended); err == nil || !call.MayHaveRun(err) {
		t.Errorf("a call during which mastership ended: %v", err)
	}
}

// By a plain listener any client of gRPC calls a node, or the master wherever that is.
func TestForwarding(t *testing.T) {
	t.Parallel()
	cluster := nodetest.Start(t, 3)
	meshes := make(map[string]*call.Mesh)
	for _, n := range cluster.Nodes() {
		p := startProgram(t)
		meshes[n.ID()] = startForwarding(t, n, p.addr, true)
	}
	master := cluster.Master()
	var other *node.Node
	for _, n := range cluster.Nodes() {
		if n != master {
			other = n
		}
	}
	from := meshes[other.ID()]
	toOther, toMaster := serveForwarding(t, from, other.ID()), serveForwarding(t, from, "")
	ctx := wait.Context(t)
	if got, err := call.Invoke[string](ctx, toOther, "who", struct{}{}); err != nil || got != other.InstanceID() {
		t.Errorf("%q, %v", got, err)
	}
	var trailer metadata.MD
	_, err := talk(ctx, toOther, "x", grpc.Trailer(&trailer))
	if status.Code(err) != codes.FailedPrecondition || strings.Join(trailer[call.ForwardResult], "") != "not_master" || strings.Join(trailer[call.ForwardMayHaveRun], "") != "false" {
		t.Errorf("a service of the master at another: %v, trailer %v", err, trailer)
	}
	gone := serveForwarding(t, from, "nobody")
	if err := gone.Invoke(ctx, echoMethod, wrapperspb.String(""), new(wrapperspb.StringValue), grpc.Trailer(&trailer)); status.Code(err) != codes.Unavailable || strings.Join(trailer[call.ForwardResult], "") != "left" {
		t.Errorf("nobody: %v, trailer %v", err, trailer)
	}
	if got, err := talk(ctx, toMaster, "x"); err != nil || got != "echo of x" {
		t.Fatalf("%q, %v", got, err)
	}
	cluster.Depose()
	for i := range 50 { // also while there is none, and at nodes that are no longer
		if got, err := talk(ctx, toMaster, strconv.Itoa(i)); err != nil || got != "echo of "+strconv.Itoa(i) {
			t.Fatalf("call %d after a hand-over: %q, %v", i, got, err)
		}
	}
}

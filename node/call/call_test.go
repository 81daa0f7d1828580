package call_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/call"
	"github.com/musterhq/muster/node/mastership"
	"github.com/musterhq/muster/node/nodetest"
)

// member is a node with its mesh, and handlers that the tests call.
type member struct {
	*node.Node
	*call.Mesh
	entered chan string   // who has called hang or deaf
	noticed chan struct{} // hang has noticed that its context ended
	free    chan struct{} // closed: hang returns
	ran     atomic.Int64  // how often a handler was begun
}

func start(t *testing.T, n *node.Node, register ...func(*call.Mesh)) *member {
	t.Helper()
	m := &member{Node: n, entered: make(chan string, 1000), noticed: make(chan struct{}, 1000), free: make(chan struct{})}
	var err error
	if m.Mesh, err = call.Open(n, call.Options{Client: []grpc.DialOption{grpc.WithChainUnaryInterceptor(lie)}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Mesh.Close)
	call.Handle(m, "who", func(ctx context.Context, _ struct{}) (string, error) {
		m.ran.Add(1)
		return m.InstanceID(), nil
	})
	call.Handle(m, "hang", func(ctx context.Context, _ struct{}) (string, error) { // until its context ends
		m.ran.Add(1)
		c, _ := call.From(ctx)
		m.entered <- c.NodeID
		select {
		case <-ctx.Done():
			m.noticed <- struct{}{}
			return "", ctx.Err()
		case <-m.free:
		}
		return m.InstanceID(), nil
	})
	call.Handle(m, "deaf", func(ctx context.Context, _ struct{}) (string, error) { // ignores its context
		m.ran.Add(1)
		c, _ := call.From(ctx)
		m.entered <- c.NodeID
		<-m.free
		return m.InstanceID(), nil
	})
	call.Handle(m, "fail", func(_ context.Context, code codes.Code) (string, error) {
		return "", status.Error(code, "as asked")
	})
	call.Handle(m, "panic", func(context.Context, struct{}) (string, error) { panic("bang") })
	call.Handle(m, "caller", func(ctx context.Context, _ struct{}) (call.Caller, error) {
		c, ok := call.From(ctx)
		if !ok {
			return c, errors.New("no caller")
		}
		return c, nil
	})
	for _, f := range register {
		f(m.Mesh)
	}
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	return m
}

// lie sends the term that a call pretends to be for the master of, if it does.
func lie(ctx context.Context, method string, q, a any, c *grpc.ClientConn, invoke grpc.UnaryInvoker, o ...grpc.CallOption) error {
	if term, ok := ctx.Value(lieKey{}).(string); ok {
		ctx = metadata.AppendToOutgoingContext(ctx, "muster-term", term)
	}
	return invoke(ctx, method, q, a, c, o...)
}

type lieKey struct{}

func startAll(t *testing.T, n int, options ...nodetest.Option) (*nodetest.Cluster, []*member) {
	t.Helper()
	cluster := nodetest.Start(t, n, options...)
	var members []*member
	for _, n := range cluster.Nodes() {
		members = append(members, start(t, n))
	}
	return cluster, members
}

// calm keeps a master also on a loaded machine.
func calm(c *node.Config) { c.Mastership.TTL = 10 * time.Second }

func who(ctx context.Context, c grpc.ClientConnInterface) (string, error) {
	return call.Invoke[string](ctx, c, "who", struct{}{})
}

func next[T any](t *testing.T, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(wait.Patience):
		t.Fatal("nothing came")
	}
	return v
}

func TestNode(t *testing.T) {
	t.Parallel()
	_, members := startAll(t, 3, calm)
	for _, from := range members {
		for _, to := range members {
			got, err := who(t.Context(), from.Mesh.Node(to.ID()))
			if err != nil || got != to.InstanceID() {
				t.Errorf("%s to %s: %q, %v", from.ID(), to.ID(), got, err)
			}
			c, err := call.Invoke[call.Caller](t.Context(), from.Mesh.Node(to.ID()), "caller", struct{}{})
			if err != nil || c.NodeID != from.ID() || c.InstanceID != from.InstanceID() || c.Term != 0 {
				t.Errorf("%s to %s: caller %+v, %v", from.ID(), to.ID(), c, err)
			}
		}
	}
}

// Each call ends in one of the results, which says whether the handler may have run.
func TestResults(t *testing.T) {
	t.Parallel()
	_, members := startAll(t, 2, calm)
	a, b := members[0], members[1]
	to := a.Mesh.Node(b.ID())
	short := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	cancelled, cancel := context.WithCancel(t.Context())
	for name, test := range map[string]struct {
		call func() error
		is   error
		code codes.Code
		ran  bool
	}{
		"the handler's error": {func() error {
			_, err := call.Invoke[string](t.Context(), to, "fail", codes.NotFound)
			return err
		}, nil, codes.NotFound, true},
		"one that looks like a broken connection": {func() error {
			_, err := call.Invoke[string](t.Context(), to, "fail", codes.Unavailable)
			return err
		}, nil, codes.Unavailable, true},
		"a panic": {func() error {
			_, err := call.Invoke[string](t.Context(), to, "panic", struct{}{})
			return err
		}, nil, codes.Internal, true},
		"a request that cannot be read": {func() error {
			_, err := call.Invoke[string](t.Context(), to, "fail", "no number")
			return err
		}, nil, codes.InvalidArgument, true},
		"an unknown member": {func() error {
			_, err := who(t.Context(), a.Mesh.Node("nobody"))
			return err
		}, call.ErrLeft, codes.Unavailable, false},
		"an unknown method": {func() error {
			_, err := call.Invoke[string](t.Context(), to, "unknown", struct{}{})
			return err
		}, call.ErrNoHandler, codes.Unimplemented, false},
		"an unknown method of the master": {func() error {
			_, err := call.Invoke[string](t.Context(), a.Mesh.Master(), "unknown", struct{}{})
			return err
		}, call.ErrNoHandler, codes.Unimplemented, false},
		"the deadline": {func() error {
			_, err := call.Invoke[string](short(), to, "deaf", struct{}{})
			return err
		}, context.DeadlineExceeded, codes.DeadlineExceeded, true},
		"a deadline that has passed": {func() error {
			ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
			defer cancel()
			_, err := who(ctx, to)
			return err
		}, context.DeadlineExceeded, codes.DeadlineExceeded, false},
		"cancelled": {func() error {
			for len(b.entered) > 0 {
				<-b.entered // of other calls
			}
			go func() {
				<-b.entered
				cancel()
			}()
			_, err := call.Invoke[string](cancelled, to, "hang", struct{}{})
			return err
		}, context.Canceled, codes.Canceled, true},
	} {
		t.Run(name, func(t *testing.T) {
			err := test.call()
			typed := (*call.Error)(nil)
			if errors.As(err, &typed) != (test.is != nil) || test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("%T: %v, want %v", err, err, test.is)
			}
			if status.Code(err) != test.code {
				t.Errorf("code %v, want %v", status.Code(err), test.code)
			}
			if call.MayHaveRun(err) != test.ran {
				t.Errorf("may have run: %v, want %v", call.MayHaveRun(err), test.ran)
			}
			if typed != nil && (typed.Method == "" || !strings.Contains(err.Error(), "run")) {
				t.Errorf("%+v", typed)
			}
		})
	}
	close(b.free)
	if call.MayHaveRun(nil) != true || call.MayHaveRun(errors.New("any")) != true {
		t.Error("what is not known counts as not run")
	}
}

// A call without a deadline has one.
func TestDefaultTimeout(t *testing.T) {
	t.Parallel()
	n := nodetest.Alone(t)
	m, err := call.Open(n, call.Options{Timeout: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	deadlines := make(chan time.Duration, 1)
	call.Handle(m, "hang", func(ctx context.Context, _ struct{}) (string, error) {
		deadline, _ := ctx.Deadline()
		select {
		case deadlines <- time.Until(deadline):
		default:
		}
		<-ctx.Done()
		return "", ctx.Err()
	})
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	wait.For(t, "a handler was called", func() bool { // before the deadline, on a loaded machine
		if _, err = call.Invoke[string](t.Context(), m.Node(n.ID()), "hang", struct{}{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("%v", err)
		}
		return len(deadlines) > 0
	})
	if left := <-deadlines; left > 20*time.Millisecond {
		t.Errorf("the handler has %v left", left)
	}
}

// What a member that serves no calls, or none any more, says.
func TestNotReady(t *testing.T) {
	t.Parallel()
	cluster := nodetest.Start(t, 2)
	a := start(t, cluster.Nodes()[0])
	_, err := who(t.Context(), a.Mesh.Node(cluster.Nodes()[1].ID()))
	if !errors.Is(err, call.ErrNotReady) || call.MayHaveRun(err) {
		t.Errorf("a member without a mesh: %v", err)
	}
	b := start(t, cluster.Nodes()[1])
	wait.For(t, "the member serves", func() bool {
		_, err := who(t.Context(), a.Mesh.Node(b.ID()))
		return err == nil
	})
	// While it leaves it serves no calls, lets those end that it has, and can call others.
	result := make(chan error, 1)
	go func() {
		_, err := call.Invoke[string](t.Context(), a.Mesh.Node(b.ID()), "deaf", struct{}{})
		result <- err
	}()
	next(t, b.entered)
	left := make(chan struct{})
	go func() {
		defer close(left)
		cluster.Leave(b.Node)
	}()
	wait.For(t, "calls are refused", func() bool {
		_, err := who(t.Context(), a.Mesh.Node(b.ID()))
		if err != nil && call.MayHaveRun(err) {
			t.Errorf("%v", err)
		}
		return err != nil
	})
	close(b.free)
	if err := next(t, result); err != nil {
		t.Errorf("the call that was running: %v", err)
	}
	<-left
	if _, err := who(t.Context(), b.Mesh.Node(a.ID())); !errors.Is(err, call.ErrLeft) || !errors.Is(err, node.ErrStopped) {
		t.Errorf("a call of a node that has left: %v", err)
	}
	if _, err := who(t.Context(), b.Mesh.Master()); !errors.Is(err, node.ErrStopped) {
		t.Errorf("a call to the master of a node that has left: %v", err)
	}
}

// When the instance that was called departs, its calls end at once, and no later instance under
// the same id and address sees them.
func TestDeparture(t *testing.T) {
	t.Parallel()
	cluster, members := startAll(t, 2, calm)
	a, b := members[0], members[1]
	old := b.View().Self()
	const pending = 50
	results := make(chan error, pending)
	for range pending {
		go func() {
			_, err := call.Invoke[string](call.Idempotent(t.Context()), a.Mesh.Node(b.ID()), "deaf", struct{}{})
			results <- err
		}()
	}
	for range pending {
		next(t, b.entered)
	}
	defer close(b.free)
	restarted := start(t, cluster.Restart(b.Node))
	for range pending {
		if err := next(t, results); !errors.Is(err, call.ErrLeft) || !call.MayHaveRun(err) {
			t.Fatalf("%v", err)
		}
	}
	if _, err := who(t.Context(), a.Mesh.Member(old)); !errors.Is(err, call.ErrLeft) || call.MayHaveRun(err) {
		t.Errorf("a call to the instance that is gone: %v", err)
	}
	wait.For(t, "the new instance is called", func() bool {
		got, err := who(t.Context(), a.Mesh.Node(b.ID()))
		if err == nil && got != restarted.InstanceID() {
			t.Errorf("%q answers", got)
		}
		return err == nil
	})
}

// Calls end when their own node ends.
func TestClose(t *testing.T) {
	t.Parallel()
	_, members := startAll(t, 2, calm)
	a, b := members[0], members[1]
	results := make(chan error, 2)
	for _, c := range []grpc.ClientConnInterface{a.Mesh.Node(b.ID()), a.Mesh.Node(a.ID())} {
		go func() {
			_, err := call.Invoke[string](t.Context(), c, "hang", struct{}{})
			results <- err
		}()
	}
	next(t, a.entered)
	next(t, b.entered)
	toA := make(chan error, 1)
	go func() {
		_, err := call.Invoke[string](t.Context(), b.Mesh.Node(a.ID()), "hang", struct{}{})
		toA <- err
	}()
	next(t, a.entered)
	a.Mesh.Close()
	if err := next(t, toA); !errors.Is(err, call.ErrUnreachable) || !call.MayHaveRun(err) {
		t.Errorf("a call whose connection broke: %v", err)
	}
	for range 2 {
		if err := next(t, results); !errors.Is(err, call.ErrLeft) || !errors.Is(err, node.ErrStopped) {
			t.Errorf("%v", err)
		}
	}
	a.Mesh.Close()
	if err := a.Start(); err == nil {
		t.Error("a mesh was started twice")
	}
}

// Streams end as calls do.
func TestStream(t *testing.T) {
	t.Parallel()
	cluster := nodetest.Start(t, 2, calm)
	var members []*member
	for _, n := range cluster.Nodes() {
		members = append(members, start(t, n, func(m *call.Mesh) {
			m.RegisterService(&grpc.ServiceDesc{ServiceName: "stream", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{{
				StreamName: "Follow", ServerStreams: true,
				Handler: func(_ any, s grpc.ServerStream) error {
					c, _ := call.From(s.Context())
					in := new(wrapperspb.StringValue)
					if err := s.RecvMsg(in); err != nil {
						return err
					}
					if err := s.SendMsg(wrapperspb.String(fmt.Sprint(c.NodeID, " ", c.Term))); err != nil {
						return err
					}
					switch in.Value {
					case "end":
						return nil
					case "fail":
						return status.Error(codes.Unavailable, "as asked")
					}
					<-s.Context().Done()
					return context.Cause(s.Context())
				},
			}}}, nil)
		}))
	}
	a, b := members[0], members[1]
	open := func(c grpc.ClientConnInterface, method, say string) (grpc.ClientStream, error) {
		s, err := c.NewStream(t.Context(), &grpc.StreamDesc{StreamName: "Follow", ServerStreams: true}, method)
		if err == nil {
			err = errors.Join(s.SendMsg(wrapperspb.String(say)), s.CloseSend())
		}
		return s, err
	}
	receive := func(s grpc.ClientStream) (string, error) {
		out := new(wrapperspb.StringValue)
		err := s.RecvMsg(out)
		return out.Value, err
	}
	for say, want := range map[string]func(error) bool{
		"end": func(err error) bool { return err == io.EOF },
		"fail": func(err error) bool {
			return !errors.As(err, new(*call.Error)) && status.Code(err) == codes.Unavailable
		},
	} {
		s, err := open(a.Mesh.Node(b.ID()), "/stream/Follow", say)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := receive(s); err != nil || got != a.ID()+" 0" {
			t.Errorf("%s: %q, %v", say, got, err)
		}
		if _, err := receive(s); !want(err) {
			t.Errorf("%s: %v", say, err)
		}
	}
	if s, err := open(a.Mesh.Node(b.ID()), "/stream/Unknown", "end"); err == nil {
		if _, err := receive(s); !errors.Is(err, call.ErrNoHandler) || call.MayHaveRun(err) {
			t.Errorf("unknown method: %v", err)
		}
	} else {
		t.Error(err)
	}
	if _, err := open(a.Mesh.Node("nobody"), "/stream/Follow", ""); !errors.Is(err, call.ErrLeft) {
		t.Errorf("unknown node: %v", err)
	}
	// One to a member that leaves, and one to a master that is deposed.
	wait.For(t, "the master serves", func() bool { _, err := who(t.Context(), a.Mesh.Master()); return err == nil })
	toMaster, err := open(a.Mesh.Master(), "/stream/Follow", "")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := receive(toMaster); err != nil || got == a.ID()+" 0" {
		t.Errorf("%q, %v", got, err)
	}
	cluster.Depose()
	if _, err := receive(toMaster); status.Code(err) != codes.Unknown || !call.MayHaveRun(err) {
		t.Errorf("the mastership ended: %v", err)
	}
	toB, err := open(a.Mesh.Node(b.ID()), "/stream/Follow", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := receive(toB); err != nil {
		t.Fatal(err)
	}
	cluster.Leave(b.Node)
	if _, err := receive(toB); !errors.Is(err, call.ErrLeft) || !call.MayHaveRun(err) {
		t.Errorf("the member left: %v", err)
	}
}

func TestMaster(t *testing.T) {
	t.Parallel()
	cluster, members := startAll(t, 3, calm)
	for _, m := range members {
		var c call.Caller
		wait.For(t, "the master answers", func() (ok bool) { // its mesh was started after it became master
			var err error
			c, err = call.Invoke[call.Caller](t.Context(), m.Mesh.Master(), "caller", struct{}{})
			return err == nil
		})
		master, _ := cluster.Master().Master()
		if c.NodeID != m.ID() || c.Term != master.Term {
			t.Errorf("%+v, want term %d", c, master.Term)
		}
	}
}

// A call to the master follows it, and ends with what became of it.
func TestMasterEnds(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		method string
		ctx    func(context.Context) context.Context
		is     error
		code   codes.Code
	}{
		"the handler notices":             {"hang", nil, nil, codes.Canceled},
		"it does not":                     {"deaf", nil, call.ErrUncertain, codes.Unknown},
		"it notices, and may be repeated": {"hang", call.Idempotent, nil, codes.OK},
		"it does not, and may be":         {"deaf", call.Idempotent, nil, codes.OK},
	} {
		t.Run(name, func(t *testing.T) {
			cluster, members := startAll(t, 3, calm)
			master := members[slices.IndexFunc(members, func(m *member) bool { return m.Node == cluster.Master() })]
			ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
			defer cancel()
			if test.ctx != nil {
				ctx = test.ctx(ctx)
			}
			result := make(chan error, 1)
			go func() {
				_, err := call.Invoke[string](ctx, members[0].Mesh.Master(), test.method, struct{}{})
				result <- err
			}()
			next(t, master.entered)
			token, _ := master.Check()
			cluster.Provider().EndMastership(master.Cluster())
			if test.method == "hang" {
				next(t, master.noticed)
			}
			wait.For(t, "mastership has ended", func() bool { return token.Check() != nil })
			for _, m := range members {
				close(m.free)
			}
			err := next(t, result)
			if test.is != nil && !errors.Is(err, test.is) || status.Code(err) != test.code || !call.MayHaveRun(err) {
				t.Errorf("%v, want %v with code %v", err, test.is, test.code)
			}
			ran := int64(0)
			for _, m := range members {
				ran += m.ran.Load()
			}
			if test.ctx == nil && ran != 1 || ran < 1 {
				t.Errorf("it ran %d times", ran)
			}
		})
	}
}

// A master that is called in a higher term than its own reads the authority before it runs that.
// A call by another than the master's way tells it the term, as a peer that lies does.
func TestHigherTerm(t *testing.T) {
	t.Parallel()
	cluster, members := startAll(t, 2, func(c *node.Config) { c.Mastership.TTL = 4 * time.Second })
	var master *member
	claim := func(term node.Term) error {
		_, err := who(context.WithValue(t.Context(), lieKey{}, strconv.FormatUint(uint64(term), 10)), members[0].Mesh.Node(master.ID()))
		return err
	}
	var proof mastership.Token
	wait.For(t, "the master has kept its grant while it was cut off", func() bool {
		n := cluster.Master()
		master = members[slices.IndexFunc(members, func(m *member) bool { return m.Node == n })]
		var err error
		if proof, err = master.Check(); err != nil || claim(proof.Term) != nil {
			return false
		}
		restore := cluster.CutOff(master.Node) // nothing is read
		defer restore()
		ran := master.ran.Load()
		for range 10 {
			if err := claim(1000); !errors.Is(err, call.ErrNoMaster) && !errors.As(err, new(*call.NotMasterError)) || call.MayHaveRun(err) {
				t.Fatalf("%v", err)
			}
		}
		if master.ran.Load() != ran {
			t.Fatal("it has run")
		}
		// Only the doubt has refused them: what it is master for runs.
		ok := claim(proof.Term) == nil
		now, err := master.Check()
		return ok && err == nil && now.Term == proof.Term
	})
	wait.For(t, "the authority has confirmed the term", func() bool {
		n := cluster.Master() // in case that it was another, after a long pause of the machine
		master = members[slices.IndexFunc(members, func(m *member) bool { return m.Node == n })]
		return claim(1000) == nil
	})
	claimMany := func() error {
		_, err := who(context.WithValue(t.Context(), lieKey{}, "many"), members[0].Mesh.Node(master.ID()))
		return err
	}
	if err := claimMany(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a term that is no number: %v", err)
	}
}

// Without a master a call waits for one until its deadline.
func TestNoMaster(t *testing.T) {
	t.Parallel()
	cluster, members := startAll(t, 2)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	restore := make([]func(), 0)
	for _, m := range members {
		restore = append(restore, cluster.CutOff(m.Node))
	}
	wait.For(t, "no master", func() bool {
		_, a := members[0].Node.Master()
		_, b := members[1].Node.Master()
		return !a && !b
	})
	short, cancelShort := context.WithTimeout(ctx, 30*time.Millisecond)
	defer cancelShort()
	_, err := who(short, members[0].Mesh.Master())
	if !errors.Is(err, call.ErrNoMaster) || call.MayHaveRun(err) {
		t.Errorf("%v", err)
	}
	cancelShort()
	if _, err := who(short, members[0].Mesh.Master()); !errors.Is(err, context.Canceled) && !errors.Is(err, call.ErrNoMaster) {
		t.Errorf("%v", err)
	}
	long, cancelLong := context.WithTimeout(ctx, wait.Patience)
	defer cancelLong()
	result := make(chan error, 1)
	go func() {
		_, err := who(long, members[0].Mesh.Master())
		result <- err
	}()
	for _, f := range restore {
		f()
	}
	if err := next(t, result); err != nil {
		t.Errorf("once there is a master: %v", err)
	}
}

// Under hand-overs no call fails that may be repeated, none runs twice that may not, and what is
// said not to have run has not.
func TestHandOver(t *testing.T) {
	t.Parallel()
	cluster, members := startAll(t, 3, calm)
	const calls, callers = 600, 8
	type result struct {
		i   int
		err error
	}
	results := make(chan result, calls)
	work := make(chan int)
	for c := range callers {
		go func() {
			for i := range work {
				ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
				if i%2 == 0 {
					ctx = call.Idempotent(ctx)
				}
				_, err := who(ctx, members[c%3].Mesh.Master())
				cancel()
				results <- result{i, err}
			}
		}()
	}
	go func() {
		defer close(work)
		for i := range calls {
			if i%100 == 50 {
				if err := cluster.Master().Resign(t.Context()); err != nil {
					t.Logf("resign: %v", err)
				}
			}
			work <- i
		}
	}()
	failed := 0
	for range calls {
		r := next(t, results)
		if r.err == nil {
			continue
		}
		failed++
		if r.i%2 == 0 {
			t.Errorf("a call that may be repeated: %v", r.err)
		}
	}
	t.Logf("%d of %d calls that may not be repeated failed", failed, calls/2)
}

func TestEach(t *testing.T) {
	t.Parallel()
	_, members := startAll(t, 3, calm)
	a := members[0]
	all := func(ctx context.Context, o ...call.EachOption) map[string]call.Reply[string] {
		replies := make(map[string]call.Reply[string])
		for r := range call.Each(ctx, a.Mesh, a.Members(), who, o...) {
			if _, twice := replies[r.From.NodeID]; twice {
				t.Errorf("two replies of %s", r.From.NodeID)
			}
			replies[r.From.NodeID] = r
		}
		return replies
	}
	for _, o := range [][]call.EachOption{nil, {call.LocalFirst()}} {
		for id, r := range all(t.Context(), o...) {
			if r.Err != nil || r.Value != r.From.InstanceID {
				t.Errorf("%s: %+v", id, r)
			}
		}
		if got := len(all(t.Context(), o...)); got != 3 {
			t.Errorf("%d replies, want 3", got)
		}
	}
	// Each ends at the deadline, with a reply for each.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	block := make(chan struct{})
	defer close(block)
	n := 0
	for r := range call.Each(ctx, a.Mesh, a.Members(), func(context.Context, grpc.ClientConnInterface) (string, error) {
		<-block
		return "", nil
	}) {
		if n++; !errors.Is(r.Err, context.DeadlineExceeded) || !call.MayHaveRun(r.Err) {
			t.Errorf("%+v", r)
		}
	}
	if n != 3 {
		t.Errorf("%d replies at the deadline, want 3", n)
	}
	// A break cancels the rest.
	cancelled := make(chan struct{}, 3)
	for range call.Each(t.Context(), a.Mesh, a.Members(), func(ctx context.Context, c grpc.ClientConnInterface) (string, error) {
		if id, _ := who(ctx, c); id == a.InstanceID() {
			return id, nil
		}
		<-ctx.Done()
		cancelled <- struct{}{}
		return "", ctx.Err()
	}) {
		break
	}
	next(t, cancelled)
	next(t, cancelled)
}

// The local call comes first, and if it fails no other is made.
func TestEachLocalFirst(t *testing.T) {
	t.Parallel()
	_, members := startAll(t, 3, calm)
	a := members[1]
	var called atomic.Int64
	n := 0
	for r := range call.Each(t.Context(), a.Mesh, a.Members(), func(context.Context, grpc.ClientConnInterface) (int, error) {
		called.Add(1)
		return 0, errors.New("no")
	}, call.LocalFirst()) {
		if n++; r.From.NodeID != a.ID() {
			t.Errorf("reply of %s", r.From.NodeID)
		}
	}
	if n != 1 || called.Load() != 1 {
		t.Errorf("%d replies of %d calls, want one", n, called.Load())
	}
}

// A handler does not call all by accident.
func TestEachInHandler(t *testing.T) {
	t.Parallel()
	cluster := nodetest.Start(t, 2)
	var meshes []*call.Mesh
	for _, n := range cluster.Nodes() {
		meshes = append(meshes, start(t, n, func(m *call.Mesh) {
			call.Handle(m, "all", func(ctx context.Context, allow bool) (int, error) {
				var options []call.EachOption
				if allow {
					options = append(options, call.AllowNested())
				}
				ok := 0
				for r := range call.Each(ctx, m, n.Members(), who, options...) {
					if r.Err == nil {
						ok++
					} else if !errors.Is(r.Err, call.ErrNested) || call.MayHaveRun(r.Err) {
						return 0, r.Err
					}
				}
				return ok, nil
			})
		}).Mesh)
	}
	for allow, want := range map[bool]int{false: 0, true: 2} {
		got, err := call.Invoke[int](t.Context(), meshes[0].Node(cluster.Nodes()[1].ID()), "all", allow)
		if err != nil || got != want {
			t.Errorf("allowed %v: %d calls, %v", allow, got, err)
		}
	}
}

// In no cluster a node calls itself, and is the master.
func TestAlone(t *testing.T) {
	t.Parallel()
	a := start(t, nodetest.Alone(t))
	for name, c := range map[string]grpc.ClientConnInterface{"node": a.Mesh.Node(a.ID()), "master": a.Mesh.Master(), "member": a.Mesh.Member(a.Members()[0])} {
		wait.For(t, name, func() bool {
			got, err := who(t.Context(), c)
			return err == nil && got == a.InstanceID()
		})
	}
	c, err := call.Invoke[call.Caller](t.Context(), a.Mesh.Master(), "caller", struct{}{})
	if err != nil || c.Term != 1 || c.NodeID != a.ID() {
		t.Errorf("%+v, %v", c, err)
	}
	if _, ok := call.From(t.Context()); ok {
		t.Error("a caller where there is none")
	}
}

func TestRegisterServicePanics(t *testing.T) {
	t.Parallel()
	n := nodetest.Alone(t)
	m, err := call.Open(n, call.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	nothing := func(context.Context, int) (int, error) { return 0, nil }
	call.Handle(m, "a", nothing)
	for _, name := range []string{"a", "", "a/b", "a b"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Handle %q did not panic", name)
				}
			}()
			call.Handle(m, name, nothing)
		}()
	}
	if _, err := call.Open(n, call.Options{Timeout: -1}); err == nil {
		t.Error("a negative timeout")
	}
}

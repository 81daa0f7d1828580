package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/config"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/call"
	"github.com/musterhq/muster/node/httpapi"
)

// calls are those of members to this agent and the programs beside it, and of operators to members.
type calls struct {
	node  *node.Node
	mesh  *call.Mesh
	conns []*grpc.ClientConn // to programs

	connected *streams // of operators
}

// openCalls has the node call and be called, until close is called.
func openCalls(n *node.Node, cfg *config.Config, doctor func(context.Context) (any, error), log *slog.Logger) (*calls, error) {
	c := &calls{node: n, connected: newStreams()}
	options := call.Options{Forward: make(map[string]call.Forward), Logger: log}
	for i, f := range cfg.Calls {
		conn, err := dialProgram(f.To)
		if err != nil {
			c.close()
			return nil, cfg.Locate(&driver.ConfigError{Key: fmt.Sprintf("calls[%d].to", i), Value: f.To, Problem: err.Error(), Hint: "write HOST:PORT of loopback, or unix:PATH"})
		}
		c.conns = append(c.conns, conn)
		options.Forward[f.Service] = call.Forward{To: conn, OnlyMaster: f.Where == config.OnMaster}
	}
	var err error
	if c.mesh, err = call.Open(n, options); err == nil {
		if doctor != nil {
			handleDoctor(c.mesh, n, doctor)
		}
		err = c.mesh.Start()
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *calls) close() {
	c.connected.end()
	if c.mesh != nil {
		c.mesh.Close()
	}
	for _, conn := range c.conns {
		_ = conn.Close() // which fails only if it was closed
	}
}

// How a connection to a program is made: one that was started a moment ago is found soon.
const (
	programConnect  = 3 * time.Second
	programMinPause = 50 * time.Millisecond
	programMaxPause = time.Second
)

// dialProgram returns the way to a program on this host. It does not block.
func dialProgram(to string) (*grpc.ClientConn, error) {
	network, addr := "tcp", to
	if path, ok := strings.CutPrefix(to, config.UnixSocket); ok {
		network, addr = "unix", path
	}
	pauses := backoff.Config{BaseDelay: programMinPause, Multiplier: 1.6, Jitter: 0.2, MaxDelay: programMaxPause}
	return grpc.NewClient("passthrough:///localhost",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { // by no proxy of the environment
			return new(net.Dialer).DialContext(ctx, network, addr)
		}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: pauses, MinConnectTimeout: programConnect}),
	)
}

// connect serves plain gRPC on one connection of an operator.
func (c *calls) connect(to string, conn net.Conn) {
	if to == httpapi.CallMaster {
		to = ""
	}
	one := newOneConn(conn)
	if !c.connected.add(one) {
		one.Close()
		return
	}
	defer c.connected.remove(one)
	server := grpc.NewServer(c.mesh.Forwarding(to)...)
	defer server.Stop()
	_ = server.Serve(one) // until the connection ends
}

// oneConn is the listener of one connection, and that connection.
type oneConn struct {
	net.Conn
	given bool // to Accept, which one goroutine calls
	ended chan struct{}
	close func()
}

func newOneConn(conn net.Conn) *oneConn {
	c := &oneConn{Conn: conn, ended: make(chan struct{})}
	c.close = sync.OnceFunc(func() { close(c.ended) })
	return c
}

func (c *oneConn) Accept() (net.Conn, error) {
	if !c.given {
		c.given = true
		return c, nil
	}
	<-c.ended
	return nil, net.ErrClosed
}

func (c *oneConn) Addr() net.Addr { return c.Conn.LocalAddr() }

func (c *oneConn) Close() error {
	defer c.close()
	return c.Conn.Close()
}

// streams are connections that end with the agent.
type streams struct {
	mu   sync.Mutex
	open map[*oneConn]struct{} // nil once all have ended
	wg   sync.WaitGroup
}

func newStreams() *streams { return &streams{open: make(map[*oneConn]struct{})} }

func (s *streams) add(c *oneConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		return false
	}
	s.open[c] = struct{}{}
	s.wg.Add(1)
	return true
}

func (s *streams) remove(c *oneConn) {
	s.mu.Lock()
	delete(s.open, c)
	s.mu.Unlock()
	s.wg.Done()
}

// end closes all, and waits for what serves them.
func (s *streams) end() {
	s.mu.Lock()
	open := s.open
	s.open = nil
	for c := range open {
		_ = c.Close() // by which its server learns of it
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// call makes a call for an operator.
func (c *calls) call(ctx context.Context, q httpapi.Call) ([]httpapi.CallReply, error) {
	if strings.ContainsAny(q.Method, "/ ") {
		return nil, fmt.Errorf("method: %q: %w: not the name of a handler that is called with JSON; write one without slashes, as orders.Count", q.Method, driver.ErrInvalid)
	}
	switch q.To {
	case httpapi.CallMaster:
		return []httpapi.CallReply{c.invoke(ctx, c.mesh.Master(), q)}, nil
	case httpapi.CallAll:
		return c.callAll(ctx, q), nil
	}
	return []httpapi.CallReply{c.invoke(ctx, c.mesh.Node(q.To), q)}, nil
}

func (c *calls) callAll(ctx context.Context, q httpapi.Call) (replies []httpapi.CallReply) {
	for r := range call.Each(ctx, c.mesh, c.node.Members(), func(ctx context.Context, to grpc.ClientConnInterface) (httpapi.CallReply, error) {
		return c.invoke(ctx, to, q), nil
	}) {
		reply := r.Value
		if r.Err != nil {
			reply = replyOf(nil, r.Err)
		}
		reply.NodeID, reply.InstanceID = r.From.NodeID, r.From.InstanceID
		replies = append(replies, reply)
	}
	slices.SortFunc(replies, func(a, b httpapi.CallReply) int { return cmp.Compare(a.NodeID, b.NodeID) })
	return replies
}

// invoke makes one call.
func (c *calls) invoke(ctx context.Context, to grpc.ClientConnInterface, q httpapi.Call) httpapi.CallReply {
	var other peer.Peer
	answer, err := call.Invoke[json.RawMessage](ctx, to, q.Method, q.Request, grpc.Peer(&other))
	reply := replyOf(answer, err)
	if from, ok := call.From(peer.NewContext(context.Background(), &other)); ok && reply.NodeID == "" {
		reply.NodeID, reply.InstanceID = from.NodeID, from.InstanceID
	}
	return reply
}

// replyOf is how a call has ended.
func replyOf(answer json.RawMessage, err error) httpapi.CallReply {
	if err == nil {
		return httpapi.CallReply{State: httpapi.CallAnswered, Answer: answer}
	}
	s := status.Convert(err)
	reply := httpapi.CallReply{State: httpapi.CallFailed, Error: s.Message(), Code: s.Code().String()}
	if e := (*call.Error)(nil); errors.As(err, &e) {
		reply.NodeID, reply.InstanceID = e.Peer.NodeID, e.Peer.InstanceID
		reply.State = httpapi.CallNotRun
		if e.MayHaveRun {
			reply.State = httpapi.CallUnknown
		}
		return reply
	}
	switch s.Code() {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		// The error of a handler that had it from somewhere else, as from a program whose
		// connection broke.
		reply.State = httpapi.CallUnknown
	}
	return reply
}

// MethodDoctor is the handler by which members ask an agent for what Options.Doctor finds.
const MethodDoctor = "muster.agent.Doctor"

// ErrNoMutualTLS is of what members may ask of each other only if each has shown a certificate.
var ErrNoMutualTLS = errors.New("without mutual TLS between the nodes anyone could ask for this; configure tls.ca_file, tls.cert_file and tls.key_file on all of them")

// handleDoctor has members ask for what the doctor finds, one at a time: it opens connections, and
// writes.
func handleDoctor(m *call.Mesh, n *node.Node, doctor func(context.Context) (any, error)) {
	one := make(chan struct{}, 1)
	call.Handle(m, MethodDoctor, func(ctx context.Context, _ struct{}) (any, error) {
		if n.Status().TLS == nil {
			return nil, status.Error(codes.FailedPrecondition, ErrNoMutualTLS.Error())
		}
		select {
		case one <- struct{}{}:
			defer func() { <-one }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		return doctor(ctx)
	})
}

package call_test

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/musterhq/muster/internal/pki"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/call"
	"github.com/musterhq/muster/node/nodetest"
	"github.com/musterhq/muster/tlsfiles"
)

// echo is a service without generated code and without JSON.
var echo = grpc.ServiceDesc{
	ServiceName: "echo", HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Echo", Handler: func(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
		in := new(wrapperspb.BytesValue)
		if err := decode(in); err != nil {
			return nil, err
		}
		if interceptor == nil {
			return in, nil
		}
		return interceptor(ctx, in, &grpc.UnaryServerInfo{Server: srv, FullMethod: "/echo/Echo"}, func(context.Context, any) (any, error) { return in, nil })
	}}},
}

// BenchmarkUnary is calls of 100 bytes between two nodes of one process, over the one port with
// TLS: those of this package beside those of gRPC alone over a connection of Node.Dial, in turns.
// On a busy machine compare the processor's time, of-raw-cpu, and not the calls per second.
func BenchmarkUnary(b *testing.B) {
	cluster := nodetest.Start(b, 2, withTLS(b))
	from, to := cluster.Nodes()[0], cluster.Nodes()[1]
	var meshes []*call.Mesh
	for _, n := range cluster.Nodes() {
		m, err := call.Open(n, call.Options{})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(m.Close)
		m.RegisterService(&echo, nil)
		if err := m.Start(); err != nil {
			b.Fatal(err)
		}
		meshes = append(meshes, m)
	}
	raw := rawGRPC(b, from, to, "raw")
	kinds := map[string]grpc.ClientConnInterface{
		"raw":  rawGRPC(b, from, to, "again"), // what the machine alone makes of it
		"node": meshes[0].Node(to.ID()), "master": meshes[0].Master(), "pool": meshes[0].Pool(call.Pool{Among: func(m node.Member) bool { return m.NodeID == to.ID() }}),
	}
	for _, callers := range []int{1, 16, 256} {
		for _, kind := range []string{"raw", "node", "master", "pool"} {
			b.Run(fmt.Sprintf("%s/callers=%d", kind, callers), func(b *testing.B) {
				var ours, theirs cost
				for b.Loop() {
					theirs.add(measure(b, raw, callers))
					ours.add(measure(b, kinds[kind], callers))
					ours.add(measure(b, kinds[kind], callers))
					theirs.add(measure(b, raw, callers))
				}
				b.ReportMetric(ours.rate(), "calls/s")
				b.ReportMetric(ours.rate()/theirs.rate(), "of-raw")
				b.ReportMetric(ours.cpuOfCall(), "cpu-us/call")
				b.ReportMetric(theirs.cpuOfCall()/ours.cpuOfCall(), "of-raw-cpu")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// cost is what a number of calls took, of both ends.
type cost struct {
	calls       int64
	takes, used time.Duration
}

func (c *cost) add(o cost) {
	c.calls += o.calls
	c.takes += o.takes
	c.used += o.used
}

func (c cost) rate() float64 { return float64(c.calls) / c.takes.Seconds() }

func (c cost) cpuOfCall() float64 { return float64(c.used.Microseconds()) / float64(c.calls) }

// measure makes calls for a while.
func measure(b *testing.B, c grpc.ClientConnInterface, callers int) cost {
	const takes = 100 * time.Millisecond
	var calls atomic.Int64
	var wg sync.WaitGroup
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	used, began := cpuTime(), time.Now()
	for range callers {
		wg.Go(func() {
			in, out := wrapperspb.Bytes(make([]byte, 100)), new(wrapperspb.BytesValue)
			for time.Since(began) < takes {
				if err := c.Invoke(ctx, "/echo/Echo", in, out); err != nil {
					b.Error(err)
					return
				}
				calls.Add(1)
			}
		})
	}
	wg.Wait()
	return cost{calls.Load(), time.Since(began), cpuTime() - used}
}

// rawGRPC is gRPC alone over the one port.
func rawGRPC(b *testing.B, from, to *node.Node, name string) *grpc.ClientConn {
	listener, err := to.Listen(name)
	if err != nil {
		b.Fatal(err)
	}
	server := grpc.NewServer()
	server.RegisterService(&echo, nil)
	go server.Serve(listener)
	b.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:///raw", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return from.Dial(ctx, name, to.View().Self())
		}))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	return conn
}

// withTLS gives each node a certificate of one authority.
func withTLS(t testing.TB) nodetest.Option {
	dir := t.TempDir()
	authority, pair, err := pki.NewAuthority("test", time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	write := func(p pki.Pair, name string) tlsfiles.Config {
		c := tlsfiles.Config{CAFile: filepath.Join(dir, "ca.pem"), CertFile: filepath.Join(dir, name+".pem"), KeyFile: filepath.Join(dir, name+".key")}
		if err := p.Write(c.CertFile, c.KeyFile, false); err != nil {
			t.Fatal(err)
		}
		return c
	}
	ca := write(pair, "authority")
	return func(c *node.Config) {
		pair, err := authority.Issue(c.NodeID, []string{"127.0.0.1"}, time.Now(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		c.TLS = write(pair, c.NodeID)
		c.TLS.CAFile = ca.CertFile
		c.VerifyNodeID = true
	}
}

// Command orders is a program whose nodes have the master number their orders, over typed calls of
// gRPC. Start it in three terminals:
//
//	go run ./examples/orders 127.0.0.1:7971
//	go run ./examples/orders 127.0.0.1:7972
//	go run ./examples/orders 127.0.0.1:7973
//
// Each places an order a second. Stop the master, and the next one goes on. With the argument alone
// there is no cluster, and the same code runs:
//
//	go run ./examples/orders alone
//
// The code of orderspb is generated from orders.proto with protoc and its plugins for Go and gRPC.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/examples/orders/orderspb"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/call"
	"github.com/musterhq/muster/providers/static"
)

// server numbers orders. An id that it knows gets the number that it has: calls may be repeated.
// A real one keeps them in a database, which rejects a term below the highest that it has seen.
type server struct {
	orderspb.UnimplementedOrdersServer
	mu      sync.Mutex
	numbers map[string]uint64
}

func (s *server) Place(ctx context.Context, q *orderspb.PlaceRequest) (*orderspb.PlaceResponse, error) {
	caller, _ := call.From(ctx)
	if caller.Term == 0 {
		return nil, status.Error(codes.FailedPrecondition, "call the master")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.numbers[q.GetId()] == 0 {
		s.numbers[q.GetId()] = uint64(len(s.numbers)) + 1
	}
	return &orderspb.PlaceResponse{Number: s.numbers[q.GetId()], Term: uint64(caller.Term)}, nil
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: orders HOST:PORT, one of 127.0.0.1:7971, :7972 and :7973; or orders alone")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, addr string) error {
	config := node.Config{Alone: true}
	if addr != "alone" {
		peers := []string{"127.0.0.1:7971", "127.0.0.1:7972", "127.0.0.1:7973"}
		registry, err := discovery.Open("static", &static.Config{Peers: peers}, discovery.Options{})
		if err != nil {
			return err
		}
		defer registry.Close()
		config = node.Config{Cluster: "orders", NodeID: addr, Bind: addr, Registries: []*discovery.Registry{registry}}
	}
	n, err := node.Start(ctx, config)
	if err != nil {
		return err
	}
	defer n.Leave(context.Background())
	mesh, err := serve(n)
	if err != nil {
		return err
	}
	orders := orderspb.NewOrdersClient(mesh.Master())
	for tick := time.NewTicker(time.Second); ; {
		select {
		case now := <-tick.C:
			id := fmt.Sprint(n.ID(), " ", now.UnixNano())
			answer, err := orders.Place(call.Idempotent(ctx), &orderspb.PlaceRequest{Id: id, Article: "tea"})
			fmt.Println(answer, err)
		case <-ctx.Done():
			return nil
		}
	}
}

// serve has the node serve the calls of others, and returns its way to them.
func serve(n *node.Node) (*call.Mesh, error) {
	mesh, err := call.Open(n, call.Options{})
	if err != nil {
		return nil, err
	}
	orderspb.RegisterOrdersServer(mesh, &server{numbers: make(map[string]uint64)})
	return mesh, mesh.Start()
}

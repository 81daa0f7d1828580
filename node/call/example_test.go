package call_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/call"
)

// A node calls the master, which may be itself. Here it is in no cluster, and so is the master.
func Example() {
	ctx := context.Background()
	n, err := node.Start(ctx, node.Config{Alone: true, NodeID: "node-1"})
	if err != nil {
		log.Fatal(err)
	}
	defer n.Leave(ctx)
	mesh, err := call.Open(n, call.Options{})
	if err != nil {
		log.Fatal(err)
	}
	call.Handle(mesh, "greet", func(ctx context.Context, name string) (string, error) {
		caller, _ := call.From(ctx)
		return fmt.Sprintf("hello %s of %s, from the master in term %d", name, caller.NodeID, caller.Term), nil
	})
	if err := mesh.Start(); err != nil {
		log.Fatal(err)
	}
	fmt.Println(call.Invoke[string](ctx, mesh.Master(), "greet", "Ann"))
	// Output: hello Ann of node-1, from the master in term 1 <nil>
}

// Each member is asked, and those that do not answer are named.
func ExampleEach() {
	var ctx context.Context
	var n *node.Node
	var mesh *call.Mesh
	for r := range call.Each(ctx, mesh, n.Members(), func(ctx context.Context, c grpc.ClientConnInterface) (int, error) {
		return call.Invoke[int](ctx, c, "cache.Size", struct{}{})
	}) {
		if r.Err != nil {
			log.Printf("%s: %v", r.From.NodeID, r.Err)
			continue
		}
		fmt.Println(r.From.NodeID, r.Value)
	}
}

// A call that failed is made again where that does no harm.
func ExampleMayHaveRun() {
	var ctx context.Context
	var mesh *call.Mesh
	_, err := call.Invoke[string](ctx, mesh.Node("node-2"), "mail.Send", "…")
	switch {
	case err == nil:
	case errors.Is(err, call.ErrNoHandler):
		log.Fatal("node-2 sends no mail")
	case !call.MayHaveRun(err):
		// Nothing was sent: ask another one.
	default:
		// It is not known whether it was.
	}
}

// A program on this host, in any language, serves calls of members to the master.
func ExampleForward() {
	var n *node.Node
	program, err := grpc.NewClient("unix:/run/orders.sock", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	mesh, err := call.Open(n, call.Options{Forward: map[string]call.Forward{
		"orders.v1.Orders": {To: program, OnlyMaster: true},
	}})
	if err != nil {
		log.Fatal(err)
	}
	if err := mesh.Start(); err != nil {
		log.Fatal(err)
	}
}

// Clients of plain gRPC on this host call the master, wherever it is.
func ExampleMesh_Forwarding() {
	var mesh *call.Mesh
	l, err := net.Listen("tcp", "127.0.0.1:9000")
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(grpc.NewServer(mesh.Forwarding("")...).Serve(l))
}

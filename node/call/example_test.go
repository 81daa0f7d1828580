package call_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"google.golang.org/grpc"

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

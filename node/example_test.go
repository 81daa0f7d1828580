package node_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/providers/static"
)

// A program that does its work on one node at a time. Each node runs the same, with
// its own address in Bind.
func Example() {
	peers := &static.Config{Peers: []string{"127.0.0.1:17946"}}
	registry, err := discovery.Open("static", peers, discovery.Options{})
	if err != nil {
		log.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "muster-example-") // a place that lasts, in earnest
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	n, err := node.Start(context.Background(), node.Config{
		Cluster: "orders", Bind: "127.0.0.1:17946", Registries: []*discovery.Registry{registry}, DataDir: dir,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer n.Leave(context.Background())

	ctx, done := context.WithCancel(context.Background())
	n.WhileMaster(ctx, func(ctx context.Context, term node.Term) error {
		fmt.Println("this node is master:", n.IsMaster())
		done()
		return nil
	})
	// Output: this node is master: true
}

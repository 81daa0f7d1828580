// Command embedded is a program with a node inside, as it runs in a container, for the tests:
// it starts the node and says where others dial it, or why nobody does.
//
//	embedded plain    without a detector
//	embedded docker   with the one line that docs/docker.md has
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/providers/static"
	"github.com/musterhq/muster/registrar/advertise"
	"github.com/musterhq/muster/registrar/docker"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1]); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, how string) error {
	provider, err := static.New(static.Config{Peers: []string{"192.0.2.1:7946"}})
	if err != nil {
		return err
	}
	registry := discovery.New("static", provider, discovery.Options{})
	defer registry.Close()
	config := node.Config{Cluster: "orders", NodeID: "a", Bind: "0.0.0.0:7946", Registries: []*discovery.Registry{registry}}
	if how == "docker" {
		config.Detectors = []advertise.Detector{docker.NewDetector(docker.DetectorOptions{})}
	}
	n, err := node.Start(ctx, config)
	if err != nil {
		return err
	}
	fmt.Println("address:", n.Status().Advertised.Addr)
	<-ctx.Done()
	return n.Leave(context.Background())
}

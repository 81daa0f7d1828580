// Command embed is a program with a node inside: of three that run, one does the work. Start it in
// three terminals. The first master is elected once all three run. Then stop the one that works,
// and another one takes over:
//
//	go run ./examples/embed 127.0.0.1:7951
//	go run ./examples/embed 127.0.0.1:7952
//	go run ./examples/embed 127.0.0.1:7953
//
// The nodes keep their votes in the user's state directory, as ~/.local/state/muster/embed, so that
// a second run continues with a higher term.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/providers/static"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: embed HOST:PORT, one of 127.0.0.1:7951, :7952 and :7953")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, addr string) error {
	peers := []string{"127.0.0.1:7951", "127.0.0.1:7952", "127.0.0.1:7953"}
	registry, err := discovery.Open("static", &static.Config{Peers: peers}, discovery.Options{})
	if err != nil {
		return err
	}
	defer registry.Close()
	n, err := node.Start(ctx, node.Config{Cluster: "embed", NodeID: addr, Bind: addr, Registries: []*discovery.Registry{registry}})
	if err != nil {
		return err
	}
	defer n.Leave(context.Background())

	go func() {
		for event := range n.Events(ctx) {
			switch {
			case event.Member != nil:
				fmt.Println(event.Kind, event.Member.NodeID)
			case event.Master != nil:
				fmt.Println(event.Kind, event.Master.NodeID, "in term", event.Master.Term)
			default:
				fmt.Println(event.Kind)
			}
		}
	}()
	err = n.WhileMaster(ctx, work)
	if ctx.Err() != nil {
		return nil // we were asked to stop
	}
	return err
}

// work does what only the master does, until ctx ends.
func work(ctx context.Context, term node.Term) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			// What receives the work rejects a term below the highest that it has seen.
			fmt.Println("working in term", term)
		case <-ctx.Done():
			return nil
		}
	}
}

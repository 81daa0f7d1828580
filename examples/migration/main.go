// Command migration is a program that must not serve before a migration is done. All hosts start it
// at once: one of them runs the migration, and the others wait at the gate. Start it in three
// terminals:
//
//	go run ./examples/migration 127.0.0.1:7951
//	go run ./examples/migration 127.0.0.1:7952
//	go run ./examples/migration 127.0.0.1:7953
//
// The records are kept by the nodes, in the user's state directory, as
// ~/.local/state/muster/migration: a second run finds the migration done. Set FAIL=1 on all three
// to see a failure. It is recorded as well, under a name of its own.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/upgrade"
	"github.com/musterhq/muster/providers/static"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: migration HOST:PORT, one of 127.0.0.1:7951, :7952 and :7953")
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
	running, end := context.WithCancelCause(ctx)
	defer end(nil) // when the node has left
	n, err := node.Start(ctx, node.Config{Cluster: "migration", NodeID: addr, Bind: addr, Registries: []*discovery.Registry{registry}})
	if err != nil {
		return err
	}
	defer n.Leave(context.Background())

	name := "schema"
	if os.Getenv("FAIL") != "" {
		name = "broken-schema"
	}
	steps := []upgrade.Step{
		{Name: name, Version: "1.1", Restartable: true, Run: func(ctx context.Context, term node.Term) error {
			fmt.Println("migrating to 1.1 in term", term)
			return nil // CREATE TABLE IF NOT EXISTS, or the like: it may run again
		}},
		{Name: name, Version: "1.2", Run: func(ctx context.Context, term node.Term) error {
			fmt.Println("migrating to 1.2 in term", term)
			if os.Getenv("FAIL") != "" {
				return errors.New("there is no space left")
			}
			return nil
		}},
	}
	// An error of Run ends the program: an *upgrade.OutdatedError says that it is too old to serve.
	go func() { end(upgrade.Run(running, n, n.Store(), steps...)) }()
	if err := upgrade.Wait(running, n.Store(), name, "1.2"); err != nil {
		return err
	}
	fmt.Println("the gate is open: serving")
	<-running.Done()
	if ctx.Err() != nil {
		return nil // we were asked to stop
	}
	return context.Cause(running)
}

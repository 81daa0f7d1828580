// Command discover follows the instances of a service in etcd, without being one of
// them. With the agents of examples/etcd running:
//
//	go run ./examples/discover orders
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"

	"github.com/musterhq/muster/discovery"
	_ "github.com/musterhq/muster/providers/etcd"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: discover SERVICE")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	config := map[string]any{"endpoints": "http://127.0.0.1:2379"}
	registry, err := discovery.Open("etcd", config, discovery.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer registry.Close()
	for snapshot := range registry.Watch(ctx, discovery.Query{Service: os.Args[1]}) {
		instances, known := snapshot.Instances()
		switch {
		case !known:
			fmt.Println("nothing is known yet:", snapshot.Err)
		case snapshot.Stale:
			fmt.Println("etcd fails, the last good set stands:", snapshot.Err)
		default:
			fmt.Println(len(instances), "instances:")
		}
		for _, instance := range instances {
			fmt.Println(" ", instance.NodeID, instance.Addr)
		}
	}
}

// Command nightly is a program with jobs. One node writes a report at half past two at night in
// Berlin, and a heartbeat every ten seconds. Every node cleans up each minute. Start it in three
// terminals, and stop the one that writes the heartbeat:
//
//	go run ./examples/nightly 127.0.0.1:7951
//	go run ./examples/nightly 127.0.0.1:7952
//	go run ./examples/nightly 127.0.0.1:7953
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"
	_ "time/tzdata" // for hosts that have no zone data

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/cron"
	"github.com/musterhq/muster/providers/static"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: nightly HOST:PORT, one of 127.0.0.1:7951, :7952 and :7953")
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
	n, err := node.Start(ctx, node.Config{Cluster: "nightly", NodeID: addr, Bind: addr, Registries: []*discovery.Registry{registry}})
	if err != nil {
		return err
	}
	defer n.Leave(context.Background())

	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		return err
	}
	night, err := cron.Parse("30 2 * * *", berlin)
	if err != nil {
		return err
	}
	say := func(what string) func(context.Context, cron.Fire) error {
		return func(_ context.Context, f cron.Fire) error {
			fmt.Println(what, "for", f.Scheduled.Format(time.TimeOnly), "in term", f.Term)
			return nil
		}
	}
	s := &cron.Scheduler{Node: n, Store: n.Store()}
	err = s.Run(ctx,
		cron.Job{Name: "report", Schedule: night, Run: say("report"), Missed: cron.Once},
		cron.Job{Name: "heartbeat", Schedule: cron.Every(10 * time.Second), Run: say("heartbeat")},
		cron.Job{Name: "clean-up", Schedule: cron.Every(time.Minute), Run: say("clean-up"), EachNode: true},
	)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

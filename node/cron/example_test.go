package cron_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/musterhq/muster/node/cron"
	"github.com/musterhq/muster/node/nodetest"
)

// In the night in which clocks are set ahead, half past two does not come: the job runs when the
// gap ends.
func ExampleParse() {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		log.Fatal(err)
	}
	night, err := cron.Parse("30 2 * * *", berlin)
	if err != nil {
		log.Fatal(err)
	}
	at := time.Date(2026, 3, 28, 0, 0, 0, 0, berlin)
	for range 3 {
		at = night.Next(at)
		fmt.Println(at.Format("2 January 15:04 MST"))
	}
	// Output:
	// 28 March 02:30 CET
	// 29 March 03:00 CEST
	// 30 March 02:30 CEST
}

// Each node of a cluster runs a Scheduler with the same jobs: the master runs them.
func ExampleScheduler() {
	serve := func(ctx context.Context, cluster *nodetest.Cluster) {
		for _, n := range cluster.Nodes() {
			s := &cron.Scheduler{Node: n, Store: n.Store()}
			go s.Run(ctx, cron.Job{
				Name: "report", Schedule: cron.Every(time.Hour), Missed: cron.Once,
				Run: func(ctx context.Context, f cron.Fire) error {
					fmt.Fprintln(f.Output, "the report of", f.Scheduled, "in term", f.Term)
					return nil
				},
			})
		}
	}
	_ = serve
}

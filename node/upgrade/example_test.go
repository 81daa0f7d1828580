package upgrade_test

import (
	"context"
	"fmt"
	"log"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/memory"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/upgrade"
)

// ledger stands in for that of a node, Node.Store, or of a database.
func ledger() driver.Store {
	a, err := memory.New().Driver().(driver.Authorizer).OpenAuthority(context.Background(), driver.AuthorityOptions{
		Cluster: "example", Self: driver.Holder{NodeID: "a", InstanceID: "a1", Addr: "127.0.0.1:1"},
	})
	if err != nil {
		log.Fatal(err)
	}
	return a.(driver.Store)
}

// A program migrates its database, and serves once that is done. In a cluster every node runs
// the same, with its node instead of nil and n.Store() as the ledger.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	l := ledger()
	go upgrade.Run(ctx, nil, l,
		upgrade.Step{Name: "schema", Version: "1.9", Run: func(context.Context, node.Term) error {
			fmt.Println("creating tables")
			return nil
		}},
		upgrade.Step{Name: "schema", Version: "1.10", Run: func(context.Context, node.Term) error {
			fmt.Println("adding a column")
			return nil
		}},
	)
	if err := upgrade.Wait(ctx, l, "schema", "1.10"); err != nil {
		log.Fatal(err)
	}
	fmt.Println("serving")
	// Output:
	// creating tables
	// adding a column
	// serving
}

// A step has failed. The gate says so, and an operator has it run again.
func ExampleRetry() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	l := ledger()
	full := true
	go upgrade.Run(ctx, nil, l, upgrade.Step{Name: "schema", Version: "1", Run: func(context.Context, node.Term) error {
		if full {
			full = false
			return fmt.Errorf("no space left")
		}
		return nil
	}})
	err := upgrade.Wait(ctx, l, "schema", "1")
	if failed, ok := err.(*upgrade.FailedError); ok {
		fmt.Println(failed.Name, failed.Version, failed.State)
	}
	if err := upgrade.Retry(ctx, l, "schema", "1"); err != nil {
		log.Fatal(err)
	}
	fmt.Println(upgrade.Wait(ctx, l, "schema", "1"))
	// Output:
	// schema 1 failed
	// <nil>
}

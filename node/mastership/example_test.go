package mastership_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node/mastership"
)

// A job that runs on the master alone, and sends its term along.
func ExampleElector_WhileMaster() {
	var elector *mastership.Elector // from mastership.New, or inside a node
	var charge func(ctx context.Context, term driver.Term) error

	ctx := context.Background()
	err := elector.WhileMaster(ctx, func(ctx context.Context, term driver.Term) error {
		tick := time.NewTicker(time.Minute)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return ctx.Err() // no longer master: wait for the next term
			case <-tick.C:
				// The receiver refuses a term lower than the highest it has seen.
				if err := charge(ctx, term); err != nil {
					return err // ends WhileMaster
				}
			}
		}
	})
	fmt.Println(err)
}

// A request that only the master may answer.
func ExampleElector_Check() {
	var elector *mastership.Elector

	token, err := elector.Check()
	var other *mastership.NotMasterError
	switch {
	case errors.As(err, &other):
		fmt.Println("ask", other.Master.AppAddrs["http"])
	case err != nil:
		fmt.Println("try again later:", err)
	default:
		result := "work done in term " + fmt.Sprint(token.Term)
		if err := token.Check(); err != nil {
			return // lost in the meantime: do not promise anything
		}
		fmt.Println(result)
	}
}

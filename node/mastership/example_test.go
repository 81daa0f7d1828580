package mastership_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/memory"
	"github.com/musterhq/muster/node/mastership"
)

// Election alone, without a node: any provider that grants mastership will do.
func Example() {
	registry := discovery.New("memory", memory.New().Driver(), discovery.Options{})
	defer registry.Close()

	ctx, cancel := context.WithCancel(context.Background())
	self := mastership.Holder{NodeID: "a", InstanceID: rand.Text(), Addr: "10.0.0.5:8080"}
	authority, err := registry.OpenAuthority(ctx, discovery.AuthorityOptions{Cluster: "orders", Self: self, TTL: 10 * time.Second})
	if err != nil {
		log.Fatal(err)
	}
	elector, err := mastership.New(mastership.Config{Authority: authority, Holder: self, TTL: 10 * time.Second})
	if err != nil {
		log.Fatal(err)
	}
	elector.SetConditions(mastership.Conditions{
		Eligible: true, Ready: true, Formation: mastership.Formation{}.Decide(1),
	})
	ended := make(chan error)
	go func() { ended <- elector.Run(ctx) }()

	err = elector.WhileMaster(ctx, func(_ context.Context, term mastership.Term) error {
		fmt.Println("master in term", term)
		cancel() // or return when the context ends
		return nil
	})
	fmt.Println("WhileMaster:", err)
	fmt.Println("Run:", <-ended) // the grant is released by now
	if err := authority.Close(context.Background()); err != nil {
		log.Fatal(err)
	}
	// Output:
	// master in term 1
	// WhileMaster: context canceled
	// Run: <nil>
}

// A job that runs on the master alone, and sends its term along.
func ExampleElector_WhileMaster() {
	var elector *mastership.Elector // from mastership.New, or inside a node
	var charge func(ctx context.Context, term mastership.Term) error

	ctx := context.Background()
	err := elector.WhileMaster(ctx, func(ctx context.Context, term mastership.Term) error {
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

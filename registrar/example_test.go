package registrar_test

import (
	"context"
	"fmt"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/memory"
	"github.com/musterhq/muster/internal/testing/snapshot"
	"github.com/musterhq/muster/registrar"
)

// In earnest the driver is opened with discovery.Open; here it is one in memory.
func Example() {
	registry := discovery.New("memory", memory.New().Driver(), discovery.Options{})
	defer registry.Close()

	r := registrar.New(registrar.Config{Registry: registry, TTL: 10 * time.Second})
	err := r.Set(discovery.Instance{
		Service:    "orders",
		NodeID:     "orders-1",
		InstanceID: "5f0c1d7e", // of this start of the process
		Addr:       "10.0.0.5:7946",
	})
	if err != nil {
		fmt.Println(err) // an instance that nobody could use
	}

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := r.Wait(ctx); err != nil {
		fmt.Println(err) // it is tried on all the same
	}
	for _, i := range r.Status().Instances {
		fmt.Println(i.Instance.Addr, i.Registered)
	}

	if err := r.Stop(ctx); err != nil {
		fmt.Println(err)
	}
	found, err := registry.List(ctx, discovery.Query{Service: "orders"})
	fmt.Println(len(snapshot.Instances(found)), err)
	// Output:
	// 10.0.0.5:7946 true
	// 0 <nil>
}

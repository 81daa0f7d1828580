package discovery_test

import (
	"context"
	"fmt"
	"log"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/memory"
	"github.com/musterhq/muster/internal/testing/snapshot"
)

// A program finds the other instances of its service, and itself by its instance
// id. The provider here is one in memory; programs open theirs with Open.
func Example() {
	provider := memory.New()
	provider.Put(
		discovery.Instance{Service: "orders", InstanceID: "b1c2", NodeID: "node-2", Addr: "10.0.0.6:7946", Tags: []string{"web"}},
		discovery.Instance{Service: "orders", InstanceID: "a0f3", NodeID: "node-1", Addr: "10.0.0.5:7946", Tags: []string{"web"}},
	)
	r := discovery.New("memory", provider.Driver(), discovery.Options{})
	defer r.Close()

	s, err := r.List(context.Background(), discovery.Query{Service: "orders", Tags: []string{"web"}})
	if err != nil {
		log.Fatal(err)
	}
	others, _ := s.Others("a0f3") // known, since List returned no error
	for _, i := range others {
		fmt.Println(i.NodeID, i.Addr)
	}
	// Output: node-2 10.0.0.6:7946
}

// A watch never ends of itself. While the provider fails it keeps the last good
// set, and says so.
func ExampleRegistry_Watch() {
	provider := memory.New()
	provider.Put(discovery.Instance{Service: "orders", InstanceID: "a0f3", Addr: "10.0.0.5:7946"})
	r := discovery.New("memory", provider.Driver(), discovery.Options{})
	defer r.Close()

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for s := range r.Watch(ctx, discovery.Query{Service: "orders"}) {
		fmt.Println("known:", s.Known, "stale:", s.Stale, "instances:", len(snapshot.Instances(s)))
		if s.Stale {
			break
		}
		provider.Fail(discovery.ErrUnavailable)
	}
	// Output:
	// known: true stale: false instances: 1
	// known: true stale: true instances: 1
}

// Two providers are read as one. What a list knows by its address alone is the
// instance that another provider knows better.
func ExampleUnion() {
	list, store := memory.New(), memory.New()
	list.Put(
		discovery.Instance{Service: "orders", Addr: "10.0.0.5:7946"},
		discovery.Instance{Service: "orders", Addr: "10.0.0.6:7946"},
	)
	store.Put(discovery.Instance{Service: "orders", InstanceID: "a0f3", NodeID: "node-1", Addr: "10.0.0.5:7946"})
	u := discovery.NewUnion(
		discovery.New("store", store.Driver(), discovery.Options{}),
		discovery.New("list", list.Driver(), discovery.Options{}))
	defer u.Close()

	s, err := u.List(context.Background(), discovery.Query{Service: "orders"})
	if err != nil {
		log.Fatal(err)
	}
	for _, i := range snapshot.Instances(s) {
		fmt.Println(i.Addr, i.NodeID, s.Providers(i))
	}
	// Output:
	// 10.0.0.6:7946  [list]
	// 10.0.0.5:7946 node-1 [store list]
}

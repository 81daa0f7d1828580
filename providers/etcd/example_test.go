package etcd_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/etcd"
)

// Follow the instances of a service. What is yielded is whole, and says when it is
// old because etcd cannot be reached.
func Example() {
	d, err := etcd.New(etcd.Config{Endpoints: []string{"http://127.0.0.1:2379"}})
	if err != nil {
		log.Fatal(err)
	}
	registry := discovery.New("etcd", d, discovery.Options{})
	defer registry.Close()

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for snapshot := range registry.Watch(ctx, discovery.Query{Service: "orders"}) {
		instances, _ := snapshot.Instances()
		for _, i := range instances {
			fmt.Println(i.Addr, i.Zone, snapshot.Stale)
		}
	}
}

// Publish an instance without the registrar, which would also renew and repair.
func ExampleDriver_OpenSession() {
	d, err := etcd.New(etcd.Config{Endpoints: []string{"http://127.0.0.1:2379"}})
	if err != nil {
		log.Fatal(err)
	}
	defer d.Close()

	ctx := context.Background()
	session, err := d.OpenSession(ctx, driver.SessionOptions{TTL: 10 * time.Second})
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close(ctx)
	err = session.Register(ctx, driver.Instance{Service: "orders", InstanceID: "5f3c", Addr: "10.0.0.5:7946"})
	if err != nil {
		log.Fatal(err)
	}
}

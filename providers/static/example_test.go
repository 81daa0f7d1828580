package static_test

import (
	"context"
	"fmt"
	"log"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/static"
)

func Example() {
	d, err := static.New(static.Config{Peers: []string{"10.0.0.5:7946", "db3.example.org:7946"}})
	if err != nil {
		log.Fatal(err)
	}
	defer d.Close()
	s, err := d.List(context.Background(), driver.Query{Service: "orders"})
	if err != nil {
		log.Fatal(err)
	}
	for _, i := range s.Instances {
		fmt.Println(i.Service, i.Addr)
	}
	// Output:
	// orders 10.0.0.5:7946
	// orders db3.example.org:7946
}

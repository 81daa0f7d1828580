package advertise_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/musterhq/muster/registrar/advertise"
)

func ExampleResolve() {
	bound := netip.MustParseAddrPort("10.0.0.5:7946") // what the listener reports
	address, err := advertise.Resolve(context.Background(), "auto", bound, advertise.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s (%s)\n", address.Addr, address.Source)

	_, err = advertise.Resolve(context.Background(), "0.0.0.0:7946", bound, advertise.Options{})
	fmt.Println(err)
	// Output:
	// 10.0.0.5:7946 (bound to 10.0.0.5)
	// node.advertise: "0.0.0.0:7946": nobody can dial 0.0.0.0; name an address of this host, or write auto
}

func ExampleWatch() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	bound := netip.MustParseAddrPort("127.0.0.1:7946")
	for address, err := range advertise.Watch(ctx, "auto", bound, advertise.Options{}) {
		if err != nil {
			fmt.Println("keeping", address.Addr, "although", err)
			continue
		}
		fmt.Println("publish", address.Addr)
		cancel() // the example has seen enough
	}
	// Output: publish 127.0.0.1:7946
}

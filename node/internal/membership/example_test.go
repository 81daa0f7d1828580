package membership_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/musterhq/muster/node/internal/link"
	"github.com/musterhq/muster/node/internal/membership"
)

// Two members on loopback find each other.
func ExampleStart() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	run := func(nodeID, instanceID string) (*membership.Membership, *link.Link) {
		l, err := link.Listen(link.Config{Bind: "127.0.0.1:0", Cluster: "orders", NodeID: nodeID, InstanceID: instanceID})
		if err != nil {
			log.Fatal(err)
		}
		transport, err := l.Transport(l.Addr())
		if err != nil {
			log.Fatal(err)
		}
		m, err := membership.Start(membership.Config{
			Cluster: "orders", NodeID: nodeID, InstanceID: instanceID,
			Addr: l.Addr(), Transport: transport, Network: l,
			Details: membership.Details{Zone: "eu-1"},
		})
		if err != nil {
			log.Fatal(err)
		}
		return m, l
	}
	a, linkA := run("a", "5f0c9d2e7b31") // random in earnest
	defer linkA.Close()
	b, linkB := run("b", "d4a86c13f09e")
	defer linkB.Close()

	a.SetPeers([]string{linkB.Addr().String()})
	for view := range a.Watch(ctx) {
		if len(view.Members) == 2 {
			for _, m := range view.Members {
				fmt.Println(m.NodeID, m.Zone, m.State)
			}
			break
		}
	}
	_ = b.Leave(ctx)
	_ = a.Leave(ctx)

	// Output:
	// a eu-1 alive
	// b eu-1 alive
}

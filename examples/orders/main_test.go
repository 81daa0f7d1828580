package main

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/examples/orders/orderspb"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node/nodetest"
)

func TestOrders(t *testing.T) {
	cluster := nodetest.Start(t, 2)
	var clients []orderspb.OrdersClient
	for _, n := range cluster.Nodes() {
		mesh, err := serve(n)
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, orderspb.NewOrdersClient(mesh.Master()))
		if n != cluster.Master() {
			continue
		}
		_, err = orderspb.NewOrdersClient(mesh.Node(n.ID())).Place(t.Context(), &orderspb.PlaceRequest{Id: "a"})
		if status.Code(err) != codes.FailedPrecondition {
			t.Errorf("a call that is not to the master: %v", err)
		}
	}
	place := func(c orderspb.OrdersClient, id string) (number uint64) {
		wait.For(t, "the master numbers it", func() bool {
			answer, err := c.Place(t.Context(), &orderspb.PlaceRequest{Id: id})
			number = answer.GetNumber()
			return err == nil
		})
		return number
	}
	for i, id := range []string{"a", "b", "a"} {
		if got, want := place(clients[i%2], id), []uint64{1, 2, 1}[i]; got != want {
			t.Errorf("order %s has number %d, want %d", id, got, want)
		}
	}
}

package config

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCalls(t *testing.T) {
	c := mustLoad(t, least+`
calls:
  - {service: orders.v1.Orders, to: "127.0.0.1:9000"}
  - {service: ledger, to: "[::1]:9000", where: master}
  - {service: orders.Count-all, to: "unix:/run/orders.sock", where: all}
`, nil)
	want := []Call{
		{Service: "orders.v1.Orders", To: "127.0.0.1:9000"},
		{Service: "ledger", To: "[::1]:9000", Where: OnMaster},
		{Service: "orders.Count-all", To: "unix:/run/orders.sock", Where: OnAll},
	}
	if diff := cmp.Diff(want, c.Calls); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

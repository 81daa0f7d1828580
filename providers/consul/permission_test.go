package consul

import (
	"errors"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/secret"
)

// A check of a permission says whether a registration would be permitted, in each way that
// registrations stand in Consul, and leaves no trace.
func TestCheckPermission(t *testing.T) {
	server := testserver.StartConsul(t, testserver.WithACL())
	for _, test := range []struct {
		name, rules string
		config      Config
		service     string
		denied      bool
	}{
		{"may", `service "orders" { policy = "write" }`, Config{}, "orders", false},
		{"another", `service "orders" { policy = "write" }`, Config{}, "orders-eu", true},
		{"may read", `service_prefix "" { policy = "read" }`, Config{}, "orders", true},
		{"catalog", `service "orders" { policy = "write" } node_prefix "eu-" { policy = "write" }`, Config{Mode: Catalog, NodeName: "eu"}, "orders", false},
		{"catalog, without its nodes", `service "orders" { policy = "write" }`, Config{Mode: Catalog, NodeName: "eu"}, "orders", true},
		{"keys", `key_prefix "services/orders/" { policy = "write" }`, Config{Format: formatRegistratorKV, Prefix: "services"}, "orders", false},
		{"keys, may read", `key_prefix "services/orders/" { policy = "read" }`, Config{Format: formatRegistratorKV, Prefix: "services"}, "orders", true},
	} {
		c := test.config
		c.Address, c.Token = server.Addr(), secret.String(server.AddToken(test.rules))
		err := open(t, c).CheckPermission(wait.Context(t), test.service)
		if test.denied != errors.Is(err, driver.ErrDenied) || !test.denied && err != nil {
			t.Errorf("%s: %v, want denied %v", test.name, err, test.denied)
		}
	}
	services, _, err := server.Client().Catalog().Services(nil)
	if err != nil || len(services) != 1 {
		t.Errorf("left are the services %v, %v", services, err)
	}
	nodes, _, err := server.Client().Catalog().Nodes(nil)
	if err != nil || len(nodes) != 1 {
		t.Errorf("left are the nodes %v, %v", nodes, err)
	}
	keys, _, err := server.Client().KV().Keys("", "", &api.QueryOptions{})
	if err != nil || len(keys) != 0 {
		t.Errorf("left are the keys %v, %v", keys, err)
	}
}

func TestCheckPermissionWithoutACLs(t *testing.T) {
	if err := open(t, Config{Address: testserver.SharedConsul(t).Addr()}).CheckPermission(wait.Context(t), "orders"); err != nil {
		t.Error(err)
	}
}

package etcd

import (
	"errors"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
)

// A check of a permission says whether a registration would be permitted, and leaves no trace.
func TestCheckPermission(t *testing.T) {
	server := testserver.StartEtcd(t, testserver.WithAuth())
	server.AddUser("writer", "secret", "/muster/v1/services/orders/")
	server.AddUser("stranger", "secret", "/elsewhere/")
	client := server.Client()
	if _, err := client.RoleGrantPermission(wait.Context(t), "stranger", "/muster/", clientv3.GetPrefixRangeEnd("/muster/"), clientv3.PermissionType(clientv3.PermRead)); err != nil {
		t.Fatal(err)
	}
	before, err := client.Get(wait.Context(t), "a")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		user, service string
		denied        bool
	}{
		{"writer", "orders", false},
		{"writer", "orders-eu", true},
		{"stranger", "orders", true}, // who may read
	} {
		d := open(t, Config{Endpoints: []string{server.Endpoint()}, Username: test.user, Password: "secret"})
		err := d.CheckPermission(wait.Context(t), test.service)
		if test.denied != errors.Is(err, driver.ErrDenied) || !test.denied && err != nil {
			t.Errorf("%s, %s: %v, want denied %v", test.user, test.service, err, test.denied)
		}
	}
	after, err := client.Get(wait.Context(t), "a")
	if err != nil || after.Header.Revision != before.Header.Revision {
		t.Errorf("%v; the revision went from %d to %d", err, before.Header.Revision, after.Header.Revision)
	}
}

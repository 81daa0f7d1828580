package consul

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testserver"
)

// Anybody may write into the meta of a service that it hangs on a key which is not
// there. That gives away no node but those of sessions of Muster.
func TestBuriesItsOwnAlone(t *testing.T) {
	t.Parallel()
	server := testserver.StartConsul(t)
	d := open(t, Config{Address: server.Addr(), Mode: Catalog})
	const dead, other = "0c7ccf43-7d5b-4f0e-9d2b-000000000001", "0c7ccf43-7d5b-4f0e-9d2b-000000000002"
	catalog := server.Client().Catalog()
	for node, meta := range map[string]map[string]string{
		"db-1":             {metaSession: "x", metaAlive: d.keys.alive("x")},
		"db-2":             {metaAlive: d.keys.alive("x")},
		"db-3":             {metaSession: dead, metaAlive: d.keys.alive(dead)},
		"muster-" + other:  {metaSession: other, metaAlive: d.keys.alive(dead)},
		"muster-x-" + dead: {metaSession: dead, metaAlive: d.keys.alive(dead)},
	} {
		_, err := catalog.Register(&api.CatalogRegistration{
			Node: node, Address: "10.0.0.9",
			Service: &api.AgentService{ID: "orders", Service: "orders", Port: 7946, Meta: meta},
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
	}
	nodes := func() (names []string) {
		all, _, err := catalog.Nodes(nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range all {
			names = append(names, n.Node)
		}
		return names
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watching := make(chan struct{})
	defer func() { <-watching }()
	defer cancel()
	go func() {
		defer close(watching)
		for s, err := range d.Watch(ctx, driver.Query{Service: "orders"}, driver.Snapshot{}) {
			if err != nil || len(s.Instances) > 0 {
				t.Errorf("watch: %+v, %v", s, err)
			}
		}
	}()
	eventually(t, "the grave is cleared", func() bool { return !slices.Contains(nodes(), "muster-x-"+dead) })
	for _, node := range []string{"db-1", "db-2", "db-3", "muster-" + other} {
		if left := nodes(); !slices.Contains(left, node) {
			t.Errorf("left are %v without %s", left, node)
		}
	}
	s, err := d.List(within(t), driver.Query{Service: "orders"})
	if err != nil || len(s.Skipped) != 4 {
		t.Fatalf("List: %+v, %v; want four that are skipped", s, err)
	}
	for _, skipped := range s.Skipped {
		if !strings.Contains(skipped.Reason.Error(), "deregister it") {
			t.Errorf("skipped %s: %v, want the way to mend it", skipped.Key, skipped.Reason)
		}
	}
}

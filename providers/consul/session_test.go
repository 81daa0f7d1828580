package consul

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testserver"
)

// The catalog may lose what the agent has. The agent would notice within a minute or
// more, and says until then that all is well.
func TestLostBehindTheAgent(t *testing.T) {
	t.Parallel()
	server := testserver.StartConsul(t)
	d := open(t, Config{Address: server.Addr(), HealthyOnly: true, Check: Check{TTL: bound, Status: api.HealthPassing}})
	s, err := d.OpenSession(within(t), driver.SessionOptions{TTL: 2 * bound})
	if err != nil {
		t.Fatal(err)
	}
	i := driver.Instance{Service: "orders", NodeID: "n1", InstanceID: "i1", Addr: "10.0.0.5:7946", Meta: map[string]string{"k": "v"}}
	catalog := server.Client().Catalog()
	has := func() bool {
		found, err := d.List(within(t), driver.Query{Service: i.Service})
		if err != nil {
			t.Fatal(err)
		}
		return len(found.Instances) == 1
	}
	entry := func() *api.ServiceEntry {
		entries, _, err := server.Client().Health().Service(i.Service, "", false, nil)
		if err != nil || len(entries) != 1 {
			t.Fatalf("the catalog has %+v, %v", entries, err)
		}
		return entries[0]
	}
	register := func() {
		t.Helper()
		if err := s.Register(within(t), i); err != nil {
			t.Fatal(err)
		}
	}
	if has() {
		t.Fatal("found before it was registered")
	}
	register()
	eventually(t, "registered", has)
	checks := len(entry().Checks)
	for range 2 {
		if _, err := catalog.Deregister(&api.CatalogDeregistration{Node: server.Name(), ServiceID: "orders:i1"}, nil); err != nil {
			t.Fatal(err)
		}
		if has() {
			t.Fatal("found when it was removed")
		}
		register()
		eventually(t, "put back", has)
		found, err := d.List(within(t), driver.Query{Service: i.Service})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]driver.Instance{i}, found.Instances); diff != "" {
			t.Errorf("put back (-want +have):\n%s", diff)
		}
		if have := len(entry().Checks); have != checks {
			t.Errorf("put back with %d checks, want %d", have, checks)
		}
	}
	// What is there is left alone.
	before := entry().Service.ModifyIndex
	register()
	if err := s.Renew(within(t)); err != nil {
		t.Fatal(err)
	}
	if after := entry().Service.ModifyIndex; after != before {
		t.Errorf("written again at %d, although it stood at %d", after, before)
	}
	// And it is still ours to remove.
	if err := s.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "removed", func() bool { return !has() })
	if err := s.Register(within(t), i); !errors.Is(err, driver.ErrSessionLost) {
		t.Errorf("Register after Close: %v", err)
	}
}

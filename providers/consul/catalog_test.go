package consul

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
)

// The agent through which something was registered without an agent may go.
func TestCatalogOutlivesTheAgent(t *testing.T) {
	t.Parallel()
	server := testserver.StartConsul(t, testserver.WithState())
	agent := testserver.StartConsulAgent(t, server)
	s, err := open(t, Config{Address: agent.Addr(), Mode: Catalog}).OpenSession(wait.Context(t), driver.SessionOptions{TTL: 4 * wait.Patience})
	if err != nil {
		t.Fatal(err)
	}
	i := driver.Instance{Service: "orders", NodeID: "n1", InstanceID: "i1", Addr: "10.0.0.5:7946"}
	if err := s.Register(wait.Context(t), i); err != nil {
		t.Fatal(err)
	}
	agent.Kill()
	// The servers do this when a client leaves, as it does by default whenever it is
	// stopped in an orderly way.
	if _, err := server.Client().Catalog().Deregister(&api.CatalogDeregistration{Node: agent.Name()}, nil); err != nil {
		t.Fatal(err)
	}
	found, err := open(t, Config{Address: server.Addr(), Mode: Catalog}).List(wait.Context(t), driver.Query{Service: i.Service})
	if err != nil || len(found.Instances) != 1 {
		t.Errorf("found is %+v, %v", found, err)
	}
	if pair, _, err := server.Client().KV().Get(s.(*catalogSession).key, nil); err != nil || pair == nil || pair.Session == "" {
		t.Errorf("the key on which it hangs: %+v, %v", pair, err)
	}
}

// A server of one datacenter registers in another.
func TestCatalogOfAnotherDatacenter(t *testing.T) {
	t.Parallel()
	home := testserver.StartConsul(t, testserver.WithDatacenter("home", nil), testserver.WithState())
	away := testserver.StartConsul(t, testserver.WithDatacenter("away", home), testserver.WithState())
	config := Config{Mode: Catalog, Datacenter: "home", Datacenters: []string{"home"}}
	i := driver.Instance{Service: "orders", NodeID: "n1", InstanceID: "i1", Addr: "10.0.0.5:7946"}
	wait.For(t, "the datacenters know each other", func() bool {
		all, err := away.Client().Catalog().Datacenters()
		return err == nil && len(all) == 2
	})
	config.Address = away.Addr()
	s, err := open(t, config).OpenSession(wait.Context(t), driver.SessionOptions{TTL: 4 * wait.Patience})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Register(wait.Context(t), i); err != nil {
		t.Fatal(err)
	}
	if err := s.Renew(wait.Context(t)); err != nil {
		t.Error(err)
	}
	reader := open(t, Config{Address: home.Addr()})
	if found, err := reader.List(wait.Context(t), driver.Query{Service: i.Service}); err != nil || len(found.Instances) != 1 {
		t.Errorf("found is %+v, %v", found, err)
	}
	if err := s.Close(context.Background()); err != nil {
		t.Error(err)
	}
	if found, err := reader.List(wait.Context(t), driver.Query{Service: i.Service}); err != nil || len(found.Instances) != 0 {
		t.Errorf("after Close found is %+v, %v", found, err)
	}

	// Consul has servers alone do that.
	client := testserver.StartConsulAgent(t, away)
	config.Address = client.Addr()
	_, err = open(t, config).OpenSession(wait.Context(t), driver.SessionOptions{TTL: 4 * wait.Patience})
	if !errors.Is(err, driver.ErrInvalid) || !strings.Contains(err.Error(), "datacenter") {
		t.Errorf("through a client: %v, want an error that names datacenter", err)
	}
	nodes, _, err := home.Client().Catalog().Nodes(nil)
	if err != nil || len(nodes) != 1 {
		t.Errorf("left behind are %+v, %v", nodes, err)
	}
}

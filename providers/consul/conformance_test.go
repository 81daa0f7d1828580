package consul

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"go.uber.org/goleak"

	"github.com/musterhq/muster/discovery/discoverytest"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/providertest"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/providers/consul/internal/registration"
	"github.com/musterhq/muster/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(testserver.Main(m)) }

var prefixes atomic.Int64

// newPrefix keeps the tests that share a server apart.
func newPrefix() string { return fmt.Sprintf("test-%d/muster", prefixes.Add(1)) }

// open returns a driver that is closed with the test.
func open(t testing.TB, c Config) *Driver {
	t.Helper()
	d, err := New(c)
	return providertest.Opened(t, d, err)
}

func TestConformance(t *testing.T) {
	discoverytest.Run(t, func(t testing.TB) discoverytest.Harness {
		return newHarness(t, Config{})
	})
}

func TestConformanceWithoutAgent(t *testing.T) {
	discoverytest.RunDiscovery(t, func(t testing.TB) discoverytest.Harness {
		return newHarness(t, Config{Mode: Catalog, NodeName: "test"})
	})
}

// newHarness returns a harness over a Consul of its own, since services have no
// prefix. The configuration needs no address.
func newHarness(t testing.TB, c Config) discoverytest.Harness {
	server := testserver.LendConsul(t)
	proxy := testserver.NewProxy(t, server.Addr())
	c.Address, c.HealthyOnly = proxy.Addr(), true
	client := server.Client()
	h := providertest.Harness(proxy, func(t testing.TB) driver.Driver {
		d := open(t, c)
		d.leastSession = time.Second // as the server has it
		return d
	})
	providertest.Faulty(&h, server.Addr(), func(t testing.TB, addr string) driver.Driver {
		c := c
		c.Address = addr
		d := open(t, c)
		d.leastSession = time.Second
		return d
	}, []string{"PUT /v1/txn", "PUT /v1/kv/"}, nil)
	// There is no EndGrant: where the record is gone, a node that remembers a term waits for
	// the longest TTL that any may have. TestRecordChangedByHand has that.
	h.Patience = longestGrantTTL / 3
	h.OpenDenied = denied(c)
	h.AddGarbage = func(t testing.TB, service string) {
		for i, r := range []api.AgentServiceRegistration{
			{Port: 0},
			{Port: 7946, Meta: map[string]string{registration.SessionMeta: "x", "muster-0": `{"service":"` + service + `","addr":"0.0.0.0:1"}`}},
			{Port: 7946, Meta: map[string]string{registration.SessionMeta: "x", "muster-0": "garbage"}},
			{Port: 7946, Meta: map[string]string{registration.SessionMeta: "x", "muster-0": `{"service":"other","addr":"10.0.0.1:1"}`}},
			{Port: 7946, Meta: map[string]string{registration.SessionMeta: "x", registration.LivenessMeta: "elsewhere/v1/alive/x", "muster-0": `{"service":"` + service + `","addr":"10.0.0.1:1"}`}},
		} {
			r.ID, r.Name = fmt.Sprint("garbage-", i), service
			if session := r.Meta[registration.SessionMeta]; session != "" {
				r.Check = &api.AgentServiceCheck{CheckID: registration.CheckID(session, r.ID), TTL: "1h", Status: api.HealthPassing}
			}
			providertest.Must(t, "register garbage", client.Agent().ServiceRegister(&r))
		}
	}
	h.Dump = func(t testing.TB) map[string]string { return dumpServices(t, client) }
	h.RemoveRegistration = func(t testing.TB, i driver.Instance) {
		providertest.Must(t, "deregister", client.Agent().ServiceDeregister(i.Service+":"+i.Key()))
	}
	if c.Mode == Catalog {
		h.RemoveRegistration = func(t testing.TB, i driver.Instance) {
			entries, _, err := client.Catalog().Service(i.Service, "", nil)
			providertest.Must(t, "list", err)
			for _, e := range entries {
				if e.ServiceID == i.Service+":"+i.Key() {
					_, err := client.Catalog().Deregister(&api.CatalogDeregistration{Node: e.Node, ServiceID: e.ServiceID}, nil)
					providertest.Must(t, "deregister", err)
				}
			}
		}
		h.ExpireSession = func(t testing.TB, s driver.Session) {
			_, err := client.Session().Destroy(s.(*catalogSession).session, nil)
			providertest.Must(t, "end a session", err)
		}
	}
	return h
}

// denied returns what opens a driver with a token that permits no writing.
func denied(c Config) func(testing.TB) driver.Driver {
	return func(t testing.TB) driver.Driver {
		server, c := testserver.StartConsul(t, testserver.WithACL()), c
		c.Address, c.Token = server.Addr(), secret.String(server.AddToken(`node_prefix "" { policy = "read" }`))
		return open(t, c)
	}
}

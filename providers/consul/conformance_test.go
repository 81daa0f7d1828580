package consul

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"go.uber.org/goleak"

	"github.com/musterhq/muster/discovery/discoverytest"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(testserver.Main(m)) }

var prefixes atomic.Int64

// newPrefix keeps the tests that share a server apart.
func newPrefix() string { return fmt.Sprintf("test-%d/muster", prefixes.Add(1)) }

// bound is how long a step may take that takes milliseconds where the machine is
// idle.
const bound = 30 * time.Second

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	t.Cleanup(cancel)
	return ctx
}

// open returns a driver that is closed with the test.
func open(t testing.TB, c Config) *Driver {
	t.Helper()
	d, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return d
}

// eventually waits until the condition holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(bound); !holds(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, bound)
		}
		time.Sleep(10 * time.Millisecond)
	}
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
	server := testserver.StartConsul(t)
	proxy := testserver.NewProxy(t, server.Addr())
	c.Address, c.HealthyOnly = proxy.Addr(), true
	client := server.Client()
	do := func(t testing.TB, what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s behind the driver's back: %v", what, err)
		}
	}
	h := discoverytest.Harness{
		Open: func(t testing.TB) driver.Driver {
			d, err := New(c)
			if err != nil {
				t.Fatal(err)
			}
			d.leastSession = time.Second // as the server has it
			return d
		},
		OpenDenied: func(t testing.TB) driver.Driver {
			server, c := testserver.StartConsul(t, testserver.WithACL()), c
			c.Address, c.Token = server.Addr(), driver.Secret(server.AddToken(`node_prefix "" { policy = "read" }`))
			d, err := New(c)
			if err != nil {
				t.Fatal(err)
			}
			return d
		},
		AddGarbage: func(t testing.TB, service string) {
			for i, r := range []api.AgentServiceRegistration{
				{Port: 0},
				{Port: 7946, Meta: map[string]string{metaSession: "x", "muster-0": `{"service":"` + service + `","addr":"0.0.0.0:1"}`}},
				{Port: 7946, Meta: map[string]string{metaSession: "x", "muster-0": "garbage"}},
				{Port: 7946, Meta: map[string]string{metaSession: "x", "muster-0": `{"service":"other","addr":"10.0.0.1:1"}`}},
				{Port: 7946, Meta: map[string]string{metaSession: "x", metaAlive: "elsewhere/v1/alive/x", "muster-0": `{"service":"` + service + `","addr":"10.0.0.1:1"}`}},
			} {
				r.ID, r.Name = fmt.Sprint("garbage-", i), service
				if session := r.Meta[metaSession]; session != "" {
					r.Check = &api.AgentServiceCheck{CheckID: checkID(session, r.ID), TTL: "1h", Status: api.HealthPassing}
				}
				do(t, "register garbage", client.Agent().ServiceRegister(&r))
			}
		},
		RemoveRegistration: func(t testing.TB, i driver.Instance) {
			do(t, "deregister", client.Agent().ServiceDeregister(i.Service+":"+i.Key()))
		},
		Stop:  func(testing.TB) { proxy.Cut() },
		Start: func(testing.TB) { proxy.Restore() },
		Delay: func(_ testing.TB, d time.Duration) { proxy.Delay(d) },

		SessionTTL:  2 * time.Second,
		GrantTTL:    2 * time.Second,
		ExpiryGrace: 10 * time.Second,
		Patience:    bound,
	}
	if c.Mode == Catalog {
		h.RemoveRegistration = func(t testing.TB, i driver.Instance) {
			entries, _, err := client.Catalog().Service(i.Service, "", nil)
			do(t, "list", err)
			for _, e := range entries {
				if e.ServiceID == i.Service+":"+i.Key() {
					_, err := client.Catalog().Deregister(&api.CatalogDeregistration{Node: e.Node, ServiceID: e.ServiceID}, nil)
					do(t, "deregister", err)
				}
			}
		}
		h.ExpireSession = func(t testing.TB, s driver.Session) {
			_, err := client.Session().Destroy(s.(*catalogSession).session, nil)
			do(t, "end a session", err)
		}
	}
	return h
}

package etcd

import (
	"fmt"
	"sync/atomic"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/musterhq/muster/discovery/discoverytest"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/providertest"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(testserver.Main(m)) }

var prefixes atomic.Int64

// newPrefix keeps the tests that share a server apart.
func newPrefix() string { return fmt.Sprintf("/test-%d/muster", prefixes.Add(1)) }

// open returns a driver that is closed with the test.
func open(t testing.TB, c Config) *Driver {
	t.Helper()
	d, err := New(c)
	return providertest.Opened(t, d, err)
}

func TestConformance(t *testing.T) {
	discoverytest.Run(t, func(t testing.TB) discoverytest.Harness {
		return newHarness(t, Config{Prefix: newPrefix()})
	})
}

// newHarness returns a harness over the shared server. The configuration needs no
// endpoint.
func newHarness(t testing.TB, c Config) discoverytest.Harness {
	server := testserver.SharedEtcd(t)
	proxy := testserver.NewProxy(t, server.Addr())
	c.Endpoints = []string{"http://" + proxy.Addr()}
	layout := open(t, c).layout
	h := providertest.Harness(proxy, func(t testing.TB) driver.Driver { return open(t, c) })
	providertest.Faulty(&h, server.Addr(), func(t testing.TB, addr string) driver.Driver {
		c := c
		c.Endpoints = []string{"http://" + addr}
		return open(t, c)
	}, []string{"POST /etcdserverpb.KV/Put", "POST /etcdserverpb.KV/Txn"}, []string{"POST /etcdserverpb.Lease/LeaseRevoke"})
	h.OpenDenied = func(t testing.TB) driver.Driver {
		server, c := testserver.StartEtcd(t, testserver.WithAuth()), c
		server.AddUser("stranger", "secret", "/elsewhere/")
		c.Endpoints, c.Username, c.Password = []string{server.Endpoint()}, "stranger", "secret"
		return open(t, c)
	}
	h.AddGarbage = func(t testing.TB, service string) {
		for i, value := range []string{"", "garbage", "[]", `{"service":"` + service + `","addr":"0.0.0.0:1"}`} {
			_, err := server.Client().Put(wait.Context(t), layout.Prefix(service)+fmt.Sprint("garbage-", i), value)
			providertest.Must(t, "put garbage", err)
		}
	}
	h.Dump = func(t testing.TB) map[string]string {
		return keysFrom(t, server, c.Prefix, clientv3.GetPrefixRangeEnd(c.Prefix))
	}
	h.RemoveRegistration = func(t testing.TB, i driver.Instance) {
		key, _, err := layout.Encode(i)
		providertest.Must(t, "find a registration", err)
		_, err = server.Client().Delete(wait.Context(t), key)
		providertest.Must(t, "delete a registration", err)
	}
	h.ExpireSession = func(t testing.TB, s driver.Session) {
		_, err := server.Client().Revoke(wait.Context(t), s.(*session).lease)
		providertest.Must(t, "revoke a lease", err)
	}
	h.Compact = func(t testing.TB) {
		// Of the revision that it names itself, a compaction keeps the changes.
		r, err := server.Client().Put(wait.Context(t), newPrefix(), "")
		providertest.Must(t, "write", err)
		_, err = server.Client().Compact(wait.Context(t), r.Header.Revision)
		providertest.Must(t, "compact", err)
	}
	return h
}

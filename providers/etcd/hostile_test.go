package etcd

import (
	"fmt"
	"net"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/providertest"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
)

// hostileValues are valid records of service "web", by format: of an id where the record
// says it, and at an address.
var hostileValues = map[string]func(id, addr string) string{
	formatMuster: func(id, addr string) string {
		return fmt.Sprintf(`{"service":"web","instance_id":%q,"addr":%q}`, id, addr)
	},
	formatHazelcast: func(_, addr string) string {
		host, port, _ := net.SplitHostPort(addr)
		return fmt.Sprintf(`{"ip":%q,"port":%s}`, host, port)
	},
	formatRegistrator: func(_, addr string) string { return addr },
	formatSkyDNS: func(_, addr string) string {
		host, port, _ := net.SplitHostPort(addr)
		return fmt.Sprintf(`{"host":%q,"port":%s}`, host, port)
	},
}

// keysFrom returns the keys from one on and before end, with their revisions and leases.
func keysFrom(t testing.TB, server *testserver.Etcd, from, end string) map[string]string {
	r, err := server.Client().Get(wait.Context(t), from, clientv3.WithRange(end))
	providertest.Must(t, "read all", err)
	all := make(map[string]string)
	for _, kv := range r.Kvs {
		all[string(kv.Key)] = fmt.Sprint(kv.ModRevision, " ", kv.Lease, " ", string(kv.Value))
	}
	return all
}

// Nothing that others put where registrations stand, and no name, has the driver change or
// delete a key that it did not write itself: not theirs, and not the authority's.
func TestHostileRecords(t *testing.T) {
	for _, v := range []struct{ format, prefix, authority string }{
		{formatMuster, "/muster", "/muster"},
		{formatHazelcast, "/", "/muster"},
		{formatHazelcast, "/muster", "/muster"},
		{formatRegistrator, "/", "/muster"},
		{formatRegistrator, "/services", "/services"},
		{formatRegistrator, "/services", "/muster"},
		{formatSkyDNS, "/skydns", "/skydns/local/cluster"},
		{formatSkyDNS, "/skydns", "/muster"},
	} {
		t.Run(strings.ReplaceAll(v.format+v.prefix+v.authority, "/", " "), func(t *testing.T) {
			server := testserver.StartEtcd(t)
			c := Config{Endpoints: []string{server.Endpoint()}, Format: v.format, Prefix: v.prefix, AuthorityPrefix: v.authority}
			providertest.Hostile(t, providertest.Tree{
				Open:      func(t testing.TB) driver.Driver { return open(t, c) },
				Root:      open(t, c).layout.Root(),
				Authority: v.authority + "/v1/",
				Plain:     v.format != formatMuster,
				Put: func(t testing.TB, key, value string) {
					_, err := server.Client().Put(wait.Context(t), key, value)
					providertest.Must(t, "put "+key, err)
				},
				Dump: func(t testing.TB) map[string]string { return keysFrom(t, server, "\x00", "\x00") },
			}, hostileValues[v.format])
		})
	}
}

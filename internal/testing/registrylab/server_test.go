//go:build unix

package registrylab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	consulapi "github.com/hashicorp/consul/api"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/providers/consul"
	"github.com/musterhq/muster/providers/etcd"
	"github.com/musterhq/muster/secret"
)

// registryServer is a real registry, and what can be done to it behind the back of the
// nodes.
type registryServer interface {
	provider() string
	// addrs are the HOST:PORT that clients are given.
	addrs() []string
	// open returns a client at these addresses. Its registrations outlive their last
	// renewal by ttl.
	open(addrs []string, ttl time.Duration) (driver.Driver, error)
	// acquire is the call that grants mastership, for faultproxy.
	acquire() string
	// granted reports whether a claim of a cluster that was carried out is a grant.
	granted(t testing.TB, cluster string) bool
	// depose takes mastership of a cluster away from its holder.
	depose(t testing.TB, cluster string)
	// litter puts entries beside those of a cluster that nobody can read, and returns
	// how many.
	litter(t testing.TB, cluster string) int

	Kill()
	Restart()
	// Wipe kills it and removes its data.
	Wipe()
	// backup returns what puts the data of now back.
	backup() (restore func())
}

// Further abilities, of some servers.
type (
	compacter interface{ compact(t testing.TB) }
	// guarded is a server that demands credentials, and may take back what these
	// allow.
	guarded interface {
		deny(t testing.TB)
		allow(t testing.TB)
	}
	// replicated is a server that consists of several, of which one leads.
	replicated interface{ killLeader(t testing.TB) }
	// forgetful is an agent beside the server that has state of its own.
	forgetful interface {
		restartAgent()
		wipeAgent()
	}
)

// serverKind is what a test wants of a server.
type serverKind int

const (
	sharedServer serverKind = iota // with other tests: nothing is done to it as a whole
	ownServer
	guardedServer
	replicatedServer
	besideAgent // by way of an agent
)

// registryRows are the providers that the tests of registry faults run over. A row
// returns nil for a kind that it has not.
var registryRows = []struct {
	provider string
	start    func(t testing.TB, kind serverKind, cluster string) registryServer
}{
	{"etcd", startEtcdRegistry},
	{"consul", startConsulRegistry},
}

const etcdUser, etcdPassword = "orders", "orders-secret"

func startEtcdRegistry(t testing.TB, kind serverKind, cluster string) registryServer {
	prefix := "/" + cluster
	switch kind {
	case sharedServer:
		return etcdRegistry{Etcd: testserver.SharedEtcd(t), prefix: prefix}
	case ownServer:
		return etcdRegistry{Etcd: testserver.StartEtcd(t), prefix: prefix}
	case guardedServer:
		e := testserver.StartEtcd(t, testserver.WithAuth())
		e.AddUser(etcdUser, etcdPassword, prefix+"/")
		return guardedEtcd{etcdRegistry{Etcd: e, prefix: prefix, user: etcdUser, password: etcdPassword}}
	case replicatedServer:
		servers := testserver.StartEtcdCluster(t, 3)
		return replicatedEtcd{etcdRegistry{Etcd: servers[0], prefix: prefix}, servers}
	}
	return nil
}

// etcdRegistry is an etcd.
type etcdRegistry struct {
	*testserver.Etcd
	prefix         string
	user, password string
}

func (e etcdRegistry) provider() string { return "etcd" }
func (e etcdRegistry) addrs() []string  { return []string{e.Addr()} }
func (e etcdRegistry) acquire() string  { return "POST /etcdserverpb.KV/Txn" }

// The transaction that claims either grants or changes nothing.
func (e etcdRegistry) granted(testing.TB, string) bool { return true }

func (e etcdRegistry) open(addrs []string, ttl time.Duration) (driver.Driver, error) {
	c := etcd.Config{Prefix: e.prefix, Username: e.user, Password: secret.String(e.password)}
	for _, addr := range addrs {
		c.Endpoints = append(c.Endpoints, "http://"+addr)
	}
	d, err := etcd.New(c)
	if err != nil {
		return nil, err
	}
	return briefEtcd{d, ttl}, nil
}

// briefEtcd is a driver whose sessions have a TTL of the test's choice.
type briefEtcd struct {
	*etcd.Driver
	ttl time.Duration
}

func (b briefEtcd) OpenSession(ctx context.Context, o driver.SessionOptions) (driver.Session, error) {
	o.TTL = b.ttl
	return b.Driver.OpenSession(ctx, o)
}

func (e etcdRegistry) depose(t testing.TB, cluster string) {
	t.Helper()
	wait.For(t, "there is a key of the master to delete", func() bool {
		r, err := e.Client().Delete(t.Context(), e.prefix+"/v1/clusters/"+cluster+"/master")
		if err != nil {
			t.Fatalf("delete the key of the master: %v", err)
		}
		return r.Deleted == 1
	})
}

func (e etcdRegistry) litter(t testing.TB, cluster string) int {
	t.Helper()
	litter := litter(cluster)
	for i, value := range litter {
		key := fmt.Sprintf("%s/v1/services/%s/litter-%d", e.prefix, cluster, i)
		if _, err := e.Client().Put(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	return len(litter)
}

// litter are values that are no instances of a service.
func litter(service string) []string {
	return []string{
		"", "garbage", "[]", "{}", "\x00\xff", strings.Repeat("x", 400<<10),
		`{"service":"` + service + `","addr":"10.0.0.5"}`,
		`{"service":"` + service + `","addr":"0.0.0.0:7946"}`,
		`{"service":"` + service + `","addr":"[::]:7946"}`,
		`{"service":"` + service + `","addr":"2001:db8::5:7946"}`,
		`{"service":"` + service + `","addr":"10.0.0.5:0"}`,
		`{"service":"` + service + `","addr":7946}`,
	}
}

func (e etcdRegistry) backup() func() {
	b := e.Backup()
	return func() { e.RestoreBackup(b) }
}

func (e etcdRegistry) compact(t testing.TB) {
	t.Helper()
	r, err := e.Client().Put(t.Context(), "/elsewhere", "")
	if err == nil {
		_, err = e.Client().Compact(t.Context(), r.Header.Revision)
	}
	if err != nil {
		t.Fatal(err)
	}
}

type guardedEtcd struct{ etcdRegistry }

func (e guardedEtcd) deny(t testing.TB) {
	t.Helper()
	key := e.prefix + "/"
	if _, err := e.Client().RoleRevokePermission(t.Context(), etcdUser, key, clientv3.GetPrefixRangeEnd(key)); err != nil {
		t.Fatal(err)
	}
}

func (e guardedEtcd) allow(t testing.TB) {
	t.Helper()
	key := e.prefix + "/"
	if _, err := e.Client().RoleGrantPermission(t.Context(), etcdUser, key, clientv3.GetPrefixRangeEnd(key), clientv3.PermissionType(clientv3.PermReadWrite)); err != nil {
		t.Fatal(err)
	}
}

type replicatedEtcd struct {
	etcdRegistry
	servers []*testserver.Etcd
}

func (e replicatedEtcd) addrs() []string {
	var addrs []string
	for _, s := range e.servers {
		addrs = append(addrs, s.Addr())
	}
	return addrs
}

func (e replicatedEtcd) killLeader(t testing.TB) {
	t.Helper()
	killLeader(t, e.servers)
}

// killLeader kills the one of servers that leads.
func killLeader[S interface {
	IsLeader() bool
	Kill()
}](t testing.TB, servers []S) {
	t.Helper()
	wait.For(t, "a server leads", func() bool {
		i := slices.IndexFunc(servers, S.IsLeader)
		if i >= 0 {
			servers[i].Kill()
		}
		return i >= 0
	})
}

func startConsulRegistry(t testing.TB, kind serverKind, _ string) registryServer {
	switch kind {
	case sharedServer:
		return consulRegistry{Consul: testserver.SharedConsul(t)}
	case ownServer:
		return consulRegistry{Consul: testserver.StartConsul(t, testserver.WithState())}
	case guardedServer:
		return newGuardedConsul(t)
	case replicatedServer:
		servers := testserver.StartConsulCluster(t, 3)
		return replicatedConsul{consulRegistry{Consul: testserver.StartConsulAgent(t, servers[0])}, servers}
	case besideAgent:
		server := testserver.StartConsul(t)
		return consulAgent{consulRegistry{Consul: testserver.StartConsulAgent(t, server)}, server, t}
	}
	return nil
}

// consulRegistry is an agent of Consul.
type consulRegistry struct {
	*testserver.Consul
	token string
}

func (c consulRegistry) provider() string { return "consul" }
func (c consulRegistry) addrs() []string  { return []string{c.Addr()} }
func (c consulRegistry) acquire() string  { return "PUT /v1/txn" }

func (c consulRegistry) open(addrs []string, ttl time.Duration) (driver.Driver, error) {
	d, err := consul.New(consul.Config{Address: addrs[0], HealthyOnly: true, Token: secret.String(c.token)})
	if err != nil {
		return nil, err
	}
	return briefConsul{d, ttl}, nil
}

// briefConsul is a driver whose sessions have a TTL of the test's choice.
type briefConsul struct {
	*consul.Driver
	ttl time.Duration
}

func (b briefConsul) OpenSession(ctx context.Context, o driver.SessionOptions) (driver.Session, error) {
	o.TTL = b.ttl
	return b.Driver.OpenSession(ctx, o)
}

func (c consulRegistry) depose(t testing.TB, cluster string) {
	t.Helper()
	var pair *consulapi.KVPair
	var record map[string]any
	wait.For(t, "somebody holds mastership", func() bool {
		pair, record = c.mastership(t, cluster)
		return record["holder"] != nil
	})
	term, err := record["term"].(json.Number).Int64()
	if err != nil {
		t.Fatal(err)
	}
	// Granted to somebody who never renews it. To write that nobody holds it would be the
	// holder's word that it does not either, which is not for others to give.
	record["term"], record["holder"], record["renewals"] = term+1, map[string]any{"node_id": "nobody", "instance_id": "nobody"}, 0
	record["nonce"] = "an operator's"
	value, err := json.Marshal(record)
	if err != nil {
		t.Fatal(err)
	}
	pair.Value = value
	// A renewal may have come in between.
	if swapped, _, err := c.Client().KV().CAS(pair, nil); err != nil {
		t.Fatal(err)
	} else if !swapped {
		c.depose(t, cluster)
	}
}

func (c consulRegistry) granted(t testing.TB, cluster string) bool {
	t.Helper()
	_, record := c.mastership(t, cluster)
	return record["holder"] != nil
}

// mastership reads the record of mastership, which is empty before there is one.
func (c consulRegistry) mastership(t testing.TB, cluster string) (*consulapi.KVPair, map[string]any) {
	t.Helper()
	pair, _, err := c.Client().KV().Get("muster/v1/clusters/"+cluster+"/mastership", &consulapi.QueryOptions{RequireConsistent: true})
	if err != nil {
		t.Fatal(err)
	}
	if pair == nil {
		return nil, nil
	}
	record := make(map[string]any)
	numbers := json.NewDecoder(bytes.NewReader(pair.Value))
	numbers.UseNumber()
	if err := numbers.Decode(&record); err != nil {
		t.Fatalf("the record of mastership is %q: %v", pair.Value, err)
	}
	return pair, record
}

func (c consulRegistry) litter(t testing.TB, cluster string) int {
	t.Helper()
	// Consul itself refuses most of what is wrong.
	for i, litter := range []consulapi.AgentServiceRegistration{
		{},
		{Address: "10.0.0.5"},
		{Port: 7946, Address: "no host"},
	} {
		litter.ID, litter.Name = fmt.Sprintf("%s-litter-%d", cluster, i), cluster
		if err := c.Client().Agent().ServiceRegister(&litter); err != nil {
			t.Fatal(err)
		}
	}
	return 3
}

func (c consulRegistry) backup() func() {
	b := c.Backup()
	return func() { c.RestoreBackup(b) }
}

// guardedConsul has a token whose policy can be emptied.
type guardedConsul struct {
	consulRegistry
	policy *consulapi.ACLPolicy
}

const consulRules = `
service_prefix "" { policy = "write" }
node_prefix "" { policy = "read" }
session_prefix "" { policy = "write" }
key_prefix "muster/" { policy = "write" }
`

func newGuardedConsul(t testing.TB) registryServer {
	t.Helper()
	server := testserver.StartConsul(t, testserver.WithACL())
	policy, _, err := server.Client().ACL().PolicyCreate(&consulapi.ACLPolicy{Name: "nodes", Rules: consulRules}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := server.Client().ACL().TokenCreate(&consulapi.ACLToken{Policies: []*consulapi.ACLLink{{ID: policy.ID}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return guardedConsul{consulRegistry{server, token.SecretID}, policy}
}

func (c guardedConsul) deny(t testing.TB) {
	c.setRules(t, `key_prefix "elsewhere/" { policy = "read" }`)
}
func (c guardedConsul) allow(t testing.TB) { c.setRules(t, consulRules) }

func (c guardedConsul) setRules(t testing.TB, rules string) {
	t.Helper()
	policy := *c.policy
	policy.Rules = rules
	if _, _, err := c.Client().ACL().PolicyUpdate(&policy, nil); err != nil {
		t.Fatal(err)
	}
}

type replicatedConsul struct {
	consulRegistry // the agent by which the nodes go
	servers        []*testserver.Consul
}

func (c replicatedConsul) killLeader(t testing.TB) {
	t.Helper()
	killLeader(t, c.servers)
}

type consulAgent struct {
	consulRegistry
	server *testserver.Consul
	t      testing.TB
}

func (c consulAgent) restartAgent() {
	c.Kill()
	c.Restart()
}

// wipeAgent starts the agent again once the server knows that the one before is gone: until then
// Consul keeps its name for that one, and takes no registration of an agent with another id.
func (c consulAgent) wipeAgent() {
	c.Wipe()
	wait.For(c.t, "the server knows that the agent is gone", func() bool {
		checks, _, err := c.server.Client().Health().Node(c.Name(), nil)
		return err == nil && checks.AggregatedStatus() == consulapi.HealthCritical
	})
	c.Restart()
}

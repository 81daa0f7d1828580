package etcd

import (
	"context"
	"iter"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/discoverytest"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/formattest"
	"github.com/musterhq/muster/internal/testing/snapshot"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/registrar"
)

// What the contract says of registrations holds of those in other systems' records
// too, but for what their keys cannot tell apart.
func TestFormatsKeepTheContract(t *testing.T) {
	formattest.Run(t, map[string][]string{
		formatHazelcast:   {"list/prefix"},                           // the service is part of the id, so that it has no slash
		formatRegistrator: {"list/whole_instance", "list/same_node"}, // wants a node id without umlauts, and one for each port
		formatSkyDNS:      {"list/whole_instance"},                   // wants an id
	}, func(t testing.TB, format string) discoverytest.Harness {
		return newHarness(t, Config{Format: format, Prefix: newPrefix()})
	})
}

// tree returns what stands below a prefix, without it.
func tree(t *testing.T, server *testserver.Etcd, prefix string) map[string]string {
	t.Helper()
	r, err := server.Client().Get(wait.Context(t), prefix+"/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for _, kv := range r.Kvs {
		all[strings.TrimPrefix(string(kv.Key), prefix)] = string(kv.Value)
	}
	return all
}

func put(t *testing.T, server *testserver.Etcd, key, value string) {
	t.Helper()
	if _, err := server.Client().Put(wait.Context(t), key, value); err != nil {
		t.Fatal(err)
	}
}

// The keys of others, as they or a person put them, with the configuration that
// says no more than they were told.
func TestReadsWhatOthersWrote(t *testing.T) {
	hz := func(port string) string { return `{"ip":"127.0.0.1","port":` + port + `,"hostname":"127.0.0.1"}` }
	at := func(addr string) driver.Instance { return driver.Instance{Service: "svc", Addr: addr} }
	server := testserver.StartEtcd(t) // the trees of others have no prefix that keeps tests apart
	for _, c := range []struct {
		config  Config
		keys    map[string]string
		want    []driver.Instance
		skipped []string
	}{
		{Config{Format: "hazelcast"}, map[string]string{
			"/svc/node1": hz("5701"), "/svc/node2": hz("5702"), "/svc/node3": hz(`"5703"`), "/svc/node4": `{"ip":"127.0.0.1","port":5704}`,
			"/svc/node5": "malformed", "/svc2/node6": hz("5706"),
			"/muster/v1/clusters/svc/term": "7",
		}, []driver.Instance{at("127.0.0.1:5701"), at("127.0.0.1:5702"), at("127.0.0.1:5703"), at("127.0.0.1:5704")},
			[]string{"/svc/node5"}},
		{Config{Format: "registrator", Prefix: "/services"}, map[string]string{
			"/services/svc/host1:redis.0:6379": "192.168.1.102:10000", "/services/svc/dns.1": "[2001:db8::1]:53",
			"/services/svc/eu/host1:redis.0:6379": "192.168.1.102:10001", "/services/svc/bad": "192.168.1.102",
		}, []driver.Instance{
			{Service: "svc", InstanceID: "dns.1", Addr: "[2001:db8::1]:53"},
			{Service: "svc", InstanceID: "host1:redis.0:6379", NodeID: "redis.0", Addr: "192.168.1.102:10000"},
		}, []string{"/services/svc/bad", "/services/svc/eu/host1:redis.0:6379"}},
		{Config{Format: "skydns"}, map[string]string{
			"/skydns/local/cluster/svc/redis-1": `{"host":"192.168.1.102","port":10000,"ttl":60}`,
			"/skydns/local/cluster/svc/alias":   `{"host":"elsewhere.example"}`,
			"/skydns/local/skydns/svc/redis-1":  `{"host":"192.168.1.102","port":10001}`,
		}, []driver.Instance{{Service: "svc", InstanceID: "redis-1", Addr: "192.168.1.102:10000"}},
			[]string{"/skydns/local/cluster/svc/alias"}},
		// The keys of mastership are not those of a service of their name.
		{Config{Format: "hazelcast"}, map[string]string{"/svc/v1/clusters/svc/term": "7"}, nil, nil},
	} {
		t.Run(c.config.Format, func(t *testing.T) {
			for key, value := range c.keys {
				put(t, server, key, value)
			}
			c.config.Endpoints = []string{server.Endpoint()}
			if c.want == nil {
				c.config.AuthorityPrefix = "/svc"
			}
			r := discovery.New("etcd", open(t, c.config), discovery.Options{})
			defer r.Close()
			s, err := r.List(wait.Context(t), discovery.Query{Service: "svc"})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, snapshot.Instances(s), cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
			var skipped []string
			for _, entry := range s.Skipped {
				skipped = append(skipped, entry.Key)
			}
			slices.Sort(skipped)
			if diff := cmp.Diff(c.skipped, skipped); diff != "" {
				t.Errorf("skipped: %s", diff)
			}
			for key := range c.keys {
				if _, err := server.Client().Delete(wait.Context(t), key); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// A watch applies what happens to keys from which no instance can be guessed.
func TestWatchOfWhatOthersWrite(t *testing.T) {
	server := testserver.SharedEtcd(t)
	prefix := newPrefix()
	r := discovery.New("etcd", open(t, Config{Endpoints: []string{server.Endpoint()}, Format: "hazelcast", Prefix: prefix}), discovery.Options{})
	defer r.Close()
	value := func(port string) string { return `{"ip":"127.0.0.1","port":` + port + `}` }
	put(t, server, prefix+"/svc/a", value("1"))
	put(t, server, prefix+"/svc/b", value("1")) // one address under two keys
	put(t, server, prefix+"/svc/c", "malformed")
	next, stop := iter.Pull(r.Watch(wait.Context(t), discovery.Query{Service: "svc"}))
	defer stop()
	expect := func(skipped int, want ...string) {
		t.Helper()
		for {
			s, ok := next()
			if !ok {
				t.Fatalf("the watch never showed %v", want)
			}
			var got []string
			for _, i := range snapshot.Instances(s) {
				got = append(got, i.Addr)
			}
			if slices.Equal(got, want) && len(s.Skipped) == skipped {
				return
			}
		}
	}
	expect(1, "127.0.0.1:1")
	put(t, server, prefix+"/svc/d", value("4"))
	expect(1, "127.0.0.1:1", "127.0.0.1:4")
	// The address stands as long as one of its keys does.
	for _, key := range []string{"a", "d"} {
		if _, err := server.Client().Delete(wait.Context(t), prefix+"/svc/"+key); err != nil {
			t.Fatal(err)
		}
	}
	expect(1, "127.0.0.1:1")
	put(t, server, prefix+"/svc/c", value("3"))
	expect(0, "127.0.0.1:1", "127.0.0.1:3")
	put(t, server, prefix+"/svc/b", value("2"))
	expect(0, "127.0.0.1:2", "127.0.0.1:3")
}

// A record at the key of its service counts if nothing stands below it, as for CoreDNS;
// what stands beside it is of other services.
func TestLeafOfSkyDNS(t *testing.T) {
	server := testserver.SharedEtcd(t)
	prefix := newPrefix()
	d := open(t, Config{Endpoints: []string{server.Endpoint()}, Format: formatSkyDNS, Prefix: prefix})
	registry := discovery.New("etcd", d, discovery.Options{})
	defer registry.Close()
	record := func(key, addr string) {
		t.Helper()
		host, port, _ := strings.Cut(addr, ":")
		put(t, server, prefix+"/local/cluster/"+key, `{"host":"`+host+`","port":`+port+`}`)
	}
	record("svc", "10.0.0.5:1")
	record("svc-2/x1", "10.0.0.6:1")
	record("svc2", "10.0.0.7:1")
	next, stop := iter.Pull(registry.Watch(wait.Context(t), discovery.Query{Service: "svc"}))
	defer stop()
	shows := func(want ...driver.Instance) {
		t.Helper()
		for {
			s, ok := next()
			if !ok {
				t.Fatalf("the watch never showed %v", want)
			}
			if s.Known && cmp.Equal(want, snapshot.Instances(s), cmpopts.EquateEmpty()) {
				return
			}
		}
	}
	shows(driver.Instance{Service: "svc", Addr: "10.0.0.5:1"})
	record("svc-2/x2", "10.0.0.6:2") // is no change of svc
	record("svc/x1", "10.0.0.8:1")
	shows(driver.Instance{Service: "svc", InstanceID: "x1", Addr: "10.0.0.8:1"})
	if _, err := server.Client().Delete(wait.Context(t), prefix+"/local/cluster/svc/x1"); err != nil {
		t.Fatal(err)
	}
	shows(driver.Instance{Service: "svc", Addr: "10.0.0.5:1"})
	if _, err := server.Client().Delete(wait.Context(t), prefix+"/local/cluster/svc"); err != nil {
		t.Fatal(err)
	}
	shows()
	names, err := d.Services(wait.Context(t))
	if want := []string{"svc-2", "svc2"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("the services are %v, %v; want %v", names, err, want)
	}
}

// What others read, to the byte, of what the registrar keeps: it is registered, moves
// with its address, is put back where somebody deletes it, and is gone at the end.
func TestRegistrarInOthersRecords(t *testing.T) {
	server := testserver.SharedEtcd(t)
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	const id = "0123456789abcdef0123456789abcdef"
	node := driver.Instance{Service: "orders", NodeID: "n1", InstanceID: id, Addr: "10.0.0.5:7946", Zone: "eu-1", Meta: map[string]string{"k": "v"}}
	for format, keys := range map[string]struct{ before, after map[string]string }{
		formatHazelcast: {
			map[string]string{"/orders/orders-10.0.0.5-10.0.0.5-7946": `{"ip":"10.0.0.5","port":7946,"hostname":"10.0.0.5"}`},
			map[string]string{"/orders/orders-10.0.0.6-10.0.0.6-7947": `{"ip":"10.0.0.6","port":7947,"hostname":"10.0.0.6"}`},
		},
		formatRegistrator: {
			map[string]string{"/orders/" + host + ":n1:7946": "10.0.0.5:7946"},
			map[string]string{"/orders/" + host + ":n1:7947": "10.0.0.6:7947"},
		},
		formatSkyDNS: {
			map[string]string{"/local/cluster/orders/" + id: `{"host":"10.0.0.5","port":7946,"ttl":2}`},
			map[string]string{"/local/cluster/orders/" + id: `{"host":"10.0.0.6","port":7947,"ttl":2}`},
		},
	} {
		t.Run(format, func(t *testing.T) {
			prefix := newPrefix()
			registry := discovery.New("etcd", open(t, Config{Endpoints: []string{server.Endpoint()}, Format: format, Prefix: prefix}), discovery.Options{})
			defer registry.Close()
			r := registrar.New(registrar.Config{Registry: registry, TTL: 2 * time.Second})
			defer r.Stop(context.Background())
			shows := func(want map[string]string) {
				t.Helper()
				var have map[string]string
				wait.For(t, "the tree", func() bool {
					have = tree(t, server, prefix)
					for key, value := range have {
						if before, _, ok := strings.Cut(value, `,"registeredAt"`); ok { // the registrar's, and the last
							have[key] = before + "}"
						}
					}
					return cmp.Equal(want, have)
				})
			}
			if err := r.Set(node); err != nil {
				t.Fatal(err)
			}
			if err := r.Wait(wait.Context(t)); err != nil {
				t.Fatal(err)
			}
			shows(keys.before)
			moved := node
			moved.Addr = "10.0.0.6:7947"
			if err := r.Set(moved); err != nil {
				t.Fatal(err)
			}
			shows(keys.after)
			for key := range keys.after {
				if _, err := server.Client().Delete(wait.Context(t), prefix+key); err != nil {
					t.Fatal(err)
				}
			}
			shows(keys.after) // again
			if err := r.Stop(wait.Context(t)); err != nil {
				t.Fatal(err)
			}
			shows(map[string]string{})
		})
	}
}

// An instance that is not valid any more is deregistered under the key that it
// had, which does not follow from it now.
func TestDeregisterUnderTheFormerKey(t *testing.T) {
	server := testserver.SharedEtcd(t)
	prefix := newPrefix()
	d := open(t, Config{Endpoints: []string{server.Endpoint()}, Format: formatHazelcast, Prefix: prefix})
	s, err := d.OpenSession(wait.Context(t), driver.SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(wait.Context(t))
	i := driver.Instance{Service: "orders", InstanceID: "i1", Addr: "10.0.0.5:7946"}
	if err := s.Register(wait.Context(t), i); err != nil {
		t.Fatal(err)
	}
	i.Addr = "0.0.0.0:7946"
	if err := s.Deregister(wait.Context(t), i); err != nil {
		t.Fatal(err)
	}
	if left := tree(t, server, prefix); len(left) > 0 {
		t.Errorf("left is %v", left)
	}
}

// One session keeps many instances, as on a host of containers: one takes the
// address that another one had, whose leaving comes late.
func TestKeyThatPassesToAnother(t *testing.T) {
	server := testserver.SharedEtcd(t)
	prefix := newPrefix()
	d := open(t, Config{Endpoints: []string{server.Endpoint()}, Format: formatHazelcast, Prefix: prefix})
	s, err := d.OpenSession(wait.Context(t), driver.SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(wait.Context(t))
	at := func(id, addr string) driver.Instance {
		return driver.Instance{Service: "orders", InstanceID: id, Addr: addr}
	}
	for _, i := range []driver.Instance{
		at("a", "10.0.0.5:1"), at("b", "10.0.0.5:2"),
		at("b", "10.0.0.5:1"), at("a", "10.0.0.5:3"), // both move, one to where the other was
	} {
		if err := s.Register(wait.Context(t), i); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]string{
		"/orders/orders-10.0.0.5-10.0.0.5-1": `{"ip":"10.0.0.5","port":1,"hostname":"10.0.0.5"}`,
		"/orders/orders-10.0.0.5-10.0.0.5-3": `{"ip":"10.0.0.5","port":3,"hostname":"10.0.0.5"}`,
	}
	if diff := cmp.Diff(want, tree(t, server, prefix)); diff != "" {
		t.Error(diff)
	}
	if err := s.Deregister(wait.Context(t), at("a", "10.0.0.5:1")); err != nil {
		t.Fatal(err)
	}
	delete(want, "/orders/orders-10.0.0.5-10.0.0.5-3")
	if diff := cmp.Diff(want, tree(t, server, prefix)); diff != "" {
		t.Error(diff)
	}
}

// Two processes at one address, one after the other, have one key: the first goes
// late, and takes nothing from the second.
func TestSuccessorWithTheSameKey(t *testing.T) {
	server := testserver.SharedEtcd(t)
	for _, format := range []string{formatHazelcast, formatRegistrator} {
		t.Run(format, func(t *testing.T) {
			prefix := newPrefix()
			config := Config{Endpoints: []string{server.Endpoint()}, Format: format, Prefix: prefix}
			first, second := strings.Repeat("1", 32), strings.Repeat("2", 32) // random ones
			instance := func(id string) driver.Instance {
				return driver.Instance{Service: "orders", NodeID: "n1", InstanceID: id, Addr: "10.0.0.5:7946"}
			}
			var sessions []driver.Session
			for _, id := range []string{first, second} {
				s, err := open(t, config).OpenSession(wait.Context(t), driver.SessionOptions{TTL: time.Minute})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close(wait.Context(t))
				if err := s.Register(wait.Context(t), instance(id)); err != nil {
					t.Fatal(err)
				}
				sessions = append(sessions, s)
			}
			stands := tree(t, server, prefix)
			if len(stands) != 1 {
				t.Fatalf("there is %v, want one key", stands)
			}
			if err := sessions[0].Deregister(wait.Context(t), instance(first)); err != nil {
				t.Fatal(err)
			}
			if err := sessions[0].Close(wait.Context(t)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(stands, tree(t, server, prefix)); diff != "" {
				t.Errorf("after the first has gone: %s", diff)
			}
			if err := sessions[1].Close(wait.Context(t)); err != nil {
				t.Fatal(err)
			}
			if left := tree(t, server, prefix); len(left) > 0 {
				t.Errorf("after the second has gone: %v", left)
			}
		})
	}
}

package consul

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/discoverytest"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/formattest"
	"github.com/musterhq/muster/internal/testing/providertest"
	"github.com/musterhq/muster/internal/testing/snapshot"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/registrar"
	"github.com/musterhq/muster/secret"
)

func TestWhereThingsStand(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	const id = "0123456789abcdef0123456789abcdef"
	node := driver.Instance{Service: "orders", NodeID: "n1", InstanceID: id, Addr: "10.0.0.5:7946"}
	chosen := driver.Instance{Service: "orders", NodeID: "n1", InstanceID: "https.12345", Addr: "10.0.0.5:7946"}
	for _, c := range []struct {
		instance driver.Instance
		config   Config
		id       string // of the service, or else
		key      string // of the registration
		grants   string
	}{
		{node, Config{}, "orders:" + id, "", "muster/v1/clusters/orders/"},
		{node, Config{Prefix: "prod/muster"}, "orders:" + id, "", "prod/muster/v1/clusters/orders/"},
		{node, Config{Prefix: "a", AuthorityPrefix: "b"}, "orders:" + id, "", "b/v1/clusters/orders/"},
		{node, Config{Format: "hazelcast"}, "orders-10.0.0.5-10.0.0.5-7946", "", "muster/v1/clusters/orders/"},
		{node, Config{Format: "registrator"}, host + ":n1:7946", "", "muster/v1/clusters/orders/"},
		{node, Config{Format: "registrator-kv", Prefix: "services"}, "", "services/orders/" + host + ":n1:7946", "muster/v1/clusters/orders/"},
		{node, Config{Format: "registrator-kv", Prefix: "a", AuthorityPrefix: "b"}, "", "a/orders/" + host + ":n1:7946", "b/v1/clusters/orders/"},
		{node, Config{Format: "skydns"}, "", "skydns/local/cluster/orders/" + id, "muster/v1/clusters/orders/"},
		{node, Config{Format: "skydns", Prefix: "dns", Domain: "example.com"}, "", "dns/com/example/orders/" + id, "muster/v1/clusters/orders/"},
		{chosen, Config{Format: "registrator"}, "https.12345", "", "muster/v1/clusters/orders/"},
		{chosen, Config{Format: "registrator-kv", Prefix: "services"}, "", "services/orders/https.12345", "muster/v1/clusters/orders/"},
	} {
		d := open(t, c.config)
		var id, key string
		if d.kv != nil {
			key, _, err = d.kv.Encode(c.instance)
		} else {
			id, err = d.serviceID(c.instance)
		}
		if err != nil || id != c.id || key != c.key {
			t.Errorf("%+v: service %q, key %q, %v; want %q, %q", c.config, id, key, err, c.id, c.key)
		}
		if grants := d.keys.root + "clusters/orders/"; grants != c.grants {
			t.Errorf("%+v: grants at %s, want %s", c.config, grants, c.grants)
		}
	}
}

func TestFormatThatIsRefused(t *testing.T) {
	for _, c := range []struct {
		config Config
		key    string
	}{
		{Config{Format: "eureka"}, "format"},
		{Config{Format: "registrator-kv"}, "prefix"},
		{Config{Format: "registrator-kv", Prefix: "/services"}, "prefix"},
		{Config{Format: "skydns", Domain: "a..b"}, "domain"},
		{Config{Format: "hazelcast", Domain: "cluster.local"}, "domain"},
		{Config{AuthorityPrefix: "muster/"}, "authority_prefix"},
		{Config{Format: "skydns", Check: Check{TCP: "true"}}, "check"},
		{Config{Format: "skydns", Mode: Catalog}, "mode"},
	} {
		d, err := New(c.config)
		if err == nil {
			d.Close()
			t.Errorf("%+v is accepted", c.config)
			continue
		}
		if !strings.HasPrefix(err.Error(), c.key+": ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%+v: %v; want it to blame %s alone", c.config, err, c.key)
		}
	}
}

// What the contract says of registrations holds where they are keys, too, but for
// what their keys cannot tell apart.
func TestKeysKeepTheContract(t *testing.T) {
	formattest.Run(t, map[string][]string{
		formatRegistratorKV: {"list/whole_instance", "list/same_node"}, // wants a node id without umlauts, and one for each port
		formatSkyDNS: {
			"list/whole_instance",            // wants an id
			"register/ttl", "register/renew", // take a minute, and the session is the same
		},
	}, kvHarness)
}

func kvHarness(t testing.TB, format string) discoverytest.Harness {
	server := testserver.SharedConsul(t)
	proxy := testserver.NewProxy(t, server.Addr())
	c := Config{Address: proxy.Addr(), Format: format, Prefix: newPrefix()}
	kv := open(t, c).kv
	h := providertest.Harness(proxy, func(t testing.TB) driver.Driver { return open(t, c) })
	h.OpenDenied = denied(c)
	h.AddGarbage = func(t testing.TB, service string) {
		for i, value := range []string{"", "garbage", "[]", "0.0.0.0:1"} {
			_, err := server.Client().KV().Put(&api.KVPair{Key: kv.Prefix(service) + fmt.Sprint("garbage-", i), Value: []byte(value)}, nil)
			providertest.Must(t, "put garbage", err)
		}
	}
	h.RemoveRegistration = func(t testing.TB, i driver.Instance) {
		key, _, err := kv.Encode(i)
		providertest.Must(t, "find a registration", err)
		_, err = server.Client().KV().Delete(key, nil)
		providertest.Must(t, "delete a registration", err)
	}
	h.ExpireSession = func(t testing.TB, s driver.Session) {
		_, err := server.Client().Session().Destroy(s.(*kvSession).session, nil)
		providertest.Must(t, "end a session", err)
	}
	// Consul's sessions have 10 s at least, and may take twice as long.
	h.SessionTTL, h.ExpiryGrace = 10*time.Second, 20*time.Second
	return h
}

// list returns the instances of a service as a reader of a configuration sees them,
// and what is skipped.
func list(t *testing.T, c Config, service string) (instances []driver.Instance, skipped []string) {
	t.Helper()
	r := discovery.New("consul", open(t, c), discovery.Options{})
	defer r.Close()
	s, err := r.List(wait.Context(t), discovery.Query{Service: service})
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range s.Skipped {
		skipped = append(skipped, entry.Key)
	}
	slices.Sort(skipped)
	return snapshot.Instances(s), skipped
}

// Services that others registered, whatever the format of what Muster registers.
func TestReadsServicesOfOthers(t *testing.T) {
	server := testserver.SharedConsul(t)
	register := func(r api.AgentServiceRegistration) {
		t.Helper()
		if err := server.Client().Agent().ServiceRegister(&r); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { server.Client().Agent().ServiceDeregister(r.ID) })
	}
	for n := 1; n <= 5; n++ {
		register(api.AgentServiceRegistration{ID: fmt.Sprint("hz", n), Name: "hz-others", Address: "127.0.0.1", Port: 5700 + n, Tags: []string{"test1"}})
	}
	register(api.AgentServiceRegistration{ID: "hz6", Name: "hz-others", Port: 5706, Tags: []string{"hazelcast, test1", ""}})
	register(api.AgentServiceRegistration{ID: "no-port", Name: "hz-others", Address: "127.0.0.1"})
	self, err := server.Client().Agent().Self()
	if err != nil {
		t.Fatal(err)
	}
	node := self["Config"]["NodeName"].(string)
	for _, format := range []string{formatMuster, formatHazelcast, formatRegistrator} {
		var want []driver.Instance
		for n := 1; n <= 5; n++ {
			want = append(want, driver.Instance{Service: "hz-others", Addr: fmt.Sprint("127.0.0.1:", 5700+n), Tags: []string{"test1"}})
		}
		want = append(want, driver.Instance{Service: "hz-others", Addr: "127.0.0.1:5706", Tags: []string{"hazelcast", "test1"}}) // the node's address
		got, skipped := list(t, Config{Address: server.Addr(), Format: format, HealthyOnly: true}, "hz-others")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", format, diff)
		}
		if !slices.Equal(skipped, []string{node + "/no-port"}) {
			t.Errorf("%s: skipped is %v", format, skipped)
		}
	}

	for _, r := range []api.AgentServiceRegistration{
		{ID: "hostname:nginx.0:443", Port: 4443, Tags: []string{"www"}, Meta: map[string]string{"sni": "enabled"}},
		{ID: "hostname:dns:53:udp", Port: 53, Tags: []string{"udp"}},
		{ID: "https.12345", Port: 8000},
	} {
		r.Name, r.Address = "registrator-others", "192.168.1.102"
		register(r)
	}
	want := []driver.Instance{
		{Service: "registrator-others", Addr: "192.168.1.102:8000"}, // an ID of its owner's, which another node may have too
		{Service: "registrator-others", InstanceID: "hostname:dns:53:udp", NodeID: "dns", Addr: "192.168.1.102:53", Tags: []string{"udp"}},
		{Service: "registrator-others", InstanceID: "hostname:nginx.0:443", NodeID: "nginx.0", Addr: "192.168.1.102:4443", Tags: []string{"www"}, Meta: map[string]string{"sni": "enabled"}},
	}
	for _, format := range []string{formatMuster, formatHazelcast, formatRegistrator} {
		got, skipped := list(t, Config{Address: server.Addr(), Format: format}, "registrator-others")
		if diff := cmp.Diff(want, got); diff != "" || skipped != nil {
			t.Errorf("%s: skipped %v: %s", format, skipped, diff)
		}
	}
}

// Two hosts of one name give their containers the same ids. Neither hides the other.
func TestIDsThatNodesShare(t *testing.T) {
	server := testserver.SharedConsul(t)
	for n := 1; n <= 2; n++ {
		node := fmt.Sprint("shared-", n)
		_, err := server.Client().Catalog().Register(&api.CatalogRegistration{
			Node: node, Address: fmt.Sprint("10.0.0.", n),
			Service: &api.AgentService{ID: "localhost:web:80", Service: "shared-ids", Port: 8000},
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { server.Client().Catalog().Deregister(&api.CatalogDeregistration{Node: node}, nil) })
	}
	got, skipped := list(t, Config{Address: server.Addr()}, "shared-ids")
	want := []driver.Instance{{Service: "shared-ids", Addr: "10.0.0.1:8000"}, {Service: "shared-ids", Addr: "10.0.0.2:8000"}}
	if diff := cmp.Diff(want, got); diff != "" || skipped != nil {
		t.Errorf("skipped %v: %s", skipped, diff)
	}
}

// Keys that others put, or a person.
func TestReadsKeysOfOthers(t *testing.T) {
	server := testserver.SharedConsul(t)
	prefix := newPrefix()
	for key, value := range map[string]string{
		"/svc/host1:redis.0:6379": "192.168.1.102:10000",
		"/svc/by-hand":            "[2001:db8::1]:53\n",
		"/svc/bad":                "192.168.1.102",
		"/svc/eu/nested":          "192.168.1.102:10001",
		"/svc2/other":             "192.168.1.102:10002",
		"/local/cluster/svc/x1":   `{"host":"192.168.1.102","port":10000,"ttl":60}`,
		"/local/cluster/svc/x2":   `{"host":"192.168.1.102"}`,
	} {
		if _, err := server.Client().KV().Put(&api.KVPair{Key: prefix + key, Value: []byte(value)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	got, skipped := list(t, Config{Address: server.Addr(), Format: formatRegistratorKV, Prefix: prefix}, "svc")
	want := []driver.Instance{
		{Service: "svc", InstanceID: "by-hand", Addr: "[2001:db8::1]:53"},
		{Service: "svc", InstanceID: "host1:redis.0:6379", NodeID: "redis.0", Addr: "192.168.1.102:10000"},
	}
	if diff := cmp.Diff(want, got); diff != "" || !slices.Equal(skipped, []string{prefix + "/svc/bad", prefix + "/svc/eu/nested"}) {
		t.Errorf("registrator: skipped %v: %s", skipped, diff)
	}
	got, skipped = list(t, Config{Address: server.Addr(), Format: formatSkyDNS, Prefix: prefix}, "svc")
	want = []driver.Instance{{Service: "svc", InstanceID: "x1", Addr: "192.168.1.102:10000"}}
	if diff := cmp.Diff(want, got); diff != "" || !slices.Equal(skipped, []string{prefix + "/local/cluster/svc/x2"}) {
		t.Errorf("skydns: skipped %v: %s", skipped, diff)
	}
}

// A record at the key of its service counts if nothing stands below it, as for CoreDNS;
// what stands beside it is of other services.
func TestLeafOfSkyDNS(t *testing.T) {
	server := testserver.SharedConsul(t)
	config := Config{Address: server.Addr(), Format: formatSkyDNS, Prefix: newPrefix()}
	put := func(key, addr string) {
		t.Helper()
		host, port, _ := strings.Cut(addr, ":")
		value := fmt.Sprintf(`{"host":%q,"port":%s}`, host, port)
		if _, err := server.Client().KV().Put(&api.KVPair{Key: config.Prefix + "/local/cluster/" + key, Value: []byte(value)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	put("svc", "10.0.0.5:1")
	put("svc-2/x1", "10.0.0.6:1")
	put("svc2", "10.0.0.7:1")
	d := open(t, config)
	registry := discovery.New("consul", d, discovery.Options{})
	defer registry.Close()
	next, stop := iter.Pull(registry.Watch(wait.Context(t), discovery.Query{Service: "svc"}))
	defer stop()
	shows := func(want ...driver.Instance) {
		t.Helper()
		for {
			s, ok := next()
			if !ok {
				t.Fatalf("the watch never showed %v", want)
			}
			if s.Known && cmp.Equal(want, snapshot.Instances(s)) {
				return
			}
		}
	}
	shows(driver.Instance{Service: "svc", Addr: "10.0.0.5:1"})
	put("svc/x1", "10.0.0.8:1")
	shows(driver.Instance{Service: "svc", InstanceID: "x1", Addr: "10.0.0.8:1"})
	if _, err := server.Client().KV().Delete(config.Prefix+"/local/cluster/svc/x1", nil); err != nil {
		t.Fatal(err)
	}
	shows(driver.Instance{Service: "svc", Addr: "10.0.0.5:1"})
	names, err := d.Services(wait.Context(t))
	slices.Sort(names)
	if want := []string{"svc", "svc-2", "svc2"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("the services are %v, %v; want %v", names, err, want)
	}
}

// What the registrar keeps, as others see it: under their ID, moved with its
// address, put back where somebody removes it, and gone at the end. Readers of Muster
// have all of it from a service, and what the format holds from a key.
func TestRegistrarInOthersRecords(t *testing.T) {
	server := testserver.SharedConsul(t)
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	const id = "0123456789abcdef0123456789abcdef"
	for _, c := range []struct{ format, before, after, value string }{
		{formatHazelcast, "SERVICE-10.0.0.5-10.0.0.5-7946", "SERVICE-10.0.0.6-10.0.0.6-7947", "10.0.0.6:7947"},
		{formatRegistrator, host + ":n1:7946", host + ":n1:7947", "10.0.0.6:7947"},
		{formatRegistratorKV, "SERVICE/" + host + ":n1:7946", "SERVICE/" + host + ":n1:7947", "10.0.0.6:7947"},
		{formatSkyDNS, "local/cluster/SERVICE/" + id, "local/cluster/SERVICE/" + id, `{"host":"10.0.0.6","port":7947,"ttl":10}`},
	} {
		t.Run(c.format, func(t *testing.T) {
			config := Config{Address: server.Addr(), Format: c.format, HealthyOnly: true, Prefix: newPrefix()}
			node := driver.Instance{
				Service: "registrar-" + c.format, NodeID: "n1", InstanceID: id, Addr: "10.0.0.5:7946", Zone: "eu-1",
				Tags: []string{"web"}, Meta: map[string]string{"k": "v"},
			}
			// What others read: the address, by the ID of the service or the key.
			outside := func() map[string]string {
				all := make(map[string]string)
				if c.format == formatHazelcast || c.format == formatRegistrator {
					services, err := server.Client().Agent().ServicesWithFilter(fmt.Sprintf("Service == %q", node.Service))
					if err != nil {
						t.Fatal(err)
					}
					for id, s := range services {
						all[id] = fmt.Sprint(s.Address, ":", s.Port)
						if !slices.Equal(s.Tags, node.Tags) || s.Meta["k"] != "v" {
							t.Errorf("%s has the tags %v and the meta %v", id, s.Tags, s.Meta)
						}
					}
					return all
				}
				pairs, _, err := server.Client().KV().List(config.Prefix+"/", nil)
				if err != nil {
					t.Fatal(err)
				}
				for _, pair := range pairs {
					all[strings.TrimPrefix(pair.Key, config.Prefix+"/")] = string(pair.Value)
				}
				return all
			}
			shows := func(what string, want ...string) {
				t.Helper()
				wait.For(t, what, func() bool {
					have := outside()
					for _, id := range want {
						if _, ok := have[strings.ReplaceAll(id, "SERVICE", node.Service)]; !ok {
							return false
						}
					}
					return len(have) == len(want)
				})
			}

			registry := discovery.New("consul", open(t, config), discovery.Options{})
			defer registry.Close()
			r := registrar.New(registrar.Config{Registry: registry, TTL: 10 * time.Second})
			defer r.Stop(context.Background())
			if err := r.Set(node); err != nil {
				t.Fatal(err)
			}
			if err := r.Wait(wait.Context(t)); err != nil {
				t.Fatal(err)
			}
			shows("registered", c.before)
			moved := node
			moved.Addr = "10.0.0.6:7947"
			if err := r.Set(moved); err != nil {
				t.Fatal(err)
			}
			after := strings.ReplaceAll(c.after, "SERVICE", node.Service)
			wait.For(t, "moved", func() bool { have := outside(); return len(have) == 1 && have[after] == c.value })
			wait.For(t, "read", func() bool {
				got, _ := list(t, config, node.Service)
				want := registry.Normalize(moved)
				return len(got) == 1 && cmp.Equal(want, got[0], cmpopts.IgnoreFields(want, "RegisteredAt"))
			})
			if whole := cmp.Equal(registry.Normalize(moved), moved); whole != (c.format == formatHazelcast || c.format == formatRegistrator) {
				t.Errorf("of %+v there is left %+v", moved, registry.Normalize(moved))
			}
			switch c.format {
			case formatHazelcast, formatRegistrator:
				err = server.Client().Agent().ServiceDeregister(after)
			default:
				_, err = server.Client().KV().Delete(config.Prefix+"/"+after, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
			shows("put back", c.after)
			if err := r.Stop(wait.Context(t)); err != nil {
				t.Fatal(err)
			}
			shows("gone")
		})
	}
}

// A registration under another system's ID ends with its TTL as any other does, and a
// watch reports it.
func TestServiceOfAFormatLapses(t *testing.T) {
	server := testserver.SharedConsul(t)
	for _, format := range []string{formatHazelcast, formatRegistrator} {
		t.Run(format, func(t *testing.T) {
			config := Config{Address: server.Addr(), Format: format}
			i := driver.Instance{Service: "expires-" + format, NodeID: "n1", InstanceID: "i1", Addr: "10.0.0.5:7946"}
			s, err := open(t, config).OpenSession(wait.Context(t), driver.SessionOptions{TTL: time.Second})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close(wait.Context(t))
			if err := s.Register(wait.Context(t), i); err != nil {
				t.Fatal(err)
			}
			registry := discovery.New("consul", open(t, config), discovery.Options{})
			defer registry.Close()
			seen := false
			for snapshot := range registry.Watch(wait.Context(t), discovery.Query{Service: i.Service}) {
				listed, known := snapshot.Instances()
				if seen = seen || len(listed) == 1; seen && known && len(listed) == 0 {
					return
				}
			}
			t.Errorf("within %v a watch has not shown both that it was there, %v, and that it had gone", wait.Patience, seen)
		})
	}
}

// Two processes at one address, one after the other, have one ID: the first goes
// late, and takes nothing from the second.
func TestSuccessorAtTheSameAddress(t *testing.T) {
	server := testserver.SharedConsul(t)
	for _, format := range []string{formatHazelcast, formatRegistrator, formatRegistratorKV} {
		t.Run(format, func(t *testing.T) {
			config := Config{Address: server.Addr(), Format: format, Prefix: newPrefix()}
			first, second := strings.Repeat("1", 32), strings.Repeat("2", 32) // random ones
			instance := func(id string) driver.Instance {
				return driver.Instance{Service: "successor-" + format, NodeID: "n1", InstanceID: id, Addr: "10.0.0.5:7946"}
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
			d := open(t, config)
			want := d.Normalize(instance(second))
			stands := func() bool {
				got, _ := list(t, config, want.Service)
				return cmp.Equal([]driver.Instance{want}, got)
			}
			wait.For(t, "the second stands", stands)
			if err := sessions[0].Deregister(wait.Context(t), instance(first)); err != nil {
				t.Fatal(err)
			}
			if err := sessions[0].Close(wait.Context(t)); err != nil {
				t.Fatal(err)
			}
			if !stands() {
				t.Error("when the first has gone, the second does not stand")
			}
			if err := sessions[1].Close(wait.Context(t)); err != nil {
				t.Fatal(err)
			}
			wait.For(t, "the second has gone", func() bool { got, _ := list(t, config, want.Service); return len(got) == 0 })
		})
	}
}

// What a stranger put without a session is taken over, and goes with the session.
func TestTakesOverTheKeyOfAStranger(t *testing.T) {
	server := testserver.SharedConsul(t)
	config := Config{Address: server.Addr(), Format: formatSkyDNS, Prefix: newPrefix()}
	key := config.Prefix + "/local/cluster/svc/i1"
	if _, err := server.Client().KV().Put(&api.KVPair{Key: key, Value: []byte(`{"host":"10.0.0.4","port":1}`)}, nil); err != nil {
		t.Fatal(err)
	}
	s, err := open(t, config).OpenSession(wait.Context(t), driver.SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Register(wait.Context(t), driver.Instance{Service: "svc", InstanceID: "i1", Addr: "10.0.0.5:1"}); err != nil {
		t.Fatal(err)
	}
	pair, _, err := server.Client().KV().Get(key, nil)
	if err != nil || pair == nil || string(pair.Value) != `{"host":"10.0.0.5","port":1,"ttl":36}` || pair.Session == "" {
		t.Fatalf("the key is %+v, %v", pair, err)
	}
	if err := s.Close(wait.Context(t)); err != nil {
		t.Fatal(err)
	}
	if pair, _, err = server.Client().KV().Get(key, nil); err != nil || pair != nil {
		t.Errorf("left is %+v, %v", pair, err)
	}
}

// The policy is that of the README: the service's part of the tree, and sessions.
func TestTokenForKeys(t *testing.T) {
	server := testserver.StartConsul(t, testserver.WithACL())
	config := Config{Address: server.Addr(), Format: formatRegistratorKV, Prefix: "services"}
	i := driver.Instance{Service: "orders", NodeID: "n1", InstanceID: "i1", Addr: "10.0.0.5:7946"}
	register := func(token string) error {
		c := config
		c.Token = secret.String(token)
		s, err := open(t, c).OpenSession(wait.Context(t), driver.SessionOptions{})
		if err != nil {
			return err
		}
		defer s.Close(wait.Context(t))
		if err := s.Register(wait.Context(t), i); err != nil {
			return err
		}
		return s.Renew(wait.Context(t))
	}
	read := func(token string) (driver.Snapshot, error) {
		c := config
		c.Token = secret.String(token)
		return open(t, c).List(wait.Context(t), driver.Query{Service: "orders"})
	}
	// Of what is not there nothing can be withheld.
	if _, err := server.Client().KV().Put(&api.KVPair{Key: "services/orders/by-hand", Value: []byte("10.0.0.9:1")}, nil); err != nil {
		t.Fatal(err)
	}
	whole := server.AddToken(`key_prefix "services/orders/" { policy = "write" } session_prefix "" { policy = "write" }`)
	if err := register(whole); err != nil {
		t.Errorf("with the policy of the README: %v", err)
	}
	reader := server.AddToken(`key_prefix "services/orders/" { policy = "read" }`)
	if _, err := read(reader); err != nil {
		t.Errorf("reading with the policy of a reader: %v", err)
	}
	stranger := server.AddToken(`key_prefix "services/other/" { policy = "write" } session_prefix "" { policy = "write" }`)
	for what, err := range map[string]error{
		"registering with the policy of a reader": register(reader),
		"registering elsewhere":                   register(stranger),
		"reading elsewhere":                       func() error { _, err := read(stranger); return err }(),
	} {
		if !errors.Is(err, driver.ErrDenied) {
			t.Errorf("%s: %v, want driver.ErrDenied", what, err)
		}
	}
}

package host

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/snapshot"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/providers/consul"
	"github.com/musterhq/muster/providers/etcd"
	"github.com/musterhq/muster/registrar/docker/grammar"
)

// The tests of this file run over a real etcd and a real Consul, in all formats whose ids
// tell the host and the container.

// store is one provider in one format, and how others write there.
type store struct {
	open func() (driver.Driver, error)
	// leave writes a record as another registrar would, without a TTL.
	leave func(service, id, addr string) error
}

func stores(t *testing.T, hostname string) map[string]store {
	e, c := testserver.StartEtcd(t), testserver.StartConsul(t)
	put := func(key, value string) error {
		_, err := e.Client().Put(context.Background(), key, value)
		return err
	}
	putKV := func(key, value string) error {
		_, err := c.Client().KV().Put(&api.KVPair{Key: key, Value: []byte(value)}, nil)
		return err
	}
	host := func(addr string) string { return addr[:strings.LastIndexByte(addr, ':')] }
	port := func(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }
	skydns := func(addr string) string { return fmt.Sprintf(`{"host":%q,"port":%s}`, host(addr), port(addr)) }
	inEtcd := func(config etcd.Config) func() (driver.Driver, error) {
		config.Endpoints = []string{e.Endpoint()}
		return func() (driver.Driver, error) { return etcd.New(config) }
	}
	inConsul := func(config consul.Config) func() (driver.Driver, error) {
		config.Address = c.Addr()
		return func() (driver.Driver, error) { return consul.New(config) }
	}
	return map[string]store{
		"etcd": {
			inEtcd(etcd.Config{Prefix: "/m"}),
			func(service, id, addr string) error {
				return put("/m/v1/services/"+service+"/"+id, fmt.Sprintf(`{"service":%q,"instance_id":%q,"addr":%q}`, service, id, addr))
			},
		},
		"etcd registrator": {
			inEtcd(etcd.Config{Format: "registrator", Prefix: "/services"}),
			func(service, id, addr string) error { return put("/services/"+service+"/"+id, addr) },
		},
		"etcd skydns": {
			inEtcd(etcd.Config{Format: "skydns"}),
			func(service, id, addr string) error {
				return put("/skydns/local/cluster/"+service+"/"+id, skydns(addr))
			},
		},
		"consul registrator": {
			inConsul(consul.Config{Format: "registrator"}),
			func(service, id, addr string) error {
				var n int
				fmt.Sscan(port(addr), &n)
				return c.Client().Agent().ServiceRegister(&api.AgentServiceRegistration{Name: service, ID: id, Address: host(addr), Port: n})
			},
		},
		"consul registrator-kv": {
			inConsul(consul.Config{Format: "registrator-kv", Prefix: "services"}),
			func(service, id, addr string) error { return putKV("services/"+service+"/"+id, addr) },
		},
		"consul skydns": {
			inConsul(consul.Config{Format: "skydns"}),
			func(service, id, addr string) error {
				return putKV("skydns/local/cluster/"+service+"/"+id, skydns(addr))
			},
		},
	}
}

// What was left behind is found and taken away in every format; what a predecessor has left
// is taken over without a gap; and the rest is left alone.
func TestCleanupAndTakeOver(t *testing.T) {
	t.Parallel()
	hostname, err := os.Hostname()
	if err != nil {
		t.Skip(err)
	}
	for name, s := range stores(t, hostname) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, left := range []struct{ service, id, addr string }{
				{"web", hostname + ":c1:80", "10.0.0.1:7000"}, // of a container that runs, at another port by now
				{"web", hostname + ":gone:80", "10.0.0.1:7001"},
				{"dns", hostname + ":gone:53:udp", "10.0.0.1:7002"},
				{"web", "other:gone:80", "10.0.0.2:7003"},
			} {
				if err := s.leave(left.service, left.id, left.addr); err != nil {
					t.Fatal(err)
				}
			}
			reader := openStore(t, s)
			containers := newCrew()
			containers.run(map[string]int{"c1": 8000, "c2": 8001})
			containers.begin("c3", map[string]int{"443/tcp": 8443}, "SERVICE_ID=https.12345")
			start := func(keep bool) *Registrar {
				// The TTL is long enough that nothing expires before it is taken away.
				r, err := Start(Config{
					Registries: []*discovery.Registry{openStore(t, s)}, Engine: containers, TTL: 10 * time.Second, Cleanup: true, KeepOnStop: keep,
					Resync: 500 * time.Millisecond,
					Rules:  grammar.Rules{Hostname: hostname, HostIP: "10.0.0.1"},
					Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
				})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { r.Stop(context.Background()) })
				return r
			}
			has := func(want ...string) {
				t.Helper()
				wait.NoError(t, func() error {
					got, err := all(reader, "web", "dns")
					if err != nil {
						return err
					}
					slices.Sort(want)
					if diff := cmp.Diff(want, got); diff != "" {
						return fmt.Errorf("-want +got:\n%s", diff)
					}
					return nil
				})
			}
			other := "web other:gone:80 10.0.0.2:7003"
			c3 := "web https.12345 10.0.0.1:8443"
			c1, c2 := "web "+hostname+":c1:80 10.0.0.1:8000", "web "+hostname+":c2:80 10.0.0.1:8001"
			first := start(true)
			has(other, c1, c2, c3)
			if err := first.Stop(context.Background()); err != nil {
				t.Fatal(err)
			}
			has(other, c1, c2, c3)

			// Meanwhile one container ends. Its registration is on the first one's session.
			containers.end("c2", 0)
			watching, end := context.WithCancel(t.Context())
			gaps := make(chan string, 1)
			go func() {
				defer close(gaps)
				for s := range reader.Watch(watching, discovery.Query{Service: "web"}) {
					if s.Known && !s.Stale && !slices.ContainsFunc(snapshot.Instances(s), func(i discovery.Instance) bool { return i.Addr == "10.0.0.1:8000" }) {
						gaps <- fmt.Sprintf("at %v readers saw %v", s.At, snapshot.Instances(s))
						return
					}
				}
			}()
			second := start(false)
			has(other, c1, c3)
			wait.NoError(t, func() error { return second.Status().Ready() })
			has(other, c1, c3)
			end()
			if gap, ok := <-gaps; ok {
				t.Errorf("between the two there was a gap: %s", gap)
			}
			if n := second.Status().Providers[0].Evictions; n != 1 {
				t.Errorf("%d evictions by the second", n)
			}
			if err := second.Stop(context.Background()); err != nil {
				t.Fatal(err)
			}
			has(other)
		})
	}
}

func openStore(t *testing.T, s store) *discovery.Registry {
	t.Helper()
	d, err := s.open()
	if err != nil {
		t.Fatal(err)
	}
	r := discovery.New("provider", d, discovery.Options{})
	t.Cleanup(func() { r.Close() })
	return r
}

// all is what the provider lists, as "service id addr".
func all(r *discovery.Registry, services ...string) ([]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	found := make(map[string]bool)
	for _, service := range services {
		s, err := r.List(ctx, discovery.Query{Service: service})
		if err != nil {
			return nil, err
		}
		for _, i := range snapshot.Instances(s) {
			found[i.Service+" "+i.InstanceID+" "+i.Addr] = true
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}

package lookup_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/consul/api"
	"go.uber.org/goleak"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/snapshot"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/providers/consul"
	"github.com/musterhq/muster/providers/etcd"
	"github.com/musterhq/muster/registrar/advertise"
	"github.com/musterhq/muster/registrar/lookup"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(testserver.Main(m)) }

func bounded(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// entry is one that a registrar has made.
type entry struct {
	name, id, addr string
	tags           []string
}

// backend is a registry that a registrator writes to.
type backend struct {
	registry *discovery.Registry
	put      func(t *testing.T, e entry)
}

func overConsul(t *testing.T) backend {
	server := testserver.SharedConsul(t)
	d, err := consul.New(consul.Config{Address: server.Addr()}) // the default format, and unhealthy ones too
	if err != nil {
		t.Fatal(err)
	}
	registry := discovery.New("consul", d, discovery.Options{})
	t.Cleanup(func() { registry.Close() })
	return backend{registry, func(t *testing.T, e entry) {
		t.Helper()
		host, port, _ := net.SplitHostPort(e.addr)
		n, _ := strconv.Atoi(port)
		err := server.Client().Agent().ServiceRegister(&api.AgentServiceRegistration{
			ID: e.id, Name: e.name, Address: host, Port: n, Tags: e.tags,
			// A node that waits for its address may be what its check waits for.
			Check: &api.AgentServiceCheck{TTL: "1h", Status: api.HealthCritical},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { server.Client().Agent().ServiceDeregister(e.id) })
	}}
}

// The keys of registrator carry no tags, and containers are told by their names.
func overEtcd(t *testing.T) backend {
	server := testserver.StartEtcd(t)
	d, err := etcd.New(etcd.Config{Endpoints: []string{server.Endpoint()}, Format: "registrator", Prefix: "/services"})
	if err != nil {
		t.Fatal(err)
	}
	registry := discovery.New("etcd", d, discovery.Options{})
	t.Cleanup(func() { registry.Close() })
	return backend{registry, func(t *testing.T, e entry) {
		t.Helper()
		if _, err := server.Client().Put(t.Context(), "/services/"+e.name+"/"+e.id, e.addr); err != nil {
			t.Fatal(err)
		}
	}}
}

// brief is what the tests compare of mappings: "192.168.99.100:32846->8080".
func brief(found []lookup.Mapping) []string {
	all := []string{}
	for _, m := range found {
		text := fmt.Sprintf("%s->%d", m.Addr, m.ContainerPort)
		if m.Protocol != "tcp" {
			text += "/" + m.Protocol
		}
		all = append(all, text)
	}
	slices.Sort(all)
	return all
}

// Three containers with two ports each, as docker-discovery-registrator-consul has them,
// with their ports named in each of the ways that registrator knows.
func TestMePeersAll(t *testing.T) {
	for _, names := range []struct {
		form       string
		http, tls2 string // the names of the ports 8080 and 8443
	}{
		{"name-port", "-8080", "-8443"},
		{"bare name for both", "", ""},
		{"bare name for one", "", "-8443"},
	} {
		t.Run(names.form, func(t *testing.T) {
			service := "app-" + strings.ReplaceAll(names.form, " ", "-")
			b := overConsul(t)
			for n, tag := range []string{"myUniqueId001", "myUniqueId002", "myUniqueId003"} {
				c := fmt.Sprint("host-", service, ":c", n+1)
				tags := []string{"dev", tag}
				b.put(t, entry{service + names.http, c + ":8080", fmt.Sprint("192.168.99.100:", 32846-2*n), tags})
				b.put(t, entry{service + names.tls2, c + ":8443", fmt.Sprint("192.168.99.100:", 32845-2*n), tags})
			}
			// What does not belong here is passed over, and fails nothing.
			b.put(t, entry{service, "custom-id-" + service, "192.168.99.100:1", []string{"dev", "myUniqueId001"}})
			b.put(t, entry{service, "host-" + service + ":c1:9999", "192.168.99.100:2", []string{"dev", "myUniqueId001"}})

			l := lookup.Lookup{Registry: b.registry, Service: service, Tag: "myUniqueId001", Ports: []uint16{8080, 8443}}
			check := func(what string, find func(context.Context) ([]lookup.Mapping, error), want ...string) {
				t.Helper()
				found, err := find(wait.Context(t))
				if diff := cmp.Diff(append([]string{}, want...), brief(found)); err != nil || diff != "" {
					t.Errorf("%s: %v %s", what, err, diff)
				}
			}
			check("me", l.Me, "192.168.99.100:32845->8443", "192.168.99.100:32846->8080")
			check("peers", l.Peers, "192.168.99.100:32841->8443", "192.168.99.100:32842->8080", "192.168.99.100:32843->8443", "192.168.99.100:32844->8080")
			check("all", l.All, "192.168.99.100:32841->8443", "192.168.99.100:32842->8080", "192.168.99.100:32843->8443", "192.168.99.100:32844->8080",
				"192.168.99.100:32845->8443", "192.168.99.100:32846->8080")
			l.Ports = []uint16{8443}
			check("me on one port", l.Me, "192.168.99.100:32845->8443")
			check("peers on one port", l.Peers, "192.168.99.100:32841->8443", "192.168.99.100:32843->8443")
			l.MustHave = []string{"staging"}
			check("peers with a tag that nobody has", l.Peers)
			check("all with a tag that nobody has", l.All)
			l.MustHave = []string{"dev"}
			check("peers with a tag that all have", l.Peers, "192.168.99.100:32841->8443", "192.168.99.100:32843->8443")

			found, err := l.Me(wait.Context(t))
			want := []lookup.Mapping{{
				Service: service + names.tls2, ID: "host-" + service + ":c1:8443", Addr: "192.168.99.100:32845",
				Container: "c1", ContainerPort: 8443, Protocol: "tcp", Tags: []string{"dev", "myUniqueId001"},
			}}
			if diff := cmp.Diff(want, found); err != nil || diff != "" {
				t.Errorf("%v %s", err, diff)
			}
		})
	}
}

func TestOnePort(t *testing.T) {
	b := overConsul(t)
	b.put(t, entry{"single", "host:single1:7946", "192.168.99.100:32800", []string{"s1"}})
	for _, ports := range [][]uint16{nil, {7946}} {
		l := lookup.Lookup{Registry: b.registry, Service: "single", Tag: "s1", Ports: ports}
		if found, err := l.Me(wait.Context(t)); err != nil || !slices.Equal(brief(found), []string{"192.168.99.100:32800->7946"}) {
			t.Errorf("ports %v: %v, %v", ports, found, err)
		}
		if found, err := l.Peers(wait.Context(t)); err != nil || found == nil || len(found) > 0 {
			t.Errorf("ports %v: peers %v, %v, want none and no error", ports, found, err)
		}
	}
}

// One port of TCP and of UDP, which have different ports of the host.
func TestProtocols(t *testing.T) {
	b := overConsul(t)
	b.put(t, entry{"gossip", "host:g1:7946", "192.168.99.100:32781", []string{"g1"}})
	b.put(t, entry{"gossip", "host:g1:7946:udp", "192.168.99.100:32774", []string{"g1", "udp"}})
	for protocol, want := range map[string][]string{
		"":    {"192.168.99.100:32774->7946/udp", "192.168.99.100:32781->7946"},
		"tcp": {"192.168.99.100:32781->7946"},
		"udp": {"192.168.99.100:32774->7946/udp"},
	} {
		l := lookup.Lookup{Registry: b.registry, Service: "gossip", Tag: "g1", Ports: []uint16{7946}, Protocol: protocol}
		if found, err := l.Me(wait.Context(t)); err != nil || !slices.Equal(brief(found), want) {
			t.Errorf("protocol %q: %v, %v, want %v", protocol, found, err, want)
		}
	}
}

func TestOverEtcd(t *testing.T) {
	b := overEtcd(t)
	b.put(t, entry{"my-app-8080", "host:c1:8080", "192.168.99.100:32846", nil})
	b.put(t, entry{"my-app", "host:c1:8443", "192.168.99.100:32845", nil})
	b.put(t, entry{"my-app", "host:c1:8443:udp", "192.168.99.100:32001", nil})
	b.put(t, entry{"my-app", "custom-id", "192.168.99.100:1", nil})
	b.put(t, entry{"my-app", "host:c2:8443", "not an address", nil})
	b.put(t, entry{"my-app", "host:c3:8443", "192.168.99.100:32841", nil})
	l := lookup.Lookup{Registry: b.registry, Service: "my-app", Tag: "c1", Ports: []uint16{8080, 8443}}
	own := []string{"192.168.99.100:32001->8443/udp", "192.168.99.100:32845->8443", "192.168.99.100:32846->8080"}
	other := "192.168.99.100:32841->8443"
	for _, c := range []struct {
		what string
		find func(context.Context) ([]lookup.Mapping, error)
		want []string
	}{
		{"me", l.Me, own},
		{"peers", l.Peers, []string{other}},
		{"all", l.All, append([]string{own[0], other}, own[1:]...)},
	} {
		if found, err := c.find(wait.Context(t)); err != nil || !slices.Equal(brief(found), c.want) {
			t.Errorf("%s: %v, %v, want %v", c.what, found, err, c.want)
		}
	}
}

// Me waits for the registrar, which comes to a container only when that runs.
func TestMeWaits(t *testing.T) {
	b := overConsul(t)
	// The entry of another, so that the registry is not as it is at first.
	b.put(t, entry{"late-8080", "host:late2:8080", "192.168.99.100:32844", []string{"late2"}})
	l := lookup.Lookup{Registry: b.registry, Service: "late", Tag: "late1", Ports: []uint16{8080, 8443}}

	_, err := l.Me(bounded(t, time.Second))
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, driver.ErrNotFound) {
		t.Errorf("nothing is there: %v, want the deadline and ErrNotFound", err)
	}

	type answer struct {
		found []lookup.Mapping
		err   error
	}
	answers := make(chan answer, 1)
	ctx := wait.Context(t)
	first := make(chan string, 100)
	l.Registry = reported{b.registry, first}
	go func() {
		found, err := l.Me(ctx)
		answers <- answer{found, err}
	}()
	b.put(t, entry{"late-8080", "host:late1:8080", "192.168.99.100:32846", []string{"late1"}})
	for id := range first {
		if id == "host:late1:8080" {
			break
		}
	}
	select {
	case a := <-answers:
		t.Fatalf("returned %v, %v with one port of two", a.found, a.err)
	default:
	}
	b.put(t, entry{"late-8443", "host:late1:8443", "192.168.99.100:32845", []string{"late1"}})
	a := <-answers
	if want := []string{"192.168.99.100:32845->8443", "192.168.99.100:32846->8080"}; a.err != nil || !slices.Equal(brief(a.found), want) {
		t.Errorf("%v, %v, want %v", a.found, a.err, want)
	}
}

// told sends the ids that a registry has shown, once they were taken note of.
type reported struct {
	lookup.Registry
	ids chan<- string
}

func (r reported) Watch(ctx context.Context, q discovery.Query) iter.Seq[discovery.Snapshot] {
	return func(yield func(discovery.Snapshot) bool) {
		for s := range r.Registry.Watch(ctx, q) {
			if !yield(s) {
				return
			}
			for _, i := range snapshot.Instances(s) {
				r.ids <- i.InstanceID
			}
		}
	}
}

// What is wrong is reported on one line.
func TestLookupErrors(t *testing.T) {
	b := overConsul(t)
	nobody := func() *discovery.Registry {
		d, err := consul.New(consul.Config{Address: "127.0.0.1:1"})
		if err != nil {
			t.Fatal(err)
		}
		registry := discovery.New("consul", d, discovery.Options{})
		t.Cleanup(func() { registry.Close() })
		return registry
	}
	down, closed := nobody(), nobody()
	closed.Close()
	for _, tt := range []struct {
		name string
		l    lookup.Lookup
		is   error
		want []string
	}{
		{"nothing there", lookup.Lookup{Registry: b.registry, Service: "absent", Tag: "x1", MustHave: []string{"dev"}, Ports: []uint16{1, 2}}, driver.ErrNotFound,
			[]string{"absent and absent-1 and absent-2", `the tag "x1"`, `the tag "dev"`, "port 1 or 2", "deadline"}},
		{"registry down", lookup.Lookup{Registry: down, Service: "absent", Tag: "x1"}, driver.ErrUnavailable, []string{"no answer", "connection refused"}},
		{"registry closed", lookup.Lookup{Registry: closed, Service: "absent", Tag: "x1"}, discovery.ErrClosed, []string{"closed"}},
		{"no tag", lookup.Lookup{Registry: b.registry, Service: "absent"}, driver.ErrInvalid, []string{"tag is missing"}},
		{"no service", lookup.Lookup{Registry: b.registry, Tag: "x1"}, driver.ErrInvalid, []string{"service is missing"}},
		{"no registry", lookup.Lookup{Service: "absent", Tag: "x1"}, driver.ErrInvalid, []string{"registry"}},
	} {
		found, err := tt.l.Me(bounded(t, 500*time.Millisecond))
		if err == nil || found != nil || !errors.Is(err, tt.is) {
			t.Errorf("%s: %v, %v, want %v", tt.name, found, err, tt.is)
			continue
		}
		for _, part := range tt.want {
			if !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %q does not say %q on one line", tt.name, err, part)
			}
		}
	}
}

func TestDetector(t *testing.T) {
	b := overConsul(t)
	b.put(t, entry{"node-8080", "host:n1:8080", "192.168.99.100:32001", []string{"n1"}})
	b.put(t, entry{"node-7946", "host:n1:7946", "192.168.99.100:32002", []string{"n1"}})
	b.put(t, entry{"node-7946", "host:n1:7946:udp", "192.168.99.100:32003", []string{"n1", "udp"}})
	b.put(t, entry{"node-7946", "host:n2:7946", "192.168.99.100:32004", []string{"n2", "twice"}})
	b.put(t, entry{"node-7946", "host:n3:7946", "192.168.99.100:32005", []string{"n3", "twice"}})
	bound := netip.MustParseAddrPort("0.0.0.0:7946")
	resolve := func(tag, spec string) (advertise.Address, error) {
		return advertise.Resolve(bounded(t, 5*time.Second), spec, bound, advertise.Options{
			Detectors: []advertise.Detector{lookup.Detector(lookup.Lookup{Registry: b.registry, Service: "node", Tag: tag})},
		})
	}
	want := advertise.Address{Addr: "192.168.99.100:32002", Source: "entry host:n1:7946 of service node-7946"}
	for _, spec := range []string{"auto", "registry"} {
		if found, err := resolve("n1", spec); err != nil || found != want {
			t.Errorf("%s: %+v, %v, want %+v", spec, found, err, want)
		}
	}
	if found, err := resolve("twice", "registry"); !errors.Is(err, lookup.ErrAmbiguous) || !strings.Contains(err.Error(), "host:n2:7946, host:n3:7946") {
		t.Errorf("two with one tag: %+v, %v", found, err)
	}
	// One that waits in vain names what may be waiting for it.
	const cause = "run a registrar on this host, and give a container that has a HEALTHCHECK the label SERVICE_7946_PUBLISH_NOT_READY=true"
	if found, err := lookup.Detector(lookup.Lookup{Registry: b.registry, Service: "node", Tag: "absent"}).Detect(bounded(t, 500*time.Millisecond), bound); !errors.Is(err, driver.ErrNotFound) || !strings.Contains(err.Error(), "; "+cause) {
		t.Errorf("not registered: %+v, %v", found, err)
	}
	d, err := consul.New(consul.Config{Address: "127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	down := discovery.New("consul", d, discovery.Options{})
	defer down.Close()
	if found, err := lookup.Detector(lookup.Lookup{Registry: down, Service: "node", Tag: "absent"}).Detect(bounded(t, 500*time.Millisecond), bound); err == nil || strings.Contains(err.Error(), cause) {
		t.Errorf("a registry that does not answer: %+v, %v", found, err)
	}
	if found, err := resolve("", "registry"); !errors.Is(err, advertise.ErrNotApplicable) || !strings.Contains(err.Error(), "detect.registry.tag") {
		t.Errorf("no tag: %+v, %v", found, err)
	}
}

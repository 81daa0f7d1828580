package consul

import (
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/providers/consul/internal/registration"
)

// Readers of registrator's services make a label of each pair of meta. There is what the
// container has set and nothing else, and still all that a reader of Muster finds, a successor
// cleans up, and a session removes.
func TestRegistratorHasNoMetaOfMuster(t *testing.T) {
	t.Parallel()
	server := testserver.LendConsul(t)
	c := Config{Address: server.Addr(), HealthyOnly: true, Format: formatRegistrator}
	i := driver.Instance{
		Service: "web", NodeID: "h", InstanceID: "h:web-1:80", Addr: "10.0.0.5:8000", Zone: "a", Version: "2",
		Tags: []string{"prod"}, Meta: map[string]string{"region": "eu", "muster": "is no prefix"}, AppAddrs: map[string]string{"admin": "10.0.0.5:9000"},
	}
	kept := func(want map[string]string) *api.AgentService {
		t.Helper()
		have, _, err := server.Client().Agent().Service(i.InstanceID, nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, have.Meta); diff != "" {
			t.Fatalf("meta (-want +have):\n%s", diff)
		}
		return have
	}
	writer, reader := open(t, c), open(t, Config{Address: server.Addr(), HealthyOnly: true})
	found := func(want ...driver.Instance) func() bool {
		return func() bool {
			// The one that has registered it sees whether it is there.
			if _, err := writer.List(wait.Context(t), driver.Query{Service: i.Service}); err != nil {
				t.Fatal(err)
			}
			s, err := reader.List(wait.Context(t), driver.Query{Service: i.Service})
			if err != nil {
				t.Fatal(err)
			}
			return cmp.Equal(append([]driver.Instance{}, want...), s.Instances)
		}
	}
	session := func(d *Driver) driver.Session {
		t.Helper()
		s, err := d.OpenSession(wait.Context(t), driver.SessionOptions{TTL: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	first := session(writer)
	must(first.Register(wait.Context(t), i))
	kept(i.Meta)
	wait.For(t, "found whole", found(i))
	must(first.Renew(wait.Context(t)))

	// Lost behind the agent's back, it is registered again.
	for range 2 {
		// Again and again: an agent that has yet to send a check's state puts the service back.
		wait.For(t, "removed", func() bool {
			_, err := server.Client().Catalog().Deregister(&api.CatalogDeregistration{Node: server.Name(), ServiceID: i.InstanceID}, nil)
			must(err)
			return found()()
		})
		must(first.Register(wait.Context(t), i))
		kept(i.Meta)
		wait.For(t, "put back", found(i))
	}

	// A successor takes it over, and what the first does about it is nothing to it.
	second := session(open(t, c))
	must(second.Register(wait.Context(t), i))
	must(first.Deregister(wait.Context(t), i))
	must(first.Close(wait.Context(t)))
	wait.For(t, "kept by the successor", found(i))
	must(second.Close(wait.Context(t)))
	wait.For(t, "removed", found())

	// Who asks for the meta gets it.
	asked := c
	asked.Record = recordMeta
	third := session(open(t, asked))
	must(third.Register(wait.Context(t), i))
	have, _, err := server.Client().Agent().Service(i.InstanceID, nil)
	must(err)
	if have.Meta[registration.SessionMeta] == "" || have.Meta["region"] != "eu" {
		t.Errorf("meta %v", have.Meta)
	}
	wait.For(t, "found whole", found(i))
	must(third.Close(wait.Context(t)))
}

// What a killed process has left behind is removed by its successor, wherever it has its record.
func TestReclaim(t *testing.T) {
	t.Parallel()
	server := testserver.LendConsul(t)
	for _, c := range []Config{{Format: formatRegistrator}, {Format: formatMuster}, {Format: formatRegistrator, Record: recordMeta}} {
		t.Run(c.Format+" "+c.Record, func(t *testing.T) {
			c.Address = server.Addr()
			killed := open(t, c)
			// Long enough for a busy machine to register within it.
			s, err := killed.OpenSession(wait.Context(t), driver.SessionOptions{TTL: 5 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			ids := make(map[string]bool)
			for _, id := range []string{"h:ours:80", "h:other:80"} {
				if err := s.Register(wait.Context(t), driver.Instance{Service: "web", InstanceID: id, Addr: "10.0.0.5:80"}); err != nil {
					t.Fatal(err)
				}
			}
			d := open(t, c)
			wait.For(t, "reclaimed", func() bool {
				gone, err := d.Reclaim(wait.Context(t), func(i driver.Instance) bool { return i.InstanceID == "h:ours:80" })
				if err != nil {
					t.Fatal(err)
				}
				for _, i := range gone {
					ids[i.InstanceID] = true
				}
				return len(ids) > 0
			})
			if !maps.Equal(ids, map[string]bool{"h:ours:80": true}) {
				t.Errorf("reclaimed %v", ids)
			}
			all, err := server.Client().Agent().Services()
			if err != nil {
				t.Fatal(err)
			}
			left := 0
			for _, service := range all {
				if service.Service == "web" {
					left++
				}
			}
			if left != 1 {
				t.Errorf("%d services are left, want the one of somebody else", left)
			}
			if err := s.Close(wait.Context(t)); err != nil {
				t.Fatal(err)
			}
		})
	}
}

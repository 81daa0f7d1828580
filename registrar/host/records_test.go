package host

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/consul"
	"github.com/musterhq/muster/providers/etcd"
	"github.com/musterhq/muster/registrar/declared"
	"github.com/musterhq/muster/registrar/docker/grammar"
)

// Which services of a configuration are one in the registry depends on how the provider
// keeps them.
func TestCheckRecords(t *testing.T) {
	endpoints := []string{"http://127.0.0.1:1"}
	service := func(name, id, addr string) declared.Service {
		return declared.Service{Name: name, ID: id, Address: addr}
	}
	one := []declared.Service{service("alpha", "same", ":1001"), service("beta", "same", ":1002"), service("beta", "other", ":1003")}
	for _, c := range []struct {
		name     string
		driver   func() (driver.Driver, error)
		services []declared.Service
		want     string // the key of the one that is refused, and the other
	}{
		{"an ID of Consul is one for all services", func() (driver.Driver, error) { return consul.New(consul.Config{Format: "registrator"}) }, one,
			`services[1].id: same: provider p keeps service beta in one place, "same", with service alpha of services[0]`},
		{"Muster's own has the name in the ID", func() (driver.Driver, error) { return consul.New(consul.Config{}) }, one, ""},
		{"but a colon in both is ambiguous", func() (driver.Driver, error) { return consul.New(consul.Config{}) },
			[]declared.Service{service("a:b", "c", ":1"), service("a", "b:c", ":2")}, "services[1].id"},
		{"in the catalog", func() (driver.Driver, error) {
			return consul.New(consul.Config{Format: "registrator", Mode: "catalog"})
		}, one, "services[1].id"},
		{"by hazelcast's ID", func() (driver.Driver, error) { return consul.New(consul.Config{Format: "hazelcast"}) },
			[]declared.Service{service("a", "x", ":1"), service("a", "y", ":2"), service("a", "z", ":1")}, "services[2].id: z: provider p keeps service a in one place"},
		{"keys are below the service", func() (driver.Driver, error) {
			return consul.New(consul.Config{Format: "registrator-kv", Prefix: "services"})
		}, one, ""},
		{"etcd", func() (driver.Driver, error) { return etcd.New(etcd.Config{Endpoints: endpoints}) }, one, ""},
		{"etcd, hazelcast", func() (driver.Driver, error) {
			return etcd.New(etcd.Config{Endpoints: endpoints, Format: "hazelcast"})
		}, []declared.Service{service("a", "x", "10.0.0.6:1"), service("a", "y", ":1"), service("a", "z", "10.0.0.6:1")}, "services[2].id: z"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := c.driver()
			if err != nil {
				t.Fatal(err)
			}
			registry := discovery.New("p", d, discovery.Options{})
			defer registry.Close()
			err = CheckRecords([]*discovery.Registry{registry}, c.services, grammar.Rules{Hostname: "h"})
			switch {
			case c.want == "":
				if err != nil {
					t.Errorf("refused: %v", err)
				}
			case !errors.Is(err, driver.ErrInvalid) || !strings.HasPrefix(strings.ReplaceAll(err.Error(), `"`, ""), strings.ReplaceAll(c.want, `"`, "")):
				t.Errorf("%v, want %s", err, c.want)
			case strings.Contains(err.Error(), "\n"):
				t.Errorf("reported twice: %v", err)
			}
		})
	}
}

// Two containers whose ids are one where the provider keeps them: both say so, the first
// one stands, and neither is replaced. The other provider has both.
func TestConflictOfContainers(t *testing.T) {
	onHost(t, func(l *lab, c *Config) { l.picky.crowded = true }, func(l *lab) {
		l.begin("c1", map[string]int{"80/tcp": 8000}, "SERVICE_ID=same", "SERVICE_NAME=alpha")
		alpha, beta := "alpha same 192.168.1.102:8000", "Beta same 192.168.1.102:8001"
		l.bothHold(alpha) // before the other one is there, or the lesser name would stand
		l.begin("c2", map[string]int{"80/tcp": 8001}, "SERVICE_ID=same", "SERVICE_NAME=Beta")
		time.Sleep(10 * time.Minute)
		l.holds(l.one, alpha) // which was there first
		l.holds(l.two, alpha, beta)
		s := l.Status()
		if err := s.Ready(); err != nil {
			t.Errorf("not ready: %v", err)
		}
		r := s.Report()
		for n, other := range []string{"Beta with id same (left out)", "alpha with id same (registered)"} {
			if got := r.Services[n].Conflict["one"]; !strings.Contains(got, other) || r.Services[n].Conflict["two"] != "" {
				t.Errorf("%s: the conflict is %q, want %s", r.Services[n].Service, r.Services[n].Conflict, other)
			}
		}
		if got := r.Services[1]; !strings.Contains(got.Error, "one: conflict") || len(got.Registered) != 1 {
			t.Errorf("Beta: %+v", got)
		}
		problems := strings.Join(r.Problems, "\n")
		if !strings.Contains(problems, "provider one: 2 services are in conflict, as Beta with id same: the provider keeps it in one place") ||
			!strings.Contains(problems, "provider one: not all readers find 1 of the services, as: capitals in Beta") || len(r.Problems) != 2 {
			t.Errorf("problems:\n%s", problems)
		}
		if r.Services[1].Warnings["one"] != "capitals in Beta" {
			t.Errorf("Beta: %+v", r.Services[1])
		}
		if n := s.Providers[0].Counters.Repairs; n > 0 {
			t.Errorf("%d repairs", n)
		}
		l.end("c1", 0)
		l.bothHold(beta)
		if p := l.Status().Report().Problems; len(p) != 1 || strings.Contains(p[0], "conflict") {
			t.Errorf("afterwards: %q", p)
		}
	})
}

// What a container is named by its labels obeys the rules of what is configured.
func TestNamesOfContainers(t *testing.T) {
	onHost(t, nil, func(l *lab) {
		for n, env := range []string{"SERVICE_NAME=a b", "SERVICE_NAME=a\tb", "SERVICE_ID=x\x00", "SERVICE_NAME=a\u00a0b", "SERVICE_ID=a\x1b[31mb"} {
			l.begin("c"+string(rune('a'+n)), map[string]int{"80/tcp": 8000 + n}, env)
		}
		l.begin("good", map[string]int{"80/tcp": 9000}, "SERVICE_NAME=team/web")
		l.bothHold("team/web hostname:good:80 192.168.1.102:9000")
		s := l.Status()
		if err := s.Ready(); err != nil {
			t.Errorf("not ready: %v", err)
		}
		refused := 0
		for _, service := range s.Report().Services {
			if strings.Contains(service.Error, "white space or control characters") && strings.HasPrefix(service.Error, "container c") {
				refused++
			}
		}
		if refused != 5 {
			t.Errorf("%d are refused: %+v", refused, s.Report().Services)
		}
	})
}

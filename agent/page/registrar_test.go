package page

import (
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/memory"
	"github.com/musterhq/muster/internal/testing/routestest"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/registrar"
	"github.com/musterhq/muster/registrar/check"
	"github.com/musterhq/muster/registrar/declared"
	"github.com/musterhq/muster/registrar/docker/grammar"
	"github.com/musterhq/muster/registrar/host"
)

// statusOf is that of a registrar with a container of each sort.
func statusOf() host.Status {
	instance := func(id, addr string) discovery.Instance {
		return discovery.Instance{Service: "web", InstanceID: id, Addr: addr, Tags: []string{"blue"}, Meta: map[string]string{"region": "eu"}}
	}
	one, two := instance("host:one:80", "10.0.0.5:8000"), instance("host:two:80", "10.0.0.5:8001")
	s := host.Status{
		Hostname: "host-1", HostIP: "10.0.0.5", HostSource: "the only interface",
		Engine: &host.EngineStatus{Connected: true, Synced: true, Containers: []host.ContainerStatus{
			{Name: "one", Running: true},
			{Name: "two", Running: true},
			{Name: "db", Running: true, LeftOut: []string{"port 5432 of db is not published"}},
			{Name: "gone", Kept: "it ended with status 1"},
			{Name: "odd", Running: true, Err: errors.New("SERVICE_TAGS: a tag is empty")},
		}},
		Desired: []host.Desired{
			{Instance: one, Source: "container one", Reason: "published at 0.0.0.0:8000"},
			{Instance: two, Source: "container two", Reason: "published at 0.0.0.0:8001"},
			{Instance: discovery.Instance{Service: "printer", InstanceID: "host:printer", Addr: "10.0.0.9:631"}, Source: "configuration", Reason: "its check passes"},
		},
	}
	status := registrar.Status{Instances: []registrar.InstanceStatus{
		{Instance: one, Registered: true},
		{Instance: two, Err: errors.New("permission denied"), Warning: "read by nobody"},
	}}
	status.Session.Open = true
	s.Providers = []host.ProviderStatus{{Name: "etcd", Status: status}}
	return s
}

func TestFactsOfARegistrar(t *testing.T) {
	page := body(t, fixed{viewOfRegistrar(statusOf())})
	for _, want := range []string{
		"<h1>Registrar of host-1</h1>", "<code>10.0.0.5</code>, found by: the only interface", "followed</span>, 5 containers",
		`data-label="Registered with"><span class="good">etcd</span>`, `data-label="Registered with"><span class="bad">nowhere</span>`,
		"published at 0.0.0.0:8000", "etcd: permission denied", "etcd=read by nobody", "<code>region=eu</code>", "Left out: port 5432 of db is not published",
		"kept: it ended with status 1", "SERVICE_TAGS: a tag is empty", "Other services", "printer", "its check passes", "1 of 2",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("%s is not shown", want)
		}
	}
	if t.Failed() {
		t.Log(page)
	}
}

func TestTimelineOfARegistrar(t *testing.T) {
	l, status := newTimeline(), statusOf()
	status.Engine.Containers = status.Engine.Containers[:3]
	status.Providers[0].Instances[1].Warning = ""
	l.observe(time.Now(), factsOf(status.Report()))
	status.Providers[0].Instances = status.Providers[0].Instances[1:]
	status.Providers[0].Instances[0].Registered, status.Providers[0].Instances[0].Err = true, nil
	l.observe(time.Now(), factsOf(status.Report()))
	want := []string{
		"service: web at 10.0.0.5:8001 is registered with etcd",
		"over: provider etcd, after 0s",
		"service: web at 10.0.0.5:8000 is no longer registered with etcd",
		"warning: provider etcd: permission denied",
		"service: web at 10.0.0.5:8000 is registered with etcd",
	}
	if diff := cmp.Diff(want, l.texts()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// What a container says of itself is text.
func TestHostileContainers(t *testing.T) {
	var s host.Status
	s.Hostname, s.HostIP, s.HostSource = hostile[0], hostile[1], hostile[2]
	s.Engine = new(host.EngineStatus)
	p := host.ProviderStatus{Name: hostile[0], Addrs: []string{hostile[1]}}
	for _, text := range hostile {
		i := discovery.Instance{Service: text, InstanceID: text, Addr: text, Tags: []string{text}, Meta: map[string]string{text: text}}
		s.Engine.Containers = append(s.Engine.Containers, host.ContainerStatus{Name: text, Kept: text, LeftOut: []string{text}, Err: errors.New(text)})
		s.Desired = append(s.Desired, host.Desired{Instance: i, Source: "container " + text, Reason: text, Err: errors.New(text)})
		s.Checks = append(s.Checks, check.Status{Service: declared.Service{Name: text, Tags: []string{text}}, Err: errors.New(text)})
		p.Instances = append(p.Instances, registrar.InstanceStatus{Instance: i, Conflict: text, Warning: text, Err: errors.New(text)})
	}
	s.Providers = []host.ProviderStatus{p}
	l := newTimeline()
	l.observe(time.Now(), factsOf(s.Report()))
	checkHostile(t, body(t, fixed{viewOfRegistrar(s)}, l.texts()...))
}

// The page of a registrar is guarded and served as that of a node is.
func TestPageOfARegistrar(t *testing.T) {
	registry := discovery.New("memory", memory.New().Driver(), discovery.Options{})
	defer registry.Close()
	r, err := host.Start(host.Config{
		Registries: []*discovery.Registry{registry}, Rules: grammar.Rules{Hostname: "host-1", HostIP: "10.0.0.5"},
		Services: []declared.Service{{Name: "printer", Address: "10.0.0.9:631"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	o := withToken()
	p := Registrar(r, o.Protect(r.Handler()), o)
	defer func() {
		p.Close()
		if err := r.Stop(wait.Context(t)); err != nil {
			t.Error(err)
		}
	}()
	routestest.Run(t, p.table()[1:], p) // the page itself wants the token, as do the paths of the API
	server := httptest.NewServer(p)
	defer server.Close()
	c := browser(t)
	for _, path := range []string{"/", host.PathRegistrar, "/metrics"} {
		if response, body := ask(t, c, "GET", server.URL+path, ""); response.StatusCode != 401 || strings.Contains(body, "host-1") {
			t.Errorf("GET %s: status %d\n%s", path, response.StatusCode, body)
		}
	}
	var body string
	wait.For(t, "the service in the page and its timeline", func() bool {
		_, body = ask(t, c, "GET", server.URL, "", "Authorization", "Bearer "+token)
		return strings.Contains(body, "All that runs is registered") && strings.Contains(body, "printer at 10.0.0.9:631 is registered with memory")
	}, func() string { return body })
}

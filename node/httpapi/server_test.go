package httpapi_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/memory"
	"github.com/musterhq/muster/internal/testing/routestest"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/httpapi"
)

// serve starts a node with a provider in memory and its API.
func serve(t *testing.T, memory *memory.Server, id string, change func(*node.Config)) string {
	t.Helper()
	registry := discovery.New("memory", memory.Driver(), discovery.Options{})
	cfg := node.Config{
		Cluster: "orders", NodeID: id, Bind: "127.0.0.1:0", Registries: []*discovery.Registry{registry},
		Zone: "eu-1", Tags: []string{"web"}, AppAddrs: map[string]string{"http": "10.0.0.5:80"},
	}
	if change != nil {
		change(&cfg)
	}
	n, err := node.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(httpapi.New(n))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		wait.Leave(t, n.Leave)
		if err := registry.Close(); err != nil {
			t.Error(err)
		}
	})
	return server.URL
}

func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(b)
}

// waitFor waits until the path answers with status.
func waitFor(t *testing.T, url string, status int) string {
	t.Helper()
	var got int
	var body string
	wait.For(t, fmt.Sprintf("status %d of GET %s", status, url), func() bool { got, body = get(t, url); return got == status },
		func() string { return fmt.Sprintf("status %d: %s", got, body) })
	return body
}

func TestBeforeThereIsACluster(t *testing.T) {
	url := serve(t, memory.New(), "a", func(c *node.Config) { c.Bootstrap.Expect = 3 })
	for path, want := range map[string]int{
		httpapi.PathMaster:  http.StatusNotFound,
		httpapi.PathReady:   http.StatusServiceUnavailable,
		"/v1/nothing":       http.StatusNotFound,
		httpapi.PathHealth:  http.StatusOK,
		httpapi.PathMembers: http.StatusOK,
	} {
		status, body := get(t, url+path)
		if status != want {
			t.Errorf("GET %s: status %d, want %d", path, status, want)
		}
		var e httpapi.Error
		if status >= 400 && (json.Unmarshal([]byte(body), &e) != nil || e.Error == "") {
			t.Errorf("GET %s: no error in %s", path, body)
		}
	}
	response, err := http.Post(url+httpapi.PathMembers, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST %s: status %d: the API changes nothing", httpapi.PathMembers, response.StatusCode)
	}
}

func TestMembersAndMaster(t *testing.T) {
	memory := memory.New()
	url := serve(t, memory, "a", nil)
	waitFor(t, url+httpapi.PathReady, http.StatusOK)
	serve(t, memory, "b", func(c *node.Config) { c.Mastership.Eligible = new(false) })

	var master httpapi.Master
	decode(t, waitFor(t, url+httpapi.PathMaster, http.StatusOK), &master)
	if master.NodeID != "a" || master.Term == 0 || master.ClusterID == "" || master.AppAddrs["http"] != "10.0.0.5:80" {
		t.Errorf("master %+v", master)
	}
	var members []httpapi.Member
	wait.For(t, "two members", func() bool {
		_, body := get(t, url+httpapi.PathMembers)
		decode(t, body, &members)
		return len(members) == 2
	})
	if len(members) != 2 || !members[0].Master || !members[0].Self || members[1].Master || members[1].Self ||
		members[1].State != "alive" || members[1].Zone != "eu-1" || members[1].Tags[0] != "web" {
		t.Errorf("members %+v", members)
	}
	var status httpapi.Status
	_, body := get(t, url+httpapi.PathStatus)
	decode(t, body, &status)
	if !status.Ready || !status.Registration.Registered || !status.Mastership.IsMaster || status.Mastership.State != "active" || status.AddrSource == "" {
		t.Errorf("status %s", body)
	}
}

// Of several providers each is reported, and the one that grants mastership first.
func TestStatusOfSeveralProviders(t *testing.T) {
	memory, other := memory.New(), memory.New()
	url := serve(t, memory, "a", func(c *node.Config) {
		second := discovery.New("another", other.Driver(), discovery.Options{PollInterval: 200 * time.Millisecond})
		t.Cleanup(func() { second.Close() })
		c.Registries = append([]*discovery.Registry{second}, c.Registries...)
		c.Mastership.Authority = []string{"memory"}
	})
	var status httpapi.Status
	eventually := func(what string, done func() bool) {
		t.Helper()
		var body string
		wait.For(t, what, func() bool {
			_, body = get(t, url+httpapi.PathStatus)
			status = httpapi.Status{}
			decode(t, body, &status)
			return done()
		}, func() string { return body })
	}
	eventually("all is well", func() bool { return !status.Degraded && status.Mastership.IsMaster })
	p := status.Providers
	if len(p) != 2 || p[0].Name != "memory" || !p[0].Authority || !p[0].Registered || p[1].Name != "another" || p[1].Authority || !p[1].Registered {
		t.Fatalf("providers %+v", p)
	}
	if status.Provider != p[0].ProviderStatus || !status.Registration.Registered {
		t.Errorf("provider %+v, registration %+v, want those of the authority", status.Provider, status.Registration)
	}
	if m := status.View.Members[0]; len(m.Authorities) != 1 || m.Authorities[0] != "memory" {
		t.Errorf("authorities %v", m.Authorities)
	}
	_, metrics := get(t, url+httpapi.PathMetrics)
	for _, want := range []string{
		`muster_provider_authority{provider="another"} 0`,
		`muster_provider_stale{provider="another"} 0`,
		`muster_registrations_total{provider="another"} 1`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s among the metrics", want)
		}
	}

	// What cannot be read is counted as it comes, though the set is what it was.
	memory.AddGarbage("orders", "junk")
	eventually("an entry is skipped", func() bool { return status.Provider.Skipped == 1 && status.Providers[0].Skipped == 1 })

	other.Fail(driver.ErrUnavailable)
	eventually("the other one fails", func() bool { return status.Degraded && status.Providers[1].Stale && status.Providers[1].Error != "" })
	if !status.Ready || status.Provider.Stale || status.Provider.Error != "" {
		t.Errorf("status %+v: what goes well is not said to", status)
	}
	other.Wipe()
	other.Fail(nil)
	eventually("all is well again", func() bool { return !status.Degraded && status.Providers[1].Error == "" })
}

func decode(t *testing.T, body string, value any) {
	t.Helper()
	if err := json.Unmarshal([]byte(body), value); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
}

// The stream begins with what there is, and goes on with what happens.
func TestEvents(t *testing.T) {
	memory := memory.New()
	url := serve(t, memory, "a", nil)
	ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+httpapi.PathEvents, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if got := response.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("Content-Type %q", got)
	}
	joined := make(map[string]bool)
	master := ""
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() && !(joined["b"] && master == "a") {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var event httpapi.Event
		decode(t, data, &event)
		switch event.Kind {
		case "member_joined":
			if joined[event.Member.NodeID] = true; event.Member.Self {
				serve(t, memory, "b", func(c *node.Config) { c.Mastership.Eligible = new(false) })
			}
		case "master_changed":
			master = event.Master.NodeID
		}
		if event.BootNS <= 0 {
			t.Errorf("event without a time: %s", data)
		}
	}
	if !joined["a"] || !joined["b"] || master != "a" {
		t.Errorf("the stream ended with members %v and master %q: %v", joined, master, lines.Err())
	}
}

func TestMetrics(t *testing.T) {
	url := serve(t, memory.New(), "a", nil)
	waitFor(t, url+httpapi.PathReady, http.StatusOK)
	_, text := get(t, url+httpapi.PathMetrics)
	for _, want := range []string{
		`muster_members{state="alive"} 1`,
		`muster_mastership_state{state="active"} 1`,
		"muster_mastership_term 1",
		"muster_mastership_transitions_total 1",
		"muster_mastership_renewal_seconds_count",
		"muster_provider_errors_total",
		`muster_registrations_total{provider="memory"} 1`,
		`muster_registered{provider="memory",service="orders"} 1`,
		`muster_provider_authority{provider="memory"} 1`,
		"muster_link_connections",
		"muster_link_queue_drops_total 0",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s among the metrics", want)
		}
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "muster_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

// No route is left out: they are those of the one table that the API is made of. A HEAD
// that ran a stream would never end, and take a place of those who read it.
func TestEveryRouteAnswersEveryMethod(t *testing.T) {
	registry := discovery.New("memory", memory.New().Driver(), discovery.Options{})
	n, err := node.Start(t.Context(), node.Config{Cluster: "orders", NodeID: "a", Bind: "127.0.0.1:0", Registries: []*discovery.Registry{registry}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		wait.Leave(t, n.Leave)
		if err := registry.Close(); err != nil {
			t.Error(err)
		}
	})
	api := httpapi.NewWith(n, httpapi.Options{MaxStreams: 1})
	routestest.Run(t, httpapi.Routes(), api)
	server := httptest.NewServer(api)
	defer server.Close()
	defer server.CloseClientConnections()
	response, err := http.Get(server.URL + httpapi.PathEvents)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("GET %s after all that: status %d: its place is taken", httpapi.PathEvents, response.StatusCode)
	}
}

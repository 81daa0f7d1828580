package host

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/memory"
	"github.com/musterhq/muster/internal/testing/routestest"
	"github.com/musterhq/muster/registrar/declared"
	"github.com/musterhq/muster/registrar/docker/grammar"
)

// ask returns the status and the body of an answer of the API.
func (l *lab) ask(method, path string) (int, string) {
	w := httptest.NewRecorder()
	l.Handler().ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w.Code, w.Body.String()
}

func TestAPI(t *testing.T) {
	onHost(t, func(l *lab, c *Config) {
		c.Services = []declared.Service{{Name: "db", Address: ":5432"}, {Name: "off", Address: "127.0.0.1:1", Check: declared.Check{Script: []string{"/no/such/program"}}}}
		l.two.Fail(driver.ErrUnavailable)
	}, func(l *lab) {
		l.begin("c1", map[string]int{"80/tcp": 8000}, "SERVICE_TAGS=a,b", "SERVICE_REGION=eu")
		l.begin("c2", map[string]int{"80/tcp": 8001}, "SERVICE_IGNORE=1")
		synctest.Wait()

		status, body := l.ask("GET", PathRegistrar)
		var report Report
		if err := json.Unmarshal([]byte(body), &report); status != http.StatusOK || err != nil {
			t.Fatalf("%d %s: %v", status, body, err)
		}
		if report.Ready || !strings.Contains(report.WaitingFor, "provider two") || !strings.Contains(report.WaitingFor, "first check of service off") || report.WaitingReason != "not_checked" {
			t.Errorf("%+v", report)
		}
		if report.Hostname != "hostname" || report.Address != "192.168.1.102" || report.Engine == nil || !report.Engine.Connected || report.Engine.Containers != 2 {
			t.Errorf("%+v", report)
		}
		if len(report.LeftOut) != 1 || !strings.Contains(report.LeftOut[0], "SERVICE_IGNORE") || len(report.Problems) != 0 {
			t.Errorf("left out %q, problems %q", report.LeftOut, report.Problems)
		}
		if len(report.Services) != 3 {
			t.Fatalf("%+v", report.Services)
		}
		web := report.Services[1]
		web.Reason, web.Error = "", ""
		want := ServiceReport{
			Service: "web", ID: "hostname:c1:80", Addr: "192.168.1.102:8000", Tags: []string{"a", "b"}, Meta: map[string]string{"region": "eu"},
			Source: "container c1", Up: true, Registered: []string{"one"},
		}
		if diff := cmp.Diff(want, web); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		if p := report.Providers; len(p) != 2 || p[0].Registered != 2 || p[1].Registered != 0 || p[1].Wanted != 2 || p[1].Error == "" {
			t.Errorf("%+v", p)
		}

		if status, body := l.ask("GET", "/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "provider two") {
			t.Errorf("%d %s", status, body)
		}
		if status, _ := l.ask("GET", "/healthz"); status != http.StatusOK {
			t.Errorf("%d", status)
		}
		if status, _ := l.ask("GET", "/v2"); status != http.StatusNotFound {
			t.Errorf("%d", status)
		}
		if status, _ := l.ask("POST", PathRegistrar); status != http.StatusMethodNotAllowed {
			t.Errorf("%d", status)
		}
		status, body = l.ask("GET", "/metrics")
		for _, line := range []string{
			`muster_registrar_containers{state="running"} 2`, `muster_registrar_services{source="container"} 1`, `muster_registrar_services{source="configuration"} 1`,
			`muster_registrar_registered{provider="one"} 2`, `muster_registrar_registered{provider="two"} 0`, `muster_registrar_engine_connected 1`,
			`muster_registrar_session{provider="two"} 0`, `muster_registrar_ready 0`, `muster_registrar_checks{state="failing"} 1`,
		} {
			if status != http.StatusOK || !strings.Contains(body, line+"\n") {
				t.Errorf("the metrics lack %s", line)
			}
		}
	})
}

func TestEveryRouteAnswersEveryMethod(t *testing.T) {
	r, err := Start(Config{
		Registries: []*discovery.Registry{discovery.New("one", memory.New().Driver(), discovery.Options{})},
		Rules:      grammar.Rules{Hostname: "hostname", HostIP: "192.168.1.102"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	routestest.Run(t, r.routes(http.NotFoundHandler()), r.Handler())
}

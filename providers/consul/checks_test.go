package consul

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/providers/consul/internal/registration"
)

type meta = map[string]string

// recorder passes requests on to Consul and keeps the registrations among them.
type recorder struct {
	mu   sync.Mutex
	sent map[string]api.AgentServiceRegistration
}

func record(t *testing.T, consul string) (r *recorder, addr string) {
	t.Helper()
	target := &url.URL{Scheme: "http", Host: consul}
	proxy := httputil.NewSingleHostReverseProxy(target)
	r = &recorder{sent: make(map[string]api.AgentServiceRegistration)}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if strings.HasPrefix(request.URL.Path, "/v1/agent/service/register") {
			body, err := io.ReadAll(request.Body)
			var s api.AgentServiceRegistration
			if err == nil {
				err = json.Unmarshal(body, &s)
			}
			if err != nil {
				t.Error(err)
			}
			r.mu.Lock()
			r.sent[s.ID] = s
			r.mu.Unlock()
			request.Body = io.NopCloser(bytes.NewReader(body))
		}
		proxy.ServeHTTP(w, request)
	}))
	t.Cleanup(front.Close)
	return r, strings.TrimPrefix(front.URL, "http://")
}

// checks returns those that were sent for the service beside the session's own.
func (r *recorder) checks(id string) []*api.AgentServiceCheck {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(r.sent[id].Checks), func(c *api.AgentServiceCheck) bool { return strings.HasPrefix(c.CheckID, registration.MetaPrefix) })
}

// TestConsulMakesTheChecks registers what a registrar does with a real Consul, which
// makes the checks, and of which a bad one keeps no other service out.
func TestConsulMakesTheChecks(t *testing.T) {
	server := testserver.LendConsul(t)
	sent, addr := record(t, server.Addr())
	healthy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if request.URL.Path != "/health" || request.Method != http.MethodHead {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer healthy.Close()
	place := strings.TrimPrefix(healthy.URL, "http://")
	closed := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}()
	d := open(t, Config{Address: addr, Format: formatRegistrator, Check: Check{TCP: "true", Interval: time.Second}})
	session, err := d.OpenSession(wait.Context(t), driver.SessionOptions{TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := session.Close(wait.Context(t)); err != nil {
			t.Error(err)
		}
	}()
	for _, s := range []struct {
		id, addr string
		meta     meta
		want     []*api.AgentServiceCheck
		status   string // that Consul finds
	}{
		{"hostname:http:80", place, meta{"check_http": "/health", "check_http_method": "HEAD", "check_interval": "1s"},
			[]*api.AgentServiceCheck{{CheckID: "service:hostname:http:80", HTTP: "http://" + place + "/health", Method: "HEAD", Interval: "1s"}}, api.HealthPassing},
		{"hostname:wrong:80", place, meta{"check_http": "/other", "check_interval": "1s", "check_initial_status": "passing"},
			[]*api.AgentServiceCheck{{CheckID: "service:hostname:wrong:80", HTTP: "http://" + place + "/other", Interval: "1s", Status: "passing"}}, api.HealthCritical},
		{"hostname:tcp:80", place, meta{"check_tcp": "true", "check_interval": "1s", "check_deregister_after": "10m"},
			[]*api.AgentServiceCheck{{CheckID: "service:hostname:tcp:80", TCP: place, Interval: "1s", DeregisterCriticalServiceAfter: "10m0s"}}, api.HealthPassing},
		{"hostname:ttl:80", place, meta{"check_ttl": "1h"}, []*api.AgentServiceCheck{{CheckID: "service:hostname:ttl:80", TTL: "1h0m0s"}}, api.HealthCritical},
		{"hostname:ipv6:80", "[2001:db8::1]:8000", meta{"check_tcp": "true", "check_interval": "1h"},
			[]*api.AgentServiceCheck{{CheckID: "service:hostname:ipv6:80", TCP: "[2001:db8::1]:8000", Interval: "1h0m0s"}}, api.HealthCritical},
		{"hostname:grpc:80", closed, meta{"check_grpc": "true", "check_grpc_use_tls": "true", "check_tls_skip_verify": "true", "check_interval": "1s"},
			[]*api.AgentServiceCheck{{CheckID: "service:hostname:grpc:80", GRPC: closed, GRPCUseTLS: true, TLSSkipVerify: true, Interval: "1s"}}, api.HealthCritical},
		// One that asks for none, and one that does not ask and has the provider's.
		{"hostname:none:80", closed, meta{"check_tcp": "false"}, []*api.AgentServiceCheck{}, api.HealthPassing},
		{"hostname:silent:80", place, nil, []*api.AgentServiceCheck{{TCP: place, Interval: "1s"}}, api.HealthPassing},
	} {
		i := driver.Instance{Service: "checked", NodeID: "hostname", InstanceID: s.id, Addr: s.addr, Meta: s.meta}
		if err := session.Register(wait.Context(t), i); err != nil {
			t.Fatalf("register %s: %v", s.id, err)
		}
		if diff := cmp.Diff(s.want, sent.checks(s.id)); diff != "" {
			t.Errorf("checks of %s (-want +sent):\n%s", s.id, diff)
		}
		wait.For(t, s.id+" is "+s.status, func() bool {
			entries, _, err := server.Client().Health().Service("checked", "", false, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				if e.Service.ID == s.id {
					return e.Checks.AggregatedStatus() == s.status
				}
			}
			return false
		})
	}
	err = session.Register(wait.Context(t), driver.Instance{Service: "checked", InstanceID: "hostname:bad:80", Addr: place, Meta: meta{"check_ttl": "soon"}})
	if !errors.Is(err, driver.ErrInvalid) || !strings.Contains(err.Error(), `check_ttl: "soon"`) {
		t.Errorf("a bad check is registered with %v; want ErrInvalid that names the attribute", err)
	}
}

// TestTagsOfOthersStay holds that a service whose tags others may change is not
// registered again for that.
func TestTagsOfOthersStay(t *testing.T) {
	want := &api.AgentServiceRegistration{Name: "x", Tags: []string{"a"}, EnableTagOverride: true}
	have := &api.AgentService{Service: "x", Tags: []string{"b"}, EnableTagOverride: true}
	if !registration.SameService(have, want) {
		t.Error("a service is registered again for tags that are not its own")
	}
	have.EnableTagOverride = false
	if registration.SameService(have, want) {
		t.Error("a service is not registered again although others may not change its tags yet")
	}
	i := driver.Instance{Service: "x", Addr: "10.0.0.5:1", Meta: meta{"enable_tag_override": "true"}}
	for value, want := range map[string]bool{"true": true, "false": false, "": false} {
		i.Meta = maps.Clone(i.Meta)
		i.Meta["enable_tag_override"] = value
		r, err := registration.Encode(i, "x", meta{})
		if err != nil {
			t.Fatal(err)
		}
		if r.EnableTagOverride != want {
			t.Errorf("enable_tag_override=%q: %t", value, r.EnableTagOverride)
		}
	}
}

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
	"github.com/musterhq/muster/internal/testserver"
)

type meta = map[string]string

// What registrator's attributes come to, and where it goes wrong.
func TestCheckAskedByMeta(t *testing.T) {
	const v4, v6 = "192.168.1.102:8000", "[2001:db8::1]:8000"
	for _, test := range []struct {
		name string
		meta meta
		addr string
		want *api.AgentServiceCheck // nil: none
	}{
		{"4.1 http", meta{"check_http": "/health"}, v4, &api.AgentServiceCheck{HTTP: "http://192.168.1.102:8000/health", Interval: "10s"}},
		{"4.1 http with more", meta{"check_http": "/health", "check_interval": "15s", "check_timeout": "1s", "check_http_method": "HEAD"}, v4,
			&api.AgentServiceCheck{HTTP: "http://192.168.1.102:8000/health", Interval: "15s", Timeout: "1s", Method: "HEAD"}},
		{"4.1 https", meta{"check_https": "/h", "check_https_method": "HEAD", "check_http_method": "PUT"}, v4, &api.AgentServiceCheck{HTTP: "https://192.168.1.102:8000/h", Method: "HEAD", Interval: "10s"}},
		{"https of any certificate", meta{"check_https": "/h", "check_tls_skip_verify": "true"}, v4, &api.AgentServiceCheck{HTTP: "https://192.168.1.102:8000/h", Interval: "10s", TLSSkipVerify: true}},
		{"4.1 tcp", meta{"check_tcp": "true", "check_timeout": "3s"}, v4, &api.AgentServiceCheck{TCP: "192.168.1.102:8000", Interval: "10s", Timeout: "3s"}},
		{"4.1 ttl", meta{"check_ttl": "30s", "check_interval": "15s"}, v4, &api.AgentServiceCheck{TTL: "30s"}},
		{"4.1 grpc", meta{"check_grpc": "true", "check_grpc_use_tls": "true", "check_tls_skip_verify": "true"}, v4,
			&api.AgentServiceCheck{GRPC: "192.168.1.102:8000", GRPCUseTLS: true, TLSSkipVerify: true, Interval: "10s"}},
		{"grpc without TLS", meta{"check_grpc": "yes", "check_grpc_use_tls": "false", "check_tls_skip_verify": "true"}, v4, &api.AgentServiceCheck{GRPC: "192.168.1.102:8000", Interval: "10s"}},
		{"4.1 the first of several", meta{"check_ttl": "30s", "check_tcp": "true", "check_http": "/h"}, v4, &api.AgentServiceCheck{HTTP: "http://192.168.1.102:8000/h", Interval: "10s"}},
		{"4.1 removal", meta{"check_http": "/h", "check_deregister_after": "10m", "check_initial_status": "passing"}, v4,
			&api.AgentServiceCheck{HTTP: "http://192.168.1.102:8000/h", Interval: "10s", Status: "passing", DeregisterCriticalServiceAfter: "10m0s"}},
		{"removal sooner than Consul does it", meta{"check_http": "/h", "check_deregister_after": "5s"}, v4, &api.AgentServiceCheck{HTTP: "http://192.168.1.102:8000/h", Interval: "10s", DeregisterCriticalServiceAfter: "1m0s"}},
		{"4.1 a status alone", meta{"check_initial_status": "passing"}, v4, nil},
		{"4.1 removal alone", meta{"check_deregister_after": "10m"}, v4, nil},
		{"nothing", nil, v4, nil},
		{"4.2 tcp at IPv6", meta{"check_tcp": "true"}, v6, &api.AgentServiceCheck{TCP: "[2001:db8::1]:8000", Interval: "10s"}},
		{"http at IPv6", meta{"check_http": "/h"}, v6, &api.AgentServiceCheck{HTTP: "http://[2001:db8::1]:8000/h", Interval: "10s"}},
		{"4.2 a script", meta{"check_script": "nc $SERVICE_IP $SERVICE_PORT"}, v4, &api.AgentServiceCheck{Args: []string{"nc", "192.168.1.102", "8000"}, Interval: "10s"}},
		{"4.2 a script for a shell", meta{"check_script": `curl -f "http://$SERVICE_IP:$SERVICE_PORT/" | grep ok`}, v6,
			&api.AgentServiceCheck{Args: []string{"sh", "-c", `curl -f "http://[2001:db8::1]:8000/" | grep ok`}, Interval: "10s"}},
		{"a script with a variable", meta{"check_script": `LANG=C true`}, v4, &api.AgentServiceCheck{Args: []string{"sh", "-c", "LANG=C true"}, Interval: "10s"}},
		{"a command in the container", meta{"check_cmd": "ls -l /"}, v4, &api.AgentServiceCheck{Args: []string{"check-cmd", "web.1", "80", "ls -l /"}, Interval: "10s"}},
		{"4.2 tcp is not wanted", meta{"check_tcp": "false", "check_interval": "5s"}, v4, nil},
		{"one is not wanted", meta{"check_http": "false", "check_tcp": "1"}, v4, &api.AgentServiceCheck{TCP: "192.168.1.102:8000", Interval: "10s"}},
		{"a path without a slash", meta{"check_http": "health"}, v4, &api.AgentServiceCheck{HTTP: "http://192.168.1.102:8000/health", Interval: "10s"}},
		{"another place", meta{"check_tcp": "127.0.0.1:9000"}, v4, &api.AgentServiceCheck{TCP: "127.0.0.1:9000", Interval: "10s"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			check, _, err := askedCheck(driver.Instance{Meta: test.meta, InstanceID: "hostname:web.1:80", Addr: test.addr})
			if err != nil {
				t.Fatal(err)
			}
			if check.enabled() != (test.want != nil) {
				t.Fatalf("it asks for %+v; want %+v", check, test.want)
			}
			if test.want == nil {
				return
			}
			if err := check.validate("check"); err != nil {
				t.Error(err)
			}
			have, err := check.For(test.addr)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, have); diff != "" {
				t.Errorf("it asks for (-want +have):\n%s", diff)
			}
		})
	}
}

func TestCheckAskedByMetaIsRefused(t *testing.T) {
	for _, test := range []struct {
		meta      meta
		key, mend string
	}{
		{meta{"check_ttl": "30"}, "check_ttl", "30s"},
		{meta{"check_ttl": "0s"}, "check_ttl", "30s"},
		{meta{"check_http": "/", "check_interval": "often"}, "check_interval", "30s"},
		{meta{"check_http": "/", "check_timeout": "-1s"}, "check_timeout", "30s"},
		{meta{"check_http": "/", "check_deregister_after": "10"}, "check_deregister_after", "30s"},
		{meta{"check_http": "/", "check_initial_status": "fine"}, "check_initial_status", "passing"},
		{meta{"check_cmd": "ls"}, "check_cmd", "SERVICE_ID"},
	} {
		_, _, err := askedCheck(driver.Instance{Meta: test.meta, InstanceID: "my-own-id"})
		var bad *driver.ConfigError
		if !errors.As(err, &bad) || bad.Key != test.key || bad.Value != test.meta[test.key] || !strings.Contains(bad.Problem, test.mend) {
			t.Errorf("%v: %v; want %s to be told of %q", test.meta, err, test.key, test.mend)
		}
	}
}

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
	return slices.DeleteFunc(slices.Clone(r.sent[id].Checks), func(c *api.AgentServiceCheck) bool { return strings.HasPrefix(c.CheckID, metaOwn) })
}

// TestConsulMakesTheChecks registers what a registrar does with a real Consul, which
// makes the checks, and of which a bad one keeps no other service out.
func TestConsulMakesTheChecks(t *testing.T) {
	server := testserver.StartConsul(t)
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
	session, err := d.OpenSession(within(t), driver.SessionOptions{TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := session.Close(within(t)); err != nil {
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
		if err := session.Register(within(t), i); err != nil {
			t.Fatalf("register %s: %v", s.id, err)
		}
		if diff := cmp.Diff(s.want, sent.checks(s.id)); diff != "" {
			t.Errorf("checks of %s (-want +sent):\n%s", s.id, diff)
		}
		eventually(t, s.id+" is "+s.status, func() bool {
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
	err = session.Register(within(t), driver.Instance{Service: "checked", InstanceID: "hostname:bad:80", Addr: place, Meta: meta{"check_ttl": "soon"}})
	if !errors.Is(err, driver.ErrInvalid) || !strings.Contains(err.Error(), `check_ttl: "soon"`) {
		t.Errorf("a bad check is registered with %v; want ErrInvalid that names the attribute", err)
	}
}

// TestTagsOfOthersStay holds that a service whose tags others may change is not
// registered anew for that.
func TestTagsOfOthersStay(t *testing.T) {
	want := &api.AgentServiceRegistration{Name: "x", Tags: []string{"a"}, EnableTagOverride: true}
	have := &api.AgentService{Service: "x", Tags: []string{"b"}, EnableTagOverride: true}
	if !sameService(have, want) {
		t.Error("a service is registered anew for tags that are not its own")
	}
	have.EnableTagOverride = false
	if sameService(have, want) {
		t.Error("a service is not registered anew although others may not change its tags yet")
	}
	i := driver.Instance{Service: "x", Addr: "10.0.0.5:1", Meta: meta{"enable_tag_override": "true"}}
	for value, want := range map[string]bool{"true": true, "false": false, "": false} {
		i.Meta = maps.Clone(i.Meta)
		i.Meta["enable_tag_override"] = value
		r, err := encode(i, "x", meta{})
		if err != nil {
			t.Fatal(err)
		}
		if r.EnableTagOverride != want {
			t.Errorf("enable_tag_override=%q: %t", value, r.EnableTagOverride)
		}
	}
}

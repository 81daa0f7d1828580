package checks

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
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
		{"4.2 tcp is not enabledBy", meta{"check_tcp": "false", "check_interval": "5s"}, v4, nil},
		{"one is not enabledBy", meta{"check_http": "false", "check_tcp": "1"}, v4, &api.AgentServiceCheck{TCP: "192.168.1.102:8000", Interval: "10s"}},
		{"a path without a slash", meta{"check_http": "health"}, v4, &api.AgentServiceCheck{HTTP: "http://192.168.1.102:8000/health", Interval: "10s"}},
		{"another place", meta{"check_tcp": "127.0.0.1:9000"}, v4, &api.AgentServiceCheck{TCP: "127.0.0.1:9000", Interval: "10s"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			check, _, err := FromMeta(driver.Instance{Meta: test.meta, InstanceID: "hostname:web.1:80", Addr: test.addr})
			if err != nil {
				t.Fatal(err)
			}
			if check.Enabled() != (test.want != nil) {
				t.Fatalf("it asks for %+v; want %+v", check, test.want)
			}
			if test.want == nil {
				return
			}
			if err := check.Validate("check"); err != nil {
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
		key, hint string
	}{
		{meta{"check_ttl": "30"}, "check_ttl", "30s"},
		{meta{"check_ttl": "0s"}, "check_ttl", "30s"},
		{meta{"check_http": "/", "check_interval": "often"}, "check_interval", "30s"},
		{meta{"check_http": "/", "check_timeout": "-1s"}, "check_timeout", "30s"},
		{meta{"check_http": "/", "check_deregister_after": "10"}, "check_deregister_after", "30s"},
		{meta{"check_http": "/", "check_initial_status": "fine"}, "check_initial_status", "passing"},
		{meta{"check_cmd": "ls"}, "check_cmd", "SERVICE_ID"},
	} {
		_, _, err := FromMeta(driver.Instance{Meta: test.meta, InstanceID: "my-own-id"})
		var bad *driver.ConfigError
		if !errors.As(err, &bad) || bad.Key != test.key || bad.Value != test.meta[test.key] || !strings.Contains(bad.Error(), test.hint) {
			t.Errorf("%v: %v; want %s reported with %q", test.meta, err, test.key, test.hint)
		}
	}
}

package checks

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/secret"
)

// What the agent is told, for the checks that gliderlabs/registrator and
// hazelcast-consul-discovery-spi have, and where those two go wrong.
func TestCheckFor(t *testing.T) {
	const v4, v6 = "192.168.1.102:8000", "[2001:db8::1]:8000"
	for _, test := range []struct {
		name  string
		check Check
		addr  string
		want  api.AgentServiceCheck
	}{
		{
			"a path over HTTP", Check{HTTP: "/health"}, v4,
			api.AgentServiceCheck{HTTP: "http://192.168.1.102:8000/health", Interval: "10s"},
		},
		{
			"HTTP with everything",
			Check{Name: "alive", HTTP: "/health", Method: "HEAD", Header: map[string]secret.String{"Host": "#MYIP:#MYPORT"}, Interval: 15 * time.Second, Timeout: time.Second, Status: "passing", DeregisterAfter: 10 * time.Minute}, v4,
			api.AgentServiceCheck{
				Name: "alive", HTTP: "http://192.168.1.102:8000/health", Method: "HEAD", Header: map[string][]string{"Host": {"192.168.1.102:8000"}},
				Interval: "15s", Timeout: "1s", Status: "passing", DeregisterCriticalServiceAfter: "10m0s",
			},
		},
		{
			"a path over HTTPS", Check{HTTPS: "/h", TLSSkipVerify: true}, v4,
			api.AgentServiceCheck{HTTP: "https://192.168.1.102:8000/h", Interval: "10s", TLSSkipVerify: true},
		},
		{
			"TCP to the service", Check{TCP: "true", Timeout: 3 * time.Second}, v4,
			api.AgentServiceCheck{TCP: "192.168.1.102:8000", Interval: "10s", Timeout: "3s"},
		},
		{
			"a TTL, which is not made at intervals", Check{TTL: 30 * time.Second}, v4,
			api.AgentServiceCheck{TTL: "30s"},
		},
		{
			"gRPC", Check{GRPC: "true", GRPCTLS: true, TLSSkipVerify: true}, v4,
			api.AgentServiceCheck{GRPC: "192.168.1.102:8000", GRPCUseTLS: true, TLSSkipVerify: true, Interval: "10s"},
		},
		{
			"one service of a gRPC server", Check{GRPC: "$SERVICE_IP:$SERVICE_PORT/shop"}, v4,
			api.AgentServiceCheck{GRPC: "192.168.1.102:8000/shop", Interval: "10s"},
		},
		{
			"a program", Check{Script: []string{"nc", "-z", "#MYIP", "#MYPORT"}, Interval: 30 * time.Second}, "192.168.0.208:5701",
			api.AgentServiceCheck{Args: []string{"nc", "-z", "192.168.0.208", "5701"}, Interval: "30s"},
		},
		{
			"a line for a shell", Check{Script: []string{"sh", "-c", "nc -z $SERVICE_IP $SERVICE_PORT"}}, v4,
			api.AgentServiceCheck{Args: []string{"sh", "-c", "nc -z 192.168.1.102 8000"}, Interval: "10s"},
		},
		{
			"a URL with the place", Check{HTTP: "http://#MYIP:#MYPORT/hazelcast/health"}, "192.168.0.208:5701",
			api.AgentServiceCheck{HTTP: "http://192.168.0.208:5701/hazelcast/health", Interval: "10s"},
		},
		{
			"the place over TCP", Check{TCP: "#MYIP:#MYPORT"}, "192.168.0.208:5701",
			api.AgentServiceCheck{TCP: "192.168.0.208:5701", Interval: "10s"},
		},
		{
			"a path at an IPv6 address", Check{HTTP: "/health"}, v6,
			api.AgentServiceCheck{HTTP: "http://[2001:db8::1]:8000/health", Interval: "10s"},
		},
		{
			"TCP to an IPv6 address", Check{TCP: "true"}, v6,
			api.AgentServiceCheck{TCP: "[2001:db8::1]:8000", Interval: "10s"},
		},
		{
			"another port of an IPv6 address", Check{HTTP: "http://#MYIP:9000/health"}, v6,
			api.AgentServiceCheck{HTTP: "http://[2001:db8::1]:9000/health", Interval: "10s"},
		},
		{
			"no port after an IPv6 address", Check{HTTPS: "https://$SERVICE_IP/health"}, v6,
			api.AgentServiceCheck{HTTP: "https://[2001:db8::1]/health", Interval: "10s"},
		},
		{
			"brackets that are there already", Check{TCP: "[#MYIP]:#MYPORT"}, v6,
			api.AgentServiceCheck{TCP: "[2001:db8::1]:8000", Interval: "10s"},
		},
		{
			"brackets around an IPv4 address", Check{TCP: "[$SERVICE_IP]:$SERVICE_PORT"}, v4,
			api.AgentServiceCheck{TCP: "192.168.1.102:8000", Interval: "10s"},
		},
		{
			"an IPv6 address as an argument", Check{Script: []string{"nc", "-z", "#MYIP", "#MYPORT"}}, v6,
			api.AgentServiceCheck{Args: []string{"nc", "-z", "2001:db8::1", "8000"}, Interval: "10s"},
		},
		{
			"a URL as an argument", Check{Script: []string{"curl", "-f", "http://#MYIP:#MYPORT/"}}, v6,
			api.AgentServiceCheck{Args: []string{"curl", "-f", "http://[2001:db8::1]:8000/"}, Interval: "10s"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := test.check.Validate("check"); err != nil {
				t.Fatal(err)
			}
			have, err := test.check.For(test.addr)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&test.want, have); diff != "" {
				t.Errorf("For(%s) (-want +have):\n%s", test.addr, diff)
			}
		})
	}
}

func TestCheckIsRefused(t *testing.T) {
	for _, test := range []struct {
		name      string
		check     Check
		key, hint string
	}{
		{"nothing to check", Check{Status: "passing"}, "check", "set one of"},
		{"two things at once", Check{HTTP: "/health", TCP: "true"}, "check", "keep one of"},
		{"a TTL that is negative", Check{TTL: -time.Second}, "check.ttl", "negative"},
		{"an interval that is negative", Check{TCP: "true", Interval: -1}, "check.interval", "negative"},
		{"a status that there is not", Check{TCP: "true", Status: "fine"}, "check.status", "passing"},
		{"removal sooner than Consul does it", Check{TCP: "true", DeregisterAfter: time.Second}, "check.deregister_after", "1m"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var bad *driver.ConfigError
			err := test.check.Validate("check")
			if !errors.As(err, &bad) {
				t.Fatalf("validate: %v; want a ConfigError", err)
			}
			if bad.Key != test.key || !strings.Contains(bad.Error(), test.hint) {
				t.Errorf("validate: %v; want %s reported with %q", err, test.key, test.hint)
			}
		})
	}
}

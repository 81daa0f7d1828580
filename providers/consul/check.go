package consul

import (
	"time"

	"github.com/musterhq/muster/providers/consul/internal/checks"
	"github.com/musterhq/muster/secret"
)

// Check is one check that the agent makes on a service. Exactly one of HTTP, HTTPS,
// TCP, GRPC, Script and TTL is set.
//
// In HTTP, HTTPS, TCP, GRPC, Header and Script, #MYIP and $SERVICE_IP are replaced by the
// host of the service, and #MYPORT and $SERVICE_PORT by its port. An IPv6 address is
// put in brackets where a port follows it.
type Check struct {
	// Name is shown to people. Default: what is checked.
	Name string `yaml:"name"`

	// HTTP and HTTPS are a URL, or the path of one on the service. Method is GET
	// unless set.
	HTTP   string                   `yaml:"http"`
	HTTPS  string                   `yaml:"https"`
	Method string                   `yaml:"method"`
	Header map[string]secret.String `yaml:"header"`

	// TCP is a HOST:PORT that must accept a connection; "true" is the
	// service's own.
	TCP string `yaml:"tcp"`

	// GRPC is a HOST:PORT, or HOST:PORT/SERVICE, that answers the health protocol of
	// gRPC; "true" is the service's own.
	GRPC    string `yaml:"grpc"`
	GRPCTLS bool   `yaml:"grpc_tls"`

	// TLSSkipVerify accepts any certificate in a check over TLS.
	TLSSkipVerify bool `yaml:"tls_skip_verify"`

	// Script is a program and its arguments. The agent must be allowed to run such
	// (enable_local_script_checks).
	Script []string `yaml:"script"`

	// TTL is how long the check passes after a report to the agent.
	TTL time.Duration `yaml:"ttl"`

	// Interval is how often the check is made. Default: 10 s. Timeout bounds each.
	// Default: Consul's.
	Interval time.Duration `yaml:"interval"`
	Timeout  time.Duration `yaml:"timeout"`

	// Status is what the check says before it was made first: passing, warning or
	// critical. Default: critical.
	Status string `yaml:"status"`

	// DeregisterAfter removes the service once the check was critical for so long: a
	// minute or more, 0 for never.
	DeregisterAfter time.Duration `yaml:"deregister_after"`
}

// check returns c for those who make it.
func (c Check) check() checks.Check { return checks.Check(c) }

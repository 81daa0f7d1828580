package consul

import (
	"fmt"
	"net"
	"reflect"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
)

// defaultInterval is how often a check is made if it does not say.
const defaultInterval = 10 * time.Second

// leastDeregisterAfter is the least that Consul accepts.
const leastDeregisterAfter = time.Minute

// Check is one check that the agent makes on a service. Exactly one of HTTP, HTTPS,
// TCP, GRPC, Script and TTL is set.
//
// In HTTP, HTTPS, TCP, GRPC, Header and Script, #MYIP and $SERVICE_IP stand for the
// host of the service and #MYPORT and $SERVICE_PORT for its port. An IPv6 address is
// put in brackets where a port follows it.
type Check struct {
	// Name is shown to people. Default: what is checked.
	Name string `yaml:"name"`

	// HTTP and HTTPS are a URL, or the path of one on the service. Method is GET
	// unless set.
	HTTP   string                   `yaml:"http"`
	HTTPS  string                   `yaml:"https"`
	Method string                   `yaml:"method"`
	Header map[string]driver.Secret `yaml:"header"`

	// TCP is a HOST:PORT that must accept a connection; "true" stands for the
	// service's own.
	TCP string `yaml:"tcp"`

	// GRPC is a HOST:PORT, or HOST:PORT/SERVICE, that answers the health protocol of
	// gRPC; "true" stands for the service's own.
	GRPC    string `yaml:"grpc"`
	GRPCTLS bool   `yaml:"grpc_tls"`

	// TLSSkipVerify accepts any certificate in a check over TLS.
	TLSSkipVerify bool `yaml:"tls_skip_verify"`

	// Script is a program and its arguments. The agent must be allowed to run such
	// (enable_local_script_checks).
	Script []string `yaml:"script"`

	// TTL is how long the check passes after somebody has told the agent so.
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

// enabled reports whether anything is set.
func (c Check) enabled() bool { return !reflect.ValueOf(c).IsZero() }

// validate checks c, which stands at key.
func (c Check) validate(key string) error {
	kinds := 0
	for _, set := range []bool{c.HTTP != "", c.HTTPS != "", c.TCP != "", c.GRPC != "", len(c.Script) > 0, c.TTL != 0} {
		if set {
			kinds++
		}
	}
	switch {
	case kinds == 0:
		return &driver.ConfigError{Key: key, Value: c.Name, Problem: "checks nothing; set one of http, https, tcp, grpc, script and ttl"}
	case kinds > 1:
		return &driver.ConfigError{Key: key, Value: c.Name, Problem: "checks several things; keep one of http, https, tcp, grpc, script and ttl"}
	}
	for name, d := range map[string]time.Duration{"ttl": c.TTL, "interval": c.Interval, "timeout": c.Timeout} {
		if d < 0 {
			return &driver.ConfigError{Key: key + "." + name, Value: d.String(), Problem: "negative"}
		}
	}
	switch c.Status {
	case "", api.HealthPassing, api.HealthWarning, api.HealthCritical:
	default:
		return &driver.ConfigError{Key: key + ".status", Value: c.Status, Problem: "want passing, warning or critical"}
	}
	if c.DeregisterAfter != 0 && c.DeregisterAfter < leastDeregisterAfter {
		return &driver.ConfigError{Key: key + ".deregister_after", Value: c.DeregisterAfter.String(), Problem: "Consul wants 1m at least, or 0s for never"}
	}
	return nil
}

// For returns c as the agent is told of it, for a service at addr, which is
// HOST:PORT.
func (c Check) For(addr string) (*api.AgentServiceCheck, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("consul: %w: a check of a service at %q: %w", driver.ErrInvalid, addr, err)
	}
	at := place{host, port}
	check := &api.AgentServiceCheck{
		Name:          c.Name,
		TLSSkipVerify: c.TLSSkipVerify,
		Status:        c.Status,
		Timeout:       spell(c.Timeout),

		DeregisterCriticalServiceAfter: spell(c.DeregisterAfter),
	}
	if c.TTL > 0 {
		check.TTL, check.Timeout = spell(c.TTL), ""
		return check, nil
	}
	check.Interval = spell(c.Interval)
	if c.Interval == 0 {
		check.Interval = spell(defaultInterval)
	}
	switch {
	case c.HTTP != "" || c.HTTPS != "":
		check.HTTP = at.url("http", c.HTTP)
		if c.HTTPS != "" {
			check.HTTP = at.url("https", c.HTTPS)
		}
		check.Method = c.Method
		for name, value := range c.Header {
			if check.Header == nil {
				check.Header = make(map[string][]string)
			}
			check.Header[name] = []string{at.fill(string(value))}
		}
	case c.TCP != "":
		check.TCP = at.target(c.TCP)
	case c.GRPC != "":
		check.GRPC, check.GRPCUseTLS = at.target(c.GRPC), c.GRPCTLS
	default:
		for _, arg := range c.Script {
			check.Args = append(check.Args, at.fill(arg))
		}
	}
	return check, nil
}

func spell(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

// place is where a service is.
type place struct{ host, port string }

// fill puts the place where s asks for it.
func (p place) fill(s string) string {
	inURL := p.host // where a colon may follow it, or did before
	if strings.Contains(p.host, ":") {
		inURL = "[" + p.host + "]"
	}
	return strings.NewReplacer(
		"[#MYIP]", inURL, "://#MYIP", "://"+inURL, "#MYIP:", inURL+":", "#MYIP", p.host,
		"[$SERVICE_IP]", inURL, "://$SERVICE_IP", "://"+inURL, "$SERVICE_IP:", inURL+":", "$SERVICE_IP", p.host,
		"#MYPORT", p.port, "$SERVICE_PORT", p.port,
	).Replace(s)
}

func (p place) url(scheme, s string) string {
	if strings.HasPrefix(s, "/") {
		return scheme + "://" + net.JoinHostPort(p.host, p.port) + p.fill(s)
	}
	return p.fill(s)
}

func (p place) target(s string) string {
	if s == "true" {
		return net.JoinHostPort(p.host, p.port)
	}
	return p.fill(s)
}

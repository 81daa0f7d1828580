// Package checks makes the checks of services: from the configuration, or from the meta of an
// instance by the keys of gliderlabs/registrator, such as check_http.
package checks

import (
	"fmt"
	"net"
	"reflect"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/secret"
)

// defaultInterval is how often a check is made if it does not say.
const defaultInterval = 10 * time.Second

// LeastDeregisterAfter is the least that Consul accepts.
const LeastDeregisterAfter = time.Minute

// Check has the fields of consul.Check, where they are documented.
type Check struct {
	Name            string
	HTTP            string
	HTTPS           string
	Method          string
	Header          map[string]secret.String
	TCP             string
	GRPC            string
	GRPCTLS         bool
	TLSSkipVerify   bool
	Script          []string
	TTL             time.Duration
	Interval        time.Duration
	Timeout         time.Duration
	Status          string
	DeregisterAfter time.Duration
}

// Enabled reports whether anything is set.
func (c Check) Enabled() bool { return !reflect.ValueOf(c).IsZero() }

// Validate checks c, which is at key of the configuration.
func (c Check) Validate(key string) error {
	kinds := 0
	for _, set := range []bool{c.HTTP != "", c.HTTPS != "", c.TCP != "", c.GRPC != "", len(c.Script) > 0, c.TTL != 0} {
		if set {
			kinds++
		}
	}
	switch {
	case kinds == 0:
		return &driver.ConfigError{Key: key, Value: c.Name, Problem: "checks nothing", Hint: "set one of http, https, tcp, grpc, script and ttl"}
	case kinds > 1:
		return &driver.ConfigError{Key: key, Value: c.Name, Problem: "checks several things", Hint: "keep one of http, https, tcp, grpc, script and ttl"}
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
	if c.DeregisterAfter != 0 && c.DeregisterAfter < LeastDeregisterAfter {
		return &driver.ConfigError{Key: key + ".deregister_after", Value: c.DeregisterAfter.String(), Problem: "Consul wants 1m at least, or 0s for never"}
	}
	return nil
}

// For returns c in the form of the agent, for a service at addr, which is HOST:PORT.
func (c Check) For(addr string) (*api.AgentServiceCheck, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("consul: %w: a check of a service at %q: %w", driver.ErrInvalid, addr, err)
	}
	at := endpoint{host, port}
	check := &api.AgentServiceCheck{
		Name:          c.Name,
		TLSSkipVerify: c.TLSSkipVerify,
		Status:        c.Status,
		Timeout:       Duration(c.Timeout),

		DeregisterCriticalServiceAfter: Duration(c.DeregisterAfter),
	}
	if c.TTL > 0 {
		check.TTL, check.Timeout = Duration(c.TTL), ""
		return check, nil
	}
	check.Interval = Duration(c.Interval)
	if c.Interval == 0 {
		check.Interval = Duration(defaultInterval)
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

// Duration returns d as Consul reads it, empty for 0.
func Duration(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

// endpoint is where a service is.
type endpoint struct{ host, port string }

// fill replaces the placeholders of the host and the port in s.
func (p endpoint) fill(s string) string {
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

func (p endpoint) url(scheme, s string) string {
	if strings.HasPrefix(s, "/") {
		return scheme + "://" + net.JoinHostPort(p.host, p.port) + p.fill(s)
	}
	return p.fill(s)
}

func (p endpoint) target(s string) string {
	if s == "true" {
		return net.JoinHostPort(p.host, p.port)
	}
	return p.fill(s)
}

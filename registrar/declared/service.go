// Package declared holds what a configuration says of services that are no containers.
// Package check checks them.
package declared

import (
	"cmp"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/secret"
)

// Service is something that is no container and is to be registered.
type Service struct {
	// Name is that of the service. Mandatory.
	Name string `yaml:"name" usage:"name under which it is found"`
	// ID tells it from others of its name. Default: that of Key.
	ID string `yaml:"id" usage:"what tells it from others of its name"`
	// Address is the HOST:PORT that others dial, or :PORT on this host. Mandatory.
	Address string `yaml:"address" usage:"HOST:PORT that others dial, or :PORT on this host"`

	Tags []string          `yaml:"tags" usage:"tags of the service"`
	Meta map[string]string `yaml:"meta" usage:"facts about the service"`

	// Check says while what it is registered. Zero: always.
	Check Check `yaml:"check"`
}

// Check is what is checked of a service, and how often. One of HTTP, HTTPS, TCP, GRPC and Script is
// set, or nothing at all.
//
// In these, and in the values of Header, #MYIP and $SERVICE_IP stand for the host of the
// service, and #MYPORT and $SERVICE_PORT for its port.
type Check struct {
	// HTTP and HTTPS are a URL, or the path of one on the service. A status from 200 to
	// 299 passes. Method is GET unless set. A Header may hold a password.
	HTTP   string                   `yaml:"http" usage:"URL, or a path on the service, that answers with a status of the 2xx"`
	HTTPS  string                   `yaml:"https" usage:"the same over TLS"`
	Method string                   `yaml:"method" usage:"method of the HTTP request"`
	Header map[string]secret.String `yaml:"header" usage:"header of the HTTP request"`

	// TCP is a HOST:PORT that accepts a connection; "true" stands for the service's own.
	TCP string `yaml:"tcp" usage:"HOST:PORT that accepts a connection; true for the service's own"`

	// GRPC is a HOST:PORT, or HOST:PORT/SERVICE, that answers the health protocol of gRPC
	// with SERVING; "true" stands for the service's own.
	GRPC    string `yaml:"grpc" usage:"HOST:PORT or HOST:PORT/SERVICE that answers the health protocol of gRPC; true for the service's own"`
	GRPCTLS bool   `yaml:"grpc_tls" usage:"whether the gRPC check uses TLS"`

	// Script is a program and its arguments, started without a shell. It passes if it
	// ends with status 0. SERVICE_IP and SERVICE_PORT are in its environment.
	Script []string `yaml:"script" usage:"program and its arguments, that ends with status 0"`

	// Interval is the time between two attempts, give or take a tenth, and Timeout bounds
	// each. 0: DefaultInterval, and DefaultTimeout or the interval if that is shorter.
	Interval time.Duration `yaml:"interval" usage:"time between two attempts"`
	Timeout  time.Duration `yaml:"timeout" usage:"bound of each attempt"`

	// Rise is how many attempts in a row pass before the service is registered, and Fall
	// how many fail before it is withdrawn. 0: 1 and 3.
	Rise int `yaml:"rise" usage:"attempts in a row that pass before it is registered"`
	Fall int `yaml:"fall" usage:"attempts in a row that fail before it is withdrawn"`

	// TLSSkipVerify accepts any certificate.
	TLSSkipVerify bool `yaml:"tls_skip_verify" usage:"whether any certificate is accepted"`
}

// What Check has at zero.
const (
	DefaultInterval = 10 * time.Second
	DefaultTimeout  = 5 * time.Second
	DefaultRise     = 1
	DefaultFall     = 3
)

// leastInterval keeps a typo from becoming a busy loop.
const leastInterval = 100 * time.Millisecond

// WithDefaults returns c with the defaults of what is zero.
func (c Check) WithDefaults() Check {
	c.Interval = cmp.Or(c.Interval, DefaultInterval)
	c.Timeout = cmp.Or(c.Timeout, min(DefaultTimeout, c.Interval))
	c.Rise, c.Fall = cmp.Or(c.Rise, DefaultRise), cmp.Or(c.Fall, DefaultFall)
	c.Method = cmp.Or(c.Method, http.MethodGet)
	return c
}

// Enabled reports whether anything is checked.
func (c Check) Enabled() bool { return len(c.kinds()) > 0 }

// kinds are the keys of what is checked.
func (c Check) kinds() []string {
	var kinds []string
	for _, k := range []struct {
		key string
		set bool
	}{{"http", c.HTTP != ""}, {"https", c.HTTPS != ""}, {"tcp", c.TCP != ""}, {"grpc", c.GRPC != ""}, {"script", len(c.Script) > 0}} {
		if k.set {
			kinds = append(kinds, k.key)
		}
	}
	return kinds
}

// Key is what the service is registered as: its ID, or else its name and its port on
// host, which is that of the registrar.
func (s Service) Key(host string) string {
	if s.ID != "" {
		return s.ID
	}
	_, port, _ := net.SplitHostPort(s.Address)
	return host + ":" + s.Name + ":" + port
}

// Instance is what is registered of s. Hostname is the name of this host, and ip its
// address, for services whose Address names no host.
func (s Service) Instance(hostname, ip string) discovery.Instance {
	return discovery.Instance{
		Service:    s.Name,
		NodeID:     hostname,
		InstanceID: s.Key(hostname),
		Addr:       s.Addr(ip),
		Tags:       slices.Clone(s.Tags),
		Meta:       s.Meta,
	}
}

// Addr is the HOST:PORT that others dial, where ip is the address of this host.
func (s Service) Addr(ip string) string {
	if port, ok := strings.CutPrefix(s.Address, ":"); ok {
		return net.JoinHostPort(ip, port)
	}
	return s.Address
}

// Validate reports what is wrong with s, as *driver.ConfigError values with their keys
// below s.
func (s Service) Validate() []error {
	var errs []error
	bad := func(key, value, problem, hint string) {
		errs = append(errs, &driver.ConfigError{Key: key, Value: value, Problem: problem, Hint: hint})
	}
	if s.Name == "" {
		bad("name", "", "missing", "write the name under which the service is found, as name: web")
	}
	if driver.ValidateName(s.Name) != nil {
		bad("name", s.Name, "has white space or control characters", "write letters, digits, '-', '_' and '.'")
	}
	if driver.ValidateName(s.ID) != nil || strings.Contains(s.ID, "/") {
		bad("id", s.ID, "has white space, control characters or a slash", "write letters, digits, '-', '_', '.' and ':'")
	}
	if problem, hint := addressProblem(s.Address); problem != "" {
		bad("address", s.Address, problem, hint)
	}
	for i, tag := range s.Tags {
		if tag == "" {
			bad(fmt.Sprintf("tags[%d]", i), "", "an empty tag", "write it or take it out")
		}
	}
	return append(errs, s.Check.validate()...)
}

func addressProblem(addr string) (problem, hint string) {
	if addr == "" {
		return "missing", "write HOST:PORT, or :PORT for one of this host"
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "not an address", "write HOST:PORT, with IPv6 in brackets, or :PORT for one of this host"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "not a port", "write a number from 1 to 65535"
	}
	if host == "" {
		return "", ""
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		return "nobody can dial it", "leave the host out for the address of this host, as :" + port
	}
	if driver.ValidateAddr(addr) != nil || strings.ContainsAny(host, " \t/@") {
		return "not a host", "write HOST:PORT, without a scheme or a path"
	}
	return "", ""
}

func (c Check) validate() []error {
	var errs []error
	bad := func(key, value, problem, hint string) {
		errs = append(errs, &driver.ConfigError{Key: "check." + key, Value: value, Problem: problem, Hint: hint})
	}
	kinds := c.kinds()
	if len(kinds) > 1 {
		bad(kinds[1], "", "a second check beside check."+kinds[0], "keep one of them")
	}
	if len(kinds) == 0 {
		for _, set := range []struct {
			key string
			set bool
		}{
			{"method", c.Method != ""}, {"header", len(c.Header) > 0}, {"interval", c.Interval != 0}, {"timeout", c.Timeout != 0},
			{"rise", c.Rise != 0}, {"fall", c.Fall != 0}, {"tls_skip_verify", c.TLSSkipVerify}, {"grpc_tls", c.GRPCTLS},
		} {
			if set.set {
				bad(set.key, "", "of a check that checks nothing", "write one of http, https, tcp, grpc and script beside it")
			}
		}
	}
	for _, u := range []struct{ key, value string }{{"http", c.HTTP}, {"https", c.HTTPS}} {
		if u.value == "" || strings.HasPrefix(u.value, "/") {
			continue
		}
		// The placeholders are filled in as they will be, a port being a number.
		parsed, err := url.Parse(HostPort{"127.0.0.1", "80"}.Fill(u.value))
		if err != nil || parsed.Scheme != u.key || parsed.Host == "" {
			bad(u.key, u.value, "neither a path nor a URL", "write one that starts with / or with "+u.key+"://")
		}
	}
	for _, t := range []struct{ key, value string }{{"tcp", c.TCP}, {"grpc", c.GRPC}} {
		if t.value == "" || t.value == "true" {
			continue
		}
		target, _, _ := strings.Cut(HostPort{"127.0.0.1", "80"}.Fill(t.value), "/")
		if err := driver.ValidateAddr(target); err != nil {
			bad(t.key, t.value, "not an address", "write HOST:PORT, with IPv6 in brackets, or true for that of the service")
		}
	}
	if len(c.Script) > 0 && c.Script[0] == "" {
		bad("script", "", "names no program", "write it and its arguments, as [/usr/bin/check, --port, $SERVICE_PORT]")
	}
	for _, d := range []struct {
		key   string
		value time.Duration
		least time.Duration
	}{{"interval", c.Interval, leastInterval}, {"timeout", c.Timeout, time.Millisecond}} {
		if d.value != 0 && d.value < d.least {
			bad(d.key, d.value.String(), "too short", fmt.Sprintf("write %v or more", d.least))
		}
	}
	for _, n := range []struct {
		key   string
		value int
	}{{"rise", c.Rise}, {"fall", c.Fall}} {
		if n.value < 0 {
			bad(n.key, strconv.Itoa(n.value), "negative", "write how many attempts in a row, from 1")
		}
	}
	return errs
}

// HostPort is the address of a service.
type HostPort struct{ Host, Port string }

// Fill puts the address where s asks for it, an IPv6 address in brackets where a port
// follows it.
func (p HostPort) Fill(s string) string {
	joined := p.Host
	if strings.Contains(p.Host, ":") {
		joined = "[" + p.Host + "]"
	}
	return strings.NewReplacer(
		"[#MYIP]", joined, "://#MYIP", "://"+joined, "#MYIP:", joined+":", "#MYIP", p.Host,
		"[$SERVICE_IP]", joined, "://$SERVICE_IP", "://"+joined, "$SERVICE_IP:", joined+":", "$SERVICE_IP", p.Host,
		"#MYPORT", p.Port, "$SERVICE_PORT", p.Port,
	).Replace(s)
}

// Addr is HOST:PORT.
func (p HostPort) Addr() string { return net.JoinHostPort(p.Host, p.Port) }

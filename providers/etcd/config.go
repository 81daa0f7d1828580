package etcd

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/internal/format"
	"github.com/musterhq/muster/secret"
	"github.com/musterhq/muster/tlsfiles"
)

// DefaultPrefix begins Muster's own keys by default.
const DefaultPrefix = "/muster"

// DefaultDomain is that of Config.Domain.
const DefaultDomain = "cluster.local"

// DefaultDialTimeout bounds a connection attempt if Config.DialTimeout is 0.
const DefaultDialTimeout = 5 * time.Second

// Config says where etcd is and how to get in. Endpoints is mandatory.
type Config struct {
	// Endpoints are the client URLs of the members of one etcd cluster, such as
	// http://10.0.0.5:2379, all http or all https.
	Endpoints []string `yaml:"endpoints"`

	// Format says how registrations are kept in etcd: as Muster writes them, "muster",
	// or as the records of another system, "hazelcast", "registrator" or "skydns".
	// Mastership and records are always Muster's own. Default: "muster".
	Format string `yaml:"format"`

	// Prefix is the path below which registrations are. It starts with a slash,
	// which alone means that they are below none. Default: DefaultPrefix, or what
	// the other system has: "/" of hazelcast and registrator, "/skydns" of skydns.
	Prefix string `yaml:"prefix"`

	// Domain is the DNS domain of services, for format skydns alone. Default:
	// DefaultDomain.
	Domain string `yaml:"domain"`

	// AuthorityPrefix is the path below which the keys of mastership and the records
	// stand. All nodes of a cluster must have the same. Default: Prefix in Muster's
	// own format, else DefaultPrefix.
	AuthorityPrefix string `yaml:"authority_prefix"`

	// Username and Password are those of a user of etcd. Both or none.
	Username string        `yaml:"username"`
	Password secret.String `yaml:"password"`

	// PasswordFile is read in place of Password, each time that the user is
	// authenticated, so that a new password is picked up.
	PasswordFile string `yaml:"password_file"`

	// TLS is for https endpoints: the authorities of the servers' certificates, if
	// they are not those of the system, and the certificate of this client.
	TLS tlsfiles.Config `yaml:"tls"`

	// DialTimeout bounds each attempt to connect to one endpoint, TLS handshake
	// included. Default: DefaultDialTimeout.
	DialTimeout time.Duration `yaml:"dial_timeout"`
}

// check returns c with its defaults and the TLS configuration of the client, nil
// for plain http, as its files have it at each handshake. The error joins one *driver.ConfigError
// for each thing that is wrong.
func (c Config) check() (Config, *tlsfiles.Files, error) {
	errs := c.checkEndpoints()
	errs = append(errs, c.checkUser()...)

	c, err := c.checkLayout()
	errs = append(errs, err)

	if c.DialTimeout < 0 {
		errs = append(errs, &driver.ConfigError{Key: "dial_timeout", Value: c.DialTimeout.String(), Problem: "must not be negative", Hint: "leave it out for " + DefaultDialTimeout.String()})
	}
	if c.DialTimeout == 0 {
		c.DialTimeout = DefaultDialTimeout
	}

	var secure *tlsfiles.Files
	if len(c.Endpoints) > 0 && strings.HasPrefix(c.Endpoints[0], "https://") {
		if secure, err = tlsfiles.Follow(c.TLS, tlsfiles.Contents.Client); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return Config{}, nil, err
	}
	return c, secure, nil
}

// checkLayout returns c with the defaults of where keys are.
func (c Config) checkLayout() (Config, error) {
	var errs []error
	bad := func(key, value, problem, hint string) {
		errs = append(errs, &driver.ConfigError{Key: key, Value: value, Problem: problem, Hint: hint})
	}
	c.Format = cmp.Or(c.Format, formatMuster)
	switch c.Format {
	case formatMuster:
		c.Prefix = cmp.Or(c.Prefix, DefaultPrefix)
	case formatHazelcast, formatRegistrator:
		c.Prefix = cmp.Or(c.Prefix, "/")
	case formatSkyDNS:
		c.Prefix = cmp.Or(c.Prefix, "/skydns")
		c.Domain = cmp.Or(c.Domain, DefaultDomain)
		if !format.IsDomain(c.Domain) {
			bad("domain", c.Domain, "is no DNS domain in lower case", "write one such as "+DefaultDomain)
		}
	default:
		bad("format", c.Format, "unknown", "write "+strings.Join([]string{formatMuster, formatHazelcast, formatRegistrator}, ", ")+" or "+formatSkyDNS)
	}
	if c.Domain != "" && c.Format != formatSkyDNS {
		bad("domain", c.Domain, "is for format "+formatSkyDNS+" alone", "take it out")
	}
	checkPath := func(key, path string) {
		switch {
		case path == "": // by default
		case !strings.HasPrefix(path, "/"):
			bad(key, path, "must start with a slash, such as "+DefaultPrefix, "")
		case strings.Contains(path, "//"):
			bad(key, path, "has an empty segment", "write single slashes")
		}
	}
	checkPath("prefix", c.Prefix)
	checkPath("authority_prefix", c.AuthorityPrefix)
	if c.AuthorityPrefix == "" {
		c.AuthorityPrefix = DefaultPrefix
		if c.Format == formatMuster {
			c.AuthorityPrefix = c.Prefix
		}
	}
	c.Prefix = strings.TrimRight(c.Prefix, "/")
	c.AuthorityPrefix = strings.TrimRight(c.AuthorityPrefix, "/")
	return c, errors.Join(errs...)
}

func (c Config) checkEndpoints() []error {
	if len(c.Endpoints) == 0 {
		return []error{&driver.ConfigError{Key: "endpoints", Problem: "missing", Hint: "list the client URLs of etcd, such as http://127.0.0.1:2379"}}
	}
	var errs []error
	first := ""
	for i, endpoint := range c.Endpoints {
		scheme, shown, problem, hint := checkEndpoint(endpoint)
		if problem == "" && first == "" {
			first = scheme
		}
		switch {
		case problem != "":
		case scheme != first:
			problem, hint = "mixes http with https", "one client speaks one of them to all endpoints"
		case scheme == "http" && c.TLS.Enabled():
			problem, hint = "is plain http although tls is set", "write https, or remove tls"
		}
		if problem != "" {
			errs = append(errs, &driver.ConfigError{Key: fmt.Sprintf("endpoints[%d]", i), Value: shown, Problem: problem, Hint: hint})
		}
	}
	return errs
}

// checkEndpoint returns the scheme of an endpoint, what may be shown of it, and
// what is wrong with it.
func checkEndpoint(endpoint string) (scheme, shown, problem, hint string) {
	const form = "want http://HOST:PORT or https://HOST:PORT"
	u, err := url.Parse(endpoint)
	if err != nil {
		return "", endpoint, "is no URL", form
	}
	shown = u.Redacted()
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return "", shown, "has no scheme http or https", form
	case u.User != nil:
		return "", shown, "holds a user", "that goes into username and password"
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return "", shown, "has more than a host and a port", form
	case u.Port() == "":
		return "", shown, "has no port", "that of etcd is usually 2379"
	}
	if err := driver.ValidateAddr(net.JoinHostPort(u.Hostname(), u.Port())); err != nil {
		return "", shown, "names no host and port that can be dialled", form
	}
	return u.Scheme, shown, "", ""
}

func (c Config) checkUser() []error {
	var errs []error
	if c.Password != "" && c.PasswordFile != "" {
		errs = append(errs, &driver.ConfigError{Key: "password_file", Value: c.PasswordFile, Problem: "is set beside password", Hint: "keep one of them"})
	}
	given := c.Password != "" || c.PasswordFile != ""
	switch {
	case c.Username == "" && given:
		errs = append(errs, &driver.ConfigError{Key: "username", Problem: "missing", Hint: "a password is set"})
	case c.Username != "" && !given:
		errs = append(errs, &driver.ConfigError{Key: "password", Problem: "missing", Hint: "username is set, set password or password_file"})
	}
	if c.PasswordFile != "" && c.Password == "" {
		switch secret, err := c.Password.Or(c.PasswordFile); {
		case err != nil:
			errs = append(errs, &driver.ConfigError{Key: "password_file", Value: c.PasswordFile, Problem: "cannot be read: " + reason(err)})
		case secret == "":
			errs = append(errs, &driver.ConfigError{Key: "password_file", Value: c.PasswordFile, Problem: "is empty"})
		}
	}
	return errs
}

// Provider is what is registered with package driver under the name "etcd".
type Provider struct{}

func init() { driver.Register("etcd", Provider{}) }

// NewConfig returns a *Config with its defaults.
func (Provider) NewConfig() any {
	return &Config{Format: formatMuster, DialTimeout: DefaultDialTimeout}
}

// Check reports what is wrong with the *Config, and opens no client.
func (Provider) Check(config any) (driver.Abilities, error) {
	can := driver.AbilitiesOf((*Driver)(nil))
	c, err := configOf(config)
	if err != nil {
		return can, err
	}
	checked, _, err := c.check()
	if err != nil {
		return can, err
	}
	_, err = newLayout(checked)
	return can, err
}

// Open returns New of the *Config.
func (Provider) Open(config any) (driver.Driver, error) {
	c, err := configOf(config)
	if err != nil {
		return nil, err
	}
	d, err := New(*c)
	if err != nil {
		return nil, err
	}
	return d, nil
}

func configOf(config any) (*Config, error) {
	c, ok := config.(*Config)
	if !ok {
		return nil, fmt.Errorf("%w: the configuration of etcd is a *etcd.Config, not a %T", driver.ErrInvalid, config)
	}
	return c, nil
}

package consul

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strings"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/secret"
	"github.com/musterhq/muster/tlsfiles"
)

// The defaults of Config.
const (
	DefaultAddress  = "127.0.0.1:8500"
	DefaultPrefix   = "muster"
	DefaultDomain   = "cluster.local"
	DefaultNodeName = "muster"
)

// Consistency says how much a reading of the services may lag behind. What decides
// who is master is always read consistently.
type Consistency string

// The modes of consistency, as Consul calls them.
const (
	// Default asks the leader, which may be out of date for the moment in which
	// another takes its place.
	Default Consistency = "default"
	// Consistent has the leader ask a majority first whether it still is.
	Consistent Consistency = "consistent"
	// Stale asks any server, which may lag behind by any length of time but also
	// answers if there is no leader.
	Stale Consistency = "stale"
)

// Mode says how registrations come into the catalog.
type Mode string

// The modes of registration.
const (
	// Agent has the agent at Address keep registrations, and run the clock of their
	// checks.
	Agent Mode = "agent"
	// Catalog writes them straight to the servers, for places with no agent.
	Catalog Mode = "catalog"
)

// Config says where Consul is and how to get in. It is useful at zero.
type Config struct {
	// Address is that of the HTTP API of an agent: HOST:PORT, a URL that begins with
	// http:// or https://, or unix:// and the path of a socket. Default:
	// DefaultAddress.
	Address string `yaml:"address"`

	// Token is sent with each request. TokenFile is read in its place, at each
	// request, so that a new token is picked up.
	Token     secret.String `yaml:"token"`
	TokenFile string        `yaml:"token_file"`

	// Mode is how instances are registered. Default: Agent.
	Mode Mode `yaml:"mode"`

	// NodeName begins the name of the node of Consul that has what this process
	// registers in mode Catalog; a random ending makes it the process's own. Default:
	// DefaultNodeName.
	NodeName string `yaml:"node_name"`

	// Datacenter is the one to register in. In mode Agent it must be the agent's
	// own; it is there to be sure. Default: the agent's.
	Datacenter string `yaml:"datacenter"`

	// Datacenters are those whose services are found. Default: the agent's.
	Datacenters []string `yaml:"datacenters"`

	// Format says how registrations are kept in Consul: as services that Muster finds
	// again whole, "muster"; as such with the IDs of "hazelcast" or "registrator"; or as
	// keys in the KV store, "registrator-kv" or "skydns". Default: "muster".
	Format string `yaml:"format"`

	// Record says where the part of an instance is kept that Consul's own fields cannot keep: in
	// the "meta" of its service, below keys that begin with muster-, or in the notes of its
	// "check", which no reader copies into labels. Readers of Muster find it in either.
	// Default: "check" with format "registrator" in mode Agent, else "meta".
	Record string `yaml:"record"`

	// Prefix is the path in the KV store below which all keys are, without a slash
	// at either end. Default: DefaultPrefix. In the formats that keep registrations in
	// the KV store it is the path of those alone: mandatory with "registrator-kv", and
	// "skydns" by default with "skydns".
	Prefix string `yaml:"prefix"`

	// Domain is the DNS domain of services, for format "skydns" alone. Default:
	// DefaultDomain.
	Domain string `yaml:"domain"`

	// AuthorityPrefix is the path below which the keys of mastership and the records
	// stand. All nodes of a cluster must have the same. Default: Prefix where
	// registrations are services, else DefaultPrefix.
	AuthorityPrefix string `yaml:"authority_prefix"`

	// HealthyOnly finds only instances all of whose checks pass, and what this driver
	// has registered itself. The others are in Snapshot.Failing: package discovery
	// finds them too until an instance of another process was seen to pass. Registrations of
	// Muster whose process is gone are never found. Default: true, from NewConfig.
	HealthyOnly bool `yaml:"healthy_only"`

	// Consistency is that of finding instances. Default: Default.
	Consistency Consistency `yaml:"consistency"`

	// Check is made by the agent on each instance that is registered, beside the one
	// that Muster keeps. Zero: none.
	Check Check `yaml:"check"`

	// TLS is for https addresses: the authorities of the agent's certificate, if they
	// are not those of the system, and the certificate of this client.
	TLS TLS `yaml:"tls"`
}

// TLS is tlsfiles.Config with what users of Consul also have.
type TLS struct {
	tlsfiles.Config `yaml:",inline"`

	// CAPEM holds the authorities themselves, in place of CAFile.
	CAPEM string `yaml:"ca_pem"`

	// SkipVerifyHostname accepts a certificate of the authorities whatever name it is
	// for.
	SkipVerifyHostname bool `yaml:"skip_verify_hostname"`
}

// endpoint is what Address comes to.
type endpoint struct {
	scheme string // http or https
	host   string // HOST:PORT
	socket string // path of a socket that is dialled whatever host says
}

// check returns c with its defaults, where the API is, and the TLS configuration of
// the client, nil for plain http, as its files have it at each handshake. The error joins one
// *driver.ConfigError for each thing that is wrong.
func (c Config) check() (Config, endpoint, *tlsfiles.Files, error) {
	var errs []error
	bad := func(key, value, problem, hint string) {
		errs = append(errs, &driver.ConfigError{Key: key, Value: value, Problem: problem, Hint: hint})
	}
	if c.Address == "" {
		c.Address = DefaultAddress
	}
	e, problem, hint := parseAddress(c.Address)
	if problem != "" {
		bad("address", redacted(c.Address), problem, hint)
	}
	if c.Token != "" && c.TokenFile != "" {
		bad("token_file", c.TokenFile, "set beside token", "keep one of the two")
	}
	switch _, err := c.token(); {
	case errors.Is(err, errEmpty):
		bad("token_file", c.TokenFile, "is empty", "write a token into it, or take token_file out")
	case err != nil:
		bad("token_file", c.TokenFile, "cannot be read: "+reason(err), "")
	}
	c = c.checkFormat(bad)
	c = c.checkMode(bad)
	c = c.checkRecord(bad)
	switch c.Consistency {
	case "":
		c.Consistency = Default
	case Default, Consistent, Stale:
	default:
		bad("consistency", string(c.Consistency), "want default, consistent or stale", "")
	}
	for i, dc := range c.Datacenters {
		if dc == "" {
			bad(fmt.Sprintf("datacenters[%d]", i), dc, "empty", "name a datacenter, or leave the list out for the agent's own")
		}
	}
	if c.Check.check().Enabled() {
		errs = append(errs, c.Check.check().Validate("check"))
	}
	secure, err := c.TLS.live(e.scheme)
	errs = append(errs, err)
	return c, e, secure, errors.Join(errs...)
}

// errEmpty says that a file has no token. It may be about to be written.
var errEmpty = errors.New("token_file is empty")

// token returns what is to be sent along, empty for none. A file that is empty is an
// error: without a token Consul shows less than there is, and often does not say so.
func (c Config) token() (secret.String, error) {
	token, err := c.Token.Or(c.TokenFile)
	if err == nil && token == "" && c.TokenFile != "" {
		err = errEmpty
	}
	return token, err
}

func (c Config) checkMode(bad func(key, value, problem, hint string)) Config {
	switch c.Mode {
	case "", Agent:
		c.Mode = Agent
		if c.NodeName != "" {
			bad("node_name", c.NodeName, "is of mode catalog; in mode agent the node is that of the agent", "take it out")
		}
		return c
	case Catalog:
	default:
		bad("mode", string(c.Mode), "want agent or catalog", "")
		return c
	}
	if c.Format == formatRegistratorKV || c.Format == formatSkyDNS {
		bad("mode", string(c.Mode), "is of services, and format "+c.Format+" keeps registrations in the KV store, which needs no agent", "take it out")
	}
	if c.Check.check().Enabled() {
		bad("check", c.Check.Name, "is made by an agent, and mode catalog has none", "take it out")
	}
	c.NodeName = cmp.Or(c.NodeName, DefaultNodeName)
	if !nodeName.MatchString(c.NodeName) {
		bad("node_name", c.NodeName, "is no name for a node", "write letters, digits and dashes, 24 at most")
	}
	return c
}

// nodeName leaves room for a session within a label of DNS.
var nodeName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9-]{0,23}$`)

func parseAddress(address string) (e endpoint, problem, hint string) {
	const want = "want HOST:PORT, http://HOST:PORT, https://HOST:PORT or unix:///path, such as " + DefaultAddress
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		if !strings.HasPrefix(path, "/") {
			return e, "no address of Consul", want
		}
		return endpoint{scheme: "http", host: "localhost", socket: path}, "", ""
	}
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Path != "" && u.Path != "/" || u.RawQuery != "":
		return e, "no address of Consul", want
	case u.User != nil:
		return e, "holds a user", "Consul wants a token, in token or token_file"
	}
	host, port, err := net.SplitHostPort(u.Host)
	if err != nil || host == "" || port == "" {
		return e, "no address of Consul", want
	}
	return endpoint{scheme: u.Scheme, host: u.Host}, "", ""
}

// redacted returns address as it may be shown: without what may be a password.
func redacted(address string) string {
	scheme, rest, found := strings.Cut(address, "://")
	if !found {
		scheme, rest = "", address
	}
	if at := strings.LastIndex(rest, "@"); at >= 0 {
		rest = "[redacted]" + rest[at:]
	}
	if found {
		return scheme + "://" + rest
	}
	return rest
}

// live checks t and reads the files. Errors are joined *driver.ConfigError values.
func (t TLS) live(scheme string) (*tlsfiles.Files, error) {
	switch {
	case scheme != "https":
		if t != (TLS{}) {
			return nil, &driver.ConfigError{Key: "tls", Value: "(a map)", Problem: "set although address does not begin with https://", Hint: "write https:// or leave tls out"}
		}
		return nil, nil
	case t.CAPEM != "" && t.CAFile != "":
		return nil, &driver.ConfigError{Key: "tls.ca_pem", Value: "(a certificate)", Problem: "set beside tls.ca_file", Hint: "keep one of the two"}
	}
	return tlsfiles.Follow(t.Config, t.config)
}

// config makes a configuration of what the files hold.
func (t TLS) config(contents tlsfiles.Contents) (*tls.Config, error) {
	c, err := contents.Client()
	if err != nil {
		return nil, err
	}
	if t.CAPEM != "" {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM([]byte(t.CAPEM)) {
			return nil, &driver.ConfigError{Key: "tls.ca_pem", Value: "(a text)", Problem: "holds no PEM certificate"}
		}
	}
	if t.SkipVerifyHostname {
		verifyChainOnly(c)
	}
	return c, nil
}

// verifyChainOnly has c accept any name in a certificate, but no other authority.
func verifyChainOnly(c *tls.Config) {
	c.InsecureSkipVerify = true // of what follows in its place
	c.VerifyConnection = func(s tls.ConnectionState) error {
		options := x509.VerifyOptions{Roots: c.RootCAs, Intermediates: x509.NewCertPool()}
		for _, cert := range s.PeerCertificates[1:] {
			options.Intermediates.AddCert(cert)
		}
		_, err := s.PeerCertificates[0].Verify(options)
		return err
	}
}

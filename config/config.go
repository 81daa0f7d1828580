// Package config is the configuration of a node: YAML, environment and flags.
//
// Every key has three forms. node.zone in the file is MUSTER_NODE_ZONE in the
// environment and --node-zone on the command line; a flag beats the environment,
// which beats the file, which beats the default. The keys of a provider come from
// the provider's package: those that the program imports can be configured, and
// this package imports none. docs/configuration.md lists all keys.
//
// [Load] is strict. It reports everything that is wrong at once, one line each,
// with the place, the key, the value and the hint:
//
//	muster.yaml:4: node.zon: "eu-1": unknown key; did you mean "zone"?
//
// It reads files and checks what can be checked on this machine. It does not
// reach out to a provider: that one is down is no error of the configuration.
package config

import (
	"log/slog"
	"time"

	"github.com/spf13/pflag"

	"github.com/musterhq/muster/internal/settings"
	"github.com/musterhq/muster/registrar/declared"
	"github.com/musterhq/muster/secret"
	"github.com/musterhq/muster/tlsfiles"
)

// Options say where the configuration is read from.
type Options struct {
	// Path is the YAML file. Empty: none, as where the environment says it all.
	Path string
	// Env is the environment as KEY=value pairs. Nil: that of the process.
	Env []string
	// Flags are parsed flags, such as AddFlags made: those that were set and whose
	// names stand for keys count. Nil: none.
	Flags *pflag.FlagSet
	// Hostname returns the name of this host, which is the default of node.id and of
	// registrar.hostname. Default: os.Hostname.
	Hostname func() (string, error)
	// Purpose says what is mandatory. Default: ForNode.
	Purpose Purpose
}

// Config is the configuration of a node with its defaults filled in.
type Config struct {
	// Cluster is the name of the cluster, and the service under which its nodes
	// are found.
	Cluster string `yaml:"cluster" usage:"name of the cluster"`

	Node   Node   `yaml:"node"`
	Detect Detect `yaml:"detect"`
	Docker Docker `yaml:"docker"`

	// Provider holds the sections of the configured providers by name, each a pointer
	// to the provider's own configuration struct. There is at least one.
	Provider map[string]any `yaml:"provider"`

	Bootstrap  Bootstrap  `yaml:"bootstrap"`
	Mastership Mastership `yaml:"mastership"`

	// TLS secures the traffic between nodes, mutually. Zero: none.
	TLS NodeTLS `yaml:"tls"`

	// Registrar is for a registrar, and so are the Services, which are no containers.
	Registrar Registrar          `yaml:"registrar"`
	Services  []declared.Service `yaml:"services"`

	// Proxy are the ports of an agent that follow the master.
	Proxy []Proxy `yaml:"proxy"`
	// Jobs are what an agent runs when their schedules say so.
	Jobs []Job `yaml:"jobs"`
	// Calls are the services of programs beside an agent, which members call.
	Calls []Call `yaml:"calls"`

	HTTP HTTP `yaml:"http"`
	Log  Log  `yaml:"log"`

	schema  *schema
	sources map[string]Source
	purpose Purpose
	level   *slog.LevelVar // of the logger, nil before there is one
}

// Purpose is what the configuration was loaded for: ForNode or ForRegistrar, also where
// that was left open.
func (c *Config) Purpose() Purpose { return c.purpose }

// Node is what a node is and where it stands.
type Node struct {
	// ID names the node across restarts. Default: the host name.
	ID string `yaml:"id" usage:"name of this node across restarts (default the host name)"`
	// Zone, Tags and Meta are shown to the other members.
	Zone string            `yaml:"zone" usage:"where this node runs"`
	Tags []string          `yaml:"tags" usage:"tags of this node"`
	Meta map[string]string `yaml:"meta" usage:"facts about this node"`
	// AppAddrs are what clients of this node or of the master dial, by name.
	AppAddrs map[string]string `yaml:"app_addrs" usage:"addresses that clients of this node dial, by name"`
	// Bind is the HOST:PORT of the one port.
	Bind string `yaml:"bind" usage:"HOST:PORT to listen on for other nodes"`
	// Advertise says how the address that others dial is found.
	Advertise string `yaml:"advertise" usage:"address that others dial: auto, HOST:PORT, env, interface:NAME, docker or registry"`
	// Voter is the entry of a static list that stands for this node, where it is
	// not the advertised address.
	Voter string `yaml:"voter" usage:"entry of the static list that stands for this node"`
	// DataDir keeps what must survive a restart. It is empty if no directory
	// was named and the environment has none to stand in.
	DataDir string `yaml:"data_dir" usage:"directory of what must survive a restart"`
}

// Bootstrap says when a cluster may be formed for the first time.
type Bootstrap struct {
	// Mode is auto, join-only or single.
	Mode string `yaml:"mode" usage:"when a first cluster may be formed: auto, join-only or single"`
	// Expect is how many members the cluster is meant to have. 0: not known.
	Expect int `yaml:"expect" usage:"how many members the cluster is meant to have"`
}

// Mastership says how the node takes part in mastership.
type Mastership struct {
	// Eligible says whether the node may be master.
	Eligible bool `yaml:"eligible" usage:"whether this node may be master"`
	// TTL is how long a crashed master is missed. 0: the provider's default.
	TTL time.Duration `yaml:"ttl" usage:"how long a crashed master is missed; 0s is the provider's default"`
	// DrainTimeout bounds how long the work of a master has to end when mastership is given up
	// in good order: the grant is renewed until then.
	DrainTimeout time.Duration `yaml:"drain_timeout" usage:"how long the master's work has to end when mastership is given up"`
	// Authority names the provider that grants mastership, or two with a comma
	// between where both must. none: no master is wanted. Empty: the only one.
	Authority string `yaml:"authority" usage:"provider that grants mastership, or two, as a,b, that both must"`
}

// HTTP is the API of an agent.
type HTTP struct {
	// Addr is the HOST:PORT to serve on. Port 0 takes a free one. One that is not of
	// loopback wants TLS and a token.
	Addr string `yaml:"addr" usage:"HOST:PORT of the HTTP API"`
	// Token is what a client has to show, as a bearer token; TokenFile is read in its
	// place, again and again, so that a new token is picked up. Empty: none.
	Token     secret.String `yaml:"token"`
	TokenFile string        `yaml:"token_file" usage:"file of the token that clients of the HTTP API show"`
	// TLS secures the API. Zero: none.
	TLS HTTPTLS `yaml:"tls"`
}

// NodeTLS is the TLS between nodes.
type NodeTLS struct {
	tlsfiles.Config `yaml:",inline"`
	// VerifyNodeID rejects nodes whose certificate does not name their node id, as a DNS name
	// or in a SPIFFE URI.
	VerifyNodeID bool `yaml:"verify_node_id"`
}

// HTTPTLS names the files of the API's TLS, in PEM.
type HTTPTLS struct {
	// CertFile and KeyFile hold the chain and the key of the API. Both or none.
	CertFile string `yaml:"cert_file" usage:"PEM file of the HTTP API's certificate"`
	KeyFile  string `yaml:"key_file" usage:"PEM file of its key"`
	// CAFile holds the authorities of clients, which then have to show a certificate.
	CAFile string `yaml:"ca_file" usage:"PEM file of the authorities of clients"`
}

// Files returns the files in the form of driver, whose ServerConfig reads them.
func (t HTTPTLS) Files() tlsfiles.Config {
	return tlsfiles.Config{CAFile: t.CAFile, CertFile: t.CertFile, KeyFile: t.KeyFile}
}

// Enabled reports whether any file is named.
func (t HTTPTLS) Enabled() bool { return t != HTTPTLS{} }

// Log says what is logged and how.
type Log struct {
	// Level is debug, info, warn or error.
	Level string `yaml:"level" usage:"least level that is logged: debug, info, warn or error"`
	// Format is text or json.
	Format string `yaml:"format" usage:"form of the log: text or json"`
}

// defaults returns a Config with every default that does not depend on the host.
func defaults() *Config {
	return &Config{
		Node:       Node{Bind: settings.DefaultBind, Advertise: "auto"},
		Detect:     Detect{RequireExternal: true},
		Bootstrap:  Bootstrap{Mode: "auto"},
		Mastership: Mastership{Eligible: true, DrainTimeout: time.Second},
		Registrar:  Registrar{Containers: true, Resync: time.Minute, Deregister: "always", OnExit: "keep"},
		HTTP:       HTTP{Addr: "127.0.0.1:7980"},
		Log:        Log{Level: "info", Format: "text"},
	}
}

// Source says where the value of key, such as "node.zone", comes from.
func (c *Config) Source(key string) Source { return c.sources[key] }

package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"
)

// Config says how a Link listens and dials. Cluster, NodeID and InstanceID are mandatory; the
// rest is useful at zero.
type Config struct {
	// Bind is the HOST:PORT to listen on, IPv6 in brackets. Port 0 takes a free
	// one. An unspecified host, such as 0.0.0.0, means every address of the host,
	// IPv4 and IPv6. Default: "0.0.0.0:7946".
	Bind string

	// Cluster is the name of the cluster, from 1 to MaxCluster bytes. Nodes of
	// other clusters are rejected.
	Cluster string

	// NodeID is that of this node, from 1 to MaxNodeID bytes, and InstanceID that of this start of
	// it, from 1 to MaxInstanceID letters, digits, '-' and '_'. Every other end learns both.
	NodeID, InstanceID string

	// Features are names of what this node can do beyond this version of the wire, each as that
	// of a protocol, MaxFeatures at most. Every other end learns them, and ignores those that it
	// does not know. Default: none.
	Features []string

	// VerifyNodeID rejects nodes whose certificate does not name the node id that they say, as a
	// DNS name or in a SPIFFE URI (see pki.NamesNode). It needs TLS. Default: a certificate of the
	// authorities may say any node id.
	VerifyNodeID bool

	// TLS secures every connection, mutually. It must have ClientCAs, RootCAs and
	// a certificate, as tlsfiles.Config.Mutual makes it. Whatever it says
	// otherwise, the link speaks TLS 1.3 and demands a certificate. An empty
	// ServerName means the host that is dialled. Nil: no TLS.
	TLS *tls.Config

	// CurrentTLS is used in place of TLS if certificates and authorities change
	// while the link is open: it is called for each handshake, and returns what TLS
	// would hold, never nil and the same pointer as long as nothing has changed. The
	// link copies it. tlsfiles.Files.Current is one. Nil: TLS does not change.
	CurrentTLS func() *tls.Config

	// Logger takes the link's records. Strangers who dial are logged at most once a
	// minute for each reason, and those who are dialled for each address and reason.
	// Default: none are written.
	Logger *slog.Logger

	// Dial makes the TCP connection to a HOST:PORT, for tests that cut the
	// network. Default: a net.Dialer with keep-alive.
	Dial func(ctx context.Context, addr string) (net.Conn, error)

	// HungUp is called with the instance id of a node that ended a gossip connection which this
	// one had opened, as the system does when a process dies. It must not block. Default:
	// none is called.
	HungUp func(instanceID string)

	// DialTimeout bounds a dial, handshake included, whose context has no deadline,
	// and each dial for gossip. It is also how long a peer may take to come back
	// into sight after a partition in which its packets vanished. Default: 3 s.
	DialTimeout time.Duration

	// HandshakeTimeout is how long a connection has to say what it wants.
	// Default: 5 s.
	HandshakeTimeout time.Duration

	// MaxHandshakes bounds the connections that have not said yet what they want.
	// One remote IP address may hold half of them. Where there are more, the oldest
	// is closed if it has had a second, and otherwise the newest. Default: 256.
	MaxHandshakes int

	// Backlog bounds the accepted connections of each protocol that wait for an
	// Accept. Default: 128.
	Backlog int

	// MaxPeers is how many gossip connections to others are kept. Of those that others
	// open, which chance does not spread evenly, twice as many are kept. A node
	// may talk to any number of others: the connection that was not used for
	// longest makes room. While none is at rest there may be up to four times as
	// many. Default: 64.
	MaxPeers int

	// QueuePackets and QueueBytes bound what waits to be sent to one peer; the
	// oldest packets are dropped. Default: 256 packets, 256 KiB.
	QueuePackets int
	QueueBytes   int

	// IdleTimeout is how long a gossip connection is kept on which nothing is sent.
	// Default: 30 s.
	IdleTimeout time.Duration

	// StallTimeout is how long a peer that is sent gossip may give no sign of life
	// before its connection is given up. Default: 3 s.
	StallTimeout time.Duration
}

// Limits of what travels in the hello. The name of a cluster also fits into the 255 bytes of an
// ALPN protocol.
const (
	MaxCluster    = 200
	MaxProtocol   = 32
	MaxNodeID     = 128
	MaxInstanceID = 64
	MaxFeatures   = 16
)

const defaultBind = "0.0.0.0:7946"

// ValidNodeID reports whether id may be that of a node.
func ValidNodeID(id string) bool { return isText([]byte(id), MaxNodeID) }

// withDefaults fills in what is zero.
func (c Config) withDefaults() Config {
	def(&c.Bind, defaultBind)
	def(&c.DialTimeout, 3*time.Second)
	def(&c.HandshakeTimeout, 5*time.Second)
	def(&c.MaxHandshakes, 256)
	def(&c.Backlog, 128)
	def(&c.MaxPeers, 64)
	def(&c.QueuePackets, 256)
	def(&c.QueueBytes, 256<<10)
	def(&c.IdleTimeout, 30*time.Second)
	def(&c.StallTimeout, 3*time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Dial == nil {
		d := net.Dialer{KeepAliveConfig: keepAlive}
		c.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			return d.DialContext(ctx, "tcp", addr)
		}
	}
	return c
}

func def[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Keep-alive finds within half a minute that the host at the other end is gone,
// on connections whose protocol does not find out by itself.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 4}

// Validate reports all that is wrong with c, joined into one error.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("link: "+format, args...)) }

	if err := validateCluster(c.Cluster); err != nil {
		errs = append(errs, err)
	}
	if !ValidNodeID(c.NodeID) {
		bad("node id %.160q: want from 1 to %d bytes of valid UTF-8 without control characters", c.NodeID, MaxNodeID)
	}
	if !isID([]byte(c.InstanceID)) {
		bad("instance id %.80q: want from 1 to %d letters, digits, '-' and '_'", c.InstanceID, MaxInstanceID)
	}
	if len(c.Features) > MaxFeatures {
		bad("features: %d are named; want at most %d", len(c.Features), MaxFeatures)
	}
	for _, feature := range c.Features {
		if !isName([]byte(feature)) {
			bad("feature %.40q: want from 1 to %d bytes of a-z, 0-9, '.', '_' and '-'", feature, MaxProtocol)
		}
	}
	if c.Bind != "" {
		_, port, err := net.SplitHostPort(c.Bind)
		if err == nil {
			_, err = strconv.ParseUint(port, 10, 16)
		}
		if err != nil {
			bad("bind %q: want HOST:PORT with a port from 0 to 65535 and IPv6 in brackets", c.Bind)
		}
	}
	t := c.TLS
	if c.CurrentTLS != nil {
		if t != nil {
			bad("TLS: set beside CurrentTLS; keep one of the two")
		} else if t = c.CurrentTLS(); t == nil {
			bad("CurrentTLS: returned nil; want a configuration")
		}
	}
	if c.VerifyNodeID && t == nil {
		bad("VerifyNodeID: set without TLS; configure TLS, or leave it out")
	}
	if t != nil {
		if t.ClientCAs == nil || t.RootCAs == nil {
			bad("TLS: want ClientCAs and RootCAs, or any public certificate would be let in")
		}
		if len(t.Certificates) == 0 && (t.GetCertificate == nil || t.GetClientCertificate == nil) {
			bad("TLS: want a certificate, or both GetCertificate and GetClientCertificate")
		}
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"DialTimeout", c.DialTimeout}, {"HandshakeTimeout", c.HandshakeTimeout},
		{"IdleTimeout", c.IdleTimeout}, {"StallTimeout", c.StallTimeout},
	} {
		if d.value < 0 {
			bad("%s %v: want more than 0, or 0 for the default", d.name, d.value)
		}
	}
	for _, n := range []struct {
		name  string
		value int
	}{
		{"MaxHandshakes", c.MaxHandshakes}, {"Backlog", c.Backlog}, {"MaxPeers", c.MaxPeers},
		{"QueuePackets", c.QueuePackets}, {"QueueBytes", c.QueueBytes},
	} {
		if n.value < 0 {
			bad("%s %d: want more than 0, or 0 for the default", n.name, n.value)
		}
	}
	return errors.Join(errs...)
}

func validateCluster(name string) error {
	switch {
	case name == "":
		return errors.New("link: cluster: missing; name the cluster")
	case len(name) > MaxCluster:
		return fmt.Errorf("link: cluster %.40q...: has %d bytes; want at most %d", name, len(name), MaxCluster)
	case !utf8.ValidString(name):
		return fmt.Errorf("link: cluster %q: want valid UTF-8", name)
	}
	for _, r := range name {
		if unicode.IsControl(r) {
			return fmt.Errorf("link: cluster %q: want no control characters", name)
		}
	}
	return nil
}

func validateProtocol(name string) error {
	if !isName([]byte(name)) {
		return fmt.Errorf("link: protocol %.40q: want from 1 to %d bytes of a-z, 0-9, '.', '_' and '-'", name, MaxProtocol)
	}
	return nil
}

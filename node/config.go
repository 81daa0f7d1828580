package node

import (
	"context"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node/mastership"
	"github.com/musterhq/muster/registrar/advertise"
)

// Config is everything a node needs. Cluster and either Registry or Registries are
// mandatory; the rest is useful at zero.
type Config struct {
	// Cluster is the name of the cluster. Nodes of other clusters are turned away.
	Cluster string

	// NodeID names the node across restarts. Default: the host name. Of two live
	// processes with one NodeID the later one stays and the earlier one leaves.
	NodeID string

	// Zone, Tags, Meta, AppAddrs and Version are shown to the other members.
	Zone     string
	Tags     []string
	Meta     map[string]string
	AppAddrs map[string]string
	Version  string

	// Bind is the HOST:PORT of the one port. Default: 0.0.0.0:7946. Port 0 takes a
	// free one.
	Bind string

	// Advertise says how the address that others dial is found: auto, HOST:PORT,
	// env, interface:NAME, or the name of one of Detectors. Default: auto. See package
	// registrar/advertise.
	Advertise string

	// Detectors find the address by means that package advertise does not have, such
	// as a container engine. With auto they are asked in this order. Default: none.
	Detectors []advertise.Detector

	// HostIP is the IP address of the host, for a container whose metadata tells only
	// the port. Default: not known.
	HostIP string

	// AllowInternal lets auto take the address of a container with a network of its
	// own, where all other nodes are in that network. Default: such a node does not
	// start where nothing tells the address outside.
	AllowInternal bool

	// Voter is the entry of the static list that stands for this node, where it is
	// not the advertised address.
	Voter string

	// DataDir keeps what must survive a restart. Default:
	// $XDG_STATE_HOME/muster/<cluster>/<node id>.
	DataDir string

	// Registry finds the peers, takes the node's registration and grants mastership.
	// The caller closes it after the node has ended.
	Registry *discovery.Registry

	// Registries take the place of Registry where there are several. The node is
	// registered with each, and its peers are the union of what they know: one that
	// fails costs no peer. Mastership.Authority says which of them grants mastership.
	// No two have one name.
	Registries []*discovery.Registry

	Bootstrap  Bootstrap
	Mastership Mastership

	// TLS secures the traffic between nodes, mutually, with TLS 1.3. Its files are
	// followed: what is written to them comes into force within seconds, and what is
	// no good leaves the last good ones in force, as Status.TLS says. Zero: none.
	TLS driver.TLS

	// Logger takes the node's records. Default: none are written.
	Logger *slog.Logger

	// History takes what becomes of this node's mastership and each of its views, as
	// package node/history says. The election waits for each write, which should
	// therefore not block; one that fails costs the record and is logged once.
	// Default: none is written.
	History io.Writer

	// Seams for tests: how other nodes are dialled, where the address is looked for,
	// how long another one must stay, and whether the node, as one of an older version,
	// has no answer for those that ask whether they can be reached.
	dial         func(ctx context.Context, addr string) (net.Conn, error)
	advertise    advertise.Options
	addressGrace time.Duration
	mute         bool
}

// Bootstrap says when a cluster may be formed for the first time.
type Bootstrap struct {
	// Mode is Auto by default.
	Mode BootstrapMode
	// Expect is how many members the cluster is meant to have. A first master is
	// granted only once so many are seen, and from then on no master stands that
	// does not see a majority of them. 0: not known; with a static list the number
	// of voters serves.
	Expect int
}

// BootstrapMode is a rule of formation.
type BootstrapMode = mastership.Mode

// The rules of formation.
const (
	// Auto forms the cluster where none is recorded and Expect is met.
	Auto = mastership.Auto
	// JoinOnly never forms a cluster: it waits for one that exists.
	JoinOnly = mastership.JoinOnly
	// Single is one node alone, for development. It refuses any other member.
	Single = mastership.Single
)

// Mastership says how this node takes part in mastership.
type Mastership struct {
	// Ineligible keeps the node from ever being master. It may still vote.
	Ineligible bool
	// Authority names the registry that grants mastership, and is mandatory with
	// several. Two names, in any order, mean that both must grant: that is how
	// authority moves from one to the other without two masters at any time.
	Authority []string
	// TTL is how long a crashed master is missed. 0: the default of the provider
	// that grants.
	TTL time.Duration
	// DrainTimeout bounds how long the functions of WhileMaster have to return
	// when mastership is given up in good order. 0: 1 s.
	DrainTimeout time.Duration
}

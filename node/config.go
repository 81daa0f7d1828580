package node

import (
	"context"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/node/mastership"
	"github.com/musterhq/muster/registrar/advertise"
	"github.com/musterhq/muster/tlsfiles"
)

// Config is everything a node needs. Cluster and Registries are mandatory, unless the node is
// Alone; the rest is useful at zero.
type Config struct {
	// Cluster is the name of the cluster. Nodes of other clusters are rejected.
	Cluster string

	// Alone is for a program that is in no cluster, so that the same code serves it: the node is
	// master at once, in term 1, sees itself alone, and keeps the records of its Store in memory,
	// for as long as it runs. Registries stay empty, and nothing else is mandatory. Unless Bind
	// is set it listens on a free port of 127.0.0.1, which rejects all others. Default: the node
	// is one of a cluster.
	Alone bool

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
	// as a container engine. With auto they are asked in this order. Default: none. In a
	// container whose port is published, and which has the engine's socket, one line does:
	//
	//	Detectors: []advertise.Detector{docker.NewDetector(docker.DetectorOptions{})},
	Detectors []advertise.Detector

	// HostIP is the IP address of the host, for a container whose metadata tells only
	// the port. Default: not known.
	HostIP string

	// RequireExternal says that auto does not advertise the address of a container in a
	// network of its own: the node does not start unless the address outside is found.
	// new(false) is for a cluster whose nodes are all in that network. Nil: it is required.
	RequireExternal *bool

	// Voter is the entry of the static list that stands for this node, where it is
	// not the advertised address.
	Voter string

	// DataDir keeps what must survive a restart. Default:
	// $XDG_STATE_HOME/muster/<cluster>/<node id>.
	DataDir string

	// Registries find the peers, take the node's registration and grant mastership: one, or
	// several with names of their own. With several the node is registered with each, and its
	// peers are the union of what they know: one that fails costs no peer.
	// Mastership.Authority names the one that grants mastership. The caller closes them after
	// the node has ended.
	Registries []*discovery.Registry

	Bootstrap  Bootstrap
	Mastership Mastership

	// TLS secures the traffic between nodes, mutually, with TLS 1.3. Its files are
	// followed: what is written to them comes into force within seconds, and what is
	// no good leaves the last good ones in force, as Status.TLS says. Zero: none.
	TLS tlsfiles.Config

	// VerifyNodeID rejects nodes whose certificate does not name their node id, as a DNS name or
	// as the last segment of the path of a SPIFFE URI, and wants the certificate of this node to
	// name NodeID. It needs TLS, and holds for the connections that this node makes and accepts:
	// set it on all nodes. Default: a certificate of the authorities may be used with any node id.
	VerifyNodeID bool

	// Logger takes the node's records, and those of the libraries that it uses. Each
	// carries the attribute node_id, which the node adds. Default: none are written.
	Logger *slog.Logger

	// History takes what becomes of this node's mastership and each of its views, as
	// package node/history says. The election waits for each write, which should
	// therefore not block; one that fails costs the record and is logged once.
	// Default: none is written.
	History io.Writer

	seams
}

// seams are for tests.
type seams struct {
	dial         func(ctx context.Context, addr string) (net.Conn, error) // how other nodes are dialled
	advertise    advertise.Options                                        // where the address is looked for
	addressGrace time.Duration                                            // how long another address must stay
	// mute is for a node as one of an older version: it has no answer for those that ask whether
	// they can be reached.
	mute bool
	// suspicionMult is that of the members, for tests in which nobody fails. 0: the default.
	suspicionMult int
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
	// Auto forms the cluster if none is recorded and Expect is met.
	Auto = mastership.Auto
	// JoinOnly never forms a cluster: it waits for one that exists.
	JoinOnly = mastership.JoinOnly
	// Single is one node alone, for development. It refuses any other member.
	Single = mastership.Single
)

// Mastership says how this node takes part in mastership.
type Mastership struct {
	// Eligible says whether the node may be master. With new(false) it is a witness: it may
	// still vote. Nil: it may.
	Eligible *bool
	// Authority names the registry that grants mastership, and is mandatory with
	// several. Two names mean that both must grant: that is how
	// authority moves from one to the other without two masters at any time. The records of
	// the cluster begin at the first of the two, and move to the second.
	// AuthorityNone alone means that no master is wanted: the node is ready without
	// one, and WhileMaster returns ErrNoAuthority.
	Authority []string
	// TTL is how long a crashed master is missed. 0: the default of the provider
	// that grants.
	TTL time.Duration
	// DrainTimeout bounds how long the functions of WhileMaster have to return
	// when mastership is given up in good order. 0: 1 s.
	DrainTimeout time.Duration
}

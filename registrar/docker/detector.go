package docker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/hint"
	"github.com/musterhq/muster/internal/within"
	"github.com/musterhq/muster/registrar/advertise"
	"github.com/musterhq/muster/registrar/docker/engine"
)

// DetectorOptions say which engine a Detector asks.
type DetectorOptions struct {
	// Engine is the one that runs this container. The caller closes it, if it is to be
	// closed. Default: a Client of the zero Config, made and closed for each look, so that
	// a program that embeds a node needs one line:
	//
	//	Detectors: []advertise.Detector{docker.NewDetector(docker.DetectorOptions{})}
	//
	// The detector finds more with an Engine that has these methods of a Client: Network,
	// to know networks whose containers have addresses that others can dial; Info, for the
	// host's address in its Swarm; and Host, for that of an engine at tcp://HOST:PORT.
	Engine engine.Engine

	// HostIP is the address of the host for ports that are published on all of its
	// addresses. Without it the host's address is looked for.
	HostIP netip.Addr

	// Resolver finds the address of an engine that is named. Default: the system's.
	Resolver advertise.Resolver

	environment *environment // that of this process, if nil
}

// Detector finds at which address of its host the bound port of this container is
// published.
//
// With --network container:ID it is that container's ports that count. With the host's
// network there is nothing to find, since the port is the host's own, and the detector does
// not apply; nor does it out of containers, in Kubernetes, or where no engine was named
// and none is at its usual address.
//
// All bindings of the port over TCP are compared:
//
//  1. One of a specific address comes first: the port answers nowhere else. Of several the
//     one at HostIP does, and then those of its family.
//  2. Then those of all addresses, 0.0.0.0 and ::, with the first address of the host
//     of that family that is known: HostIP; that of an engine which is dialled over TCP,
//     unless it is a proxy in a network of this container; that of the host in its Swarm.
//  3. Then the container's own address in a network whose containers others can
//     dial: macvlan and ipvlan are in the network of the host, and an overlay spans
//     the hosts of a Swarm. There the bound port counts, published or not.
//  4. Last, for a port that is published on all addresses, the host's address
//     in this container's own network. All containers of the host can dial it,
//     whatever their network, so that a cluster on one host needs no setting. Others
//     cannot, and the source says so. A rootless engine's host has none.
//
// Among equals IPv4 comes before IPv6, the lowest address first, and then the lowest port,
// so that the answer stays the same for as long as the ports do. Published on loopback
// alone, a port is not reachable from anywhere but the host; that is an error, as a port
// that is not published is.
//
// Every failure says how to fix it. None of them wraps driver.ErrInvalid: containers can be
// made again, so that another try may succeed.
type Detector struct {
	engine      engine.Engine
	hostIP      netip.Addr
	resolver    advertise.Resolver
	environment environment
}

var _ advertise.Detector = (*Detector)(nil)

// NewDetector returns a detector. It asks nothing yet.
func NewDetector(o DetectorOptions) *Detector {
	d := &Detector{engine: o.Engine, hostIP: o.HostIP.Unmap(), resolver: o.Resolver}
	if d.resolver == nil {
		d.resolver = net.DefaultResolver
	}
	if o.environment != nil {
		d.environment = *o.environment
	} else {
		d.environment = ownEnvironment()
	}
	return d
}

// Name implements advertise.Detector. It is docker, also of Podman.
func (d *Detector) Name() string { return "docker" }

// Detect implements advertise.Detector. It blocks on the engine for as long as ctx and
// the engine's own timeout allow.
func (d *Detector) Detect(ctx context.Context, bound netip.AddrPort) (advertise.Address, error) {
	a, err := within.Call(ctx, func(ctx context.Context) (advertise.Address, error) {
		if d.engine != nil {
			return d.detect(ctx, bound)
		}
		engine, err := engine.New(engine.Config{})
		if err != nil {
			return advertise.Address{}, unavailable(err)
		}
		defer engine.Close()
		asking := *d
		asking.engine = engine
		return asking.detect(ctx, bound)
	})
	if errors.Is(err, driver.ErrInvalid) {
		err = unavailable(err)
	}
	return a, err
}

// unavailable is an error that may pass, with the text and the hint of err, which it does not wrap.
func unavailable(err error) error {
	problem, how := hint.Split(err)
	return hint.With(fmt.Errorf("%w: %s", driver.ErrUnavailable, problem), how)
}

func (d *Detector) detect(ctx context.Context, bound netip.AddrPort) (advertise.Address, error) {
	c, shared, err := d.find(ctx)
	if err != nil {
		return advertise.Address{}, err
	}
	label := "this container"
	if shared {
		label = "container " + c.Label() + ", whose network this one shares,"
	}
	for key := range c.Config.Labels {
		if strings.HasPrefix(key, "io.kubernetes.") {
			return advertise.Address{}, notApplicable("%s is that of a pod, whose ports Kubernetes knows", label)
		}
	}
	switch c.HostConfig.NetworkMode {
	case "host":
		return advertise.Address{}, fmt.Errorf("%w: %s has the network of the host", advertise.ErrHostNetwork, label)
	case "none":
		return advertise.Address{}, notFound(fmt.Sprintf("%s has no network", label), "run it without --network none")
	}
	switch {
	case bound.Port() == 0:
		return advertise.Address{}, notFound(fmt.Sprintf("%v has no port", bound), "listen before the address is looked for")
	case bound.Addr().IsLoopback():
		return advertise.Address{}, notFound(fmt.Sprintf("bound to %v, which nobody out of this container reaches", bound), fmt.Sprintf("set node.bind to 0.0.0.0:%d", bound.Port()))
	}
	return (&search{Detector: d, c: c, label: label, shared: shared, port: bound.Port()}).run(ctx)
}

// maxShared bounds how many containers may share a network in a row. Docker allows for
// one, and Podman's pods are one.
const maxShared = 4

// find returns the container whose network this process has, and whether it is not its
// own.
func (d *Detector) find(ctx context.Context) (engine.Container, bool, error) {
	c, _, err := d.environment.self(ctx, d.engine)
	switch {
	case errors.Is(err, ErrNotInContainer):
		return c, false, notApplicable("this process runs in no container")
	case errors.Is(err, engine.ErrNoEngine):
		return c, false, notApplicable("there is no engine to ask: %v", err)
	case err != nil && d.environment.inKubernetes():
		return c, false, notApplicable("this is a pod, whose ports Kubernetes knows: %v", err)
	case err != nil:
		return c, false, err
	}
	for shared := 0; ; shared++ {
		id, ok := strings.CutPrefix(c.HostConfig.NetworkMode, "container:")
		if !ok {
			return c, shared > 0, nil
		}
		if shared == maxShared {
			return c, true, notFound(fmt.Sprintf("more than %d containers share a network in a row", maxShared), "set node.advertise")
		}
		if c, err = d.engine.Inspect(ctx, id); err != nil {
			return c, true, fmt.Errorf("the network is that of another container: %w", err)
		}
	}
}

// notFoundError is what the engine's answer says. It wraps driver.ErrNotFound, which it
// does not say: its text is the reason of a step of the chain.
type notFoundError string

func (e notFoundError) Error() string { return string(e) }
func (notFoundError) Unwrap() error   { return driver.ErrNotFound }

func notFound(problem, how string) error { return hint.With(notFoundError(problem), how) }

func notApplicable(format string, args ...any) error {
	return fmt.Errorf("%w: %s", advertise.ErrNotApplicable, fmt.Sprintf(format, args...))
}

// compareAddrs puts IPv4 before IPv6, and the lowest first.
func compareAddrs(a, b netip.Addr) int {
	return cmp.Or(cmp.Compare(a.BitLen(), b.BitLen()), a.Compare(b))
}

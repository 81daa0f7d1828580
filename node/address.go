package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/registrar/advertise"
)

// addressGrace is how long another address must have been found before it counts: a
// single answer of DNS, or a route that comes and goes, is no move.
const addressGrace = 90 * time.Second

// addressTimeout bounds how long a start waits for the address, as for a registrar
// that has just been started too.
const addressTimeout = 30 * time.Second

// explain finds the address that others dial as a node of this configuration would
// that listens on bound, and says what each step has answered. It blocks as
// advertise.Resolve does.
func (c Config) explain(ctx context.Context, bound netip.AddrPort) advertise.Explanation {
	return advertise.Explain(ctx, c.Advertise, bound, c.addressOptions())
}

// embeddedHint is for a program with a node inside that has not handed it the detector of
// container engines. The command always does.
const embeddedHint = "publish the port, let the program ask the container engine through its socket, which is mounted, by " +
	"node.Config{Detectors: []advertise.Detector{docker.NewDetector(docker.DetectorOptions{})}} of package registrar/docker; " +
	"or set the field Advertise to HOST:PORT or the variable " + advertise.EnvAddr + ", or RequireExternal to new(false) if all other nodes are in that network"

func (c Config) addressOptions() advertise.Options {
	o := c.advertise
	o.Detectors = slices.Clone(o.Detectors)
	// One list is for all nodes: what it says of this one goes before what an engine says.
	for _, r := range c.Registries {
		if r == nil {
			continue // which checkProviders reports
		}
		if l, ok := r.Driver().(driver.Locator); ok {
			o.Detectors = append(o.Detectors, listed{r.Name(), l})
		}
	}
	o.Detectors = append(o.Detectors, c.Detectors...)
	if !slices.ContainsFunc(o.Detectors, func(d advertise.Detector) bool { return d.Name() == "docker" }) {
		o.Hint = embeddedHint
	}
	o.AllowInternal = o.AllowInternal || c.RequireExternal != nil && !*c.RequireExternal
	if ip, err := netip.ParseAddr(c.HostIP); err == nil {
		o.HostIP = ip
	}
	return o
}

// findAddress works out the address that others dial, and how.
func (n *Node) findAddress(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, addressTimeout)
	defer cancel()
	found := n.cfg.explain(ctx, n.link.Addr())
	n.explained.Store(found)
	n.advertised = found.Address
	for _, step := range found.Steps {
		if step.Outcome == advertise.Failed && found.Err == nil {
			n.log.Info("address found by another step than one that failed",
				"step", step.Name, "reason", step.Reason, "addr", found.Addr, "source", found.Source)
		}
	}
	return found.Err
}

// followAddress ends the node when the address that others dial has become another
// one: the members know this instance by the old one, and memberlist knows no way to
// tell them. Started again, the node is a new instance at the new address.
func (n *Node) followAddress() {
	var moved *time.Timer
	stay := func() {
		if moved != nil {
			moved.Stop()
			moved = nil
		}
	}
	defer stay()
	o := n.cfg.addressOptions()
	o.Used, _ = n.explained.Load()
	o.Explained = n.explained.Store
	for found, err := range advertise.Watch(n.ctx, n.cfg.Advertise, n.link.Addr(), o) {
		stay()
		switch {
		case err != nil:
			n.alarms.Raise(addressUnknown, "", "addr", n.advertised.Addr, "error", err)
			continue
		case found.Addr == n.advertised.Addr:
			n.alarms.Clear(addressMoved, "")
		default:
			n.alarms.Raise(addressMoved, "", "addr", n.advertised.Addr, "found", found.Addr, "source", found.Source,
				"hint", "the node ends if that is so for "+n.cfg.addressGrace.String())
			moved = time.AfterFunc(n.cfg.addressGrace, func() {
				n.end(fmt.Errorf("%w: from %s to %s (%s)", ErrAddressChanged, n.advertised.Addr, found.Addr, found.Source))
			})
		}
		n.alarms.Clear(addressUnknown, "")
	}
}

// listed finds the address in the configuration of a provider.
type listed struct {
	provider string
	locator  driver.Locator
}

// Name implements advertise.Detector.
func (l listed) Name() string { return l.provider }

// Detect implements advertise.Detector.
func (l listed) Detect(ctx context.Context, bound netip.AddrPort) (advertise.Address, error) {
	at, err := l.locator.Locate(ctx, bound)
	switch {
	case errors.Is(err, driver.ErrNotFound):
		return advertise.Address{}, fmt.Errorf("%w: %s", advertise.ErrNotApplicable, strings.TrimPrefix(err.Error(), driver.ErrNotFound.Error()+": "))
	case err != nil:
		return advertise.Address{}, err
	}
	source := "listed by provider " + l.provider
	if at.Name != "" {
		source += " as " + at.Name
	}
	return advertise.Address{Addr: at.Addr.String(), Source: source, Name: at.Name}, nil
}

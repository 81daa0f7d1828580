package node

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/musterhq/muster/registrar/advertise"
)

// addressGrace is how long another address must have been found before it counts: a
// single answer of DNS, or a route that comes and goes, is no move.
const addressGrace = 90 * time.Second

// addressTimeout bounds how long a start waits for the address, as for a registrar
// that has just been started too.
const addressTimeout = 30 * time.Second

// Explain finds the address that others dial as a node of this configuration would
// that listens on bound, and says what each step has answered. It blocks as
// advertise.Resolve does.
func (c Config) Explain(ctx context.Context, bound netip.AddrPort) advertise.Explanation {
	return advertise.Explain(ctx, c.Advertise, bound, c.addressOptions())
}

func (c Config) addressOptions() advertise.Options {
	o := c.advertise
	o.Detectors = append(slices.Clone(o.Detectors), c.Detectors...)
	o.AllowInternal = o.AllowInternal || c.AllowInternal
	if ip, err := netip.ParseAddr(c.HostIP); err == nil {
		o.HostIP = ip
	}
	return o
}

// findAddress works out the address that others dial, and how.
func (n *Node) findAddress(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, addressTimeout)
	defer cancel()
	found := n.cfg.Explain(ctx, n.link.Addr())
	n.explained.Store(found)
	n.advertised = found.Address
	for _, step := range found.Steps {
		if step.Outcome == advertise.Failed && found.Err == nil {
			n.log.Warn("a way to find the address failed; another one has found it",
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
			n.log.Warn("address not found again; the last one stays", "addr", n.advertised.Addr, "err", err)
		case found.Addr != n.advertised.Addr:
			n.log.Warn("another address was found; the node ends if that stays so",
				"addr", n.advertised.Addr, "found", found.Addr, "source", found.Source, "after", n.cfg.addressGrace)
			moved = time.AfterFunc(n.cfg.addressGrace, func() {
				n.end(fmt.Errorf("%w: from %s to %s (%s)", ErrAddressChanged, n.advertised.Addr, found.Addr, found.Source))
			})
		}
	}
}

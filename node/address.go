package node

import (
	"fmt"
	"time"

	"github.com/musterhq/muster/registrar/advertise"
)

// addressGrace is how long another address must have been found before it counts: a
// single answer of DNS, or a route that comes and goes, is no move.
const addressGrace = 90 * time.Second

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
	for found, err := range advertise.Watch(n.ctx, n.cfg.Advertise, n.link.Addr(), n.cfg.advertise) {
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

package lookup

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/musterhq/muster/registrar/advertise"
)

// Detector returns the step "registry" of package advertise: it finds where the bound
// TCP port of this container is reached, and waits for as long as it may until the
// registrar has registered that. Ports and Protocol of l are of no account; without a
// Tag the step does not apply.
func Detector(l Lookup) advertise.Detector { return detector{l} }

type detector struct{ lookup Lookup }

func (d detector) Name() string { return "registry" }

func (d detector) Detect(ctx context.Context, bound netip.AddrPort) (advertise.Address, error) {
	l := d.lookup
	if l.Tag == "" {
		return advertise.Address{}, fmt.Errorf("%w: detect.registry.tag is not set", advertise.ErrNotApplicable)
	}
	l.Ports, l.Protocol = []uint16{bound.Port()}, "tcp"
	found, err := l.Me(ctx)
	var missing *notFound
	if errors.As(err, &missing) && missing.answered {
		return advertise.Address{}, fmt.Errorf("%w; run a registrar on this host, and give a container that has a HEALTHCHECK the label SERVICE_%d_PUBLISH_NOT_READY=true: without, it is not registered before it is well",
			err, bound.Port())
	}
	if err != nil {
		return advertise.Address{}, err
	}
	ids := []string{found[0].ID}
	for _, m := range found[1:] {
		if m.Addr != found[0].Addr {
			ids = append(ids, m.ID)
		}
	}
	if len(ids) > 1 {
		return advertise.Address{}, fmt.Errorf("%w %q: %s; give each container one of its own", ErrAmbiguous, l.Tag, strings.Join(ids, ", "))
	}
	return advertise.Address{Addr: found[0].Addr, Source: "entry " + found[0].ID + " of service " + found[0].Service}, nil
}

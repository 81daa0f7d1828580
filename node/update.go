package node

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node/internal/membership"
	"github.com/musterhq/muster/registrar"
)

// Details are what a node says of itself that may change while it runs.
type Details struct {
	// Tags, Meta, AppAddrs and Version are those of Config.
	Tags     []string
	Meta     map[string]string
	AppAddrs map[string]string
	Version  string
}

func (d Details) clone() Details {
	return Details{slices.Clone(d.Tags), maps.Clone(d.Meta), maps.Clone(d.AppAddrs), d.Version}
}

// detailed are the details of a node as they are now.
type detailed struct {
	mu      sync.Mutex
	details Details
}

func (c Config) details() Details {
	return Details{c.Tags, c.Meta, c.AppAddrs, c.Version}.clone()
}

// Update changes what the node says of itself: in the views of all members, and in its
// registration with every provider, also when that has to be made again. change is given a copy
// of what is said now, to change in place; it is called once, before Update returns, and must not
// call Update. Updates take their turn.
//
// It returns an error that names what is wrong, and then nothing has changed; or ErrStopped. It
// does not wait for the members or the providers: others see the new details within a second
// where these can be reached. An update that changes nothing costs nothing.
func (n *Node) Update(change func(*Details)) error {
	n.detailed.mu.Lock()
	defer n.detailed.mu.Unlock()
	last := n.detailed.details
	next := last.clone()
	change(&next)
	next = next.clone() // what change has kept is its own
	if err := n.checkDetails(next); err != nil {
		return err
	}
	switch {
	case n.ctx.Err() != nil || n.isDraining():
		return ErrStopped
	case n.instance(next).SameAs(n.instance(last)):
		return nil
	}
	voter := ""
	for _, m := range n.members.View().Members {
		if m.Self {
			voter = m.Voter
		}
	}
	if err := n.members.UpdateDetails(n.gossiped(next, voter)); err != nil {
		return fmt.Errorf("node: update: %w", err)
	}
	n.detailed.details = next
	var errs []error
	for _, p := range n.providers {
		if err := p.registrar.Set(n.instance(next)); err != nil {
			errs = append(errs, fmt.Errorf("provider %s: %w", p.registry.Name(), err))
		}
	}
	n.notify()
	return errors.Join(errs...)
}

// checkDetails returns what is wrong with d.
func (n *Node) checkDetails(d Details) error {
	var errs []error
	invalid := func(key, value, problem, hint string) {
		errs = append(errs, &driver.ConfigError{Key: key, Value: value, Problem: problem, Hint: hint})
	}
	for i, tag := range d.Tags {
		if tag == "" {
			invalid(fmt.Sprintf("node.tags[%d]", i), "", "an empty tag", "write it or take it out")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.AppAddrs)) {
		addr, key := d.AppAddrs[name], "node.app_addrs."+name
		if addr == "" {
			invalid(key, "", "missing", "write the address that clients dial, as 10.0.0.5:8080")
		} else if host, _, err := net.SplitHostPort(addr); err == nil {
			if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
				invalid(key, addr, "nobody can dial it", "name an address of this host, as 10.0.0.5:8080")
			}
		}
	}
	return errors.Join(append(errs, registrar.Validate(n.instance(d)))...)
}

// instance is the registration of the node.
func (n *Node) instance(d Details) discovery.Instance {
	return discovery.Instance{
		Service:    n.cfg.Cluster,
		NodeID:     n.cfg.NodeID,
		InstanceID: n.instanceID,
		Addr:       n.advertised.Addr,
		Zone:       n.cfg.Zone,
		Tags:       d.Tags,
		Meta:       d.Meta,
		AppAddrs:   d.AppAddrs,
		Version:    d.Version,
	}
}

// gossiped is what the members learn of this node, as the voter that it is.
func (n *Node) gossiped(d Details, voter string) membership.Details {
	return membership.Details{
		Zone:     n.cfg.Zone,
		Tags:     d.Tags,
		Meta:     d.Meta,
		AppAddrs: d.AppAddrs,
		Version:  d.Version,
		Voter:    voter,

		Authorities: n.authorityNames(),
	}
}

// announceDetails has the members learn which voter this node is.
func (n *Node) announceDetails(voter string) error {
	n.detailed.mu.Lock()
	defer n.detailed.mu.Unlock()
	return n.members.UpdateDetails(n.gossiped(n.detailed.details, voter))
}

package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node/mastership"
	"github.com/musterhq/muster/registrar"
)

// provider is one registry in use, and what keeps the node registered with it.
type provider struct {
	registry  *discovery.Registry
	grants    bool // mastership, alone or together with another
	registrar *registrar.Registrar
}

// checkProviders reports what is wrong with the registries and their authority.
func (c Config) checkProviders() error {
	if c.Registry != nil && len(c.Registries) > 0 {
		return &driver.ConfigError{Key: "provider", Value: c.Registry.Name(), Problem: "handed in beside Registries; put all registries there"}
	}
	registries := c.registries()
	if len(registries) == 0 || slices.Contains(registries, nil) {
		return &driver.ConfigError{Key: "provider", Problem: "missing; open a registry with a provider and hand it in"}
	}
	return CheckAuthority(c.Mastership.Authority, names(registries))
}

func (c Config) registries() []*discovery.Registry {
	if c.Registry != nil {
		return []*discovery.Registry{c.Registry}
	}
	return c.Registries
}

// CheckAuthority reports whether authority, as of Mastership.Authority, says which
// of the providers grants mastership. Its errors are *driver.ConfigError values.
func CheckAuthority(authority, providers []string) error {
	invalid := func(key string, value []string, problem string) error {
		return &driver.ConfigError{Key: key, Value: strings.Join(value, ","), Problem: problem}
	}
	known := slices.Sorted(slices.Values(providers))
	if len(slices.Compact(known)) < len(providers) {
		return invalid("provider", providers, "two of them have one name; give each its own")
	}
	choice := strings.Join(known, " or ")
	twice := len(authority) == 2 && authority[0] == authority[1]
	switch {
	case len(authority) == 0 && len(providers) > 1:
		return invalid("mastership.authority", authority,
			"missing: with several providers it names the one that grants mastership; write "+choice)
	case len(authority) > 2:
		return invalid("mastership.authority", authority,
			"more than two; write the one that grants mastership, or two while authority moves from one to the other")
	case twice:
		return invalid("mastership.authority", authority, "named twice; write it once")
	}
	for _, name := range authority {
		if !slices.Contains(providers, name) {
			problem := "no such provider is configured; write " + choice
			if len(providers) == 1 {
				problem += " or leave it out"
			}
			return invalid("mastership.authority", authority, problem)
		}
	}
	return nil
}

// providers returns the registries as they are used: the authority's first, then the
// others, each by name, so that all nodes have one order whatever the order of their
// configuration.
func (c Config) providers() []*provider {
	var providers []*provider
	for _, r := range c.registries() {
		grants := len(c.Mastership.Authority) == 0 || slices.Contains(c.Mastership.Authority, r.Name())
		providers = append(providers, &provider{registry: r, grants: grants})
	}
	slices.SortFunc(providers, func(a, b *provider) int {
		if a.grants != b.grants {
			if a.grants {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.registry.Name(), b.registry.Name())
	})
	return providers
}

func names(registries []*discovery.Registry) []string {
	var names []string
	for _, r := range registries {
		names = append(names, r.Name())
	}
	return names
}

func (n *Node) registries() []*discovery.Registry {
	var registries []*discovery.Registry
	for _, p := range n.providers {
		registries = append(registries, p.registry)
	}
	return registries
}

// openAuthority opens what grants mastership: the authority of one provider, or that
// of two which must both grant.
func (n *Node) openAuthority(ctx context.Context, self driver.Holder) error {
	var opened []mastership.Named
	for _, p := range n.providers {
		if !p.grants {
			continue
		}
		a, err := p.registry.OpenAuthority(ctx, driver.AuthorityOptions{
			Cluster: n.cfg.Cluster,
			Self:    self,
			Voter:   n.cfg.Voter,
			Aliases: []string{n.advertised.Name},
			TTL:     n.cfg.Mastership.TTL,
			DataDir: n.cfg.DataDir,
			Network: n.link,
			Logger:  n.log,
		})
		switch {
		case err == nil:
		case !errors.Is(err, driver.ErrUnsupported):
			return err
		case len(n.cfg.Mastership.Authority) > 0:
			return &driver.ConfigError{Key: "mastership.authority", Value: p.registry.Name(),
				Problem: fmt.Sprintf("it grants no mastership (%v); write one that does", err)}
		default: // nobody has asked for mastership
			a = noAuthority{reason: err}
		}
		opened = append(opened, mastership.Named{Name: p.registry.Name(), Authority: a})
		n.authority = a // which is closed where the next cannot be opened
		if len(opened) == 2 {
			n.authority = mastership.Joint(opened[0], opened[1])
		}
	}
	return nil
}

// register publishes the node with every provider that can be published to. Each is
// kept in repair by itself.
func (n *Node) register() error {
	var errs []error
	for _, p := range n.providers {
		p.registrar = registrar.New(registrar.Config{Registry: p.registry, Logger: n.log})
		errs = append(errs, p.registrar.Set(discovery.Instance{
			Service:    n.cfg.Cluster,
			NodeID:     n.cfg.NodeID,
			InstanceID: n.instanceID,
			Addr:       n.advertised.Addr,
			Zone:       n.cfg.Zone,
			Tags:       n.cfg.Tags,
			Meta:       n.cfg.Meta,
			AppAddrs:   n.cfg.AppAddrs,
			Version:    n.cfg.Version,
		}))
	}
	return errors.Join(errs...)
}

// deregister takes the registrations away, from all providers at once: one that hangs
// costs no other its time.
func (n *Node) deregister(ctx context.Context) error {
	errs := make([]error, len(n.providers))
	var stopping sync.WaitGroup
	for i, p := range n.providers {
		if p.registrar != nil {
			stopping.Go(func() { errs[i] = p.registrar.Stop(ctx) })
		}
	}
	stopping.Wait()
	return errors.Join(errs...)
}

// discover hands the peers that the providers know to the membership layer, for
// ever. What a failing provider knew last goes on serving.
func (n *Node) discover() {
	query := discovery.Query{Service: n.cfg.Cluster}
	for snapshot := range discovery.NewUnion(n.registries()...).Watch(n.ctx, query) {
		n.peers.Store(snapshot)
		if snapshot.Known {
			var addrs []string
			for _, peer := range snapshot.Others(n.instanceID) {
				addrs = append(addrs, peer.Addr)
			}
			n.members.SetPeers(addrs)
		}
		n.wake()
	}
}

// joined returns what the node still waits for before it may be master, or nil: one
// provider is enough that knows its peers and lists it, where it lists any.
func (n *Node) joined() error {
	peers, _ := n.peers.Load()
	var missing error
	for i, p := range n.providers {
		err := p.joined(partOf(peers, i))
		switch {
		case err == nil:
			return nil
		case missing == nil:
			missing = err
		default:
			missing = fmt.Errorf("%w; %w", missing, err)
		}
	}
	return missing
}

// partOf is what provider i said last, in the order of Node.providers. It is zero
// before any has said a thing.
func partOf(peers discovery.UnionSnapshot, i int) discovery.Snapshot {
	if len(peers.Parts) == 0 {
		return discovery.Snapshot{}
	}
	return peers.Parts[i].Snapshot
}

func (p *provider) joined(peers discovery.Snapshot) error {
	name := p.registry.Name()
	if !peers.Known {
		if peers.Err == nil {
			return fmt.Errorf("waiting for the first answer of provider %s", name)
		}
		return fmt.Errorf("waiting for provider %s: %w", name, peers.Err)
	}
	registration := p.registrar.Status()
	if registration.Off != "" || registration.Registered() {
		return nil
	}
	return fmt.Errorf("waiting to be registered with provider %s: %w", name, cmp.Or(registration.Err(), errNoAnswer))
}

var errNoAnswer = errors.New("it has not answered yet")

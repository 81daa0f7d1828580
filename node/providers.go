package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/settings"
	"github.com/musterhq/muster/node/internal/authorities"
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
	if len(c.Registries) == 0 || slices.Contains(c.Registries, nil) {
		return &driver.ConfigError{Key: "provider", Problem: "missing", Hint: "open a registry with a provider and add it to Registries"}
	}
	return settings.CheckAuthority(c.Mastership.Authority, names(c.Registries))
}

// providers returns the registries as they are used: the authority's first, then the
// others, each by name, so that all nodes have one order whatever the order of their
// configuration.
func (c Config) providers() []*provider {
	var providers []*provider
	for _, r := range c.Registries {
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
	if n.cfg.Mastership.noneWanted() {
		n.authority = noAuthorityWanted()
		return nil
	}
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
				Problem: fmt.Sprintf("it grants no mastership (%v)", err), Hint: "write one that does"}
		default: // nobody has asked for mastership
			a = noAuthorityOf(p.registry.Name(), err)
		}
		n.authorities = append(n.authorities, authorities.Named{Name: p.registry.Name(), Authority: a})
		n.authority = a // which is closed where the next cannot be opened
		if len(n.authorities) == 2 {
			n.authority = authorities.RequireBoth(n.authorities[0], n.authorities[1])
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
		errs = append(errs, p.registrar.Set(n.instance(n.detailed.details)))
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

// discover hands the peers that the providers know to the membership layer, until the node
// ends. What a failing provider knew last goes on serving.
func (n *Node) discover() {
	query := discovery.Query{Service: n.cfg.Cluster}
	for snapshot := range discovery.NewUnion(n.registries()...).Watch(n.ctx, query) {
		n.peers.Store(snapshot)
		if peers, known := snapshot.Others(n.instanceID); known {
			var addrs []string
			for _, peer := range peers {
				addrs = append(addrs, peer.Addr)
			}
			n.members.SetPeers(addrs)
		}
		n.notify()
	}
}

// partOf is what provider i said last, in the order of Node.providers. It is zero
// before any has said a thing.
func partOf(peers discovery.UnionSnapshot, i int) discovery.Snapshot {
	if len(peers.Parts) == 0 {
		return discovery.Snapshot{}
	}
	return peers.Parts[i].Snapshot
}

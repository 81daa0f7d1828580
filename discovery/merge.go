package discovery

import (
	"fmt"
	"slices"

	"github.com/musterhq/muster/discovery/driver"
)

// merge makes the union of parts, which it keeps.
func merge(parts []Part) UnionSnapshot {
	u := UnionSnapshot{Parts: parts}
	for _, p := range parts {
		u.Known = u.Known || p.Known
		u.Skipped = append(u.Skipped, p.Skipped...)
		if p.At.After(u.At) {
			u.At = p.At
		}
		switch err := p.reason(); {
		case u.Err == nil:
			u.Err = err
		case err != nil:
			u.Err = fmt.Errorf("%w; %w", u.Err, err)
		}
	}
	u.Stale = u.Known && u.Err != nil
	if len(parts) == 1 {
		u.Revision = parts[0].Revision
	}
	if u.Known {
		u.instances, u.providers = mergeInstances(parts)
	}
	return u
}

// reason says why the part is not up to date, or nil if it is.
func (p Part) reason() error {
	if p.pending() {
		return fmt.Errorf("provider %s: %w: it has not answered yet", p.Provider, driver.ErrUnavailable)
	}
	return p.Err
}

// merged is one instance of a union, and the parts that list it.
type merged struct {
	Instance
	in []bool
}

// mergeInstances returns the instances of all parts, each once, sorted by key, and
// for each key the providers that list it.
func mergeInstances(parts []Part) (instances []Instance, providers map[string][]string) {
	var all []*merged
	byID := make(map[string]*merged)
	byAddr := make(map[string][]*merged)
	add := func(i Instance, part int) *merged {
		m := &merged{Instance: i, in: make([]bool, len(parts))}
		m.in[part] = true
		all = append(all, m)
		addr := driver.CanonicalAddr(i.Addr)
		byAddr[addr] = append(byAddr[addr], m)
		return m
	}
	for part, p := range parts {
		for _, i := range p.instances {
			if i.InstanceID == "" {
				continue
			}
			if m := byID[i.InstanceID]; m != nil {
				m.in[part] = true
			} else {
				byID[i.InstanceID] = add(i, part)
			}
		}
	}
	// Those that are known by their address alone come after all who say more.
	for part, p := range parts {
		for _, i := range p.instances {
			if i.InstanceID != "" {
				continue
			}
			same := byAddr[driver.CanonicalAddr(i.Addr)]
			for _, m := range same {
				m.in[part] = true
			}
			if len(same) == 0 {
				add(i, part)
			}
		}
	}
	instances = make([]Instance, 0, len(all))
	providers = make(map[string][]string, len(all))
	for _, m := range all {
		instances = append(instances, m.Instance)
		for part, listed := range m.in {
			if listed {
				providers[m.Key()] = append(providers[m.Key()], parts[part].Provider)
			}
		}
	}
	slices.SortFunc(instances, compare)
	return instances, providers
}

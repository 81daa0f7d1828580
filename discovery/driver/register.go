package driver

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// Provider makes drivers of one kind from configuration.
type Provider interface {
	// NewConfig returns a pointer to the provider's configuration struct with its
	// defaults. Fields carry yaml tags, whose names are the public keys; field
	// types may be those of this package.
	NewConfig() any

	// Check joins all that is wrong with config, which NewConfig returned and the caller filled
	// in, into one error of *ConfigError values. It may read files; it opens no client and dials
	// nobody. What it returns of the provider's drivers does not depend on config, and comes
	// beside an error, too.
	Check(config any) (Abilities, error)

	// Open returns a driver for config. It checks config as Check does, and does not wait for
	// the provider to be reachable.
	Open(config any) (Driver, error)
}

// Abilities are what a configuration must know of a provider's drivers before one is opened.
type Abilities struct {
	// Registers and Grants say that they are a Registrar and an Authorizer.
	Registers, Grants bool
	// ShortestTTL and LongestTTL are those of a TTLBounder, 0 if there are no bounds.
	ShortestTTL, LongestTTL time.Duration
}

// AbilitiesOf returns the abilities that d has by its type. d may be a nil pointer, if the
// TTLBounds of its type return the same for all.
func AbilitiesOf(d Driver) Abilities {
	var a Abilities
	_, a.Registers = d.(Registrar)
	_, a.Grants = d.(Authorizer)
	if bounder, ok := d.(TTLBounder); ok {
		a.ShortestTTL, a.LongestTTL = bounder.TTLBounds()
	}
	return a
}

var (
	mu        sync.RWMutex
	providers = make(map[string]Provider)
)

// Register makes a provider known by name, as a driver package does in its init
// function. It panics on a nil provider and on a name that is taken.
func Register(name string, p Provider) {
	mu.Lock()
	defer mu.Unlock()
	if p == nil {
		panic("driver: Register of a nil provider " + name)
	}
	if _, taken := providers[name]; taken {
		panic("driver: Register called twice for provider " + name)
	}
	providers[name] = p
}

// Lookup returns the provider registered under name. Its error names those that
// are registered and how one is added.
func Lookup(name string) (Provider, error) {
	mu.RLock()
	defer mu.RUnlock()
	if p, ok := providers[name]; ok {
		return p, nil
	}
	return nil, fmt.Errorf("%w: unknown provider %q (known: %v; is its package imported?)", ErrInvalid, name, names())
}

// Names returns the registered names, sorted.
func Names() []string {
	mu.RLock()
	defer mu.RUnlock()
	return names()
}

func names() []string {
	all := make([]string, 0, len(providers))
	for name := range providers {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

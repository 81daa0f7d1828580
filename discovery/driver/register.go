package driver

import (
	"fmt"
	"slices"
	"sync"
)

// Provider makes drivers of one kind from configuration.
type Provider interface {
	// NewConfig returns a pointer to the provider's configuration struct with its
	// defaults. Fields carry yaml tags, whose names are the public keys; field
	// types may be those of this package.
	NewConfig() any

	// Open returns a driver for config, which NewConfig returned and the caller
	// filled in. It checks config, joining all that is wrong into one error of
	// *ConfigError values, and does not wait for the provider to be reachable.
	Open(config any) (Driver, error)
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

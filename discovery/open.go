package discovery

import (
	"fmt"
	"reflect"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/decode"
)

// Open returns a registry over the provider that was registered under name. The
// config is either what the provider documents, a pointer to its configuration
// struct, or the decoded form of its YAML section, a map[string]any, which is
// decoded strictly; nil stands for the defaults. Open does not wait for the
// provider to be reachable.
//
// What is wrong with the configuration is returned as *ConfigError values, joined.
func Open(name string, config any, o Options) (*Registry, error) {
	p, err := driver.Lookup(name)
	if err != nil {
		return nil, err
	}
	switch section := config.(type) {
	case nil:
		config = p.NewConfig()
	case map[string]any:
		config = p.NewConfig()
		if err := decode.Section(config, section); err != nil {
			return nil, err
		}
	default:
		if want := p.NewConfig(); reflect.TypeOf(config) != reflect.TypeOf(want) {
			return nil, fmt.Errorf("%w: provider %s is configured by %T, not by %T", driver.ErrInvalid, name, want, config)
		}
	}
	d, err := p.Open(config)
	if err != nil {
		return nil, err
	}
	return New(name, d, o), nil
}

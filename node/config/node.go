package config

import (
	"fmt"
	"io"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/node"
)

// Logger returns a logger to w, as the section log asks for.
func (c *Config) Logger(w io.Writer) *slog.Logger {
	var level slog.Level
	// Load has checked the name. A Config made by hand has INFO for a wrong one.
	_ = level.UnmarshalText([]byte(c.Log.Level))
	o := &slog.HandlerOptions{Level: level}
	if c.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// provider returns the name of the one provider and its section.
func (c *Config) provider() (string, any, error) {
	names := slices.Sorted(maps.Keys(c.Provider))
	if len(names) != 1 {
		return "", nil, fmt.Errorf("one provider is to be configured, not %d: %s", len(names), strings.Join(names, ", "))
	}
	return names[0], c.Provider[names[0]], nil
}

// ProviderLabel names the provider and where it is, for messages: "etcd
// (endpoints http://127.0.0.1:2379)".
func (c *Config) ProviderLabel() string {
	name, section, err := c.provider()
	if err != nil {
		return "no provider"
	}
	label := "provider " + name
	v := reflect.Indirect(reflect.ValueOf(section))
	if c.schema == nil {
		return label // made by hand
	}
	root := c.schema.byKey["provider."+name]
	for _, key := range []string{"endpoints", "address", "peers", "file", "dns"} {
		e := root.child(key)
		if e == nil || e.section || e.secret() || e.in(v).IsZero() {
			continue
		}
		var parts []string
		switch field := e.in(v); field.Kind() {
		case reflect.Slice:
			for i := range field.Len() {
				parts = append(parts, hidePassword(fmt.Sprint(field.Index(i).Interface())))
			}
		default:
			parts = append(parts, hidePassword(fmt.Sprint(field.Interface())))
		}
		return label + " (" + key + " " + strings.Join(parts, ", ") + ")"
	}
	return label
}

// OpenRegistry opens the configured provider. It does not wait for the provider
// to be reachable. The caller closes the registry.
func (c *Config) OpenRegistry(o discovery.Options) (*discovery.Registry, error) {
	name, section, err := c.provider()
	if err != nil {
		return nil, err
	}
	return discovery.Open(name, section, o)
}

// NodeConfig opens the configured provider and returns what node.Start wants,
// and a function that closes the registry, to be called once the node has ended.
// The records of both go to logger; nil writes none.
func (c *Config) NodeConfig(logger *slog.Logger) (node.Config, func() error, error) {
	registry, err := c.OpenRegistry(discovery.Options{Logger: logger})
	if err != nil {
		return node.Config{}, nil, err
	}
	return node.Config{
		Cluster:   c.Cluster,
		NodeID:    c.Node.ID,
		Zone:      c.Node.Zone,
		Tags:      slices.Clone(c.Node.Tags),
		Meta:      maps.Clone(c.Node.Meta),
		AppAddrs:  maps.Clone(c.Node.AppAddrs),
		Bind:      c.Node.Bind,
		Advertise: c.Node.Advertise,
		Voter:     c.Node.Voter,
		DataDir:   c.Node.DataDir,
		Registry:  registry,
		Bootstrap: node.Bootstrap{
			Mode:   node.BootstrapMode(c.Bootstrap.Mode),
			Expect: c.Bootstrap.Expect,
		},
		Mastership: node.Mastership{
			Ineligible: !c.Mastership.Eligible,
			TTL:        c.Mastership.TTL,
		},
		TLS:    c.TLS,
		Logger: logger,
	}, registry.Close, nil
}

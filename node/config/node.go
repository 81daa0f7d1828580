package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/registrar/advertise"
	"github.com/musterhq/muster/registrar/lookup"
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

// authorities are the providers that grant mastership, as the configuration names
// them.
func (m Mastership) authorities() []string { return slices.Collect(items(m.Authority)) }

// Providers returns the names of the configured providers: those that grant
// mastership, then the others, each by name.
func (c *Config) Providers() []string {
	authorities := c.Mastership.authorities()
	rank := func(name string) int {
		if slices.Contains(authorities, name) {
			return 0
		}
		return 1
	}
	return slices.SortedFunc(maps.Keys(c.Provider), func(a, b string) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b))
	})
}

// ProviderLabel names a configured provider and where it is, for messages: "provider
// etcd (endpoints http://127.0.0.1:2379)".
func (c *Config) ProviderLabel(name string) string {
	section, ok := c.Provider[name]
	label := "provider " + name
	if !ok {
		return label
	}
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
				parts = append(parts, driver.RedactURL(fmt.Sprint(field.Index(i).Interface())))
			}
		default:
			parts = append(parts, driver.RedactURL(fmt.Sprint(field.Interface())))
		}
		return label + " (" + key + " " + strings.Join(parts, ", ") + ")"
	}
	return label
}

// Open opens the named providers, or all that are configured, as a union in the order
// of Providers. It does not wait for any of them to be reachable. The caller closes the
// union.
func (c *Config) Open(o discovery.Options, names ...string) (*discovery.Union, error) {
	var registries []*discovery.Registry
	for _, name := range c.Providers() {
		if len(names) > 0 && !slices.Contains(names, name) {
			continue
		}
		r, err := discovery.Open(name, c.Provider[name], o)
		if err != nil {
			return nil, errors.Join(err, discovery.NewUnion(registries...).Close())
		}
		registries = append(registries, r)
	}
	return discovery.NewUnion(registries...), nil
}

// NodeConfig opens the configured providers and returns what node.Start wants,
// and a function that closes the registries, to be called once the node has ended.
// The records of all go to logger; nil writes none. Its Detectors are at most the one
// of detect.registry: those that this package does not know go before it.
func (c *Config) NodeConfig(logger *slog.Logger) (node.Config, func() error, error) {
	o := discovery.Options{Logger: logger}
	union, err := c.Open(o)
	if err != nil {
		return node.Config{}, nil, err
	}
	closeAll := union.Close
	var detectors []advertise.Detector
	look, registry, ok, err := c.Lookup(o)
	if err != nil {
		return node.Config{}, nil, errors.Join(err, union.Close())
	}
	if ok {
		detectors = append(detectors, lookup.Detector(look))
		closeAll = func() error { return errors.Join(registry.Close(), union.Close()) }
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
		Detectors: detectors,
		HostIP:    c.Detect.HostIP,

		AllowInternal: !c.Detect.RequireExternal,

		Voter:      c.Node.Voter,
		DataDir:    c.Node.DataDir,
		Registries: union.Registries(),
		Bootstrap: node.Bootstrap{
			Mode:   node.BootstrapMode(c.Bootstrap.Mode),
			Expect: c.Bootstrap.Expect,
		},
		Mastership: node.Mastership{
			Ineligible: !c.Mastership.Eligible,
			Authority:  c.Mastership.authorities(),
			TTL:        c.Mastership.TTL,
		},
		TLS:    c.TLS,
		Logger: logger,
	}, closeAll, nil
}

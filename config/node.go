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
	"github.com/musterhq/muster/internal/decode"
)

// Logger returns a logger to w, as the section log asks for. Its level is that of the last
// SetLogLevel.
func (c *Config) Logger(w io.Writer) *slog.Logger {
	if c.level == nil {
		c.level = new(slog.LevelVar)
	}
	c.SetLogLevel(c.Log.Level)
	o := &slog.HandlerOptions{Level: c.level}
	if c.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// SetLogLevel changes the level of the logger: debug, info, warn or error. Load has checked
// the name; a wrong one is info.
func (c *Config) SetLogLevel(name string) {
	var level slog.Level
	_ = level.UnmarshalText([]byte(name))
	c.Log.Level = name
	c.level.Set(level)
}

// attrNodeID is on every line of an agent.
const attrNodeID = "node_id"

// NodeLogger returns what Logger does, for the lines of a program about the node that it
// runs: each says which one that is, as the node's own do. Nil stays nil.
func (c *Config) NodeLogger(logger *slog.Logger) *slog.Logger {
	if logger == nil {
		return nil
	}
	return logger.With(attrNodeID, c.Node.ID)
}

// Authorities are the providers that grant mastership, as the configuration names
// them.
func (m Mastership) Authorities() []string { return slices.Collect(decode.Items(m.Authority)) }

// Providers returns the names of the configured providers: those that grant
// mastership, then the others, each by name.
func (c *Config) Providers() []string {
	authorities := c.Mastership.Authorities()
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
				parts = append(parts, redactURL(fmt.Sprint(field.Index(i).Interface())))
			}
		default:
			parts = append(parts, redactURL(fmt.Sprint(field.Interface())))
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
			err = c.Locate(below("provider."+name, err))
			return nil, errors.Join(err, discovery.NewUnion(registries...).Close())
		}
		registries = append(registries, r)
	}
	return discovery.NewUnion(registries...), nil
}

// below puts the keys of configuration errors below that of their section.
func below(section string, err error) error {
	var errs []error
	for _, e := range joined(err) {
		var bad *driver.ConfigError
		if errors.As(e, &bad) {
			e = &driver.ConfigError{Key: join(section, bad.Key), Value: bad.Value, Problem: bad.Problem, Hint: bad.Hint}
		}
		errs = append(errs, e)
	}
	return errors.Join(errs...)
}

package config

import (
	"cmp"
	"fmt"
	"math"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node"
)

// Load reads the configuration from all sources and checks it. Its error joins
// one *Error for each thing that is wrong; then there is no Config.
//
// To check the section of a provider it opens the driver and closes it again,
// which waits for nothing.
func Load(o Options) (*Config, error) {
	s, err := newSchema()
	if err != nil {
		return nil, err
	}
	l := &loader{schema: s, env: newEnvironment(o.Env), purpose: o.Purpose}
	l.file = readFile(o.Path, s, &l.faults)
	l.layers.file = l.file.values
	l.layers.env = l.env.read(s, &l.faults)
	l.layers.flags = readFlags(o.Flags, s, &l.faults)
	return l.load()
}

// loader makes a Config of the layers.
type loader struct {
	schema *schema
	faults faults
	env    environment
	// purpose is ForNode or ForRegistrar from decode on.
	purpose Purpose
	file    *fileReader
	layers  struct{ file, env, flags layer }
	config  *Config
}

func (l *loader) load() (*Config, error) {
	if l.file.broken {
		return nil, l.faults.join()
	}
	configured := l.configured()
	if err := l.decode(configured); err != nil {
		return nil, err
	}
	for key, list := range l.file.lists {
		l.schema.byKey[key].in(reflect.ValueOf(l.config).Elem()).Set(reflect.ValueOf(list))
	}
	l.purpose = l.purpose.resolve(l)
	l.fill()
	l.validate()
	l.validateProviders(configured)
	if err := l.faults.join(); err != nil {
		return nil, err
	}
	l.config.schema, l.config.purpose = l.schema, l.purpose
	l.config.sources = make(map[string]Source)
	for _, e := range l.schema.values {
		l.config.sources[e.key] = l.explicit(e)
	}
	for key := range l.file.lists {
		for at, line := range l.file.lines {
			if at == key || strings.HasPrefix(at, key+"[") {
				l.config.sources[at] = Source{File: l.file.name, Line: line}
			}
		}
	}
	return l.config, nil
}

// decode lets viper lay the layers over one another and fill the structs. Each
// value has its type already and each key is known, so that an error here is a
// fault of this package or of a provider's struct and not the user's.
func (l *loader) decode(configured []*entry) error {
	// The delimiter keeps dots in keys from being taken for levels.
	const delimiter = "::"
	v := viper.NewWithOptions(viper.KeyDelimiter(delimiter))
	for _, e := range l.schema.values {
		if e.provider == "" {
			v.SetDefault(strings.ReplaceAll(e.key, ".", delimiter), e.def.Interface())
		}
	}
	for _, values := range []layer{l.layers.file, l.layers.env, l.layers.flags} {
		if err := v.MergeConfigMap(values.nested()); err != nil {
			return fmt.Errorf("merging the configuration: %w", err)
		}
	}
	strict := func(c *mapstructure.DecoderConfig) {
		c.TagName = "yaml"
		c.SquashTagOption = "inline"
		c.ErrorUnused = true
		c.WeaklyTypedInput = false
	}
	l.config = defaults()
	if err := v.UnmarshalExact(l.config, strict); err != nil {
		return fmt.Errorf("decoding the configuration: %w", err)
	}
	raw := l.config.Provider
	l.config.Provider = make(map[string]any, len(configured))
	for _, section := range configured {
		p, err := driver.Lookup(section.name)
		if err != nil {
			return err
		}
		values, _ := raw[strings.ToLower(section.name)].(map[string]any)
		target, err := driver.DecodeConfig(p, values)
		if err != nil {
			return fmt.Errorf("decoding %s: %w", section.key, err)
		}
		l.config.Provider[section.name] = target
	}
	return nil
}

// nested turns a.b: v into a: {b: v}. Maps of the user's own keep their type, by
// which viper leaves the case of their keys alone.
func (values layer) nested() map[string]any {
	root := make(map[string]any)
	for key, value := range values {
		path := strings.Split(key, ".")
		m := root
		for _, name := range path[:len(path)-1] {
			next, ok := m[name].(map[string]any)
			if !ok {
				next = make(map[string]any)
				m[name] = next
			}
			m = next
		}
		m[path[len(path)-1]] = value
	}
	return root
}

// configured returns the sections of the providers of which any source says
// anything, be it that the section is there and empty.
func (l *loader) configured() []*entry {
	var sections []*entry
	for _, section := range l.schema.byKey["provider"].children {
		_, named := l.file.lines[section.key]
		for _, values := range []layer{l.layers.file, l.layers.env, l.layers.flags} {
			named = named || values.has(section.key)
		}
		if named || l.faults.has(section.key) {
			sections = append(sections, section)
		}
	}
	// As a reader meets them: the file from the top, then the rest.
	line := func(section *entry) int {
		if n, ok := l.file.lines[section.key]; ok {
			return n
		}
		return math.MaxInt
	}
	slices.SortStableFunc(sections, func(a, b *entry) int { return cmp.Compare(line(a), line(b)) })
	return sections
}

func (values layer) has(section string) bool {
	for key := range values {
		if strings.HasPrefix(key, section+".") {
			return true
		}
	}
	return false
}

// explicit is where the value of e was given, or the zero Source for a default.
func (l *loader) explicit(e *entry) Source {
	if _, ok := l.layers.flags[e.key]; ok {
		return Source{Flag: e.flag()}
	}
	if _, ok := l.layers.env[e.key]; ok {
		return Source{Env: e.env()}
	}
	if _, ok := l.layers.file[e.key]; ok {
		return Source{File: l.file.name, Line: l.file.lines[e.key]}
	}
	return Source{}
}

// source is where an error of key is to be mended: where it, or the list or the
// section that it is part of, was given, else the file.
func (l *loader) source(key string) Source {
	for part := key; part != ""; part = part[:max(0, strings.LastIndexAny(part, ".["))] {
		e, ok := l.schema.byKey[part]
		if !ok || e.section {
			continue
		}
		if src := l.explicit(e); src.Flag != "" || src.Env != "" {
			return src
		}
		break
	}
	return l.file.source(key)
}

// fill sets the defaults that depend on the host.
func (l *loader) fill() {
	c := l.config
	l.fillRegistrar()
	if c.Node.ID == "" && !l.faults.has("node.id") {
		name, err := os.Hostname()
		if err != nil {
			l.bad("node.id", "", "missing, and the host name is not known: "+err.Error()+"; name the node")
		}
		c.Node.ID = name
	}
	if c.Node.DataDir == "" && c.Cluster != "" && c.Node.ID != "" {
		// Where this user has no place for state, it stays empty: only a node that
		// is started needs one, and says so.
		c.Node.DataDir, _ = node.DefaultDataDir(c.Cluster, c.Node.ID)
	}
}

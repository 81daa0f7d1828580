package config

import (
	"cmp"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/viper"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/settings"
)

// Load reads the configuration from all sources and checks it. Its error joins
// one *Error for each thing that is wrong; then there is no Config. It opens no client:
// each provider checks its own section.
func Load(o Options) (*Config, error) {
	s, err := newSchema()
	if err != nil {
		return nil, err
	}
	l := &loader{schema: s, env: newEnvironment(o.Env), hostname: o.Hostname, purpose: o.Purpose}
	l.file = readFile(o.Path, s, &l.problems)
	l.layers.file = l.file.values
	l.layers.env = l.env.read(s, &l.problems)
	l.layers.flags = readFlags(o.Flags, s, &l.problems)
	return l.load()
}

// loader makes a Config of the layers.
type loader struct {
	schema   *schema
	problems problems
	env      environment
	// hostname is Options.Hostname.
	hostname func() (string, error)
	// purpose is ForNode or ForRegistrar from decode on.
	purpose Purpose
	file    *fileReader
	layers  struct{ file, env, flags layer }
	config  *Config
}

func (l *loader) load() (*Config, error) {
	if l.file.broken {
		return nil, l.problems.join()
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
	if err := l.problems.join(); err != nil {
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

// decode lets viper lay the layers over one another and fills the structs. Each value has its
// type already and each key is known.
func (l *loader) decode(configured []*entry) error {
	// The delimiter keeps dots in keys from being read as levels.
	const delimiter = "::"
	v := viper.NewWithOptions(viper.KeyDelimiter(delimiter))
	for _, values := range []layer{l.layers.file, l.layers.env, l.layers.flags} {
		if err := v.MergeConfigMap(values.nested()); err != nil {
			return fmt.Errorf("merging the configuration: %w", err)
		}
	}
	given := func(e *entry) any { return v.Get(strings.ReplaceAll(e.key, ".", delimiter)) }
	l.config = defaults()
	fill(l.schema.root, reflect.ValueOf(l.config).Elem(), given)
	l.config.Provider = make(map[string]any, len(configured))
	for _, section := range configured {
		p, err := driver.Lookup(section.name)
		if err != nil {
			return err
		}
		target := p.NewConfig()
		fill(section, reflect.ValueOf(target).Elem(), given)
		l.config.Provider[section.name] = target
	}
	return nil
}

// fill sets the values of the section e, in the struct v, to those that are given.
func fill(e *entry, v reflect.Value, given func(*entry) any) {
	for _, child := range e.children {
		switch {
		case child.key == "provider", child.item != nil: // neither is part of the struct
		case child.section:
			fill(child, child.in(v), given)
		default:
			if value := given(child); value != nil {
				child.in(v).Set(reflect.ValueOf(value))
			}
		}
	}
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
// anything, including an empty section.
func (l *loader) configured() []*entry {
	var sections []*entry
	for _, section := range l.schema.byKey["provider"].children {
		_, named := l.file.lines[section.key]
		for _, values := range []layer{l.layers.file, l.layers.env, l.layers.flags} {
			named = named || values.has(section.key)
		}
		if named || l.problems.has(section.key) {
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

// source is where an error of key is to be fixed: where it, or the list or the
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

// host returns the name of this host.
func (l *loader) host() (string, error) {
	if l.hostname != nil {
		return l.hostname()
	}
	return os.Hostname()
}

// fill sets the defaults that depend on the host.
func (l *loader) fill() {
	c := l.config
	l.fillRegistrar()
	if c.Node.ID == "" && !l.problems.has("node.id") {
		switch name, err := l.host(); {
		case l.purpose == ForRegistrar: // to which it means nothing
			if isName(name) {
				c.Node.ID = name
			}
		case err != nil:
			l.badDefault("node.id", "", "missing, and the host name is not known: "+err.Error(), "name the node")
		default:
			c.Node.ID = name
			if !isName(name) {
				l.badDefault("node.id", name, "the host name, which is no name for a node", "set node.id to one of letters, digits, '-', '_' and '.'")
			}
		}
	}
	if state := os.Getenv("XDG_STATE_HOME"); l.purpose == ForNode && c.Node.DataDir == "" && state != "" && !filepath.IsAbs(state) {
		l.badDefault("node.data_dir", "", fmt.Sprintf("cannot be defaulted: XDG_STATE_HOME is %q, which is no absolute path", state), "write one, or set node.data_dir")
	}
	if c.Node.DataDir == "" && c.Cluster != "" && c.Node.ID != "" {
		// Where this user has no place for state, it stays empty: only a node that
		// is started needs one, and says so.
		c.Node.DataDir, _ = settings.DefaultDataDir(c.Cluster, c.Node.ID)
	}
}

// LoadHTTP reads the section http of the file at path, and no more of it, with the defaults
// of that section and without the environment: it is for a client of the agent or registrar
// that the file configures, which need not be able to run one. The function says where a
// key comes from. The error joins one *Error for each thing that is wrong.
func LoadHTTP(path string) (HTTP, func(key string) Source, error) {
	s, err := newSchema()
	if err != nil {
		return HTTP{}, nil, err
	}
	l := &loader{schema: s}
	l.file = readFile(path, s, &l.problems)
	l.problems = slices.DeleteFunc(l.problems, func(e *Error) bool { return e.Key != "" && e.Key != "http" && !strings.HasPrefix(e.Key, "http.") })
	if l.file.broken {
		return HTTP{}, nil, l.problems.join()
	}
	l.layers.file = layer{}
	for key, value := range l.file.values {
		if strings.HasPrefix(key, "http.") {
			l.layers.file[key] = value
		}
	}
	if err := l.decode(nil); err != nil {
		return HTTP{}, nil, err
	}
	l.validateHTTP(l.config.HTTP)
	source := func(key string) Source {
		if e, ok := s.byKey[key]; ok {
			return l.explicit(e)
		}
		return Source{}
	}
	return l.config.HTTP, source, l.problems.join()
}

package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/decode"
	"github.com/musterhq/muster/secret"
)

// schema is the tree of all keys: those of Config and those of the providers
// that the program imports.
type schema struct {
	root *entry
	// values are the entries that hold a value, in the order of their sections.
	values []*entry
	// lists are the entries that hold a list of sections. Such a list stands in the file
	// alone: neither a variable nor a flag has a form for it.
	lists []*entry
	byKey map[string]*entry
	// all are the values and, in place of each list, the values of its items.
	all []*entry
}

// entry is one key. It is a section where it has children, and holds a value
// where not.
type entry struct {
	name     string // "zone"
	key      string // "node.zone"
	typ      reflect.Type
	index    []int         // of the field in its struct
	def      reflect.Value // the default of a value
	usage    string
	children []*entry
	section  bool
	// item is what each item of a list of sections is like. Its key, and those below it,
	// have [] in place of the index.
	item *entry
	// inItem is set for an item and all below.
	inItem bool
	// provider is set for the section of a provider and all below.
	provider string
}

// knownSchema is the schema of the providers that the program imports, for those that only read
// it: every command adds its flags, whichever is run.
var knownSchema = sync.OnceValues(newSchema)

// newSchema reads the tags of Config and of the configuration structs of the
// registered providers.
func newSchema() (*schema, error) {
	s := &schema{byKey: make(map[string]*entry)}
	s.root = &entry{section: true}
	if err := s.addFields(s.root, reflect.ValueOf(defaults()).Elem(), nil); err != nil {
		return nil, err
	}
	return s, nil
}

// addFields adds the fields of the struct v to parent. The struct is found at
// index in the one that parent stands for: it differs from nil if it is inline.
func (s *schema) addFields(parent *entry, v reflect.Value, index []int) error {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		name, inline := decode.Key(field)
		at := append(slices.Clone(index), i)
		if inline {
			if err := s.addFields(parent, v.Field(i), at); err != nil {
				return err
			}
			continue
		}
		if name == "" {
			continue
		}
		e := &entry{
			name:     name,
			key:      join(parent.key, name),
			typ:      field.Type,
			index:    at,
			usage:    field.Tag.Get("usage"),
			provider: parent.provider,
			inItem:   parent.inItem,
		}
		parent.children = append(parent.children, e)
		if !e.inItem {
			s.byKey[e.key] = e
		}
		switch {
		case e.key == "provider":
			e.section = true
			if err := s.addProviders(e); err != nil {
				return err
			}
		case decode.Supported(field.Type):
			e.def = v.Field(i)
			s.all = append(s.all, e)
			if !e.inItem {
				s.values = append(s.values, e)
			}
		case field.Type.Kind() == reflect.Slice && field.Type.Elem().Kind() == reflect.Struct && !e.inItem && e.provider == "":
			e.item = &entry{key: e.key + "[]", typ: field.Type.Elem(), section: true, inItem: true}
			s.lists = append(s.lists, e)
			if err := s.addFields(e.item, reflect.Zero(e.item.typ), nil); err != nil {
				return err
			}
		case field.Type.Kind() == reflect.Struct:
			e.section = true
			if err := s.addFields(e, v.Field(i), nil); err != nil {
				return err
			}
		default:
			return fmt.Errorf("configuration struct %s: field %s has type %s, for which there is no form in YAML and environment",
				v.Type(), field.Name, field.Type)
		}
	}
	return nil
}

func (s *schema) addProviders(parent *entry) error {
	for _, name := range driver.Names() {
		p, err := driver.Lookup(name)
		if err != nil {
			return err
		}
		v := reflect.ValueOf(p.NewConfig())
		if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
			return fmt.Errorf("provider %s: NewConfig returned %s, want a pointer to a struct", name, v.Type())
		}
		e := &entry{name: name, key: join(parent.key, name), typ: v.Elem().Type(), section: true, provider: name}
		parent.children = append(parent.children, e)
		s.byKey[e.key] = e
		if err := s.addFields(e, v.Elem(), nil); err != nil {
			return fmt.Errorf("provider %s: %w", name, err)
		}
	}
	return nil
}

func (e *entry) child(name string) *entry {
	for _, c := range e.children {
		if c.name == name {
			return c
		}
	}
	return nil
}

// at returns a copy of e, and of all below it, for another key.
func (e *entry) at(key string) *entry {
	c := *e
	c.key, c.children = key, nil
	for _, child := range e.children {
		c.children = append(c.children, child.at(join(key, child.name)))
	}
	return &c
}

// env is the variable that stands for the key.
func (e *entry) env() string { return envPrefix + strings.ToUpper(strings.ReplaceAll(e.key, ".", "_")) }

const envPrefix = "MUSTER_"

// flag is the name of the flag that stands for the key.
func (e *entry) flag() string { return dashes.Replace(e.key) }

var dashes = strings.NewReplacer(".", "-", "_", "-")

// secret reports whether values of the key must not be shown.
func (e *entry) secret() bool {
	switch e.typ.Kind() {
	case reflect.Slice, reflect.Map:
		return e.typ.Elem() == secretType
	default:
		return e.typ == secretType
	}
}

// holdsSecret reports whether e is a secret, or a section or a list with one somewhere in it: what
// stands in its place may be meant to be that one.
func (e *entry) holdsSecret() bool {
	if e.item != nil {
		return e.item.holdsSecret()
	}
	if e.section {
		return slices.ContainsFunc(e.children, (*entry).holdsSecret)
	}
	return e.secret()
}

func join(parent, name string) string {
	if parent == "" {
		return name
	}
	return parent + "." + name
}

var (
	secretType   = reflect.TypeFor[secret.String]()
	durationType = reflect.TypeFor[time.Duration]()
)

// typeName is what the documentation calls t.
func typeName(t reflect.Type) string {
	switch {
	case t == secretType:
		return "secret"
	case t == durationType:
		return "duration"
	}
	switch t.Kind() {
	case reflect.Slice:
		return "list"
	case reflect.Map:
		return "map"
	case reflect.Bool:
		return "bool"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "int"
	case reflect.Float32, reflect.Float64:
		return "number"
	default:
		return "string"
	}
}

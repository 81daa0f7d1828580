package config

import (
	"encoding"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/musterhq/muster/internal/decode"
)

// WriteYAML writes the effective configuration, with its defaults filled in and
// its secrets redacted, and behind each value where it comes from. Keys without a
// value are left out of provider sections only where the provider is not
// configured.
func (c *Config) WriteYAML(w io.Writer) error {
	root := c.section(c.schema.root, reflect.ValueOf(c).Elem())
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(root); err != nil {
		return fmt.Errorf("writing the configuration: %w", err)
	}
	return enc.Close()
}

func (c *Config) section(e *entry, v reflect.Value) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for _, child := range e.children {
		var value *yaml.Node
		switch {
		case e.key == "provider":
			section, ok := c.Provider[child.name]
			if !ok {
				continue
			}
			value = c.section(child, reflect.ValueOf(section).Elem())
		case child.key == "provider":
			value = c.section(child, reflect.Value{})
		case child.section:
			value = c.section(child, child.in(v))
		case child.item != nil:
			value = c.list(child, child.in(v))
		default:
			value = valueNode(child, child.in(v))
			value.LineComment = c.sources[child.key].String()
		}
		n.Content = append(n.Content, textNode(child.name), value)
	}
	return n
}

// list writes of each section what is set.
func (c *Config) list(e *entry, v reflect.Value) *yaml.Node {
	n := &yaml.Node{Kind: yaml.SequenceNode}
	if v.Len() == 0 {
		n.Style, n.LineComment = yaml.FlowStyle, c.sources[e.key].String()
	}
	for i := range v.Len() {
		n.Content = append(n.Content, c.item(e.item.at(fmt.Sprintf("%s[%d]", e.key, i)), v.Index(i)))
	}
	return n
}

func (c *Config) item(e *entry, v reflect.Value) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for _, child := range e.children {
		field := child.in(v)
		if field.IsZero() {
			continue
		}
		var value *yaml.Node
		if child.section {
			value = c.item(child, field)
		} else {
			value = valueNode(child, field)
			value.LineComment = c.sources[child.key].String()
		}
		n.Content = append(n.Content, textNode(child.name), value)
	}
	return n
}

// in finds the field of the struct v that the entry stands for.
func (e *entry) in(v reflect.Value) reflect.Value { return v.FieldByIndex(e.index) }

func valueNode(e *entry, v reflect.Value) *yaml.Node {
	switch {
	case decode.IsScalar(e.typ):
		return scalarNode(v)
	case e.typ.Kind() == reflect.Slice:
		n := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
		for i := range v.Len() {
			n.Content = append(n.Content, scalarNode(v.Index(i)))
		}
		return n
	default:
		n := &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle}
		byName := make(map[string]reflect.Value, v.Len())
		for key, value := range v.Seq2() {
			byName[key.String()] = value
		}
		for _, name := range slices.Sorted(maps.Keys(byName)) {
			n.Content = append(n.Content, textNode(name), scalarNode(byName[name]))
		}
		return n
	}
}

func scalarNode(v reflect.Value) *yaml.Node {
	if v.Type() == durationType {
		return textNode(fmt.Sprint(v.Interface()))
	}
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		text, err := m.MarshalText()
		if err != nil {
			return textNode(err.Error())
		}
		return textNode(string(text))
	}
	if v.Kind() == reflect.String {
		return textNode(redactURL(v.String()))
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Value: fmt.Sprint(v.Interface())}
}

func textNode(s string) *yaml.Node {
	n := new(yaml.Node)
	n.SetString(s)
	return n
}

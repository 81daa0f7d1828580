package config

import (
	"maps"
	"reflect"
	"slices"
)

// Changed returns the keys whose values differ between c and next, sorted. A provider that
// only one of the two has is named as its section, provider.NAME.
func (c *Config) Changed(next *Config) []string {
	a, b := c.values(), next.values()
	var keys []string
	for key, value := range a {
		if other, ok := b[key]; !ok || !same(value, other) {
			keys = append(keys, key)
		}
	}
	for key := range b {
		if _, ok := a[key]; !ok {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// same reports whether two values say the same: a list or map that is empty says as much as
// one that is missing.
func same(a, b any) bool {
	x, y := reflect.ValueOf(a), reflect.ValueOf(b)
	if k := x.Kind(); (k == reflect.Slice || k == reflect.Map) && x.Len() == 0 && y.Len() == 0 {
		return true
	}
	return reflect.DeepEqual(a, b)
}

// values returns the value of each key, secrets as they are.
func (c *Config) values() map[string]any {
	values := make(map[string]any)
	var add func(e *entry, v reflect.Value)
	add = func(e *entry, v reflect.Value) {
		for _, child := range e.children {
			switch {
			case child.key == "provider":
				for _, name := range slices.Collect(maps.Keys(c.Provider)) {
					section := child.child(name)
					values[section.key] = true
					add(section, reflect.ValueOf(c.Provider[name]).Elem())
				}
			case child.section:
				add(child, child.in(v))
			default:
				values[child.key] = child.in(v).Interface()
			}
		}
	}
	add(c.schema.root, reflect.ValueOf(c).Elem())
	return values
}

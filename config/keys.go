package config

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/musterhq/muster/internal/decode"
)

// Key describes one key of the configuration.
type Key struct {
	// Name is the path of the key: "node.zone". In a list of sections it has [] in place
	// of the index: "services[].name".
	Name string
	// Type is string, int, number, bool, duration, secret, list or map.
	Type string
	// Default is as in YAML, and empty if there is none. Those of node.id and
	// node.data_dir depend on the host and are not listed.
	Default string
	// Env is the variable that stands for the key, empty within a list of sections.
	Env string
	// Flag is the flag that stands for the key, empty for a secret and within a list of
	// sections.
	Flag string
}

// Keys returns all keys, with those of the providers that the program imports, in
// the order of the file.
func Keys() ([]Key, error) {
	s, err := knownSchema()
	if err != nil {
		return nil, err
	}
	keys := make([]Key, len(s.all))
	for i, e := range s.all {
		keys[i] = Key{Name: e.key, Type: typeName(e.typ), Default: e.defaultText(), Env: e.env(), Flag: e.flag()}
		if e.inItem {
			keys[i].Env = ""
		}
		if e.inItem || e.secret() {
			keys[i].Flag = ""
		}
	}
	return keys, nil
}

func (e *entry) defaultText() string {
	switch {
	case e.typ == durationType, e.typ.Kind() == reflect.Bool:
		return fmt.Sprint(e.def.Interface())
	case e.def.IsZero():
		if decode.IsScalar(e.typ) && e.typ.Kind() != reflect.String {
			return fmt.Sprint(e.def.Interface())
		}
		return ""
	case e.typ.Kind() == reflect.Slice:
		var items []string
		for i := range e.def.Len() {
			items = append(items, fmt.Sprint(e.def.Index(i).Interface()))
		}
		return "[" + strings.Join(items, ", ") + "]"
	default:
		return fmt.Sprint(e.def.Interface())
	}
}

// Package routestest compares an API with the page that describes it.
package routestest

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/musterhq/muster/internal/routes"
)

var listedRoute = regexp.MustCompile("(?m)^\\| `((?:GET|POST) /[^`]*)`")

// CheckPage fails t unless the section of a Markdown file lists the routes of table, and no
// others, and names each JSON field of the answers. The section is that below a heading of
// the second level.
func CheckPage(t *testing.T, path, section string, table routes.Table, answers ...any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, page, found := strings.Cut(string(text), "\n## "+section+"\n")
	if !found {
		t.Fatalf("%s has no section %q", path, section)
	}
	page, _, _ = strings.Cut(page, "\n## ")
	listed := make(map[string]bool)
	for _, m := range listedRoute.FindAllStringSubmatch(page, -1) {
		listed[m[1]] = true
	}
	for _, r := range table {
		route := r.Method + " " + r.Path
		if !listed[route] {
			t.Errorf("%s: %s is not listed", section, route)
		}
		delete(listed, route)
	}
	for route := range listed {
		t.Errorf("%s: there is no %s", section, route)
	}
	for _, answer := range answers {
		for _, field := range jsonFields(reflect.TypeOf(answer)) {
			if !strings.Contains(page, "`"+field+"`") && !strings.Contains(page, `"`+field+`"`) {
				t.Errorf("%s: the field %q of %T is not described", section, field, answer)
			}
		}
	}
}

// jsonFields are the names of all fields of a type, and of the types within it.
func jsonFields(t reflect.Type) []string {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return jsonFields(t.Elem())
	case reflect.Struct:
	default:
		return nil
	}
	var names []string
	for i := range t.NumField() {
		f := t.Field(i)
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" {
			names = append(names, name)
		}
		names = append(names, jsonFields(f.Type)...)
	}
	return names
}

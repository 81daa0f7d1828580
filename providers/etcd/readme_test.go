package etcd

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/musterhq/muster/internal/decode"
)

// The configuration in the README is read, and the table there names each key that
// exists and no other.
func TestReadmeNamesTheConfiguration(t *testing.T) {
	b, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(b), "```yaml\n")
	block, table, _ := strings.Cut(block, "```\n")
	var file struct {
		Provider struct {
			Etcd map[string]any `yaml:"etcd"`
		} `yaml:"provider"`
	}
	if err := yaml.Unmarshal([]byte(block), &file); err != nil {
		t.Fatal(err)
	}
	if err := decode.Section(Provider{}.NewConfig(), file.Provider.Etcd); err != nil {
		t.Errorf("the example is not valid: %v", err)
	}

	exist := make(map[string]bool)
	fields(reflect.TypeFor[Config](), "", exist)
	table, _, _ = strings.Cut(table, "\n\nA session")
	named := make(map[string]bool)
	for row := range strings.Lines(table) {
		if !strings.HasPrefix(row, "| `") {
			continue
		}
		first := strings.Split(row, "|")[1]
		for _, m := range regexp.MustCompile("`([a-z_.]+)`").FindAllStringSubmatch(first, -1) {
			named[m[1]] = true
		}
	}
	if !reflect.DeepEqual(exist, named) {
		t.Errorf("keys that exist:\n%v\nkeys in the README:\n%v", exist, named)
	}
}

func fields(t reflect.Type, path string, into map[string]bool) {
	for f := range t.Fields() {
		key := path + f.Tag.Get("yaml")
		if f.Type.Kind() == reflect.Struct {
			fields(f.Type, key+".", into)
			continue
		}
		into[key] = true
	}
}

package decode_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/decode"
	"github.com/musterhq/muster/secret"
)

type testConfig struct {
	Endpoints []string      `yaml:"endpoints"`
	Prefix    string        `yaml:"prefix"`
	Password  secret.String `yaml:"password"`
	Timeout   time.Duration `yaml:"timeout"`
	Retries   int           `yaml:"retries"`
	Strict    bool          `yaml:"strict"`
	Weight    float64       `yaml:"weight"`
	Small     uint8         `yaml:"small"`
	Addr      netip.Addr    `yaml:"addr"`
	Untagged  string
	TLS       testFiles `yaml:"tls"`
	Servers   []struct {
		Name string `yaml:"name"`
	} `yaml:"servers"`
	Labels map[string]string `yaml:"labels"`
}

type testFiles struct {
	CAFile  string `yaml:"ca_file"`
	KeyFile string `yaml:"key_file"`
}

// section decodes a section into the defaults.
func section(section map[string]any) (*testConfig, error) {
	config := &testConfig{Prefix: "/muster", Retries: 3}
	return config, decode.Section(config, section)
}

func TestSection(t *testing.T) {
	got, err := section(map[string]any{
		"endpoints": []any{"http://a:1", "http://b:1"},
		"password":  "open sesame",
		"timeout":   "1.5s",
		"strict":    "true",
		"retries":   "7",
		"addr":      "10.0.0.5",
		"untagged":  "x",
		"tls":       map[string]any{"ca_file": "/ca.pem"},
		"servers":   []any{map[string]any{"name": "one"}},
		"labels":    map[string]any{"any": "thing"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := &testConfig{
		Endpoints: []string{"http://a:1", "http://b:1"},
		Prefix:    "/muster",
		Password:  "open sesame",
		Timeout:   1500 * time.Millisecond,
		Retries:   7,
		Strict:    true,
		Addr:      netip.MustParseAddr("10.0.0.5"),
		Untagged:  "x",
		TLS:       testFiles{CAFile: "/ca.pem"},
		Servers: []struct {
			Name string `yaml:"name"`
		}{{"one"}},
		Labels: map[string]string{"any": "thing"},
	}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Fatalf("decoded (-want +got):\n%s", d)
	}
}

func TestSectionSplitsAListFromTheEnvironment(t *testing.T) {
	got, err := section(map[string]any{"endpoints": "http://a:1, http://b:1,"})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"http://a:1", "http://b:1"}, got.Endpoints); d != "" {
		t.Fatal(d)
	}
}

func TestSectionTakesValuesOfOtherTypes(t *testing.T) {
	got, err := section(map[string]any{
		"retries": 7.0, "weight": 1, "timeout": 0, "labels": "a=1,b=2", "password": nil,
		"endpoints": []string{"http://a:1"}, "small": uint64(200),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := &testConfig{
		Prefix: "/muster", Retries: 7, Weight: 1, Small: 200,
		Labels: map[string]string{"a": "1", "b": "2"}, Endpoints: []string{"http://a:1"},
	}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Errorf("decoded (-want +got):\n%s", d)
	}
	for _, small := range []any{-1, 256, 1 << 20, -0.5, int64(-1)} {
		if _, err := section(map[string]any{"small": small}); !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("a number of 8 bits is %v: %v", small, err)
		}
	}
}

func TestSectionDefaults(t *testing.T) {
	got, err := section(nil)
	if err != nil || got.Prefix != "/muster" {
		t.Fatalf("Section(nil) = %+v, %v, want the defaults", got, err)
	}
}

// wrong is an error of a key; problem is a part of its Problem.
type wrong struct{ key, value, problem string }

func TestSectionErrors(t *testing.T) {
	for _, tc := range []struct {
		section map[string]any
		want    []wrong
	}{
		{map[string]any{"endpoint": "http://a:1"}, []wrong{{"endpoint", "http://a:1", "unknown key; known are addr, endpoints, labels"}}},
		{map[string]any{"passwrd": "hunter2"}, []wrong{{"passwrd", "[redacted]", "unknown key"}}},
		{map[string]any{"Prefix": "/x"}, []wrong{{"Prefix", "/x", "unknown key"}}},
		{map[string]any{"tls": map[string]any{"ca": "x"}}, []wrong{{"tls.ca", "x", "ca_file"}}},
		{map[string]any{"servers": []any{map[string]any{"nam": "x"}}}, []wrong{{"servers[0].nam", "x", "unknown key"}}},
		{map[string]any{"timeout": "soon"}, []wrong{{"timeout", "soon", "not a duration"}}},
		{map[string]any{"timeout": 5}, []wrong{{"timeout", "5", "with its unit"}}},
		{map[string]any{"retries": "many"}, []wrong{{"retries", "many", "not a whole number"}}},
		{map[string]any{"retries": []any{1}}, []wrong{{"retries", "(a list)", "want a number"}}},
		{map[string]any{"strict": "perhaps"}, []wrong{{"strict", "perhaps", "write true or false"}}},
		{map[string]any{"prefix": 5}, []wrong{{"prefix", "5", "want a string"}}},
		{map[string]any{"password": 12345}, []wrong{{"password", "[redacted]", "want a string"}}},
		{map[string]any{"endpoints": 5}, []wrong{{"endpoints", "5", "want a list"}}},
		{map[string]any{"addr": "nowhere"}, []wrong{{"addr", "nowhere", "nowhere"}}},
		{map[string]any{"tls": "yes"}, []wrong{{"tls", "yes", "map"}}},
		{map[string]any{"retries": 1.5}, []wrong{{"retries", "1.5", "want a number"}}},
		{map[string]any{"strict": 1}, []wrong{{"strict", "1", "want true or false"}}},
		{map[string]any{"labels": []any{"a"}}, []wrong{{"labels", "(a list)", "want a map of keys"}}},
		{map[string]any{"labels": map[string]any{"a": 1}}, []wrong{{"labels.a", "1", "want a string"}}},
		{map[string]any{"endpoints": []any{"a", 1}}, []wrong{{"endpoints[1]", "1", "want a string"}}},
		{map[string]any{"prefix": 5, "timeout": "x", "huh": 1, "tls": map[string]any{"key_file": 1}}, []wrong{
			{"huh", "1", "unknown key"}, {"prefix", "5", "string"}, {"timeout", "x", "duration"}, {"tls.key_file", "1", "string"},
		}},
	} {
		_, err := section(tc.section)
		if !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("%v: error %v, want driver.ErrInvalid", tc.section, err)
			continue
		}
		var got []*driver.ConfigError
		for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
			var c *driver.ConfigError
			if !errors.As(e, &c) {
				t.Errorf("%v: %v is no driver.ConfigError", tc.section, e)
				continue
			}
			got = append(got, c)
		}
		if len(got) != len(tc.want) {
			t.Errorf("%v: got %v, want %d errors", tc.section, err, len(tc.want))
			continue
		}
		for i, want := range tc.want {
			if got[i].Key != want.key || got[i].Value != want.value || !strings.Contains(got[i].Error(), want.problem) || strings.Contains(got[i].Error(), "\n") {
				t.Errorf("%v: got %v, want %v", tc.section, got[i], want)
			}
		}
	}
}

package driver

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type testConfig struct {
	Endpoints []string      `yaml:"endpoints"`
	Prefix    string        `yaml:"prefix"`
	Password  Secret        `yaml:"password"`
	Timeout   time.Duration `yaml:"timeout"`
	Retries   int           `yaml:"retries"`
	Strict    bool          `yaml:"strict"`
	Addr      netip.Addr    `yaml:"addr"`
	Untagged  string
	TLS       TLS `yaml:"tls"`
	Servers   []struct {
		Name string `yaml:"name"`
	} `yaml:"servers"`
	Labels map[string]string `yaml:"labels"`
}

type testProvider struct{}

func (testProvider) NewConfig() any           { return &testConfig{Prefix: "/muster", Retries: 3} }
func (testProvider) Open(any) (Driver, error) { return nil, nil }

func TestDecodeConfig(t *testing.T) {
	got, err := DecodeConfig(testProvider{}, map[string]any{
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
		TLS:       TLS{CAFile: "/ca.pem"},
		Servers: []struct {
			Name string `yaml:"name"`
		}{{"one"}},
		Labels: map[string]string{"any": "thing"},
	}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Fatalf("decoded (-want +got):\n%s", d)
	}
}

func TestDecodeConfigSplitsAListFromTheEnvironment(t *testing.T) {
	got, err := DecodeConfig(testProvider{}, map[string]any{"endpoints": "http://a:1, http://b:1,"})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"http://a:1", "http://b:1"}, got.(*testConfig).Endpoints); d != "" {
		t.Fatal(d)
	}
}

func TestDecodeConfigDefaults(t *testing.T) {
	got, err := DecodeConfig(testProvider{}, nil)
	if err != nil || got.(*testConfig).Prefix != "/muster" {
		t.Fatalf("DecodeConfig(nil) = %+v, %v, want the defaults", got, err)
	}
}

func TestDecodeConfigErrors(t *testing.T) {
	for _, tc := range []struct {
		section map[string]any
		want    []ConfigError // Problem is a part of it
	}{
		{map[string]any{"endpoint": "http://a:1"}, []ConfigError{{"endpoint", "http://a:1", "unknown key; known are addr, endpoints, labels"}}},
		{map[string]any{"passwrd": "hunter2"}, []ConfigError{{"passwrd", "[redacted]", "unknown key"}}},
		{map[string]any{"Prefix": "/x"}, []ConfigError{{"Prefix", "/x", "unknown key"}}},
		{map[string]any{"tls": map[string]any{"ca": "x"}}, []ConfigError{{"tls.ca", "x", "ca_file"}}},
		{map[string]any{"servers": []any{map[string]any{"nam": "x"}}}, []ConfigError{{"servers[0].nam", "x", "unknown key"}}},
		{map[string]any{"timeout": "soon"}, []ConfigError{{"timeout", "soon", "want a duration"}}},
		{map[string]any{"timeout": 5}, []ConfigError{{"timeout", "5", "with its unit"}}},
		{map[string]any{"retries": "many"}, []ConfigError{{"retries", "many", "want a whole number"}}},
		{map[string]any{"retries": []any{1}}, []ConfigError{{"retries", "(a list)", "want a number"}}},
		{map[string]any{"strict": "perhaps"}, []ConfigError{{"strict", "perhaps", "true or false"}}},
		{map[string]any{"prefix": 5}, []ConfigError{{"prefix", "5", "want a string"}}},
		{map[string]any{"password": 12345}, []ConfigError{{"password", "[redacted]", "want a string"}}},
		{map[string]any{"endpoints": 5}, []ConfigError{{"endpoints", "5", "want a list"}}},
		{map[string]any{"addr": "nowhere"}, []ConfigError{{"addr", "nowhere", "nowhere"}}},
		{map[string]any{"tls": "yes"}, []ConfigError{{"tls", "yes", "map"}}},
		{map[string]any{"prefix": 5, "timeout": "x", "huh": 1, "tls": map[string]any{"key_file": 1}}, []ConfigError{
			{"huh", "1", "unknown key"}, {"prefix", "5", "string"}, {"timeout", "x", "duration"}, {"tls.key_file", "1", "string"},
		}},
	} {
		_, err := DecodeConfig(testProvider{}, tc.section)
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%v: error %v, want ErrInvalid", tc.section, err)
			continue
		}
		var got []*ConfigError
		for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
			var c *ConfigError
			if !errors.As(e, &c) {
				t.Errorf("%v: %v is no ConfigError", tc.section, e)
				continue
			}
			got = append(got, c)
		}
		if len(got) != len(tc.want) {
			t.Errorf("%v: got %v, want %d errors", tc.section, err, len(tc.want))
			continue
		}
		for i, want := range tc.want {
			if got[i].Key != want.Key || got[i].Value != want.Value || !strings.Contains(got[i].Problem, want.Problem) || strings.Contains(got[i].Error(), "\n") {
				t.Errorf("%v: got %v, want %v", tc.section, got[i], &want)
			}
		}
	}
}

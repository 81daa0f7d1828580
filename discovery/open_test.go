package discovery_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/memory"
)

type memoryConfig struct {
	Prefix string `yaml:"prefix"`
}

type memoryProvider struct{ opened *memoryConfig }

func (*memoryProvider) NewConfig() any { return &memoryConfig{Prefix: "/muster"} }

func (p *memoryProvider) Check(config any) (driver.Abilities, error) {
	can := driver.AbilitiesOf(memory.New().Driver())
	if config.(*memoryConfig).Prefix == "" {
		return can, &driver.ConfigError{Key: "prefix", Problem: "must not be empty"}
	}
	return can, nil
}

func (p *memoryProvider) Open(config any) (driver.Driver, error) {
	if _, err := p.Check(config); err != nil {
		return nil, err
	}
	p.opened = config.(*memoryConfig)
	return memory.New().Driver(), nil
}

var openTest memoryProvider

func init() { driver.Register("open-test", &openTest) }

func TestOpen(t *testing.T) {
	p := &openTest
	for _, tc := range []struct {
		config any
		want   string // prefix, or a part of the error
	}{
		{nil, "/muster"},
		{map[string]any{}, "/muster"},
		{map[string]any{"prefix": "/x"}, "/x"},
		{&memoryConfig{Prefix: "/y"}, "/y"},
		{map[string]any{"prefix": ""}, "error: prefix"},
		{map[string]any{"prefixes": "/x"}, "error: prefixes"},
		{memoryConfig{}, "error: provider open-test is configured by *discovery_test.memoryConfig, not by discovery_test.memoryConfig"},
		{"prefix=/x", "error: provider open-test is configured by"},
	} {
		r, err := discovery.Open("open-test", tc.config, discovery.Options{})
		if part, bad := strings.CutPrefix(tc.want, "error: "); bad {
			if !errors.Is(err, driver.ErrInvalid) || !strings.Contains(err.Error(), part) {
				t.Errorf("Open(%v): error %v, want %q", tc.config, err, part)
			}
			continue
		}
		if err != nil {
			t.Errorf("Open(%v): %v", tc.config, err)
			continue
		}
		if p.opened.Prefix != tc.want || r.Name() != "open-test" || r.Driver() == nil {
			t.Errorf("Open(%v) opened with %+v", tc.config, p.opened)
		}
		r.Close()
	}
	if _, err := discovery.Open("etdc", nil, discovery.Options{}); err == nil || !strings.Contains(err.Error(), "open-test") {
		t.Errorf("Open of an unknown provider: %v, want the known ones", err)
	}
}

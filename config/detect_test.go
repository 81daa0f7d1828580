package config

import (
	"testing"

	"github.com/musterhq/muster/discovery"
)

func TestLookup(t *testing.T) {
	c := mustLoad(t, least+"detect: {registry: {tag: c1}}\n", nil)
	l, registry, ok, err := c.Lookup(discovery.Options{})
	if err != nil || !ok {
		t.Fatalf("%v, %v", ok, err)
	}
	defer registry.Close()
	if l.Service != "orders" || l.Tag != "c1" || registry.Name() != "stub" {
		t.Errorf("service %q, tag %q, provider %s", l.Service, l.Tag, registry.Name())
	}
	c = mustLoad(t, least, nil)
	if _, _, ok, err := c.Lookup(discovery.Options{}); ok || err != nil {
		t.Errorf("without a tag: %v, %v", ok, err)
	}
}

// A node that waits for its address may be what its check waits for.
func TestLookupFindsTheUnhealthy(t *testing.T) {
	type section struct {
		Address string `yaml:"address"`
		Healthy bool   `yaml:"healthy_only"`
	}
	own := &section{Address: "a", Healthy: true}
	if got := withUnhealthy(own).(*section); *got != (section{Address: "a"}) || !own.Healthy {
		t.Errorf("%+v of %+v", got, own)
	}
	if got := withUnhealthy(section{Healthy: true}); got != any(section{Healthy: true}) {
		t.Errorf("%+v", got)
	}
}

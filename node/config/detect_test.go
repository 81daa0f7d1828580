package config

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/registrar/advertise"
)

func detectorNames(detectors []advertise.Detector) (names []string) {
	for _, d := range detectors {
		names = append(names, d.Name())
	}
	return names
}

func TestNodeConfigDetects(t *testing.T) {
	c := mustLoad(t, least+"detect: {host_ip: 10.0.0.5, require_external: false, registry: {tag: c1, service: app, must_have_tags: [dev]}}\n", nil)
	got, closeAll, err := c.NodeConfig(nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"registry"}, detectorNames(got.Detectors)); diff != "" || got.HostIP != "10.0.0.5" || !got.AllowInternal {
		t.Errorf("detectors %s host_ip %q, internal %v", diff, got.HostIP, got.AllowInternal)
	}
	if err := closeAll(); err != nil {
		t.Error(err)
	}
	c = mustLoad(t, least, nil)
	if got, closeAll, err = c.NodeConfig(nil); err != nil || len(got.Detectors) > 0 || got.AllowInternal {
		t.Errorf("by default: %v, %v, internal %v", err, got.Detectors, got.AllowInternal)
	}
	if err := closeAll(); err != nil {
		t.Error(err)
	}
}

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

// Whoever waits for its address may be what its check waits for.
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

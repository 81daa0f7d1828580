package main

import (
	"testing"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/consul"
	"github.com/musterhq/muster/providers/etcd"
	"github.com/musterhq/muster/providers/static"
)

// What a provider says of its drivers before one is opened is what they can do.
func TestCheckKnowsWhatDriversCan(t *testing.T) {
	configs := map[string]any{
		"consul": &consul.Config{},
		"etcd":   &etcd.Config{Endpoints: []string{"http://127.0.0.1:1"}},
		"static": &static.Config{Peers: []string{"127.0.0.1:1"}},
	}
	for name := range configs {
		p, err := driver.Lookup(name)
		if err != nil {
			t.Fatal(err)
		}
		can, err := p.Check(configs[name])
		if err != nil {
			t.Errorf("%s: Check returned %v", name, err)
			continue
		}
		d, err := p.Open(configs[name])
		if err != nil {
			t.Errorf("%s: Open returned %v", name, err)
			continue
		}
		if want := driver.AbilitiesOf(d); can != want || !can.Grants {
			t.Errorf("%s: Check returned %+v, and the driver can %+v", name, can, want)
		}
		if err := d.Close(); err != nil {
			t.Errorf("%s: Close returned %v", name, err)
		}
		if _, err := p.Check(42); err == nil {
			t.Errorf("%s: a configuration of another type passed", name)
		}
	}
}

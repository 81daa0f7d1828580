package etcd

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/internal/format"
)

// layout is how registrations are kept in etcd: in Muster's own way, or as records of
// another system.
type layout interface {
	// Prefix returns what the keys of the registrations of service start with.
	Prefix(service string) string
	// Root returns what the keys of all registrations start with.
	Root() string
	// Service returns the service whose registration has a key, and false for
	// another key.
	Service(key string) (string, bool)
	// Encode returns the key and the value of a registration.
	Encode(i driver.Instance) (key, value string, err error)
	// Decode reads a registration of service.
	Decode(service, key string, value []byte) (driver.Instance, error)
}

// The values of Config.Format.
const (
	formatMuster      = "muster"
	formatHazelcast   = "hazelcast"
	formatRegistrator = "registrator"
	formatSkyDNS      = "skydns"
)

// newLayout returns the layout of a configuration with its defaults.
func newLayout(c Config) (layout, error) {
	switch c.Format {
	case formatHazelcast:
		return format.Hazelcast(c.Prefix + "/"), nil
	case formatRegistrator:
		host, err := os.Hostname()
		if err != nil {
			return nil, &driver.ConfigError{Key: "format", Value: c.Format, Problem: "wants the name of this host in its ids, which is not known: " + err.Error()}
		}
		return format.Registrator(c.Prefix+"/", host), nil
	case formatSkyDNS:
		return format.SkyDNS(c.Prefix+"/", c.Domain), nil
	}
	return musterLayout{newKeys(c.Prefix)}, nil
}

// musterLayout is Muster's own: all of an instance, in JSON.
type musterLayout struct{ keys keys }

func (l musterLayout) Prefix(service string) string { return l.keys.service(service) }

func (l musterLayout) Root() string { return l.keys.services() }

func (l musterLayout) Service(key string) (string, bool) {
	end := strings.LastIndexByte(key, '/')
	return segment(l.Root(), key[:max(0, end)])
}

func (l musterLayout) Encode(i driver.Instance) (key, value string, err error) {
	b, err := json.Marshal(i)
	if err != nil {
		return "", "", fmt.Errorf("%w: %w", driver.ErrInvalid, err)
	}
	return l.keys.instance(i.Service, i.Key()), string(b), nil
}

// Decode allows that service and instance id are left out of the value, as by a
// person who writes one by hand: the key says them too.
func (l musterLayout) Decode(service, key string, value []byte) (driver.Instance, error) {
	id, ok := segment(l.Prefix(service), key)
	if !ok {
		return driver.Instance{}, fmt.Errorf("%w: the key does not end in one escaped instance id", driver.ErrInvalid)
	}
	var i driver.Instance
	if err := json.Unmarshal(value, &i); err != nil {
		return driver.Instance{}, fmt.Errorf("%w: %w", driver.ErrInvalid, err)
	}
	if i.Service == "" {
		i.Service = service
	}
	if i.InstanceID == "" && i.Addr != id {
		i.InstanceID = id
	}
	switch {
	case i.Service != service:
		return driver.Instance{}, fmt.Errorf("%w: the value is of service %q", driver.ErrInvalid, i.Service)
	case i.Key() != id:
		return driver.Instance{}, fmt.Errorf("%w: the value is of instance %q", driver.ErrInvalid, i.Key())
	}
	return i, i.Validate()
}

// written is the layout of what a session with a TTL writes.
func written(l layout, ttl time.Duration) layout {
	if kv, ok := l.(format.KV); ok {
		return kv.WithTTL(ttl)
	}
	return l
}

// RecordKey returns the key of i where it follows from less than service and id, as in other
// systems' records. In Muster's own layout each has a key of its own.
func (d *Driver) RecordKey(i driver.Instance) string {
	if kv, ok := d.layout.(format.KV); ok {
		return kv.RecordKey(i)
	}
	return ""
}

// Review says which readers of another system's records do not find i. Muster's find all.
func (d *Driver) Review(i driver.Instance) error {
	if kv, ok := d.layout.(format.KV); ok {
		return kv.Review(i)
	}
	return nil
}

// Normalize returns what another system's record keeps of i. Muster's own keeps all.
func (d *Driver) Normalize(i driver.Instance) driver.Instance {
	if kv, ok := d.layout.(format.KV); ok {
		return kv.Normalize(i)
	}
	return i
}

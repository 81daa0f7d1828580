package consul

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/consul/internal/registration"
	"github.com/musterhq/muster/providers/internal/format"
)

// The values of Config.Format. The first three are services of the catalog, which
// differ in their IDs alone; the others are keys in the KV store.
const (
	formatMuster        = "muster"
	formatHazelcast     = "hazelcast"
	formatRegistrator   = "registrator"
	formatRegistratorKV = "registrator-kv"
	formatSkyDNS        = "skydns"
)

// checkFormat returns c with the defaults of how and where registrations are kept.
func (c Config) checkFormat(bad func(key, value, problem, hint string)) Config {
	c.Format = cmp.Or(c.Format, formatMuster)
	inKV := false
	switch c.Format {
	case formatMuster, formatHazelcast, formatRegistrator:
		c.Prefix = cmp.Or(c.Prefix, DefaultPrefix)
		c.AuthorityPrefix = cmp.Or(c.AuthorityPrefix, c.Prefix)
	case formatRegistratorKV:
		inKV = true
		if c.Prefix == "" {
			bad("prefix", "", "missing", "format "+c.Format+" wants the path of registrator's URI, such as services")
		}
	case formatSkyDNS:
		inKV = true
		c.Prefix = cmp.Or(c.Prefix, "skydns")
		c.Domain = cmp.Or(c.Domain, DefaultDomain)
		if !format.IsDomain(c.Domain) {
			bad("domain", c.Domain, "is no DNS domain in lower case", "write one such as "+DefaultDomain)
		}
	default:
		bad("format", c.Format, "unknown", "write "+strings.Join([]string{formatMuster, formatHazelcast, formatRegistrator, formatRegistratorKV}, ", ")+" or "+formatSkyDNS)
	}
	c.AuthorityPrefix = cmp.Or(c.AuthorityPrefix, DefaultPrefix)
	if c.Domain != "" && c.Format != formatSkyDNS {
		bad("domain", c.Domain, "is for format "+formatSkyDNS+" alone", "take it out")
	}
	if inKV && c.Check.check().Enabled() {
		bad("check", c.Check.Name, "is of services, and format "+c.Format+" keeps registrations in the KV store", "take it out")
	}
	for key, path := range map[string]string{"prefix": c.Prefix, "authority_prefix": c.AuthorityPrefix} {
		if strings.HasPrefix(path, "/") || strings.HasSuffix(path, "/") {
			bad(key, path, "must have no slash at its ends, such as "+DefaultPrefix, "")
		}
	}
	return c
}

// The values of Config.Record.
const (
	recordMeta  = "meta"
	recordCheck = "check"
)

// checkRecord returns c with the default of where the rest of an instance is kept.
func (c Config) checkRecord(bad func(key, value, problem, hint string)) Config {
	inAgent := c.Mode == Agent && c.Format != formatRegistratorKV && c.Format != formatSkyDNS
	switch c.Record {
	case "":
		c.Record = recordMeta
		if inAgent && c.Format == formatRegistrator {
			c.Record = recordCheck
		}
	case recordMeta:
	case recordCheck:
		if !inAgent {
			bad("record", c.Record, "is the check that an agent keeps, and mode catalog has none, nor have keys", "take it out")
		}
	default:
		bad("record", c.Record, "want meta or check", "")
	}
	return c
}

// setFormat makes d write and read registrations as its configuration says.
func (d *Driver) setFormat() error {
	c := d.config
	var err error
	if d.host, err = c.host(); err != nil {
		return err
	}
	switch c.Format {
	case formatRegistratorKV:
		kv := format.Registrator(c.Prefix+"/", d.host)
		d.kv = &kv
	case formatSkyDNS:
		kv := format.SkyDNS(c.Prefix+"/", c.Domain)
		d.kv = &kv
	}
	return nil
}

// host returns the name of this host, if ids of the format have it.
func (c Config) host() (string, error) {
	if c.Format != formatRegistrator && c.Format != formatRegistratorKV {
		return "", nil
	}
	host, err := os.Hostname()
	if err != nil {
		return "", &driver.ConfigError{Key: "format", Value: c.Format, Problem: "wants the name of this host in its ids, which is not known: " + err.Error()}
	}
	return host, nil
}

// serviceID returns the ID of the service that is the registration of i.
func (d *Driver) serviceID(i driver.Instance) (string, error) {
	if d.config.Format == formatMuster {
		return i.Service + ":" + i.Key(), nil
	}
	if err := i.Validate(); err != nil {
		return "", err
	}
	host, port, err := net.SplitHostPort(i.Addr)
	if err != nil {
		return "", fmt.Errorf("%w: %w", driver.ErrInvalid, err)
	}
	if d.config.Format == formatHazelcast {
		return format.HazelcastID(i.Service, host, port), nil
	}
	return format.RegistratorID(d.host, i, port)
}

// RecordKey returns the key of i, or the ID of its service. The agent has one service of an ID,
// whatever the names.
func (d *Driver) RecordKey(i driver.Instance) string {
	if d.kv != nil {
		return d.kv.RecordKey(i)
	}
	id, err := d.serviceID(i)
	if err != nil {
		return ""
	}
	return id
}

// Review says which readers of another system's records do not find i.
func (d *Driver) Review(i driver.Instance) error {
	if d.kv == nil {
		return nil
	}
	return d.kv.Review(i)
}

// Normalize returns what a key of another system keeps of i. A service keeps all of it.
func (d *Driver) Normalize(i driver.Instance) driver.Instance {
	if d.kv == nil {
		return i
	}
	return d.kv.Normalize(i)
}

// registration returns the service that registers i, with some meta of ours.
func (d *Driver) registration(i driver.Instance, meta map[string]string) (*api.AgentServiceRegistration, error) {
	if err := i.Validate(); err != nil {
		return nil, err
	}
	id, err := d.serviceID(i)
	if err != nil {
		return nil, err
	}
	if err := checkPath("/" + id); err != nil { // it is one, where its check is renewed and where it is removed
		return nil, err
	}
	return registration.Encode(i, id, meta)
}

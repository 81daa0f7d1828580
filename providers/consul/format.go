package consul

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/musterhq/muster/discovery/driver"
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

// checkFormat returns c with the defaults of what says how and where registrations
// stand.
func (c Config) checkFormat(bad func(key, value, problem string)) Config {
	c.Format = cmp.Or(c.Format, formatMuster)
	inKV := false
	switch c.Format {
	case formatMuster, formatHazelcast, formatRegistrator:
		c.Prefix = cmp.Or(c.Prefix, DefaultPrefix)
		c.AuthorityPrefix = cmp.Or(c.AuthorityPrefix, c.Prefix)
	case formatRegistratorKV:
		inKV = true
		if c.Prefix == "" {
			bad("prefix", "", "missing; format "+c.Format+" wants the path of registrator's URI, such as services")
		}
	case formatSkyDNS:
		inKV = true
		c.Prefix = cmp.Or(c.Prefix, "skydns")
		c.Domain = cmp.Or(c.Domain, DefaultDomain)
		if !format.IsDomain(c.Domain) {
			bad("domain", c.Domain, "is no DNS domain; write one such as "+DefaultDomain)
		}
	default:
		bad("format", c.Format, "unknown; write "+strings.Join([]string{formatMuster, formatHazelcast, formatRegistrator, formatRegistratorKV}, ", ")+" or "+formatSkyDNS)
	}
	c.AuthorityPrefix = cmp.Or(c.AuthorityPrefix, DefaultPrefix)
	if c.Domain != "" && c.Format != formatSkyDNS {
		bad("domain", c.Domain, "is for format "+formatSkyDNS+" alone; take it out")
	}
	if inKV && c.Check.enabled() {
		bad("check", c.Check.Name, "is of services, and format "+c.Format+" keeps registrations in the KV store; take it out")
	}
	for key, path := range map[string]string{"prefix": c.Prefix, "authority_prefix": c.AuthorityPrefix} {
		if strings.HasPrefix(path, "/") || strings.HasSuffix(path, "/") {
			bad(key, path, "must have no slash at its ends, such as "+DefaultPrefix)
		}
	}
	return c
}

// setFormat makes d write and read registrations as its configuration says.
func (d *Driver) setFormat() error {
	c := d.config
	if c.Format == formatRegistrator || c.Format == formatRegistratorKV {
		host, err := os.Hostname()
		if err != nil {
			return &driver.ConfigError{Key: "format", Value: c.Format, Problem: "wants the name of this host in its ids, which is not known: " + err.Error()}
		}
		d.host = host
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

// Reduce returns what a key of another system keeps of i. A service keeps all of it.
func (d *Driver) Reduce(i driver.Instance) driver.Instance {
	if d.kv == nil {
		return i
	}
	return d.kv.Reduce(i)
}

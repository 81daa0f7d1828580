package grammar

import (
	"errors"
	"strconv"
	"strings"

	"github.com/musterhq/muster/discovery/driver"
)

// The keys of the configuration by which errors name the rules.
const (
	keyHostname     = "registrar.hostname"
	keyIP           = "registrar.ip"
	keyHostIP       = "detect.host_ip"
	keyRequireLabel = "registrar.require_label"
	keyForced       = "registrar.tags"
	keyTTL          = "registrar.ttl"
)

// Validate reports all that is wrong with r, a joined *driver.ConfigError for each, whose
// keys are those of the configuration. Templates are parsed; whether a container
// has what they ask for is found out with each. An empty HostIP is not wrong: it is
// missed where a port is published on all addresses and IP is empty, too.
func (r Rules) Validate() error {
	var errs []error
	bad := func(key, value, problem, hint string) {
		errs = append(errs, &driver.ConfigError{Key: key, Value: value, Problem: problem, Hint: hint})
	}
	switch {
	case r.Hostname == "":
		bad(keyHostname, r.Hostname, "missing", "it is the first part of every id, by which this host knows what is its own")
	case driver.ValidateName(r.Hostname) != nil || strings.ContainsAny(r.Hostname, ":/"):
		bad(keyHostname, r.Hostname, "has a colon, a slash, white space or control characters, which would break the ids HOSTNAME:CONTAINER:PORT", "take it out")
	}
	_, err := configured(keyIP, r.IP)
	errs = append(errs, err)
	_, err = configured(keyHostIP, r.HostIP)
	errs = append(errs, err)
	if strings.HasPrefix(r.RequireLabel, "=") {
		bad(keyRequireLabel, r.RequireLabel, "names no label", "write NAME or NAME=VALUE")
	}
	_, tagErrs := parseTags(keyForced, r.Tags)
	errs = append(errs, tagErrs...)
	if r.TTL < 0 {
		bad(keyTTL, strconv.Itoa(r.TTL), "negative", "write seconds, or 0 for the provider's default")
	}
	return errors.Join(errs...)
}

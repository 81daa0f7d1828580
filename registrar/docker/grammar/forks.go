package grammar

import (
	"slices"
	"strings"

	"github.com/musterhq/muster/discovery/driver"
)

// renamedKeys are keys of forks of registrator for which it, and Muster, have another name.
var renamedKeys = map[string]string{
	"check_deregister":                        "check_deregister_after",
	"check_deregister_critical_service_after": "check_deregister_after",
}

// checkKeys are the keys of the checks that a service can ask for.
var checkKeys = []string{
	"check_http", "check_http_method", "check_https", "check_https_method", "check_cmd", "check_script", "check_ttl",
	"check_tcp", "check_grpc", "check_grpc_use_tls", "check_tls_skip_verify", "check_interval", "check_timeout",
	"check_initial_status", "check_deregister_after",
}

// unserved says what to write in place of a key of a fork that does nothing here, or
// nothing if it is served or nobody's.
func unserved(key string) string {
	switch {
	case key == "alias":
		return "a service has one name here; give it by SERVICE_NAME, and what else it is by SERVICE_TAGS"
	case key == "check_docker":
		return "nothing is run within a container; have the image run it as its HEALTHCHECK, which is heeded, or write SERVICE_CHECK_CMD"
	case strings.HasPrefix(key, "check_") && renamedKeys[key] == "" && !slices.Contains(checkKeys, key):
		return "no check has such a key; write one of " + strings.Join(checkKeys, ", ")
	}
	return ""
}

// warnings reports each setting that asks for something that is not done. It is still passed on
// as an attribute.
func (all settings) warnings(report func(error)) {
	reported := make(map[string]bool)
	for s := range all.all() {
		if hint := unserved(s.key); hint != "" && !reported[s.written] {
			reported[s.written] = true
			report(&driver.ConfigError{Key: s.source(), Value: s.value, Problem: "it is an attribute and nothing more: " + hint})
		}
	}
}

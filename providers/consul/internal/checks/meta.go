package checks

import (
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/internal/format"
)

// The keys of an instance's meta that ask for a check. They are those of gliderlabs/registrator,
// which reads them from variables and labels of a container such as SERVICE_CHECK_HTTP. If several
// ask for a check, the first of this list is made.
const (
	askHTTP   = "check_http"
	askHTTPS  = "check_https"
	askCmd    = "check_cmd"
	askScript = "check_script"
	askTTL    = "check_ttl"
	askTCP    = "check_tcp"
	askGRPC   = "check_grpc"
)

// The keys that say how the check is made.
const (
	askHTTPMethod      = "check_http_method"
	askHTTPSMethod     = "check_https_method"
	askGRPCTLS         = "check_grpc_use_tls"
	askSkipVerify      = "check_tls_skip_verify"
	askInterval        = "check_interval"
	askTimeout         = "check_timeout"
	askStatus          = "check_initial_status"
	askDeregisterAfter = "check_deregister_after"
)

const askTagOverride = "enable_tag_override"

// TagOverride reports whether i lets others change the tags of its service in the catalog.
func TagOverride(i driver.Instance) bool { return enabledBy(i.Meta[askTagOverride]) }

// cmdProgram is what runs a check_cmd on the agent's host. Users of registrator have
// one by this name, which is given the container, its port and the command.
const cmdProgram = "check-cmd"

// FromMeta returns the check that i asks for in its meta. asked is false if it has no such key, and
// true with a check that is not enabled if it wants none, as by check_tcp=false. The error is a
// *driver.ConfigError that names the key.
func FromMeta(i driver.Instance) (check Check, asked bool, err error) {
	kind := ""
	for _, key := range []string{askHTTP, askHTTPS, askCmd, askScript, askTTL, askTCP, askGRPC} {
		value, ok := i.Meta[key]
		asked = asked || ok
		if enabledBy(value) {
			kind = key
			break
		}
	}
	if kind == "" {
		return Check{}, asked, nil
	}
	a := asking{meta: i.Meta}
	value := strings.TrimSpace(i.Meta[kind])
	switch kind {
	case askHTTP:
		check.HTTP, check.Method = path(value), i.Meta[askHTTPMethod]
	case askHTTPS:
		check.HTTPS, check.Method = path(value), i.Meta[askHTTPSMethod]
	case askCmd:
		check.Script = a.command(i.InstanceID, value)
	case askScript:
		check.Script = arguments(value)
	case askTTL:
		check.TTL = a.duration(askTTL)
		if check.TTL == 0 {
			a.bad(askTTL, "no time", "write one with its unit, such as 30s")
		}
	case askTCP:
		check.TCP = target(value)
	case askGRPC:
		check.GRPC, check.GRPCTLS = target(value), enabledBy(i.Meta[askGRPCTLS])
	}
	check.TLSSkipVerify = (check.HTTPS != "" || check.GRPCTLS) && enabledBy(i.Meta[askSkipVerify])
	check.Interval, check.Timeout = a.duration(askInterval), a.duration(askTimeout)
	check.Status = a.status()
	if after := a.duration(askDeregisterAfter); after > 0 {
		check.DeregisterAfter = max(after, LeastDeregisterAfter) // as Consul has it
	}
	return check, true, a.err
}

// asking reads values of meta and keeps the first error.
type asking struct {
	meta map[string]string
	err  error
}

func (a *asking) bad(key, problem, hint string) {
	if a.err == nil {
		a.err = &driver.ConfigError{Key: key, Value: a.meta[key], Problem: problem, Hint: hint}
	}
}

func (a *asking) duration(key string) time.Duration {
	value := strings.TrimSpace(a.meta[key])
	if value == "" {
		return 0
	}
	d, err := time.ParseDuration(value)
	if err != nil || d < 0 {
		a.bad(key, "want a duration with its unit, such as 30s", "")
	}
	return d
}

func (a *asking) status() string {
	switch status := strings.ToLower(strings.TrimSpace(a.meta[askStatus])); status {
	case "", api.HealthPassing, api.HealthWarning, api.HealthCritical:
		return status
	}
	a.bad(askStatus, "want passing, warning or critical", "")
	return ""
}

// command has the agent run a command in a container, which the ID names.
func (a *asking) command(id, command string) []string {
	container := format.RegistratorNode(id)
	if container == "" {
		a.bad(askCmd, "wants a service whose id is HOST:CONTAINER:PORT, which names the container", "take SERVICE_ID out, or use "+askScript)
		return nil
	}
	return []string{cmdProgram, container, strings.Split(id, ":")[2], command}
}

// enabledBy reports whether a value is there and does not say no.
func enabledBy(value string) bool {
	switch strings.ToLower(strings.TrimSpace(value)) {
	case "", "0", "f", "false", "n", "no", "off":
		return false
	}
	return true
}

// path makes a word that is no URL the path of one.
func path(value string) string {
	if strings.HasPrefix(value, "/") || strings.Contains(value, "://") {
		return value
	}
	return "/" + value
}

// target is a HOST:PORT, or the service's own for a word that says yes.
func target(value string) string {
	if strings.Contains(value, ":") {
		return value
	}
	return "true"
}

// plainWords are those for which no shell is needed.
var plainWords = regexp.MustCompile(`^[\w\s./:@%+,=-]*$`)

var placeholders = strings.NewReplacer("$SERVICE_IP", "", "$SERVICE_PORT", "", "#MYIP", "", "#MYPORT", "")

// arguments makes a line a program and its arguments. One that a shell would do more
// with than split is left to the shell.
func arguments(line string) []string {
	if words := strings.Fields(line); plainWords.MatchString(placeholders.Replace(line)) && !strings.Contains(words[0], "=") {
		return words
	}
	return []string{"sh", "-c", line}
}

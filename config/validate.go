package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/settings"
	"github.com/musterhq/muster/registrar/advertise"
)

// bad reports what is wrong with key, unless something already is.
func (l *loader) bad(key, value, problem, hint string) {
	if l.problems.has(key) {
		return
	}
	l.problems.add(l.source(key), key, shown(value), problem, hint)
}

// badDefault records a problem with a default, which stands on no line.
func (l *loader) badDefault(key, value, problem, hint string) {
	if !l.problems.has(key) {
		l.problems.add(Source{}, key, shown(value), problem, hint)
	}
}

// validate checks the values of everything but the providers.
func (l *loader) validate() {
	c := l.config
	if c.Cluster == "" {
		if l.purpose == ForNode {
			hint := "name the cluster, as cluster: orders"
			if l.file.name == "" {
				hint += ", in a file that is given by -c FILE, or by MUSTER_CLUSTER"
			}
			l.bad("cluster", "", "missing", hint)
		}
	} else {
		l.name("cluster", c.Cluster)
	}
	l.validateNode(c.Node)
	l.validateDetect()
	l.oneOf("bootstrap.mode", c.Bootstrap.Mode, "auto", "join-only", "single")
	if n := c.Bootstrap.Expect; n < 0 {
		l.bad("bootstrap.expect", strconv.Itoa(n), "negative", "write how many members the cluster is meant to have, or 0 if that is not known")
	} else if n > 1 && c.Bootstrap.Mode == "single" {
		l.bad("bootstrap.expect", strconv.Itoa(n), "does not go with bootstrap.mode: single", "leave it out")
	}
	if ttl := c.Mastership.TTL; ttl < 0 {
		l.bad("mastership.ttl", ttl.String(), "negative", "write a duration, as 5s, or 0s for the provider's default")
	} else if ttl > 0 && ttl < 210*time.Millisecond {
		l.bad("mastership.ttl", ttl.String(), "too short to be renewed in time", "write a longer one, as 1s, or 0s for the provider's default")
	}
	if d := c.Mastership.DrainTimeout; d <= 0 || d > maxDrainTimeout {
		l.bad("mastership.drain_timeout", d.String(), "out of range", fmt.Sprintf("write a duration of more than 0s and at most %v, as 10s", maxDrainTimeout))
	}
	l.validateRegistrar(c.Registrar)
	l.validateServices()
	l.validateHTTP(c.HTTP)
	l.validateProxy()
	l.validateJobs()
	l.validateCalls()
	l.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	l.oneOf("log.format", c.Log.Format, "text", "json")
	l.validateTLS(c)
}

// maxDrainTimeout bounds how long a node may take to leave.
const maxDrainTimeout = 10 * time.Minute

// validateTLS checks the TLS between nodes.
func (l *loader) validateTLS(c *Config) {
	switch contents := c.TLS.Read(); {
	case c.TLS.VerifyNodeID && !c.TLS.Enabled():
		l.bad("tls.verify_node_id", "true", "there is no TLS between nodes", "set tls.ca_file, tls.cert_file and tls.key_file, or leave it out")
	case c.TLS.VerifyNodeID && l.purpose == ForNode:
		_, err := contents.MutualFor(c.Node.ID)
		l.driverErrors("", err)
	case c.TLS.Enabled():
		_, err := contents.Mutual()
		l.driverErrors("", err)
	}
}

// minToken is the length of the shortest token that nobody guesses.
const minToken = 16

// validateHTTP checks the API. What it tells would help an attacker, so that
// beyond this host only those learn it who show that they may.
func (l *loader) validateHTTP(h HTTP) {
	l.listenAddr("http.addr", h.Addr, "127.0.0.1:7980")
	if h.TLS.Enabled() {
		_, err := h.TLS.Files().Server()
		l.driverErrors("http", err)
	}
	const hint = "write a random one, as openssl rand -hex 32 makes"
	switch token, err := h.Token.Or(h.TokenFile); {
	case h.Token != "" && h.TokenFile != "":
		l.bad("http.token_file", h.TokenFile, "set beside http.token", "keep one of the two")
	case err != nil:
		l.driverErrors("http", &driver.ConfigError{Key: "token_file", Value: h.TokenFile, Problem: "cannot be read: " + fileProblem(err)})
	case h.TokenFile != "" && len(token) < minToken:
		l.bad("http.token_file", h.TokenFile, fmt.Sprintf("holds fewer than %d characters, which can be guessed", minToken), hint)
	case h.Token != "" && len(token) < minToken:
		l.bad("http.token", h.Token.String(), fmt.Sprintf("has fewer than %d characters, which can be guessed", minToken), hint)
	}
	if l.problems.has("http.addr") || loopback(h.Addr) {
		return
	}
	var missing []string
	if !h.TLS.Enabled() {
		missing = append(missing, "http.tls")
	}
	if h.Token == "" && h.TokenFile == "" {
		missing = append(missing, "http.token_file")
	}
	if len(missing) > 0 {
		l.bad("http.addr", h.Addr, "reaches beyond this host, where the API is served over TLS and for a token alone", "configure "+strings.Join(missing, " and ")+", or write an address of loopback, as 127.0.0.1:7980")
	}
}

// loopback reports whether an address to listen on is of this host alone. Of names
// only localhost is, whatever others may resolve to now.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// fileProblem strips the path that an *fs.PathError repeats.
func fileProblem(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	return err.Error()
}

func (l *loader) validateNode(n Node) {
	if n.ID != "" {
		l.name("node.id", n.ID)
	}
	for i, tag := range n.Tags {
		if tag == "" {
			l.bad(fmt.Sprintf("node.tags[%d]", i), "", "an empty tag", "write it or take it out")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(n.AppAddrs)) {
		addr, key := n.AppAddrs[name], "node.app_addrs."+name
		if addr == "" {
			l.bad(key, "", "missing", "write the address that clients dial, as 10.0.0.5:8080")
		} else if host, _, err := net.SplitHostPort(addr); err == nil {
			if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
				l.bad(key, addr, "nobody can dial it", "name an address of this host, as 10.0.0.5:8080")
			}
		}
	}
	if number(n.Bind) {
		l.bad("node.bind", n.Bind, "a port without a host", fmt.Sprintf("write %q for all addresses of this host", ":"+n.Bind))
	}
	l.listenAddr("node.bind", n.Bind, "10.0.0.5:7946")
	l.driverErrors("", advertise.Validate(n.Advertise, advertise.Options{
		LookupEnv: l.env.lookup,
		Detectors: []advertise.Detector{named{name: "docker"}, named{name: "registry"}},
	}))
	if n.Voter != "" {
		l.dialAddr("node.voter", n.Voter)
	}
}

// name checks the name of a cluster or a node, which becomes part of keys in
// registries and of paths.
func (l *loader) name(key, value string) {
	if !isName(value) {
		l.bad(key, value, "not a name", fmt.Sprintf("write letters, digits, '-', '_' and '.', at most %d", maxNameLen))
	}
}

const maxNameLen = 128

func isName(value string) bool {
	ok := len(value) <= maxNameLen && value != "." && value != ".."
	for _, c := range []byte(value) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.')
	}
	return ok
}

func (l *loader) oneOf(key, value string, allowed ...string) {
	if slices.Contains(allowed, value) {
		return
	}
	hint := "write " + strings.Join(allowed[:len(allowed)-1], ", ") + " or " + allowed[len(allowed)-1]
	if near, _ := nearest(value, allowed); near != "" {
		hint = fmt.Sprintf("%s; did you mean %q?", hint, near)
	}
	l.bad(key, value, "unknown", hint)
}

// dialAddr checks an address that others dial.
func (l *loader) dialAddr(key, addr string) {
	const example = "10.0.0.5:7946"
	if problem, hint := listenProblem(addr, example); problem != "" {
		l.bad(key, addr, problem, hint)
		return
	}
	host, port, _ := net.SplitHostPort(addr)
	ip, err := netip.ParseAddr(host)
	switch {
	case host == "", err == nil && ip.IsUnspecified():
		l.bad(key, addr, "nobody can dial it", "name an address of this host, as "+example)
	case port == "0":
		l.bad(key, addr, "nobody can dial port 0", "write a port from 1 to 65535")
	}
}

// listenAddr checks an address to listen on, such as the example.
func (l *loader) listenAddr(key, addr, example string) {
	if problem, hint := listenProblem(addr, example); problem != "" {
		l.bad(key, addr, problem, hint)
	}
}

// listenProblem says what is wrong with addr and how to fix it: written as the example.
func listenProblem(addr, example string) (problem, hint string) {
	if addr == "" {
		return "missing", "write HOST:PORT, or leave the key out for its default"
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		hint := "write HOST:PORT, as " + example + ", with IPv6 in brackets"
		if number(addr) {
			before, _, _ := strings.Cut(example, ":")
			return "a port without a host", fmt.Sprintf("write HOST:%s, as %s", addr, net.JoinHostPort(before, addr))
		}
		if _, err := netip.ParseAddr(addr); err == nil || !strings.Contains(addr, ":") {
			return "an address without a port", hint
		}
		return "not an address", hint
	}
	if host == "interface" && !number(port) {
		return "a form of node.advertise",
			fmt.Sprintf("write the address of interface %s, or \":7946\" for all addresses of this host, and node.advertise: interface:%[1]s", port)
	}
	if !number(port) {
		return "not a port", "write a number up to 65535"
	}
	if _, err := netip.ParseAddr(host); err != nil && strings.Trim(host, "0123456789.") == "" && host != "" {
		return "not an IP address", "write four numbers up to 255"
	}
	if strings.ContainsAny(host, " \t/@") {
		return "not a host", "write HOST:PORT, without a scheme or a path"
	}
	if host == "*" {
		return "not a host", fmt.Sprintf("write %q for all addresses of this host", ":"+port)
	}
	if isInterface(host) {
		return "the name of a network interface, and not of a host", fmt.Sprintf("write its address, or %q for all addresses of this host", ":"+port)
	}
	return "", ""
}

// interfaceName is the form of the names that systems give to interfaces, which no host has.
var interfaceName = regexp.MustCompile(`^(lo|(eth|wlan|wwan|tun|tap|bond|veth|dummy|vlan|vmbr|docker|virbr)[0-9]+|(en|wl|ww|sl)([opsx][0-9a-f]+)+([a-z][0-9]+)*|br-[0-9a-f]{12})$`)

// isInterface reports whether host names an interface, which may be one of another machine
// than this. What resolves as a name as well is a host.
func isInterface(host string) bool {
	if interfaceName.MatchString(host) {
		return true
	}
	_, err := net.InterfaceByName(host)
	return err == nil && !strings.Contains(host, ".")
}

// number reports whether text is the number of a port.
func number(text string) bool {
	_, err := strconv.ParseUint(text, 10, 16)
	return err == nil
}

// validateProviders checks that there is a provider and that it is clear which one
// grants mastership, and lets each check its section.
func (l *loader) validateProviders(configured []*entry) {
	known := l.schema.byKey["provider"].names()
	var names []string
	for _, section := range configured {
		names = append(names, section.name)
	}
	switch {
	case len(known) == 0:
		l.bad("provider", "", "no provider is built into this program", "import one, as _ \"github.com/musterhq/muster/providers/static\"")
	case len(configured) == 0 && !l.problems.has("provider"):
		l.bad("provider", "", `missing: without one nobody is found`, fmt.Sprintf(`configure %s, as provider: {static: {peers: ["10.0.0.5:7946"]}}`, strings.Join(known, " or ")))
	case len(configured) > 0 && l.purpose == ForNode:
		l.driverErrors("", settings.CheckAuthority(l.config.Mastership.Authorities(), names))
	}
	var granting []string
	registers := false
	for _, section := range configured {
		if l.problems.has(section.key) {
			granting = append(granting, section.name) // nothing is known against it
			registers = true
			continue
		}
		can, err := l.check(section.name)
		if err != nil {
			l.driverErrors(section.key, err)
			registers = true
			continue
		}
		registers = registers || can.Registers
		if can.Grants {
			granting = append(granting, section.name)
		}
		l.validateTTL(section.name, can)
	}
	if l.purpose == ForRegistrar {
		if len(configured) > 0 && !registers {
			l.bad("provider", strings.Join(names, ", "), "registers nothing", "configure etcd or consul beside it or in its place")
		}
		return
	}
	for _, name := range l.config.Mastership.Authorities() {
		if slices.Contains(names, name) && !slices.Contains(granting, name) {
			hint := "configure one that does"
			if len(granting) > 0 {
				hint = "write " + strings.Join(granting, " or ")
			}
			l.bad("mastership.authority", l.config.Mastership.Authority, fmt.Sprintf("provider %s grants no mastership", name), hint)
		}
	}
}

// check lets a provider check its section.
func (l *loader) check(name string) (driver.Abilities, error) {
	p, err := driver.Lookup(name)
	if err != nil {
		return driver.Abilities{}, err
	}
	return p.Check(l.config.Provider[name])
}

// validateTTL checks that the provider, if it grants mastership, can do so for the
// time that is asked for.
func (l *loader) validateTTL(name string, can driver.Abilities) {
	shortest, longest := can.ShortestTTL, can.LongestTTL
	authorities := l.config.Mastership.Authorities()
	if longest == 0 || len(authorities) > 0 && !slices.Contains(authorities, name) {
		return
	}
	if ttl := l.config.Mastership.TTL; ttl > 0 && (ttl < shortest || ttl > longest) {
		l.bad("mastership.ttl", ttl.String(), fmt.Sprintf("provider %s wants %v to %v", name, shortest, longest), "write a duration in between, or 0s for its default")
	}
}

// driverErrors reports the errors of the SPI, whose keys are those below section.
func (l *loader) driverErrors(section string, err error) {
	before := slices.Clone(l.problems)
	for _, err := range leaves(err) {
		var ce *driver.ConfigError
		if !errors.As(err, &ce) {
			l.bad(section, "", err.Error(), "")
			continue
		}
		key := join(section, ce.Key)
		value := shown(ce.Value)
		if e, ok := l.schema.byKey[key]; ok {
			value = shownFor(e, ce.Value)
		}
		if before.has(key) {
			continue
		}
		// Not bad, which would drop the second of two errors of one key.
		l.problems.add(l.source(key), key, value, ce.Problem, ce.Hint)
	}
}

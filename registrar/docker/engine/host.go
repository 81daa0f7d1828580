package engine

import (
	"cmp"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/tlsfiles"
)

// The variables of the environment that say where the engine is, as the docker command
// reads them.
const (
	envHost       = "DOCKER_HOST"
	envTLSVerify  = "DOCKER_TLS_VERIFY"
	envCertPath   = "DOCKER_CERT_PATH"
	envAPIVersion = "DOCKER_API_VERSION"
)

// host is the address of an engine.
type host struct {
	network string // unix, npipe or tcp
	addr    string // a path, or HOST:PORT
	base    string // path in front of those of the API, of an engine behind a proxy
	secure  bool
}

// String is the address as people write it.
func (h host) String() string { return h.network + "://" + h.addr + h.base }

// local reports whether h is a file of this machine.
func (h host) local() bool { return h.network != "tcp" }

// exists reports whether there is something at the path of a socket.
func (h host) exists() bool {
	if h.network != "unix" {
		return true
	}
	_, err := os.Stat(h.addr)
	return err == nil
}

// parseHost reads the value of key. secure asks for TLS where value does not say.
func parseHost(key, value string, secure bool) (host, error) {
	bad := func(problem, hint string) (host, error) {
		return host{}, &driver.ConfigError{Key: key, Value: value, Problem: problem, Hint: hint}
	}
	const want = "write unix:///PATH, tcp://HOST:PORT or, on Windows, npipe:////./pipe/NAME"
	scheme, rest, ok := strings.Cut(value, "://")
	if !ok || rest == "" {
		return bad("is no address of an engine", want)
	}
	switch scheme {
	case "unix":
		if !strings.HasPrefix(rest, "/") {
			return bad("is no absolute path", want)
		}
		return host{network: "unix", addr: rest}, nil
	case "npipe":
		if runtime.GOOS != "windows" {
			return bad("is a named pipe, which only Windows has", want)
		}
		return host{network: "npipe", addr: rest}, nil
	case "tcp", "http", "https":
	case "ssh":
		return bad("ssh is not spoken here", "forward the socket (ssh -nNT -L 127.0.0.1:2375:/var/run/docker.sock HOST) and write tcp://127.0.0.1:2375")
	default:
		return bad("is no address of an engine", want)
	}
	u, err := url.Parse("tcp://" + rest)
	if err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return bad("is no address of an engine", want)
	}
	h := host{network: "tcp", base: strings.TrimSuffix(u.Path, "/"), secure: secure || scheme == "https"}
	port := "2375"
	if h.secure {
		port = "2376"
	}
	h.addr = net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port))
	return h, nil
}

// lookup finds out where the engine may be: in one place that was named, or in several,
// of which the first is taken that is there and lets us in. note is what to say if none is.
func lookup(c Config, lookupEnv func(string) (string, bool)) (hosts []host, files tlsfiles.Config, note string, err error) {
	env := func(key string) string {
		v, _ := lookupEnv(key)
		return strings.TrimSpace(v)
	}
	if c.Host != "" {
		h, err := parseHost("host", c.Host, c.TLS.Enabled())
		if err == nil && h.local() && c.TLS.Enabled() {
			err = &driver.ConfigError{Key: "host", Value: c.Host, Problem: "tls is for tcp://HOST:PORT", Hint: "take it out, or name such a host"}
		}
		return []host{h}, c.TLS, "", err
	}
	if value := env(envHost); value != "" {
		files := c.TLS
		if !files.Enabled() {
			files = certificates(env(envTLSVerify) != "", env(envCertPath))
		}
		h, err := parseHost(envHost, value, files.Enabled())
		return []host{h}, files, "", err
	}
	if c.TLS.Enabled() {
		return nil, c.TLS, "", &driver.ConfigError{Key: "host", Value: "", Problem: "missing", Hint: "tls is for an engine at tcp://HOST:PORT"}
	}
	dir := configDir(env)
	if name := env(envContext); name != "" && name != "default" {
		h, files, err := contextHost(envContext, name, dir)
		return []host{h}, files, "", err
	}
	if name := currentContext(dir); name != "" && env(envContext) == "" {
		h, files, err := contextHost("currentContext", name, dir)
		if err == nil {
			return []host{h}, files, "", nil
		}
		// It was chosen for the command, and keeps nothing from starting here.
		note = "the current context of docker is not used: " + err.Error()
	}
	return usualHosts(env("XDG_RUNTIME_DIR"), env("HOME")), tlsfiles.Config{}, note, nil
}

// certificates are where the docker command has its own. Either variable asks for TLS,
// and with TLS the engine is always verified: what it says decides where a node is
// looked for.
func certificates(verify bool, dir string) tlsfiles.Config {
	if !verify && dir == "" {
		return tlsfiles.Config{}
	}
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			home = "/"
		}
		dir = filepath.Join(home, ".docker")
	}
	return tlsfiles.Config{
		CAFile:   filepath.Join(dir, "ca.pem"),
		CertFile: filepath.Join(dir, "cert.pem"),
		KeyFile:  filepath.Join(dir, "key.pem"),
	}
}

// usualHosts are where Docker and Podman listen by default, and where they do when they
// run as a user.
func usualHosts(runtimeDir, home string) []host {
	if runtime.GOOS == "windows" {
		return []host{{network: "npipe", addr: "//./pipe/docker_engine"}, {network: "npipe", addr: "//./pipe/podman-machine-default"}}
	}
	paths := []string{"/var/run/docker.sock", "/run/podman/podman.sock"}
	if runtimeDir != "" {
		paths = append(paths, filepath.Join(runtimeDir, "docker.sock"), filepath.Join(runtimeDir, "podman", "podman.sock"))
	}
	if home != "" {
		// Those of the engines of desktops: Docker's, two of its successors', and colima's.
		for _, path := range []string{".docker/run/docker.sock", ".docker/desktop/docker.sock", ".orbstack/run/docker.sock", ".rd/docker.sock", ".colima/default/docker.sock"} {
			paths = append(paths, filepath.Join(home, filepath.FromSlash(path)))
		}
	}
	var hosts []host
	for _, p := range paths {
		hosts = append(hosts, host{network: "unix", addr: p})
	}
	return hosts
}

// ErrNoEngine means that no engine was named and that there is none where one usually
// is. It wraps driver.ErrUnavailable: one may be started later.
var ErrNoEngine error = noEngine{}

type noEngine struct{}

func (noEngine) Error() string { return "no container engine" }
func (noEngine) Unwrap() error { return driver.ErrUnavailable }

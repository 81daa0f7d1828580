package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/tlsfiles"
)

// A context of the docker command is an engine that has a name: the one in $DOCKER_CONTEXT,
// or the current one of config.json. It stands below the directory of the command's
// configuration:
//
//	config.json                              {"currentContext": "NAME"}
//	contexts/meta/SHA256 OF NAME/meta.json   {"Endpoints": {"docker": {"Host": "unix:///..."}}}
//	contexts/tls/SHA256 OF NAME/docker/      ca.pem, cert.pem and key.pem
const (
	envContext   = "DOCKER_CONTEXT"
	envConfigDir = "DOCKER_CONFIG"
)

// configDir is where the docker command has its configuration, empty if that is unknown.
func configDir(env func(string) string) string {
	if dir := env(envConfigDir); dir != "" {
		return dir
	}
	if home := env("HOME"); home != "" {
		return filepath.Join(home, ".docker")
	}
	return ""
}

// currentContext returns the name of the context that config.json has, empty for none, and
// where no file can be read.
func currentContext(dir string) string {
	var c struct{ CurrentContext string }
	b, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil || json.Unmarshal(b, &c) != nil || c.CurrentContext == "default" {
		return ""
	}
	return c.CurrentContext
}

// contextHost returns the engine of a context. Errors are *driver.ConfigError values of key.
func contextHost(key, name, dir string) (host, tlsfiles.Config, error) {
	bad := func(problem, hint string) (host, tlsfiles.Config, error) {
		return host{}, tlsfiles.Config{}, &driver.ConfigError{Key: key, Value: name, Problem: problem, Hint: hint}
	}
	sum := sha256.Sum256([]byte(name))
	id := hex.EncodeToString(sum[:])
	b, err := os.ReadFile(filepath.Join(dir, "contexts", "meta", id, "meta.json"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return bad("is no context of docker in "+dir, "see docker context ls, or set docker.host")
	case err != nil:
		return bad("cannot be read: "+err.Error(), "set docker.host")
	}
	var meta struct {
		Endpoints struct {
			Docker struct{ Host string } `json:"docker"`
		}
	}
	if err := json.Unmarshal(b, &meta); err != nil || meta.Endpoints.Docker.Host == "" {
		return bad("is a context of docker that names no engine", "set docker.host")
	}
	files := tlsfiles.Config{}
	if certs := filepath.Join(dir, "contexts", "tls", id, "docker"); exists(certs) {
		for to, file := range map[*string]string{&files.CAFile: "ca.pem", &files.CertFile: "cert.pem", &files.KeyFile: "key.pem"} {
			if path := filepath.Join(certs, file); exists(path) {
				*to = path
			}
		}
	}
	h, err := parseHost(key, meta.Endpoints.Docker.Host, files.Enabled())
	if err != nil {
		var config *driver.ConfigError
		if errors.As(err, &config) {
			return bad(fmt.Sprintf("is a context of docker at %s, which %s", config.Value, config.Problem), "set docker.host")
		}
	}
	return h, files, err
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

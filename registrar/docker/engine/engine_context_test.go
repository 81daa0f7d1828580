package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/musterhq/muster/discovery/driver"
)

// contexts makes a directory as the docker command has it: hosts of contexts by name, and
// the current one.
func contexts(t *testing.T, current string, hosts map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	write := func(path, text string) {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("config.json", `{"auths":{},"currentContext":"`+current+`"}`)
	for name, host := range hosts {
		sum := sha256.Sum256([]byte(name))
		id := hex.EncodeToString(sum[:])
		write("contexts/meta/"+id+"/meta.json", `{"Name":"`+name+`","Metadata":{},"Endpoints":{"docker":{"Host":"`+host+`","SkipTLSVerify":false}}}`)
		if strings.HasPrefix(name, "tls") {
			write("contexts/tls/"+id+"/docker/ca.pem", "no certificate")
		}
	}
	return dir
}

func TestContexts(t *testing.T) {
	hosts := map[string]string{
		"desk": "unix:///home/me/.docker/desktop/docker.sock", "far": "tcp://10.0.0.9:2375", "ssh": "ssh://me@far", "tls": "tcp://10.0.0.9:2376", "none": "",
	}
	for _, c := range []struct {
		name, current string
		env           map[string]string
		host          Config
		want, err     string
		note          string
	}{
		{name: "the current one", current: "desk", want: "unix:///home/me/.docker/desktop/docker.sock"},
		{name: "one by the environment", current: "desk", env: map[string]string{"DOCKER_CONTEXT": "far"}, want: "tcp://10.0.0.9:2375"},
		{name: "DOCKER_HOST goes before it", current: "desk", env: map[string]string{"DOCKER_CONTEXT": "far", "DOCKER_HOST": "unix:///x"}, want: "unix:///x"},
		{name: "docker.host goes before all", current: "desk", env: map[string]string{"DOCKER_CONTEXT": "far"}, host: Config{Host: "unix:///y"}, want: "unix:///y"},
		{name: "the default of the environment", current: "desk", env: map[string]string{"DOCKER_CONTEXT": "default"}, want: "/var/run/docker.sock, unix"},
		{name: "the default", current: "default", want: "/var/run/docker.sock, unix"},
		{name: "none", want: "/var/run/docker.sock, unix"},
		{name: "unknown by the environment", env: map[string]string{"DOCKER_CONTEXT": "nope"}, err: `DOCKER_CONTEXT: "nope": is no context of docker`},
		{name: "ssh by the environment", env: map[string]string{"DOCKER_CONTEXT": "ssh"}, err: `DOCKER_CONTEXT: "ssh": is a context of docker at ssh://me@far, which ssh is not spoken here`},
		{name: "no engine by the environment", env: map[string]string{"DOCKER_CONTEXT": "none"}, err: "names no engine"},
		{name: "with certificates", env: map[string]string{"DOCKER_CONTEXT": "tls"}, err: "ca.pem"},
		{name: "the current one is unknown", current: "gone", want: "/var/run/docker.sock, unix", note: `"gone": is no context`},
		{name: "the current one is over ssh", current: "ssh", want: "/var/run/docker.sock, unix", note: "ssh is not spoken here"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := contexts(t, c.current, hosts)
			cl, err := newClient(c.host, func(key string) (string, bool) {
				if key == "DOCKER_CONFIG" {
					return dir, true
				}
				v, ok := c.env[key]
				return v, ok
			})
			if c.err != "" {
				if !errors.Is(err, driver.ErrInvalid) || !strings.Contains(err.Error(), c.err) {
					t.Errorf("error %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := cl.Host(); !strings.Contains(got, c.want) || c.note == "" && cl.note != "" || !strings.Contains(cl.note, c.note) {
				t.Errorf("at %s, note %q; want %s, %q", got, cl.note, c.want, c.note)
			}
			if c.note == "" {
				return
			}
			cl.hosts = []host{{network: "unix", addr: filepath.Join(dir, "gone")}}
			if _, err := cl.Running(t.Context()); !errors.Is(err, ErrNoEngine) || !strings.Contains(err.Error(), c.note) {
				t.Errorf("where there is no engine: %v, want %q", err, c.note)
			}
		})
	}
}

func TestSocketsOfDesktops(t *testing.T) {
	cl, err := newClient(Config{}, func(key string) (string, bool) {
		if key == "HOME" {
			return "/home/me", true
		}
		return "", false
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{".docker/run", ".docker/desktop", ".orbstack/run", ".rd", ".colima/default"} {
		if want := "unix:///home/me/" + path + "/docker.sock"; !strings.Contains(cl.Host(), want) {
			t.Errorf("%s is not among %s", want, cl.Host())
		}
	}
}

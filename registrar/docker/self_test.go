package docker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/registrar/docker/engine"
)

const (
	idA = "0fdf49082dbc7d574b9654555b8ff01a0e0bb140cf807d9b2327a2ca6772adbf"
	idB = "cb567baf0049e14b041badc1f4451eb57f00091ab477ed78faa6431f3db699da"
)

func fakeEnvironment(root fs.FS, hostname string, env map[string]string) environment {
	return environment{
		root:      root,
		hostname:  func() (string, error) { return hostname, nil },
		lookupEnv: func(key string) (string, bool) { v, ok := env[key]; return v, ok },
	}
}

// knownContainers is an engine that knows what a test says.
type knownContainers struct {
	all      []engine.Container
	err      error // of every call
	host     string
	networks map[string]engine.Network
	info     engine.Info
	infoErr  error
}

func (k knownContainers) Inspect(_ context.Context, id string) (engine.Container, error) {
	if k.err != nil {
		return engine.Container{}, k.err
	}
	for _, c := range k.all {
		if c.ID == id || len(id) >= 12 && strings.HasPrefix(c.ID, id) || c.ShortName() == id {
			return c, nil
		}
	}
	return engine.Container{}, fmt.Errorf("%w: no such container: %s", driver.ErrNotFound, id)
}

func (k knownContainers) Running(context.Context) ([]string, error)             { return nil, k.err }
func (k knownContainers) Events(context.Context) iter.Seq2[engine.Event, error] { return nil }
func (k knownContainers) Host() string                                          { return k.host }
func (k knownContainers) Info(context.Context) (engine.Info, error)             { return k.info, k.infoErr }
func (k knownContainers) Network(_ context.Context, id string) (engine.Network, error) {
	if n, ok := k.networks[id]; ok {
		return n, nil
	}
	return engine.Network{}, driver.ErrNotFound
}

func TestCgroupIDs(t *testing.T) {
	for _, tc := range []struct {
		name, cgroup string
		want         []string
	}{
		{"docker, v1", "9:name=systemd:/docker/" + idA + "\n8:pids:/docker/" + idA, []string{idA, idA}},
		{"docker, v1, systemd", "1:name=systemd:/system.slice/docker-" + idA + ".scope", []string{idA}},
		{"docker, v2, the host's namespace", "0::/system.slice/docker-" + idA + ".scope", []string{idA}},
		{"v2, a namespace of its own", "0::/", nil},
		{"podman, v2", "0::/machine.slice/libpod-" + idA + ".scope/container", []string{idA}},
		{"rootless podman", "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + idA + ".scope", []string{idA}},
		{"podman, v1", "11:pids:/libpod_parent/libpod-" + idA, []string{idA}},
		{"docker in docker", "5:cpu:/docker/" + idB + "/docker/" + idA, []string{idA}},
		{"ECS", "5:cpu:/ecs/55a1e3e0-3c3c-4d35-a0b5-7d4c0b9b2e7f/" + idA, []string{idA}},
		{"containerd", "0::/kubepods.slice/kubepods-pod6c1a.slice/cri-containerd-" + idA + ".scope", []string{idA}},
		{"a host", "12:cpu,cpuacct:/user.slice\n0::/system.slice/docker.service", nil},
		{"garbage", "\n::\n:\nx:y:", nil},
	} {
		if d := cmp.Diff(tc.want, cgroupIDs([]byte(tc.cgroup))); d != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, d)
		}
	}
}

func TestSelf(t *testing.T) {
	mounted := func(id string) fstest.MapFS {
		return fstest.MapFS{"proc/self/mountinfo": {Data: []byte("1 1 8:1 /x/containers/" + id + "/hostname /etc/hostname rw - ext4 x rw\n")}}
	}
	dockerenv := fstest.MapFS{".dockerenv": {}}
	a := engine.Container{ID: idA, Name: "/web", Config: engine.ContainerConfig{Hostname: "web-host"}, State: engine.State{Running: true}}
	b := engine.Container{ID: idB, Name: "/web-host", Config: engine.ContainerConfig{Hostname: idB[:12]}, State: engine.State{Running: true}}
	hang := fmt.Errorf("%w: no answer within 5s", driver.ErrUnavailable)
	for _, tc := range []struct {
		name     string
		root     fstest.MapFS
		hostname string
		env      map[string]string
		engine   knownContainers
		want     string // id
		how      string
		err      error
		text     string
	}{
		{name: "mountinfo", root: mounted(idA), hostname: "x", engine: knownContainers{all: []engine.Container{a, b}}, want: idA, how: "/proc/self/mountinfo"},
		{name: "cgroup", root: fstest.MapFS{"proc/self/cgroup": {Data: []byte("1:cpu:/docker/" + idA)}}, engine: knownContainers{all: []engine.Container{a, b}}, want: idA, how: "/proc/self/cgroup"},
		{name: "mountinfo is unknown, cgroup is not", root: fstest.MapFS{
			"proc/self/mountinfo": mounted(idB)["proc/self/mountinfo"],
			"proc/self/cgroup":    {Data: []byte("1:cpu:/docker/" + idA)},
		}, engine: knownContainers{all: []engine.Container{a}}, want: idA, how: "/proc/self/cgroup"},
		{name: "the host name is the id", root: dockerenv, hostname: idB[:12], engine: knownContainers{all: []engine.Container{a, b}}, want: idB, how: "the host name"},
		{name: "the host name is the name", root: dockerenv, hostname: "web", engine: knownContainers{all: []engine.Container{{ID: idA, Name: "/web", Config: engine.ContainerConfig{Hostname: "web"}, State: engine.State{Running: true}}}}, want: idA, how: "the host name"},
		{name: "the host name is the name of another", root: dockerenv, hostname: "web-host", engine: knownContainers{all: []engine.Container{a, b}}, err: driver.ErrNotFound, text: "knows none by its host name web-host; run it without a host name of its own"},
		{name: "the id is hidden, and so is the host name", root: dockerenv, engine: knownContainers{all: []engine.Container{a}}, err: driver.ErrNotFound, text: "knows none by its host name; run it"},
		{name: "a host", root: fstest.MapFS{}, hostname: "web", engine: knownContainers{all: []engine.Container{a}}, err: ErrNotInContainer},
		{name: "a machine with an engine", root: fstest.MapFS{}, env: map[string]string{"container": "lxc"}, hostname: "web", engine: knownContainers{all: []engine.Container{a}}, err: ErrNotInContainer},
		{name: "podman says so", root: fstest.MapFS{}, env: map[string]string{"container": "podman"}, hostname: idA[:12], engine: knownContainers{all: []engine.Container{{ID: idA, Config: engine.ContainerConfig{Hostname: idA[:12]}, State: engine.State{Running: true}}}}, want: idA},
		{name: "another engine", root: mounted(idA), hostname: idA[:12], engine: knownContainers{host: "unix:///var/run/docker.sock"}, err: driver.ErrNotFound, text: "unix:///var/run/docker.sock does not know this container as 0fdf49082dbc (from /proc/self/mountinfo) or 0fdf49082dbc (the host name); mount the socket"},
		{name: "an engine that hangs", root: mounted(idA), engine: knownContainers{err: hang}, err: driver.ErrUnavailable, text: "no answer"},
		{name: "an engine that hangs, by the host name", root: dockerenv, hostname: "x", engine: knownContainers{err: hang}, err: driver.ErrUnavailable, text: "no answer"},
		{name: "a host name that is no name", root: dockerenv, hostname: "../json?", engine: knownContainers{all: []engine.Container{a}}, err: driver.ErrNotFound},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, how, err := fakeEnvironment(tc.root, tc.hostname, tc.env).self(t.Context(), tc.engine)
			if !errors.Is(err, tc.err) || err != nil && tc.err == nil || !strings.Contains(fmt.Sprint(err), tc.text) && tc.text != "" {
				t.Fatalf("error %v, want %v with %q", err, tc.err, tc.text)
			}
			if c.ID != tc.want || tc.how != "" && how != tc.how {
				t.Errorf("found %.12s by %s, want %.12s by %s", c.ID, how, tc.want, tc.how)
			}
		})
	}
}

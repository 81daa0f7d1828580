package docker

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/mountinfo"
	"github.com/musterhq/muster/registrar/docker/engine"
)

// ErrNotInContainer means that this process runs in no container.
var ErrNotInContainer = errors.New("not in a container")

// Self returns the container that this process runs in, and how it is known.
//
//  1. The id is that of the files which engines mount at /etc/hostname, /etc/hosts and
//     /etc/resolv.conf, as /proc/self/mountinfo says.
//  2. Otherwise it is the one in /proc/self/cgroup, which cgroup v2 mostly hides.
//  3. Otherwise the engine is asked for a container that is named like this host, or
//     whose id begins so, and which was given just this host name.
//
// With --network container:ID the files are those of that container, and it is the one
// that is returned: its network is ours.
//
// The error wraps ErrNotInContainer, or driver.ErrNotFound where the engine does not
// know the container, as where it is another than the one that runs it. Otherwise it is
// that of the engine.
func Self(ctx context.Context, e engine.Engine) (c engine.Container, how string, err error) {
	return ownEnvironment().self(ctx, e)
}

// environment is what a process can see of where it runs.
type environment struct {
	root      fs.FS // of all files
	lookupEnv func(string) (string, bool)
	hostname  func() (string, error)
}

func ownEnvironment() environment {
	return environment{root: os.DirFS("/"), lookupEnv: os.LookupEnv, hostname: os.Hostname}
}

func (here environment) self(ctx context.Context, e engine.Engine) (engine.Container, string, error) {
	ids := here.ids()
	if len(ids) == 0 && !here.marked() {
		return engine.Container{}, "", ErrNotInContainer
	}
	var tried []string
	for _, id := range ids {
		c, err := e.Inspect(ctx, id.id)
		if err == nil {
			return c, id.source, nil
		}
		if !errors.Is(err, driver.ErrNotFound) {
			return engine.Container{}, "", err
		}
		tried = append(tried, fmt.Sprintf("%.12s (from %s)", id.id, id.source))
	}
	name, err := here.hostname()
	if err == nil && name != "" && !strings.ContainsAny(name, "/?#%") {
		c, err := e.Inspect(ctx, name)
		switch {
		case err == nil && c.Config.Hostname == name && c.State.Running:
			return c, "the host name", nil
		case err != nil && !errors.Is(err, driver.ErrNotFound):
			return engine.Container{}, "", err
		}
		tried = append(tried, name+" (the host name)")
	}
	if len(ids) == 0 {
		return engine.Container{}, "", fmt.Errorf("docker: %w: the id of this container is hidden, and the engine%s knows none by its host name%s; run it without a host name of its own (--hostname, hostname in a Compose file), which is the beginning of the id then, or set node.advertise",
			driver.ErrNotFound, at(e), quoted(name))
	}
	return engine.Container{}, "", fmt.Errorf("docker: %w: the engine%s does not know this container as %s; mount the socket of the engine that runs it, or set node.advertise",
		driver.ErrNotFound, at(e), strings.Join(tried, " or "))
}

func quoted(name string) string {
	if name == "" {
		return ""
	}
	return " " + name
}

// at names the address of an engine that has one.
func at(e engine.Engine) string {
	if h, ok := e.(interface{ Host() string }); ok {
		return " at " + h.Host()
	}
	return ""
}

// ownID is an id that this process' container may have.
type ownID struct{ id, source string }

// ids are those that this process' container may have, the likeliest first.
func (here environment) ids() []ownID {
	var found []ownID
	add := func(file string, ids []string) {
		for _, id := range ids {
			if !slices.ContainsFunc(found, func(o ownID) bool { return o.id == id }) {
				found = append(found, ownID{id, file})
			}
		}
	}
	if b, err := fs.ReadFile(here.root, "proc/self/mountinfo"); err == nil {
		add("/proc/self/mountinfo", mountinfo.ContainerIDs(b))
	}
	if b, err := fs.ReadFile(here.root, "proc/self/cgroup"); err == nil {
		add("/proc/self/cgroup", cgroupIDs(b))
	}
	return found
}

// marked reports whether an engine, of whatever kind, has left a sign that this is a
// container.
func (here environment) marked() bool {
	for _, file := range []string{".dockerenv", "run/.containerenv"} {
		if _, err := fs.Stat(here.root, file); err == nil {
			return true
		}
	}
	kind, _ := here.lookupEnv("container")
	return kind != "" && !slices.Contains(machines, kind)
}

// machines are what calls itself a container and is a machine, with an address of its
// own and perhaps an engine within, which does not run it.
var machines = []string{"lxc", "lxc-libvirt", "systemd-nspawn", "wsl"}

// inKubernetes reports whether this is a container of a pod, whose addresses no engine
// knows.
func (here environment) inKubernetes() bool {
	host, _ := here.lookupEnv("KUBERNETES_SERVICE_HOST")
	return host != ""
}

// cgroupIDs reads /proc/self/cgroup. The path of a group ends with the id, and may
// be within that of another container:
//
//	/docker/ID
//	/system.slice/docker-ID.scope
//	/machine.slice/libpod-ID.scope/container
//	/ecs/TASK/ID
//
// Pods have ids of another engine, or of one that leaves their network to Kubernetes.
func cgroupIDs(b []byte) []string {
	var ids []string
	for line := range lines(b) {
		_, path, ok := strings.Cut(line, "::")
		if fields := strings.SplitN(line, ":", 3); !ok && len(fields) == 3 {
			path, ok = fields[2], true
		}
		if !ok {
			continue
		}
		for _, part := range slices.Backward(strings.Split(path, "/")) {
			part = strings.TrimSuffix(part, ".scope")
			if dash := strings.LastIndex(part, "-"); dash >= 0 {
				part = part[dash+1:]
			}
			if mountinfo.IsContainerID(part) {
				ids = append(ids, part)
				break
			}
		}
	}
	return ids
}

func lines(b []byte) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
			if !yield(s.Text()) {
				return
			}
		}
	}
}

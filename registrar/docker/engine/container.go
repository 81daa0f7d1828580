package engine

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/musterhq/muster/discovery/driver"
)

// Container is what an engine says of one container, as `docker inspect` prints it, so
// far as Muster needs it. Its addresses and ports are text as they came: each is
// looked at where it is used, so that one that is wrong spoils no other.
type Container struct {
	ID              string `json:"Id"`
	Name            string // with a slash in front
	Image           string // the id of its image, empty if it is not known
	Config          ContainerConfig
	State           State
	HostConfig      HostConfig
	NetworkSettings NetworkSettings
}

// ContainerConfig is what does not depend on the host.
type ContainerConfig struct {
	Hostname string
	Image    string // as it was named when the container was made
	Env      []string
	Labels   map[string]string
	// ExposedPorts are keyed "80/tcp".
	ExposedPorts map[string]struct{}
}

// State is what the container does.
type State struct {
	Status    string
	Running   bool
	Paused    bool
	ExitCode  int
	StartedAt string
	// Health is nil if the image has no health check.
	Health *Health
}

// Health is what the engine's own health check of the container has found.
type Health struct {
	Status string // starting, healthy or unhealthy
}

// HostConfig is what depends on the host.
type HostConfig struct {
	// NetworkMode is default, bridge, host, none, container:ID or the name of a
	// network.
	NetworkMode string
}

// NetworkSettings are the networks and the published ports of a container that runs.
type NetworkSettings struct {
	// Ports are keyed "80/tcp". A port that is exposed and not published has no
	// bindings.
	Ports    map[string][]Binding
	Networks map[string]Endpoint
	// IPAddress and GlobalIPv6Address are those in the default network, which Docker
	// does not say here any more since API v1.52.
	IPAddress         string
	GlobalIPv6Address string
}

// Binding is one place of the host at which a port is published.
type Binding struct {
	HostIP   string `json:"HostIp"`
	HostPort string
}

// UnmarshalJSON takes numbers for strings, as some engines write ports.
func (b *Binding) UnmarshalJSON(data []byte) error {
	var raw struct {
		HostIP   text `json:"HostIp"`
		HostPort text
	}
	if err := json.Unmarshal(data, &raw); err != nil {
		return err
	}
	*b = Binding{HostIP: string(raw.HostIP), HostPort: string(raw.HostPort)}
	return nil
}

// Endpoint is the place of a container in one network.
type Endpoint struct {
	NetworkID           string
	IPAddress           string
	IPPrefixLen         int
	Gateway             string
	GlobalIPv6Address   string
	GlobalIPv6PrefixLen int
	IPv6Gateway         string

	// Driver is that of the network, such as bridge or macvlan, and Internal says that
	// nothing leads out of it. docker inspect says neither: Networks fills them in. Empty
	// if it is not known.
	Driver   string `json:"-"`
	Internal bool   `json:"-"`
}

// text is a string, also where the writer has put a number.
type text string

func (t *text) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] != '"' {
		var n json.Number
		if err := json.Unmarshal(b, &n); err != nil {
			return err
		}
		*t = text(n)
		return nil
	}
	return json.Unmarshal(b, (*string)(t))
}

// ShortName is the name without the slash that the engine puts in front.
func (c Container) ShortName() string { return strings.TrimPrefix(c.Name, "/") }

// ShortID is the id as people write it.
func (c Container) ShortID() string { return c.ID[:min(12, len(c.ID))] }

// Label names c in messages.
func (c Container) Label() string {
	if name := c.ShortName(); name != "" {
		return name
	}
	return c.ShortID()
}

// ParseInspect reads what `docker inspect` prints: one object, or an array of them, in UTF-8
// or UTF-16, with a byte order mark or without. An
// element that is no container, such as an image, is left out and named in the error,
// which joins all that is wrong and wraps driver.ErrInvalid; the others are returned with it.
func ParseInspect(b []byte) ([]Container, error) {
	b = bytes.TrimSpace(utf8Of(b))
	elements := []json.RawMessage{b}
	if len(b) > 0 && b[0] == '[' {
		if err := json.Unmarshal(b, &elements); err != nil {
			return nil, fmt.Errorf("%w: not the JSON of docker inspect: %w", driver.ErrInvalid, err)
		}
	}
	var containers []Container
	var errs []error
	for n, element := range elements {
		c, err := parseContainer(element)
		if what := otherThanContainer(element); what != "" {
			err = fmt.Errorf("it is %s, and no container; name one of docker ps, as docker inspect --type container NAME", what)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%w: container %d: %w", driver.ErrInvalid, n+1, err))
			continue
		}
		containers = append(containers, c)
	}
	return containers, errors.Join(errs...)
}

// otherThanContainer says what else that docker inspect prints an element is, or nothing.
// Where no container has the name that it is given, that command goes on to look for
// others that have it, images first.
func otherThanContainer(element []byte) string {
	var o map[string]json.RawMessage
	if json.Unmarshal(element, &o) != nil {
		return ""
	}
	has := func(keys ...string) bool {
		return slices.ContainsFunc(keys, func(key string) bool { _, ok := o[key]; return ok })
	}
	switch {
	case has("State", "HostConfig", "NetworkSettings"):
		return ""
	case has("RootFS", "RepoTags", "RepoDigests"):
		return "an image"
	case has("IPAM", "subnets"):
		return "a network"
	case has("Mountpoint"):
		return "a volume"
	case has("Spec"):
		return "an object of a swarm"
	}
	return ""
}

func parseContainer(b []byte) (Container, error) {
	var c *Container
	if err := json.Unmarshal(b, &c); err != nil {
		return Container{}, fmt.Errorf("not the JSON of docker inspect: %w", err)
	}
	if c == nil || c.ID == "" {
		return Container{}, errors.New(`not the JSON of docker inspect: it has no "Id"`)
	}
	return *c, nil
}

// NetworksInOrder are the names of the networks of c: the one that NetworkMode names, and
// then the others.
func (c Container) NetworksInOrder() []string {
	main := c.HostConfig.NetworkMode
	if main == "default" || main == "" {
		main = "bridge"
	}
	return slices.SortedFunc(maps.Keys(c.NetworkSettings.Networks), func(a, b string) int {
		return cmp.Or(cmp.Compare(rank(a, main), rank(b, main)), cmp.Compare(a, b))
	})
}

// NetworkNames are the names of the networks of c, for people.
func (c Container) NetworkNames() string {
	return strings.Join(slices.Sorted(maps.Keys(c.NetworkSettings.Networks)), ", ")
}

// NetworkNamed returns the network of c that people call so: by its name, or without what
// Compose puts in front, which is the name of the project.
func (c Container) NetworkNamed(name string) (string, bool) {
	project := c.Config.Labels["com.docker.compose.project"]
	for _, full := range []string{name, project + "_" + name} {
		if _, ok := c.NetworkSettings.Networks[full]; ok {
			return full, true
		}
	}
	return "", false
}

// SwarmTask reports whether c is of a service of a Swarm.
func (c Container) SwarmTask() bool {
	_, ok := c.Config.Labels["com.docker.swarm.task.id"]
	return ok
}

// rank puts main before the others.
func rank(name, main string) int {
	if name == main {
		return 0
	}
	return 1
}

// Up reports whether a container runs. The engine says that of one, too, that waits for
// its next restart.
func (s State) Up() bool {
	switch s.Status {
	case "", "running", "paused":
		return s.Running
	}
	return false
}

// Failed reports whether a container that does not run has ended by its own failure.
func (s State) Failed() bool { return s.ExitCode != 0 && s.ExitCode < 128 }

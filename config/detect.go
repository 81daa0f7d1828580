package config

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/registrar/advertise"
	"github.com/musterhq/muster/registrar/lookup"
	"github.com/musterhq/muster/tlsfiles"
)

// Detect says how the address that others dial is found, where node.advertise leaves
// that open.
type Detect struct {
	// HostIP is the address of the host, for an engine that says only 0.0.0.0.
	HostIP string `yaml:"host_ip" usage:"address of the host, where a container engine or metadata tells only its port"`
	// RequireExternal refuses an address of a container with a network of its own.
	RequireExternal bool `yaml:"require_external" usage:"whether an address within a container's own network is refused"`

	Registry DetectRegistry `yaml:"registry"`
}

// DetectRegistry is where a registrar has registered the ports of this container.
type DetectRegistry struct {
	// Provider is the one to ask. Default: the only one that is configured.
	Provider string `yaml:"provider" usage:"provider in which a registrar has registered this container"`
	// Service is the name without a port behind it. Default: the cluster.
	Service string `yaml:"service" usage:"service under which that is"`
	// Tag is one that this container alone has.
	Tag string `yaml:"tag" usage:"tag that this container alone has there"`
	// MustHaveTags are tags without which an entry does not count.
	MustHaveTags []string `yaml:"must_have_tags" usage:"tags that its entries must also have"`
}

func (d DetectRegistry) enabled() bool {
	return d.Provider != "" || d.Service != "" || d.Tag != "" || len(d.MustHaveTags) > 0
}

// Docker says where the container engine is. Empty: where the environment says, or
// engines usually are.
type Docker struct {
	// Host is its address, such as unix:///var/run/docker.sock or tcp://10.0.0.5:2376.
	Host string `yaml:"host" usage:"address of the container engine, as unix:///var/run/docker.sock"`
	// TLS is for an engine at tcp://.
	TLS tlsfiles.Config `yaml:"tls"`
}

// named stands in for a detector where only its name counts.
type named struct {
	advertise.Detector
	name string
}

func (n named) Name() string { return n.name }

// validateDetect checks the sections detect and docker. What the program has no
// detector for is found when the node starts.
func (l *loader) validateDetect() {
	d := l.config.Detect
	if d.HostIP != "" {
		if problem, hint := hostIPProblem(d.HostIP); problem != "" {
			l.bad("detect.host_ip", d.HostIP, problem, hint)
		}
	}
	r := d.Registry
	registry := strings.TrimSpace(l.config.Node.Advertise) == "registry"
	if r.Tag == "" && (r.enabled() || registry) {
		l.bad("detect.registry.tag", "", "missing", "name a tag that this container alone has, as MUSTER_DETECT_REGISTRY_TAG does best")
	}
	for i, tag := range r.MustHaveTags {
		if tag == "" {
			l.bad(fmt.Sprintf("detect.registry.must_have_tags[%d]", i), "", "an empty tag", "write it or take it out")
		}
	}
	if r.Tag != "" {
		known := l.config.Providers()
		switch choice := strings.Join(known, " or "); {
		case r.Provider == "" && len(known) > 1:
			l.bad("detect.registry.provider", "", "missing: with several providers it names the one that has the registrations", "write "+choice)
		case r.Provider != "" && len(known) > 0 && !slices.Contains(known, r.Provider):
			l.bad("detect.registry.provider", r.Provider, "no such provider is configured", "write "+choice)
		}
	}
	if l.config.Docker.TLS.Enabled() {
		_, err := l.config.Docker.TLS.Client()
		l.driverErrors("docker", err)
	}
}

func hostIPProblem(text string) (problem, hint string) {
	a, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return "not an IP address", "write the one at which others reach this host, as 10.0.0.5"
	case a.IsUnspecified() || a.IsMulticast() || a.Zone() != "":
		return "nobody can dial it", "write the address at which others reach this host, as 10.0.0.5"
	}
	return "", ""
}

// Lookup opens the provider of detect.registry for look-ups of this container, and
// returns false if no tag is configured. The caller closes the registry.
//
// Unhealthy entries are found too: a node that waits for its address may be what its
// check waits for.
func (c *Config) Lookup(o discovery.Options) (lookup.Lookup, *discovery.Registry, bool, error) {
	r := c.Detect.Registry
	if r.Tag == "" {
		return lookup.Lookup{}, nil, false, nil
	}
	name, service := r.Provider, r.Service
	if name == "" {
		name = c.Providers()[0]
	}
	if service == "" {
		service = c.Cluster
	}
	section, ok := c.Provider[name]
	if !ok {
		return lookup.Lookup{}, nil, false, &driver.ConfigError{Key: "detect.registry.provider", Value: name, Problem: "no such provider is configured"}
	}
	if o.Logger != nil {
		o.Logger = o.Logger.With("use", "detect.registry") // it is a second client of the provider
	}
	registry, err := discovery.Open(name, withUnhealthy(section), o)
	if err != nil {
		return lookup.Lookup{}, nil, false, err
	}
	return lookup.Lookup{Registry: registry, Service: service, Tag: r.Tag, MustHave: slices.Clone(r.MustHaveTags)}, registry, true, nil
}

// withUnhealthy returns a copy of a provider's section that finds unhealthy instances,
// where the provider tells them from others.
func withUnhealthy(section any) any {
	original := reflect.ValueOf(section)
	if original.Kind() != reflect.Pointer || original.Elem().Kind() != reflect.Struct {
		return section
	}
	changed := reflect.New(original.Type().Elem())
	changed.Elem().Set(original.Elem())
	for i := range changed.Elem().NumField() {
		field := changed.Elem().Field(i)
		name, _, _ := strings.Cut(changed.Type().Elem().Field(i).Tag.Get("yaml"), ",")
		if name == "healthy_only" && field.Kind() == reflect.Bool && field.CanSet() {
			field.SetBool(false)
		}
	}
	return changed.Interface()
}

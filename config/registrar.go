package config

import (
	"fmt"
	"time"

	"github.com/musterhq/muster/discovery"
)

// Registrar says what a registrar registers of a host, and how.
type Registrar struct {
	// Hostname is the first part of the ids, by which this host knows what is its own.
	// Default: the host name, where the purpose is ForRegistrar.
	Hostname string `yaml:"hostname" usage:"name of this host in what is registered (default the host name)"`
	// Containers says whether those of the engine are registered.
	Containers bool `yaml:"containers" usage:"whether the containers of the engine are registered"`
	// IP is the address of published ports. Default: the one that a port is bound to, and
	// that of the host where that is all.
	IP string `yaml:"ip" usage:"address of published ports (default the one that each is bound to)"`
	// Internal registers the container's own address and port.
	Internal bool `yaml:"internal" usage:"register the containers' own addresses and ports"`
	// Explicit registers only what has a name of its own.
	Explicit bool `yaml:"explicit" usage:"register only what has a SERVICE_NAME"`
	// RequireLabel registers only containers that have it: NAME or NAME=VALUE.
	RequireLabel string `yaml:"require_label" usage:"register only containers with this label, NAME or NAME=VALUE"`
	// IPFromLabel names a label whose value is the address.
	IPFromLabel string `yaml:"ip_from_label" usage:"label of a container whose value is its address"`
	// Tags are put on all that is registered. Each may be a template over the container.
	Tags []string `yaml:"tags" usage:"tags of all that is registered of containers; templates over the container"`
	// MergeTags adds SERVICE_TAGS to SERVICE_<port>_TAGS.
	MergeTags bool `yaml:"merge_tags" usage:"add SERVICE_TAGS to SERVICE_<port>_TAGS"`
	// TTL is how long what is registered outlives this process. 0: the provider's default.
	TTL time.Duration `yaml:"ttl" usage:"how long registrations outlive this process; 0s is the provider's default"`
	// Resync is how often all containers are inspected although no event says so.
	Resync time.Duration `yaml:"resync" usage:"how often all containers are inspected whatever the events say"`
	// Cleanup takes away what containers of this host have left behind.
	Cleanup bool `yaml:"cleanup" usage:"take away what containers of this host that are gone have left behind"`
	// Deregister is always, or on-success to keep what a failed container has registered.
	Deregister string `yaml:"deregister" usage:"when an ended container is deregistered: always or on-success"`
	// OnExit is keep, to leave what is registered to the next start for a whole TTL, or
	// deregister.
	OnExit string `yaml:"on_exit" usage:"what becomes of the registrations at the end: keep, for the next start to take over within the TTL, or deregister"`
}

// Purpose is what a configuration is for.
type Purpose int

const (
	// ForNode wants what a node needs.
	ForNode Purpose = iota
	// ForRegistrar wants what a registrar needs, which is neither a cluster nor an
	// authority.
	ForRegistrar
	// ForAny is ForRegistrar where the configuration names no cluster and says something
	// of a registrar or of services, and otherwise ForNode.
	ForAny
)

// resolve returns what the configuration is for.
func (p Purpose) resolve(l *loader) Purpose {
	if p != ForAny {
		return p
	}
	_, registrar := l.file.lines["registrar"]
	_, services := l.file.lines["services"]
	if l.config.Cluster == "" && (registrar || services || l.layers.env.has("registrar") || l.layers.flags.has("registrar")) {
		return ForRegistrar
	}
	return ForNode
}

// OpenRegistrar is Open of all providers, for a registrar: what they know to be unwell is
// found too, since it may be what is to be taken away.
func (c *Config) OpenRegistrar(o discovery.Options) (*discovery.Union, error) {
	all := *c
	all.Provider = make(map[string]any, len(c.Provider))
	for name, section := range c.Provider {
		all.Provider[name] = withUnhealthy(section)
	}
	return all.Open(o)
}

// leastResync keeps the engine from being asked all the time.
const leastResync = time.Second

func (l *loader) validateRegistrar(r Registrar) {
	if r.Hostname != "" {
		l.name("registrar.hostname", r.Hostname)
	}
	if r.IP != "" {
		if problem, hint := hostIPProblem(r.IP); problem != "" {
			l.bad("registrar.ip", r.IP, problem, hint)
		}
	}
	if r.TTL < 0 {
		l.bad("registrar.ttl", r.TTL.String(), "negative", "write a duration, as 30s, or 0s for the provider's default")
	} else if r.TTL > 0 && r.TTL < time.Second {
		l.bad("registrar.ttl", r.TTL.String(), "too short to be renewed in time", "write 1s or more, or 0s for the provider's default")
	}
	if r.Resync < leastResync {
		l.bad("registrar.resync", r.Resync.String(), "too short", fmt.Sprintf("write %v or more, as 1m", leastResync))
	}
	l.oneOf("registrar.deregister", r.Deregister, "always", "on-success")
	l.oneOf("registrar.on_exit", r.OnExit, "deregister", "keep")
	for i, tag := range r.Tags {
		if tag == "" {
			l.bad(fmt.Sprintf("registrar.tags[%d]", i), "", "an empty tag", "write it or take it out")
		}
	}
}

// validateServices checks the services that are no containers.
func (l *loader) validateServices() {
	type key struct{ name, id string }
	first := make(map[key]int)
	for i, s := range l.config.Services {
		at := fmt.Sprintf("services[%d]", i)
		if l.problems.at(at) {
			continue
		}
		for _, err := range s.Validate() {
			l.driverErrors(at, err)
		}
		k := key{s.Name, s.Key(l.config.Registrar.Hostname)}
		if other, twice := first[k]; twice {
			l.bad(at+".id", s.ID, fmt.Sprintf("the same service with the same id %q as services[%d]", k.id, other), "give one of them another id")
			continue
		}
		first[k] = i
	}
}

// fillRegistrar sets the defaults that depend on the host.
func (l *loader) fillRegistrar() {
	r := &l.config.Registrar
	if l.purpose != ForRegistrar || r.Hostname != "" || l.problems.has("registrar.hostname") {
		return
	}
	name, err := l.host()
	if err != nil {
		l.badDefault("registrar.hostname", "", "missing, and the host name is not known: "+err.Error(), "name the host")
	} else if !isName(name) {
		l.badDefault("registrar.hostname", name, "the name of this host, which cannot be part of an id", "set registrar.hostname to one of letters, digits, '-', '_' and '.'")
	}
	r.Hostname = name
}

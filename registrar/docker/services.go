package docker

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/musterhq/muster/discovery/driver"
)

// ErrLeftOut is wrapped by what Rules.Services says of a container or port that is not
// registered though nothing is wrong with it: it is not published, it is to be
// ignored, it does not run.
var ErrLeftOut = errors.New("not registered")

// AddressError says that a service is not registered because its port is published on
// all addresses of the host, and nobody has said which that is.
type AddressError struct {
	// Service is what would be registered, but for its Address, which is empty.
	Service Service
}

func (e *AddressError) Error() string {
	return fmt.Sprintf("service %s: %s; set %s or %s", e.Service.ID, e.Service.Reason, keyIP, keyHostIP)
}

// Services returns what is registered of c, in the order of its ports, and what is
// worth telling of all that is not: errors that wrap ErrLeftOut are of things that are
// as they should be, an *AddressError is of a missing address, and all others name
// something wrong. What is wrong with one port keeps no other from being registered.
//
// other finds the container whose network c has joined (NetworkMode container:ID) by
// its id or name; nil knows none. Services asks nobody else and does not block.
//
//  1. Of a container that does not run, is paused, or lacks the label that is required,
//     nothing is registered; of one whose health check does not pass, only the ports with
//     SERVICE_<port>_PUBLISH_NOT_READY.
//  2. Each port that is published, or exposed with Internal or on the network of the
//     host or of another container, is a service, unless it is ignored or Explicit
//     and without a name. Several bindings of a port are one service, at the best.
//  3. It is named by SERVICE_<port>_NAME, or else by SERVICE_NAME or the image, with the
//     port behind it if more than one is registered of the container.
//  4. Its id is HOSTNAME:CONTAINER:PORT, and :udp or :sctp for these, or what
//     SERVICE_ID says. One id that is said for several ports gets these endings, too.
//  5. Its address is the label's of IPFromLabel, else IP, else the one that it is bound
//     to, else HostIP. With Internal it is the container's own, whatever IP says; so it
//     is of a container in the network of another one, unless the latter publishes the port.
func (r Rules) Services(c Container, other func(id string) (Container, bool)) ([]Service, []error) {
	var problems []error
	report := func(err error) { problems = append(problems, fmt.Errorf("container %s: %w", c.label(), err)) }
	if reason := r.leavesOut(c); reason != "" {
		report(fmt.Errorf("%w: %s", ErrLeftOut, reason))
		return nil, problems
	}
	all := parseSettings(c, report)
	unwell := c.unwell()
	if unwell != "" && !slices.ContainsFunc(all, setting.notReady) {
		problems = nil // what is wrong with its settings is told when they count
		report(fmt.Errorf("%w: %s", ErrLeftOut, unwell))
		return nil, problems
	}
	net, err := r.networkOf(c, other)
	if err != nil {
		report(err)
		return nil, problems
	}
	var found []candidate
	for _, p := range portsOf(c, report) {
		set := all.of(p)
		at := spot{}
		err := r.wants(set)
		if err == nil {
			at, err = r.spotOf(p, net, report)
		}
		if err != nil {
			report(fmt.Errorf("port %v: %w", p, err))
			continue
		}
		found = append(found, candidate{p, at, set, all.tags(p, r.MergeTags)})
	}
	if len(found) == 0 {
		if len(problems) == 0 {
			report(fmt.Errorf("%w: it exposes no port", ErrLeftOut))
		}
		return nil, problems
	}
	forced := r.forced(c, report)
	var services []Service
	ids := make(map[string]port)
	for _, f := range found {
		// Its name and its id are the same when all its ports are registered.
		s := r.service(c, f, found, forced)
		if unwell != "" && !f.set[keyNotReady].notReady() {
			report(fmt.Errorf("port %v: %w: %s", f.port, ErrLeftOut, unwell))
			continue
		}
		if p, taken := ids[s.ID]; taken {
			report(fmt.Errorf("port %v: %w", f.port, &driver.ConfigError{Key: keyID, Value: s.ID, Problem: fmt.Sprintf("is the id of port %v; give each its own", p)}))
			continue
		}
		ids[s.ID] = f.port
		if !f.spot.ip.IsValid() {
			report(&AddressError{s})
			continue
		}
		services = append(services, s)
	}
	return services, problems
}

// candidate is a port that is registered.
type candidate struct {
	port port
	spot spot
	set  map[string]setting
	tags []string
}

// leavesOut says why nothing of c is registered, or nothing.
func (r Rules) leavesOut(c Container) string {
	// An engine that says no status has been asked for those that run.
	switch status := strings.ToLower(c.State.Status); {
	case c.State.Paused || status == "paused":
		return "it is paused"
	case status != "" && status != "running":
		return "it does not run: it is " + status
	}
	if r.RequireLabel == "" {
		return ""
	}
	name, want, exact := strings.Cut(r.RequireLabel, "=")
	have, ok := c.Config.Labels[name]
	if !ok || exact && have != want || !exact && have != "" && isNo(have) {
		return "it lacks the label " + r.RequireLabel
	}
	return ""
}

// unwell says why c is not to get traffic by now, or nothing.
func (c Container) unwell() string {
	if h := c.State.Health; h != nil && (h.Status == "starting" || h.Status == "unhealthy") {
		return "its health check says that it is " + h.Status
	}
	return ""
}

// notReady reports whether s has a port registered whatever the health check says: one
// whose address is looked up by the container itself, which is well once it knows it.
func (s setting) notReady() bool { return s.key == keyNotReady && !isNo(s.value) }

// wants reports whether a port with these settings is registered.
func (r Rules) wants(set map[string]setting) error {
	if ignore := set[keyIgnore]; !isNo(ignore.value) {
		return fmt.Errorf("%w: %s=%q", ErrLeftOut, ignore.source(), ignore.value)
	}
	if r.Explicit && set[keyName].value == "" {
		return fmt.Errorf("%w: registrar.explicit wants a SERVICE_NAME, and it has none", ErrLeftOut)
	}
	return nil
}

// forced returns the tags that are put on every service.
func (r Rules) forced(c Container, report func(error)) []string {
	templates, errs := parseTags(keyForced, r.Tags)
	for _, err := range errs {
		report(err)
	}
	var tags []string
	for _, t := range templates {
		more, err := t.tags(c)
		if err != nil {
			report(err)
		}
		tags = append(tags, more...)
	}
	return tags
}

// service returns f, which is one of all that are registered of c.
func (r Rules) service(c Container, f candidate, all []candidate, forced []string) Service {
	name, source := f.set[keyName].value, f.set[keyName].source()
	if name == "" {
		name, source = c.defaultName()
	}
	// A name that was given to the one port is its own.
	if named := f.set[keyName]; len(all) > 1 && (named.value == "" || named.width > 1) {
		name += fmt.Sprintf("-%d", f.port.number)
	}
	id := r.Hostname + ":" + c.label() + f.port.suffix()
	if set := f.set[keyID]; set.value != "" {
		id = set.value
		if slices.ContainsFunc(all, func(g candidate) bool { return g.port != f.port && g.set[keyID].value == id }) {
			id += f.port.suffix()
		}
	}
	tags := append(slices.Clone(f.tags), forced...)
	if f.port.protocol != "tcp" {
		tags = append(tags, f.port.protocol)
	}
	s := Service{
		ID:     id,
		Name:   name,
		Port:   f.spot.port,
		Tags:   unique(tags),
		Attrs:  attrs(f.set),
		TTL:    r.TTL,
		Reason: f.spot.reason + "; the name is from " + source,
	}
	if f.spot.ip.IsValid() {
		s.Address = f.spot.ip.String()
	}
	return s
}

// defaultName is the name of the image without registry, tag and digest, or else the
// container's, and where it is from.
func (c Container) defaultName() (name, source string) {
	name, _, _ = strings.Cut(c.Config.Image, "@")
	name = name[strings.LastIndex(name, "/")+1:]
	name, _, _ = strings.Cut(name, ":")
	// What was started by the id of its image says no name.
	if name == "" || strings.HasPrefix(c.Config.Image, "sha256:") || len(name) == 64 && strings.Trim(name, "0123456789abcdef") == "" {
		return c.label(), "the container"
	}
	return name, "the image"
}

// unique returns list without what it repeats, never nil.
func unique(list []string) []string {
	seen := make(map[string]bool)
	kept := []string{}
	for _, s := range list {
		if !seen[s] {
			seen[s] = true
			kept = append(kept, s)
		}
	}
	return kept
}

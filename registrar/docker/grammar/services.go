package grammar

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/registrar/docker/engine"
	"github.com/musterhq/muster/registrar/docker/internal/binding"
)

// ErrLeftOut is wrapped by what Rules.Services says of a container or port that is not
// registered though nothing is wrong with it: it is not published, it is to be
// ignored, it does not run.
var ErrLeftOut = errors.New("not registered")

// AddressError says that a service is not registered because nobody has said at which
// address of the host its port is reached: it is published on all of them, or none of its
// family is known.
type AddressError struct {
	// Service is what would be registered, but for its Address, which is empty.
	Service Service
	// Hint says what makes the address known.
	Hint string
}

func (e *AddressError) Error() string {
	return fmt.Sprintf("service %s: %s; %s", e.Service.ID, e.Service.Reason, e.Hint)
}

// Services returns what is registered of c, in the order of its ports, and what is
// worth reporting of all that is not: errors that wrap ErrLeftOut are of things that are
// as they should be, one for all ports with the same reason, an *AddressError is of a
// missing address, and all others name something wrong. What is wrong with one port keeps
// no other from being registered. The time that it takes grows with the number of ports and
// that of settings.
//
// other finds the container whose network c has joined (NetworkMode container:ID) by
// its id or name; nil knows none. Services asks nobody else and does not block.
//
//  1. Of a container that does not run, is paused, or lacks the label that is required,
//     nothing is registered; of one whose health check does not pass, only the ports with
//     SERVICE_<port>_PUBLISH_NOT_READY.
//  2. Each port that is published, or exposed with Internal or on the network of the
//     host or of another container or in one whose containers others reach as they
//     are, is a service, unless it is ignored or Explicit and without a name. Where it need
//     not be published, SERVICE_<port>_NAME makes a port known that is not exposed.
//     Several bindings of a port are one service, at the best.
//  3. It is named by SERVICE_<port>_NAME, or else by SERVICE_NAME or the image, with the
//     port behind it if more than one is registered of the container.
//  4. Its id is HOSTNAME:CONTAINER:PORT, and :udp or :sctp for these, or what
//     SERVICE_ID says. One id that is said for several ports gets these endings, too.
//  5. Its address is SERVICE_IP, else the label's of IPFromLabel, else IP, else the one
//     that it is bound to, else HostIP, and always of the family that it is bound to. With
//     Internal it is the container's own, whatever IP says, in the network that
//     SERVICE_NETWORK names; so it is of a container in the network of another one, unless
//     the latter publishes the port, and of one in a network of macvlan and the like.
func (r Rules) Services(c engine.Container, other func(id string) (engine.Container, bool)) ([]Service, []error) {
	found := findings{container: c.Label()}
	report := found.add
	if reason := r.leavesOut(c); reason != "" {
		report(fmt.Errorf("%w: %s", ErrLeftOut, reason))
		return nil, found.errors()
	}
	all := parseSettings(c, report)
	problem := unwell(c)
	if problem != "" && !all.anyNotReady() {
		found = findings{container: c.Label()} // what is wrong with its settings is reported when they count
		found.add(fmt.Errorf("%w: %s", ErrLeftOut, problem))
		return nil, found.errors()
	}
	all.warnings(report)
	net, err := r.networkOf(c, other)
	if err != nil {
		report(err)
		return nil, found.errors()
	}
	ports := binding.PortsOf(c, report)
	if net.unpublished(r) || all.any(keyNetwork) {
		ports = all.declared(ports)
	}
	var registered []candidate
	for _, p := range ports {
		set := all.of(p)
		at := endpoint{}
		err := r.wants(set)
		if err == nil {
			at, err = r.endpointOf(p, net, set, report)
		}
		if err != nil {
			found.ofPort(p, err)
			continue
		}
		registered = append(registered, candidate{p, at, set, all.tags(p, r.MergeTags)})
	}
	if len(registered) == 0 {
		if found.none() {
			report(fmt.Errorf("%w: %s", ErrLeftOut, exposesNothing(net)))
		}
		return nil, found.errors()
	}
	of := r.about(c, registered, report)
	var services []Service
	ids := make(map[string]binding.Port)
	for _, f := range registered {
		// Its name and its id are the same when all its ports are registered.
		s := r.service(f, of, report)
		if problem != "" && !f.set[keyNotReady].notReady() {
			found.ofPort(f.port, fmt.Errorf("%w: %s", ErrLeftOut, problem))
			continue
		}
		if p, taken := ids[s.ID]; taken {
			report(fmt.Errorf("port %v: %w", f.port, &driver.ConfigError{Key: keyID, Value: s.ID, Problem: fmt.Sprintf("is the id of port %v", p), Hint: "give each its own"}))
			continue
		}
		ids[s.ID] = f.port
		if !f.endpoint.ip.IsValid() {
			report(&AddressError{s, f.endpoint.hint})
			continue
		}
		services = append(services, s)
	}
	return services, found.errors()
}

func exposesNothing(n network) string {
	if n.onHost {
		return "it exposes no port; name each that it listens on with SERVICE_<port>_NAME"
	}
	return "it exposes no port"
}

// findings are what is worth reporting of a container. What is left out for the same reason is
// reported once, for all its ports: there may be thousands.
type findings struct {
	container string
	all       []finding
	byReason  map[string]int // of those that are left out
}

type finding struct {
	err     error
	ports   []binding.Port // that err is of, if it is of some
	sources []string       // of those that are ignored
}

func (f *findings) none() bool { return len(f.all) == 0 }

// add reports something of the container.
func (f *findings) add(err error) { f.all = append(f.all, finding{err: err}) }

// ofPort reports something of a port.
func (f *findings) ofPort(p binding.Port, err error) {
	if !errors.Is(err, ErrLeftOut) {
		f.add(fmt.Errorf("port %v: %w", p, err))
		return
	}
	var ignored *ignoredError
	reason, source := err.Error(), ""
	if errors.As(err, &ignored) {
		reason, source = "ignored", ignored.source
	}
	if f.byReason == nil {
		f.byReason = make(map[string]int)
	}
	at, known := f.byReason[reason]
	if !known {
		at = len(f.all)
		f.byReason[reason] = at
		f.all = append(f.all, finding{err: err})
	}
	one := &f.all[at]
	one.ports = append(one.ports, p)
	if n := len(one.sources); source != "" && (n == 0 || one.sources[n-1] != source) {
		one.sources = append(one.sources, source)
	}
}

func (f *findings) errors() []error {
	const most = 3
	var errs []error
	for _, one := range f.all {
		err := one.err
		if n := len(one.sources); n > 1 {
			text := strings.Join(one.sources[:min(n, most)], ", ")
			if n > most {
				text += fmt.Sprintf(" and %d more", n-most)
			}
			err = &ignoredError{text}
		}
		switch len(one.ports) {
		case 0:
		case 1:
			err = fmt.Errorf("port %v: %w", one.ports[0], err)
		default:
			err = fmt.Errorf("ports %s: %w", binding.FormatPorts(one.ports), err)
		}
		errs = append(errs, fmt.Errorf("container %s: %w", f.container, err))
	}
	return errs
}

// ignoredError is of a port that a setting has ignored.
type ignoredError struct{ source string }

func (e *ignoredError) Error() string { return fmt.Sprintf("%v: %s", ErrLeftOut, e.source) }
func (e *ignoredError) Unwrap() error { return ErrLeftOut }

// candidate is a port that is registered.
type candidate struct {
	port     binding.Port
	endpoint endpoint
	set      map[string]setting
	tags     []setting // the strongest first
}

// leavesOut says why nothing of c is registered, or nothing.
func (r Rules) leavesOut(c engine.Container) string {
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
func unwell(c engine.Container) string {
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
		return &ignoredError{fmt.Sprintf("%s=%q", ignore.source(), ignore.value)}
	}
	if r.Explicit && set[keyName].value == "" {
		return fmt.Errorf("%w: registrar.explicit wants a SERVICE_NAME, and it has none", ErrLeftOut)
	}
	return nil
}

// forced returns the tags that are put on every service.
func (r Rules) forced(c engine.Container, report func(error)) []string {
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

// about is what the services of a container have in common.
type about struct {
	container engine.Container
	several   bool           // ports are registered
	ids       map[string]int // how many ports want each SERVICE_ID
	forced    []string       // tags
	tags      map[string][]string
}

func (r Rules) about(c engine.Container, registered []candidate, report func(error)) *about {
	a := &about{container: c, several: len(registered) > 1, ids: make(map[string]int), forced: r.forced(c, report), tags: make(map[string][]string)}
	for _, f := range registered {
		a.ids[f.set[keyID].value]++
	}
	return a
}

// tagsOf returns the tags that a setting says, which may have templates in it. It is read
// once, though it be for a thousand ports.
func (a *about) tagsOf(s setting, report func(error)) []string {
	tags, known := a.tags[s.written+"\x00"+s.value]
	if !known {
		var errs []error
		tags, errs = ownTags(s, a.container)
		for _, err := range errs {
			report(err)
		}
		a.tags[s.written+"\x00"+s.value] = tags
	}
	return tags
}

// service returns f, which is one of those that are registered of a container.
func (r Rules) service(f candidate, of *about, report func(error)) Service {
	name, source := f.set[keyName].value, f.set[keyName].source()
	if name == "" {
		name, source = defaultName(of.container)
	}
	// A name that was given to the one port is its own.
	if named := f.set[keyName]; of.several && (named.value == "" || named.width > 1) {
		name += fmt.Sprintf("-%d", f.port.Number)
	}
	id := r.Hostname + ":" + of.container.Label() + suffix(f.port)
	if set := f.set[keyID]; set.value != "" {
		id = set.value
		if of.ids[id] > 1 {
			id += suffix(f.port)
		}
	}
	var tags []string
	for _, set := range f.tags {
		tags = append(tags, of.tagsOf(set, report)...)
	}
	tags = append(tags, of.forced...)
	if f.port.Protocol != "tcp" {
		tags = append(tags, f.port.Protocol)
	}
	s := Service{
		ID:     id,
		Name:   name,
		Port:   f.endpoint.port,
		Tags:   unique(tags),
		Attrs:  attrs(f.set),
		TTL:    r.TTL,
		Reason: f.endpoint.reason + "; the name is from " + source,
	}
	if f.endpoint.ip.IsValid() {
		s.Address = f.endpoint.ip.String()
	}
	return s
}

// suffix is how p ends an id. Only tcp is not said.
func suffix(p binding.Port) string {
	if p.Protocol == "tcp" {
		return fmt.Sprintf(":%d", p.Number)
	}
	return fmt.Sprintf(":%d:%s", p.Number, p.Protocol)
}

// defaultName is the name of the image without registry, tag and digest, or else the
// container's, and where it is from.
func defaultName(c engine.Container) (name, source string) {
	name, _, _ = strings.Cut(c.Config.Image, "@")
	name = name[strings.LastIndex(name, "/")+1:]
	name, _, _ = strings.Cut(name, ":")
	if name == "" || byImageID(c) {
		return c.Label(), "the container"
	}
	return name, "the image"
}

// digests are the algorithms that begin the id of an image, if it is written in full.
var digests = []string{"sha256", "sha384", "sha512"}

// shortestID is how much of an id engines write, and of what people do the least that is
// told from a name.
const shortestID, shortestPrefix = 7, 4

// byImageID reports whether c was run by the id of its image, or the beginning of one, and
// not by its name. An id is another one after each build.
func byImageID(c engine.Container) bool {
	algorithm, _, full := strings.Cut(c.Config.Image, ":")
	if full && slices.Contains(digests, algorithm) {
		return true
	}
	text := c.Config.Image
	if !isHex(text) {
		return false
	}
	id := c.Image
	if _, hex, ok := strings.Cut(id, ":"); ok {
		id = hex
	}
	if id != "" {
		return len(text) >= shortestPrefix && strings.HasPrefix(id, strings.ToLower(text))
	}
	// Names such as facade have no digit.
	return len(text) >= shortestID && len(text) <= 128 && strings.ContainsAny(text, "0123456789")
}

func isHex(s string) bool { return s != "" && strings.Trim(s, "0123456789abcdef") == "" }

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

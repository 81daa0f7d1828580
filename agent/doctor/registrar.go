package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/config"
	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/registrar"
	"github.com/musterhq/muster/registrar/advertise"
	"github.com/musterhq/muster/registrar/docker/engine"
	"github.com/musterhq/muster/registrar/docker/grammar"
	"github.com/musterhq/muster/registrar/host"
)

// maxChecked bounds the services whose registration is checked.
const maxChecked = 16

// RegistrarOptions say which registrar is looked at.
type RegistrarOptions struct {
	// Config is the configuration, whose http.addr is where the registrar serves, and
	// Rules what it says of containers. Registries are its providers. The caller closes
	// them.
	Config     *config.Config
	Rules      grammar.Rules
	Registries []*discovery.Registry

	// Providers says more of the providers, by name.
	Providers map[string]Provider

	// Engine is the container engine, nil if no containers are registered.
	Engine *engine.Client

	// Ask reads what the registrar at http.addr says of itself.
	Ask func(ctx context.Context) (host.Report, error)

	// Timeout bounds each check. 0: 10 s.
	Timeout time.Duration
}

// RunRegistrar is Run for what a registrar needs.
func RunRegistrar(ctx context.Context, o RegistrarOptions) []Finding {
	r := &registrarRun{
		run:     newRun(Options{Config: o.Config, Providers: o.Providers, Engine: o.Engine, Timeout: o.Timeout}),
		options: o,
	}
	found := []Finding{ok("configuration", "registrar of host %s, %s", o.Rules.Hostname, strings.Join(o.Config.Providers(), " and "))}
	for _, c := range []check{{"registrar", r.lookForRegistrar}, {"address", r.hostAddress}, {"docker", r.containers}} {
		found = append(found, r.guarded(ctx, c)...)
	}
	var providers []check
	for _, registry := range o.Registries {
		providers = append(providers, check{"provider." + registry.Name(), func(ctx context.Context) []Finding { return r.provider(ctx, registry) }})
	}
	found = append(found, r.together(ctx, providers)...)
	return append(found, r.together(ctx, []check{
		{"certificates", r.clientCertificates}, {"clock.wall", func(ctx context.Context) []Finding { return []Finding{r.wall(ctx)} }},
	})...)
}

type registrarRun struct {
	*run
	options   RegistrarOptions
	services  []string          // names of what is to be registered
	instances []driver.Instance // the same as they would be, where no check is made of them
}

// lookForRegistrar asks who is at http.addr: this registrar, another, or nobody.
func (r *registrarRun) lookForRegistrar(ctx context.Context) []Finding {
	const name = "registrar"
	addr := r.Config.HTTP.Addr
	report, unasked := r.options.Ask(ctx)
	switch {
	case unasked != nil:
		return []Finding{nobodyAt(name, addr, "the registrar of this host", unasked)}
	case report.Hostname != r.options.Rules.Hostname:
		return []Finding{{name, Fail, fmt.Sprintf("http.addr %s is held by the registrar of host %s", addr, report.Hostname),
			"set http.addr to another port, or look with the configuration of that registrar"}}
	case !report.Ready:
		return []Finding{{name, Warn, "it runs and is not ready: " + report.WaitingFor, "see muster registrar status, and what is said here of what it waits for"}}
	case len(report.Problems) > 0:
		return []Finding{{name, Warn, "it runs, and not all is well: " + strings.Join(report.Problems, "; "), "see muster registrar status"}}
	}
	return []Finding{ok(name, "it runs and is ready: %s", counted(len(report.Services), "service"))}
}

// hostAddress finds the address of published ports that say none of their own.
func (r *registrarRun) hostAddress(ctx context.Context) []Finding {
	const name = "address"
	const hint = "set registrar.ip or detect.host_ip to the address at which others reach this host"
	rules := &r.options.Rules
	switch {
	case rules.IP != "":
		return []Finding{ok(name, "%s (registrar.ip)", rules.IP)}
	case rules.HostIP != "":
		return []Finding{ok(name, "%s (detect.host_ip)", rules.HostIP)}
	}
	anywhere := netip.AddrPortFrom(netip.IPv6Unspecified(), 1) // the port is not looked at
	explained := advertise.Explain(ctx, "auto", anywhere, advertise.Options{})
	found := hostSteps(name, explained.Steps)
	addr, err := netip.ParseAddrPort(explained.Addr)
	if err = cmp.Or(explained.Err, err); err == nil {
		rules.HostIP = addr.Addr().String()
		return append(found, ok(name, "%s (%s)", rules.HostIP, explained.Source))
	}
	why, _ := cause(err)
	if !r.needsAddress() {
		return append(found, ok(name, "not known (%s), and nothing needs it", why))
	}
	return append(found, Finding{name, Fail, "the address of this host is not known: " + why, hint})
}

// hostSteps are those by which a host is found, and not a port of it.
func hostSteps(check string, asked []advertise.Step) []Finding {
	var others []advertise.Step
	for _, s := range asked {
		if s.Name == advertise.StepConfig || s.Name == advertise.StepBind {
			continue // of a node
		}
		if addr, err := netip.ParseAddrPort(s.Addr); err == nil {
			s.Addr = addr.Addr().String()
		}
		others = append(others, s)
	}
	return steps(check, others)
}

// needsAddress reports whether something is registered at the address of the host.
func (r *registrarRun) needsAddress() bool {
	if r.Engine != nil && !r.options.Rules.Internal {
		return true
	}
	for _, s := range r.Config.Services {
		if strings.HasPrefix(s.Address, ":") {
			return true
		}
	}
	return false
}

// containers asks the engine what runs, and learns which services that comes to.
func (r *registrarRun) containers(ctx context.Context) []Finding {
	const name = "docker"
	rules := r.options.Rules
	for _, s := range r.Config.Services {
		r.services = append(r.services, s.Name)
		r.instances = append(r.instances, s.Instance(rules.Hostname, cmp.Or(rules.IP, rules.HostIP)))
	}
	if r.Engine == nil {
		return []Finding{ok(name, "not needed: registrar.containers is false")}
	}
	all, errs := r.asks(ctx)
	if len(errs) > 0 {
		return []Finding{closedPaths(name, errs)}
	}
	services := 0
	var refused []error
	other := func(id string) (engine.Container, bool) {
		i := slices.IndexFunc(all, func(c engine.Container) bool { return c.ID == id || c.ShortName() == id })
		if i < 0 {
			return engine.Container{}, false
		}
		return all[i], true
	}
	for _, c := range all {
		found, problems := rules.Services(c, other)
		for _, problem := range problems {
			var missing *grammar.AddressError // which address has told
			switch {
			case errors.As(problem, &missing):
				found = append(found, missing.Service)
			case !errors.Is(problem, grammar.ErrLeftOut):
				refused = append(refused, problem)
			}
		}
		for _, s := range found {
			services++
			r.services = append(r.services, s.Name)
			r.instances = append(r.instances, s.Instance(rules.Hostname))
		}
	}
	for _, i := range r.instances {
		if err := registrar.Validate(i); err != nil && i.Validate() == nil { // an address has been reported
			refused = append(refused, err)
		}
	}
	if len(refused) > 0 {
		detail, hint := split(refused[0])
		return []Finding{{name, Warn, fmt.Sprintf("%s; %s, %s to be registered, and %d are refused, as: %s", r.answers(ctx), counted(len(all), "container"), counted(services, "service"), len(refused), detail),
			cmp.Or(hint, "correct what the container asks for; muster registrar explain shows all of them")}}
	}
	return []Finding{ok(name, "%s; %s, %s to be registered", r.answers(ctx), counted(len(all), "container"), counted(services, "service"))}
}

// asks asks the engine for just what a registrar asks for: its events, and the containers
// that run, without those that end meanwhile. What a proxy does not let through is reported
// all at once.
func (r *registrarRun) asks(ctx context.Context) (all []engine.Container, errs []error) {
	// further adds err, and reports whether it is worth asking for more.
	further := func(err error) bool {
		if err != nil {
			errs = append(errs, err)
		}
		var closed *engine.ClosedError
		return err == nil || errors.As(err, &closed)
	}
	if !further(r.Engine.Ping(ctx)) || len(errs) > 0 || !further(r.follows(ctx)) {
		return nil, errs
	}
	ids, err := r.Engine.Running(ctx)
	if !further(err) {
		return nil, errs
	}
	if err != nil {
		ids = []string{"muster-doctor"} // whether one may be asked for is seen without
	}
	networks := engine.NewNetworks(r.Engine)
	for _, id := range ids {
		c, err := r.Engine.Inspect(ctx, id)
		switch {
		case errors.Is(err, driver.ErrNotFound):
			continue
		case err != nil:
			further(err)
			return nil, errs
		}
		all = append(all, networks.Complete(ctx, c))
	}
	return all, errs
}

// follows subscribes to the events of the engine, and ends that at once.
func (r *registrarRun) follows(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, err := range r.Engine.Events(ctx) {
		return err
	}
	return ctx.Err()
}

// closedPaths is one finding of all that the engine was asked for in vain.
func closedPaths(check string, errs []error) Finding {
	f := failed(check, errs[0], "see docs/docker.md#the-registrar")
	var details, hints []string
	for _, err := range errs {
		detail, hint := split(err)
		details = append(details, detail)
		if hint != "" {
			hints = append(hints, hint)
		}
	}
	f.Detail = strings.Join(details, "; ")
	if len(hints) > 0 {
		f.Hint = strings.Join(hints, "; ")
	}
	return f
}

// provider finds out whether a provider can be reached and takes what is to be registered.
func (r *registrarRun) provider(ctx context.Context, registry *discovery.Registry) []Finding {
	name := "provider." + registry.Name()
	if !registry.CanRegister() {
		return []Finding{ok(name, "it takes no registrations")}
	}
	names := slices.Compact(slices.Sorted(slices.Values(r.services)))
	nothing := len(names) == 0
	if nothing {
		names = []string{"muster-doctor"}
	}
	label := r.Config.ProviderLabel(registry.Name())
	// What a reader of one service may do is nothing to a registrar without a clean-up.
	list, err := registry.Driver().List(ctx, driver.Query{Service: names[0]})
	if err == nil && r.Config.Registrar.Cleanup {
		_, err = registry.Services(ctx)
		if errors.Is(err, driver.ErrUnsupported) {
			return []Finding{{name + ".read", Warn, fmt.Sprintf("%s: %v, so that registrar.cleanup finds nothing", label, err), "set registrar.cleanup to false"}}
		}
	}
	if err != nil {
		found := []Finding{r.refused(name+".read", registry.Name(), fmt.Errorf("%s: %w", label, err))}
		if !errors.Is(err, driver.ErrDenied) {
			return append(found, skipped(name+".register", "it cannot be reached", "see what is said of reading"))
		}
		return append(found, r.takes(ctx, name+".register", registry, names, nothing))
	}
	read := ok(name+".read", "%s: it can be read", label)
	if len(list.Skipped) > 0 {
		read = Finding{name + ".read", Warn, fmt.Sprintf("%s: %d entries of %s cannot be read, as %s: %v", label, len(list.Skipped), names[0], list.Skipped[0].Key, list.Skipped[0].Reason),
			"correct or remove these entries"}
	}
	found := append([]Finding{read}, r.servers(ctx, registry)...)
	found = append(found, readers(registry, r.instances)...)
	return append(found, r.takes(ctx, name+".register", registry, names, nothing))
}

// readers finds the instances that not all readers of a provider's records would find, as DNS
// does not hold every name.
func readers(registry *discovery.Registry, instances []driver.Instance) []Finding {
	var first error
	n := 0
	for _, i := range instances {
		if err := registry.Review(i); err != nil {
			first = cmp.Or(first, err)
			n++
		}
	}
	if n == 0 {
		return nil
	}
	detail, hint := split(first)
	return []Finding{{"provider." + registry.Name() + ".readers", Warn, fmt.Sprintf("not all readers would find %s, as: %s", counted(n, "instance"), detail), hint}}
}

// takes checks whether registrations are permitted. Where nothing is to be registered, a name that
// nobody has stands for what will be.
func (r *registrarRun) takes(ctx context.Context, check string, registry *discovery.Registry, names []string, nothing bool) Finding {
	checker, can := registry.Driver().(driver.PermissionChecker)
	if !can {
		return ok(check, "it takes registrations; whether it takes these is seen when the registrar runs")
	}
	for _, service := range names[:min(len(names), maxChecked)] {
		if err := checker.CheckPermission(ctx, service); err != nil {
			f := r.refused(check, registry.Name(), err)
			if nothing {
				f.Status, f.Detail = Warn, "nothing is to be registered by now; of a service with another name, "+f.Detail
			}
			return f
		}
	}
	if nothing {
		return ok(check, "services may be registered and removed; by now there is none")
	}
	shown := names
	if len(names) > 4 {
		shown = append(slices.Clone(names[:3]), fmt.Sprintf("%d more", len(names)-3))
	}
	return ok(check, "instances of %s may be registered and removed", strings.Join(shown, ", "))
}

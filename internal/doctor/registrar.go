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

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node/config"
	"github.com/musterhq/muster/registrar/advertise"
	"github.com/musterhq/muster/registrar/docker"
	"github.com/musterhq/muster/registrar/host"
)

// maxRehearsed bounds the services whose registration is rehearsed.
const maxRehearsed = 16

// RegistrarOptions say which registrar is looked at.
type RegistrarOptions struct {
	// Config is the configuration, whose http.addr is where the registrar serves, and
	// Rules what it says of containers. Registries are its providers. The caller closes
	// them.
	Config     *config.Config
	Rules      docker.Rules
	Registries []*discovery.Registry

	// Providers says more of the providers, by name.
	Providers map[string]Provider

	// Engine is the container engine, nil where no containers are registered.
	Engine *docker.Client

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
		providers = append(providers, check{"provider." + registry.Name(), func(ctx context.Context) []Finding { return r.outlet(ctx, registry) }})
	}
	found = append(found, r.together(ctx, providers)...)
	return append(found, r.together(ctx, []check{
		{"certificates", r.clientCertificates}, {"clock.wall", func(ctx context.Context) []Finding { return []Finding{r.wall(ctx)} }},
	})...)
}

type registrarRun struct {
	*run
	options  RegistrarOptions
	services []string // names of what is to be registered
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
	const mend = "set registrar.ip or detect.host_ip to the address at which others reach this host"
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
	why, _ := split(err.Error())
	if !r.needsAddress() {
		return append(found, ok(name, "not known (%s), and nothing needs it", why))
	}
	return append(found, Finding{name, Fail, "the address of this host is not known: " + why, mend})
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
	for _, s := range r.Config.Services {
		r.services = append(r.services, s.Name)
	}
	if r.Engine == nil {
		return []Finding{ok(name, "not needed: registrar.containers is false")}
	}
	info, err := r.Engine.Info(ctx)
	var all []docker.Container
	if err == nil {
		all, err = r.running(ctx)
	}
	if err != nil {
		return []Finding{failed(name, err, "see docs/docker.md#the-registrar")}
	}
	services := 0
	other := func(id string) (docker.Container, bool) {
		i := slices.IndexFunc(all, func(c docker.Container) bool { return c.ID == id || c.ShortName() == id })
		if i < 0 {
			return docker.Container{}, false
		}
		return all[i], true
	}
	for _, c := range all {
		found, problems := r.options.Rules.Services(c, other)
		for _, problem := range problems {
			var missing *docker.AddressError // which address has told
			if errors.As(problem, &missing) {
				found = append(found, missing.Service)
			}
		}
		for _, s := range found {
			services++
			r.services = append(r.services, s.Name)
		}
	}
	return []Finding{ok(name, "engine %s at %s answers; %s, %s to be registered", info.Version, r.Engine.Host(), counted(len(all), "container"), counted(services, "service"))}
}

// running are the containers that run, but for those that end meanwhile.
func (r *registrarRun) running(ctx context.Context) ([]docker.Container, error) {
	ids, err := r.Engine.Running(ctx)
	if err != nil {
		return nil, err
	}
	var all []docker.Container
	for _, id := range ids {
		c, err := r.Engine.Inspect(ctx, id)
		if errors.Is(err, driver.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

// outlet finds out whether a provider can be reached and takes what is to be registered.
func (r *registrarRun) outlet(ctx context.Context, registry *discovery.Registry) []Finding {
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
	return []Finding{read, r.takes(ctx, name+".register", registry, names, nothing)}
}

// takes rehearses registrations. Where nothing is to be registered, a name that nobody
// has stands for what will be.
func (r *registrarRun) takes(ctx context.Context, check string, registry *discovery.Registry, names []string, nothing bool) Finding {
	rehearser, can := registry.Driver().(driver.Rehearser)
	if !can {
		return ok(check, "it takes registrations; whether it takes these is seen when the registrar runs")
	}
	for _, service := range names[:min(len(names), maxRehearsed)] {
		if err := rehearser.Rehearse(ctx, service); err != nil {
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

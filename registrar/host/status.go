package host

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/registrar"
	"github.com/musterhq/muster/registrar/check"
	"github.com/musterhq/muster/registrar/docker"
)

// Status is what a Registrar knows of its work.
type Status struct {
	Hostname string
	// HostIP is the address of this host, empty if it is not known, HostSource how it is
	// known, and HostErr why it is not.
	HostIP, HostSource string
	HostErr            error
	// Engine is what is known of the containers, nil where none are registered.
	Engine *docker.View
	// Checks are the services that are no containers.
	Checks []check.Status
	// Desired is what is to be registered, and what would be, were nothing wrong with it.
	Desired   []Desired
	Providers []ProviderStatus
}

// ProviderStatus is that of one provider.
type ProviderStatus struct {
	Name string
	registrar.Status
	// Evictions counts what was taken away that containers had left behind.
	Evictions uint64
	// Kept are those that came back, since somebody else keeps them registered under the
	// name of this host.
	Kept []discovery.Instance
	// CleanupErr is why that could not be looked for.
	CleanupErr error
}

// Status returns the state of now.
func (r *Registrar) Status() Status {
	s := Status{Hostname: r.config.Rules.Hostname, Checks: r.checks.Status()}
	if r.watcher != nil {
		v := r.watcher.View()
		s.Engine = &v
	}
	r.mu.Lock()
	s.HostIP, s.HostSource, s.HostErr = r.hostIP, r.hostSrc, r.hostErr
	if s.HostIP != "" && s.HostSource == "" {
		s.HostSource = "detect.host_ip"
	}
	if ip := r.config.Rules.IP; ip != "" {
		s.HostIP, s.HostSource, s.HostErr = ip, "registrar.ip", nil
	}
	s.Desired = slices.Clone(r.desired)
	r.mu.Unlock()
	for _, o := range r.outlets {
		p := ProviderStatus{Name: o.registry.Name(), Status: o.Status()}
		o.mu.Lock()
		p.Evictions, p.Kept, p.CleanupErr = o.evictions, slices.Clone(o.kept), o.err
		o.mu.Unlock()
		s.Providers = append(s.Providers, p)
	}
	return s
}

// Wanted and Registered count what is to be registered with p, and what is.
func (p ProviderStatus) Wanted() (wanted, registered int) {
	for _, i := range p.Instances {
		if i.Leaving {
			continue
		}
		wanted++
		if i.Registered {
			registered++
		}
	}
	return wanted, registered
}

// Ready returns nil if all that is known to run is registered with every provider, and
// else what is waited for. What can never be registered as it is, is not waited for.
func (s Status) Ready() error {
	var errs []error
	if s.Engine != nil && !s.Engine.Synced {
		errs = append(errs, fmt.Errorf("the container engine: %w", cmp.Or(s.Engine.Err, errNotYet)))
	}
	for _, c := range s.Checks {
		if !c.Checked {
			errs = append(errs, fmt.Errorf("the first check of service %s", c.Service.Name))
		}
	}
	for _, p := range s.Providers {
		switch {
		case p.Off != "":
			continue
		case !p.Session.Open:
			errs = append(errs, fmt.Errorf("provider %s: %w", p.Name, cmp.Or(p.Session.Err, errNotYet)))
			continue
		}
		for _, i := range p.Instances {
			if !i.Leaving && !i.Registered {
				errs = append(errs, fmt.Errorf("provider %s: service %s, id %s: %w", p.Name, i.Instance.Service, i.Instance.InstanceID, cmp.Or(i.Err, errNotYet)))
				break // one says enough
			}
		}
	}
	return errors.Join(errs...)
}

var errNotYet = errors.New("not yet")

package host

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/registrar"
	"github.com/musterhq/muster/registrar/check"
)

// Status is what a Registrar knows of its work.
type Status struct {
	Hostname string
	// HostIP is the address of this host, empty if it is not known, HostSource how it is
	// known, and HostErr why it is not.
	HostIP, HostSource string
	HostErr            error
	// Engine is what is known of the containers, nil if none are registered.
	Engine *EngineStatus
	// Checks are the services that are no containers.
	Checks []check.Status
	// Desired is what is to be registered, and what would be, were nothing wrong with it.
	Desired   []Desired
	Providers []ProviderStatus
}

// ProviderStatus is that of one provider.
type ProviderStatus struct {
	Name string
	// Addrs are where it is looked for, as configured and without passwords.
	Addrs []string
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
		s.Engine = engineStatus(r.watcher.View())
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
	for _, o := range r.targets {
		p := ProviderStatus{Name: o.registry.Name(), Addrs: o.registry.Addrs(), Status: o.Status()}
		o.mu.Lock()
		p.Evictions, p.Kept, p.CleanupErr = o.evictions, slices.Clone(o.kept), cmp.Or(o.err, o.reclaimErr)
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

// WaitReason is the code of what a registrar waits for. The codes are stable; docs/waiting.md
// says what each means and what to do about it.
type WaitReason string

// The codes of what a registrar waits for.
const (
	// WaitEngine: the containers are not known yet.
	WaitEngine WaitReason = "engine_unavailable"
	// WaitCheck: a service has not been checked yet.
	WaitCheck WaitReason = "not_checked"
	// WaitProvider: there is no session with a provider.
	WaitProvider WaitReason = "provider_unavailable"
	// WaitRegistration: a service is not registered yet.
	WaitRegistration WaitReason = "not_registered"
)

// WaitReasons returns all codes, the most likely cause of the others first.
func WaitReasons() []WaitReason {
	return []WaitReason{WaitEngine, WaitCheck, WaitProvider, WaitRegistration}
}

// pending is one thing that is waited for.
type pending struct {
	reason WaitReason
	err    error
}

// Ready returns nil if all that is known to run is registered with every provider, and
// else what is waited for. What can never be registered as it is, is not waited for, and
// neither is what another stands in the place of.
func (s Status) Ready() error {
	var errs []error
	for _, w := range s.waits() {
		errs = append(errs, w.err)
	}
	return errors.Join(errs...)
}

// waits returns all that is waited for, in the order of WaitReasons.
func (s Status) waits() (waits []pending) {
	add := func(reason WaitReason, format string, args ...any) {
		waits = append(waits, pending{reason, fmt.Errorf(format, args...)})
	}
	if s.Engine != nil && !s.Engine.Synced {
		add(WaitEngine, "the container engine: %w", cmp.Or(s.Engine.Err, errNotYet))
	}
	for _, c := range s.Checks {
		if !c.Checked {
			add(WaitCheck, "the first check of service %s", c.Service.Name)
		}
	}
	for _, p := range s.Providers {
		if p.Off == "" && !p.Session.Open {
			add(WaitProvider, "%s: %w", p.label(), cmp.Or(p.Session.Err, errNotYet))
		}
	}
	for _, p := range s.Providers {
		if p.Off != "" || !p.Session.Open {
			continue
		}
		for _, i := range p.Instances {
			if !i.Leaving && !i.Registered && !i.Yields && !unfit(i) {
				add(WaitRegistration, "%s: service %s, id %s: %w", p.label(), i.Instance.Service, i.Instance.InstanceID, cmp.Or(i.Err, errNotYet))
				break // one says enough
			}
		}
	}
	return waits
}

// label names the provider and where it is.
func (p ProviderStatus) label() string {
	if len(p.Addrs) == 0 {
		return "provider " + p.Name
	}
	return "provider " + p.Name + " at " + strings.Join(p.Addrs, ",")
}

// unfit reports whether a provider can never take i as it is, as one whose container has set
// more than it keeps. That is a problem of the one service, and of no other.
func unfit(i registrar.InstanceStatus) bool { return errors.Is(i.Err, driver.ErrInvalid) }

var errNotYet = errors.New("not yet")

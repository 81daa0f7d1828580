package advertise

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
)

// auto is the chain: what was told, then what knows the way in from outside, and last
// what this host knows of itself.
func auto(spec string, o Options) ([]step, error) {
	fromEnv, err := parseEnv(spec, o)
	if err != nil {
		return nil, err // what was told wrongly is not made up for by a guess
	}
	if fromEnv == nil {
		fromEnv = func(context.Context, netip.AddrPort) ([]candidate, error) {
			return nil, notHere("%s is not set", EnvAddr)
		}
	}
	steps := []step{
		{name: StepConfig, find: func(context.Context, netip.AddrPort) ([]candidate, error) {
			return nil, notHere("%s is auto", Key)
		}},
		{name: StepEnv, find: fromEnv, decides: true},
		{name: StepBind, find: boundToLoopback},
	}
	for _, d := range o.Detectors {
		steps = append(steps, step{name: d.Name(), find: detect(spec, d)})
	}
	return append(steps,
		step{name: StepKubernetes, find: kubernetes(spec, o)},
		step{name: StepECS, find: ecs(spec, o)},
		step{name: StepNomad, find: nomad(spec, o)},
		step{name: StepInterface, find: ofHost(spec, o), inside: true},
	), nil
}

// boundToLoopback ends the chain where nobody but this host can connect anyway.
func boundToLoopback(_ context.Context, bound netip.AddrPort) ([]candidate, error) {
	if a := bound.Addr(); a.IsLoopback() {
		return []candidate{{addr: bound, source: fmt.Sprintf("bound to loopback %v", a)}}, nil
	}
	return nil, notHere("not bound to loopback")
}

// ofHost takes the address that is bound to, if it is a specific one, or else the best
// of this host.
func ofHost(spec string, o Options) method {
	return func(_ context.Context, bound netip.AddrPort) ([]candidate, error) {
		a := bound.Addr()
		if !a.IsValid() || a.IsUnspecified() {
			return best(spec, bound, o)
		}
		c := candidate{addr: bound, source: fmt.Sprintf("bound to %v", a)}
		// Which interface has it matters only for what leads there. It need not have any.
		if all, err := o.Interfaces(); err == nil {
			if at := slices.IndexFunc(all, func(i Interface) bool { return slices.Contains(i.Addrs, a) }); at >= 0 {
				c.iface = all[at].Name
			}
		}
		return []candidate{c}, nil
	}
}

package advertise

import (
	"context"
	"net/netip"
	"strings"
)

// kubernetes is the step of a pod. The network model of Kubernetes gives each pod an
// address that all others reach, with the ports of the containers as they are; the
// downward API tells which one that is, where the manifest has it told:
//
//	env: [{name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]
func kubernetes(spec string, o Options) method {
	return func(_ context.Context, bound netip.AddrPort) ([]candidate, error) {
		for _, name := range []string{"MUSTER_POD_IP", "POD_IP"} {
			value, ok := o.LookupEnv(name)
			if value = strings.TrimSpace(value); !ok || value == "" {
				continue
			}
			a, err := netip.ParseAddr(value)
			if err != nil || unusable(a.Unmap()) != "" {
				return nil, &noAddress{spec, name + "=" + quote(value) + " is no address that others can dial", "set it from status.podIP", nil}
			}
			return []candidate{{addr: netip.AddrPortFrom(a.Unmap(), bound.Port()), source: name + " of the pod"}}, nil
		}
		if host, _ := o.LookupEnv("KUBERNETES_SERVICE_HOST"); host == "" {
			return nil, notHere("not in a pod of Kubernetes")
		}
		found, err := best(spec, bound, o)
		for i := range found {
			found[i].source = "address of the pod, " + found[i].source
		}
		return found, err
	}
}

// nomad is the step of a task of Nomad, which tells each port of its group's network
// in the environment: the host's address and port, and the port within.
func nomad(spec string, o Options) method {
	return func(_ context.Context, bound netip.AddrPort) ([]candidate, error) {
		ports := nomadPorts(o.Environ(), o.HostIP)
		if len(ports) == 0 {
			return nil, notHere("no port of Nomad in the environment")
		}
		var fitting []nomadPort
		for _, p := range ports {
			if p.inside == bound.Port() {
				fitting = append(fitting, p)
			}
		}
		best := nearest(fitting, o.HostIP)
		if len(best) != 1 {
			problem, hint := nomadProblem(ports, fitting, bound.Port())
			return nil, &noAddress{spec, problem, hint, nil}
		}
		p := best[0]
		if p.err != "" {
			return nil, &noAddress{spec, p.err, "set detect.host_ip to one of the host of that family, or write HOST:PORT", nil}
		}
		return []candidate{{addr: p.host, source: "port " + p.label + " of Nomad, " + p.variable}}, nil
	}
}

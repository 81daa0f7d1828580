package doctor

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/registrar/advertise"
)

// lookForAgent asks who is at http.addr: the agent of this node, another, or nobody.
func (r *run) lookForAgent(ctx context.Context) []Finding {
	const name = "agent"
	addr := r.Config.HTTP.Addr
	status, unasked := r.Ask(ctx)
	if unasked != nil {
		return []Finding{nobodyAt(name, addr, "the agent of this node", unasked)}
	}
	who := fmt.Sprintf("node %s of cluster %s", status.NodeID, status.Cluster)
	if status.Cluster != r.Config.Cluster || status.NodeID != r.Config.Node.ID {
		return []Finding{{name, Fail, fmt.Sprintf("http.addr %s is held by the agent of %s", addr, who),
			"set http.addr to another port, or look with the configuration of that node"}}
	}
	r.mu.Lock()
	r.agent = &status
	r.mu.Unlock()
	if !status.Ready {
		return []Finding{{name, Warn, fmt.Sprintf("the agent of %s runs and is not ready: %s", who, status.WaitingFor),
			"see muster status, and what is said here of what it waits for"}}
	}
	return []Finding{ok(name, "the agent of %s runs and is ready", who)}
}

// nobodyAt is for an address of the API at which the one that is looked for is not.
func nobodyAt(check, addr, wanted string, unasked error) Finding {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		why, _ := split(unasked.Error())
		return Finding{check, Fail, fmt.Sprintf("http.addr %s cannot be listened on (%v), and what is there is not %s: %s", addr, err, wanted, why),
			"stop what holds it, or set http.addr to an address of this host and a free port"}
	}
	_ = listener.Close()
	return ok(check, "none runs here; http.addr %s is free", addr)
}

// port opens node.bind, unless the agent has it.
func (r *run) port(context.Context) []Finding {
	const name = "port"
	bind, agent := r.Config.Node.Bind, r.ourAgent()
	trial, err := r.Node.Try("")
	if err == nil {
		r.trial = trial
		if _, port, _ := net.SplitHostPort(bind); agent != nil && port != "0" {
			return []Finding{{name, Warn, fmt.Sprintf("node.bind %s is free, although the agent of this node runs", bind),
				"start the agent again: it runs with another configuration"}}
		}
		return []Finding{ok(name, "node.bind %s can be listened on", bind)}
	}
	// Another port will do to dial from.
	r.trial, _ = r.Node.Try("127.0.0.1:0")
	if agent != nil && strings.Contains(err.Error(), "the port is in use") {
		r.held = true
		return []Finding{ok(name, "node.bind %s is held by the agent of this node", bind)}
	}
	return []Finding{failed(name, mendFirst(err), "name an address of this host and a free port")}
}

// mendFirst turns errors of the link, which say the mend before the cause, round.
func mendFirst(err error) error {
	text := err.Error()
	for _, mend := range []string{
		"the port is in use; stop the program that has it or bind to another port, 0 for any that is free",
		"this host has no such address; bind to one that it has, or to 0.0.0.0 for all",
		"the system does not allow it; bind to a port above 1023",
		"name an address of this host and a free port",
	} {
		if before, cause, ok := strings.Cut(text, mend+": "); ok {
			return fmt.Errorf("%s%s; %s", before, cause, mend)
		}
	}
	return err
}

// address asks all steps of the chain for the address that others dial.
func (r *run) address(ctx context.Context) []Finding {
	const name = "address"
	bound, err := r.bound(ctx)
	if err != nil {
		return []Finding{skipped(name, err.Error(), "mend node.bind")}
	}
	explained := r.Node.Explain(ctx, bound)
	found := steps(name, explained.Steps)
	if explained.Err != nil {
		return append(found, failed(name, explained.Err, "write HOST:PORT to node.advertise, or set "+advertise.EnvAddr))
	}
	r.found = explained.Addr
	result := ok(name, "%s (%s)", explained.Addr, explained.Source)
	if agent := r.ourAgent(); agent != nil && r.held && agent.Addr != explained.Addr {
		result = Finding{name, Warn, fmt.Sprintf("%s (%s), but the agent advertises %s", explained.Addr, explained.Source, agent.Addr),
			"start the agent again, with this configuration and in this environment"}
	}
	return append(found, result)
}

// steps are what each way of finding an address has come to.
func steps(check string, asked []advertise.Step) []Finding {
	var found []Finding
	for _, s := range asked {
		f := Finding{Check: check + "." + s.Name, Status: OK}
		switch s.Outcome {
		case advertise.Found:
			f.Detail = fmt.Sprintf("%s: %s", s.Addr, s.Reason)
		case advertise.NotApplicable:
			f.Detail = "not applicable: " + s.Reason
		default:
			f.Status = Warn
			if f.Detail, f.Mend = split(s.Reason); f.Mend == "" {
				f.Mend = "see docs/configuration.md#the-address-that-others-dial"
			}
		}
		found = append(found, f)
	}
	return found
}

// bound is the address that the node would listen on, as its listener would report it.
func (r *run) bound(ctx context.Context) (netip.AddrPort, error) {
	if r.trial != nil && !r.held && r.trial.Addr().Port() != 0 && !r.elsewhere() {
		return r.trial.Addr(), nil
	}
	host, port, err := net.SplitHostPort(r.Config.Node.Bind)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if host == "" || host == "0.0.0.0" || host == "::" {
		host = "::" // what a listener on all addresses reports
	}
	n, err := net.DefaultResolver.LookupPort(ctx, "tcp", port)
	if err != nil || n == 0 {
		return netip.AddrPort{}, fmt.Errorf("node.bind %s names no port", r.Config.Node.Bind)
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil || len(ips) == 0 {
		return netip.AddrPort{}, fmt.Errorf("node.bind %s does not resolve", r.Config.Node.Bind)
	}
	return netip.AddrPortFrom(ips[0].Unmap(), uint16(n)), nil
}

// elsewhere reports whether the trial listens on another port than node.bind names.
func (r *run) elsewhere() bool {
	_, port, _ := net.SplitHostPort(r.Config.Node.Bind)
	return port != "0" && port != fmt.Sprint(r.trial.Addr().Port())
}

// reach dials the address that others would.
func (r *run) reach(ctx context.Context) []Finding {
	const name = "reach"
	const mend = "publish the port or set node.advertise; see docs/docker.md"
	agent := r.ourAgent()
	switch {
	case r.found == "":
		return []Finding{skipped(name, "there is no address", "see address")}
	case r.trial == nil:
		return []Finding{skipped(name, "no port can be opened to dial from", "see port")}
	case r.elsewhere() && !r.held:
		return []Finding{skipped(name, "node.bind cannot be listened on", "see port")}
	case r.held:
		switch reach := agent.Advertise.Reach; node.ReachState(reach.State) {
		case node.Reachable:
			if reach.Node == "" {
				return []Finding{ok(name, "a member that is gone has reached the agent at %s", agent.Addr)}
			}
			return []Finding{ok(name, "node %s has reached the agent at %s", reach.Node, agent.Addr)}
		case node.Unreachable:
			return []Finding{failed(name, fmt.Errorf("%s", reach.Reason), mend)}
		}
		id, _, err := r.trial.Ask(ctx, r.found)
		switch {
		case err != nil:
			return []Finding{failed(name, fmt.Errorf("the agent is not reached at %s: %w", r.found, err), mend)}
		case id != agent.NodeID:
			return []Finding{{name, Fail, fmt.Sprintf("node %s answers at %s", id, r.found), mend}}
		}
		return []Finding{ok(name, "the agent answers at %s from here; no other member has dialled it yet", r.found)}
	}
	if err := r.trial.Reach(ctx, r.found); err != nil {
		return []Finding{failed(name, fmt.Errorf("%s does not lead back to this host: %w", r.found, err), mend)}
	}
	return []Finding{ok(name, "%s leads back to node.bind from here; whether it does from other hosts is found out by the first member that dials the node", r.found)}
}

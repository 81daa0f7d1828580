package doctor

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"strings"

	"github.com/musterhq/muster/internal/hint"
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
		why, _ := split(unasked)
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
	err := r.preflight.Open()
	if err == nil {
		if _, port, _ := net.SplitHostPort(bind); agent != nil && port != "0" {
			return []Finding{{name, Warn, fmt.Sprintf("node.bind %s is free, although the agent of this node runs", bind),
				"start the agent again: it runs with another configuration"}}
		}
		return []Finding{ok(name, "node.bind %s can be listened on", bind)}
	}
	if agent != nil && strings.Contains(err.Error(), "the port is in use") {
		r.held = true
		return []Finding{ok(name, "node.bind %s is held by the agent of this node", bind)}
	}
	return []Finding{failed(name, err, "name an address of this host and a free port")}
}

// address asks all steps of the chain for the address that others dial.
func (r *run) address(ctx context.Context) []Finding {
	const name = "address"
	bound, err := r.preflight.Bound(ctx)
	if err != nil {
		return []Finding{skipped(name, err.Error(), "correct node.bind")}
	}
	explained := r.preflight.Address(ctx, bound)
	found := steps(name, explained.Steps)
	if explained.Err != nil {
		why, how := cause(explained.Err)
		return append(found, Finding{name, Fail, why, cmp.Or(how, "write HOST:PORT to node.advertise, or set "+advertise.EnvAddr)})
	}
	r.found = explained.Addr
	result := ok(name, "%s (%s)", explained.Addr, explained.Source)
	if agent := r.ourAgent(); agent != nil && r.held && agent.Addr != explained.Addr {
		result = Finding{name, Warn, fmt.Sprintf("%s (%s), but the agent advertises %s", explained.Addr, explained.Source, agent.Addr),
			"start the agent again, with this configuration and in this environment"}
	}
	return append(found, result)
}

// cause is the first line of an error of package advertise, and its hint. The other lines are those
// of the steps, which are findings of their own.
func cause(err error) (problem, how string) {
	problem, how = hint.Split(err)
	problem, _, _ = strings.Cut(problem, "\n")
	return problem, how
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
			f.Detail = strings.TrimSuffix(s.Reason, "; "+s.Hint)
			f.Hint = cmp.Or(s.Hint, "see docs/configuration.md#the-address-that-others-dial")
		}
		found = append(found, f)
	}
	return found
}

// reach dials the address that others would.
func (r *run) reach(ctx context.Context) []Finding {
	const name = "reach"
	const otherwise = "publish the port or set node.advertise; see docs/docker.md"
	agent := r.ourAgent()
	switch {
	case r.found == "":
		return []Finding{skipped(name, "there is no address", "see address")}
	case !r.preflight.CanDial():
		return []Finding{skipped(name, "no port can be opened to dial from", "see port")}
	case !r.preflight.Listening() && !r.held:
		return []Finding{skipped(name, "node.bind cannot be listened on", "see port")}
	case r.held:
		switch reach := agent.Advertise.Reach; node.ReachState(reach.State) {
		case node.Reachable:
			if reach.Node == "" {
				return []Finding{ok(name, "a member that is gone has reached the agent at %s", agent.Addr)}
			}
			return []Finding{ok(name, "node %s has reached the agent at %s", reach.Node, agent.Addr)}
		case node.Unreachable:
			return []Finding{{name, Fail, reach.Reason, otherwise}}
		}
		peer, err := r.preflight.Ask(ctx, r.found)
		switch {
		case err != nil:
			return []Finding{failed(name, fmt.Errorf("the agent is not reached at %s: %w", r.found, err), otherwise)}
		case peer.NodeID != agent.NodeID:
			return []Finding{{name, Fail, fmt.Sprintf("node %s answers at %s", peer.NodeID, r.found), otherwise}}
		}
		return []Finding{ok(name, "the agent answers at %s from here; no other member has dialled it yet", r.found)}
	}
	if err := r.preflight.Reach(ctx, r.found); err != nil {
		return []Finding{failed(name, fmt.Errorf("%s does not lead back to this host: %w", r.found, err), otherwise)}
	}
	return []Finding{ok(name, "%s leads back to node.bind from here; whether it does from other hosts is found out by the first member that dials the node", r.found)}
}
